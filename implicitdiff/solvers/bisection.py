"""Roots between two points."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import optimality
from ._iterative import IterativeSolver, nothing_known
from ._state import State, real_dtype


class Memory(NamedTuple):
    """Attributes: both ends, and G at the lower one."""

    low: Float[Array, "..."]
    high: Float[Array, "..."]
    at_low: Float[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Bisection(IterativeSolver):
    """A root of G(x, *args) between lower and upper, where G has different signs: `run(init, *args)`.

    x may be an array, on which G acts entry by entry. init gives the shape and the dtype; its value does not matter.
    `state.error` is the largest width of a bracket relative to |x|, or to 1/100 of the first one where that is more;
    it ends at the precision of the dtype. It is NaN where G has the same sign at both ends.

    Attributes:
        G: `G(x, *args)`, continuous, of the shape of x.
        lower: lower end, a number or an array like x.
        upper: upper end.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> kepler = idf.solvers.Bisection(lambda x, e: x - e * jnp.sin(x) - 1.0, 0.0, 3.0)
        >>> print(jax.grad(lambda e: kepler.run(0.0, e)[0])(0.5).round(3))
        1.035
    """

    G: Callable[..., PyTree]
    lower: Any
    upper: Any

    def own_condition(self, state: State) -> Callable:
        """G itself, as a root condition."""
        del state
        return optimality.root(self.G)

    def init_state(self, init: Array, *args: Any, **kwargs: Any) -> State:
        """The brackets, and G at their lower ends."""
        if jnp.iscomplexobj(init):
            raise TypeError("Bisection is for real x, found a complex one.")
        low, high = (jnp.broadcast_to(jnp.asarray(end, init.dtype), init.shape) for end in (self.lower, self.upper))
        return nothing_known(init, Memory(low, high, jnp.asarray(self.G(low, *args, **kwargs), init.dtype)))

    def update(self, x: Array, state: State, *args: Any, **kwargs: Any) -> tuple[Array, State]:
        """Half of each bracket."""
        low, high, at_low = state.memory
        first = state.iteration == 0
        at_high = jnp.where(first, self.G(high, *args, **kwargs), -at_low)
        crossed = jnp.all((jnp.sign(at_low) * jnp.sign(at_high) <= 0) & ~jnp.isnan(at_low + at_high))
        # Where one end is a root, so is the whole bracket.
        low, high = jnp.where(first & (at_high == 0), high, low), jnp.where(at_low == 0, low, high)
        middle = low + (high - low) / 2
        value = self.G(middle, *args, **kwargs)
        right = jnp.sign(value) == jnp.sign(at_low)  # the root is in the right half
        exact = value == 0
        low, high = jnp.where(exact | right, middle, low), jnp.where(exact | ~right, middle, high)
        at_low = jnp.where(right | exact, value, at_low)
        x = low + (high - low) / 2
        dtype = real_dtype(x)
        width = jnp.abs(jnp.asarray(self.upper, dtype) - jnp.asarray(self.lower, dtype))
        size = jnp.maximum(jnp.abs(x), 1e-2 * width)
        error = jnp.max(jnp.where(high == low, 0.0, jnp.abs(high - low) / jnp.where(size > 0, size, 1.0)), initial=0.0)
        error = jnp.where(crossed & ~jnp.any(jnp.isnan(value)), error, jnp.nan).astype(dtype)
        converged = error <= jnp.maximum(self.tol, 4 * jnp.finfo(dtype).eps)
        return x, State(state.iteration + 1, error, converged, memory=Memory(low, high, at_low))
