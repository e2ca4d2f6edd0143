"""Broyden's method for roots."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .. import optimality
from ._iterative import IterativeSolver, nothing_known
from ._state import State, Trace, judged


class Memory(NamedTuple):
    """Attributes: G at x; the inverse of the Jacobian at the start, and its approximation now; the judge's."""

    value: Float[Array, " n"]
    first: Float[Array, "n n"]
    inverse: Float[Array, "n n"]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class Broyden(IterativeSolver):
    """Broyden's (good) method for a root of G: `run(init, *args, **kwargs)`.

    x+ = x - H G(x), where H is the inverse of the Jacobian at the start and then follows from the steps s of x and y of
    G by H+ = H + (s - H y) s^T H / (s^T H y): one evaluation of G a step, and no Jacobian. Full steps are taken: the
    start must be near the root. `state.error` is the length of the step H G(x), or of that with the Jacobian at the
    start where that is longer, relative to |x| (where that is zero, to 1/100 of the way from the start), so that a bad
    H alone cannot end the iteration.

    Attributes:
        G: `G(x, *args, **kwargs)`, a pytree of the shapes of x, which is one of real arrays.

    Raises:
        TypeError: x is complex.

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 11.1; Sherman and Morrison's formula for H.

    Example:
        >>> import jax, implicitdiff as idf
        >>> sqrt = idf.solvers.Broyden(lambda x, a: x**2 - a)
        >>> print(jax.grad(lambda a: sqrt.run(1.5, a)[0])(4.0).round(6))
        0.25
    """

    G: Callable[..., PyTree]

    def own_condition(self, state: State) -> Callable:
        """G itself, as a root condition."""
        del state
        return optimality.root(self.G)

    def _flat(self, x: PyTree, args: tuple, kwargs: dict) -> tuple[Array, Callable, Callable]:
        """Flat x, G of it, and back."""
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(x)):
            raise TypeError("Broyden is for real x, found a complex leaf: pass real and imaginary parts as leaves.")
        flat, tree = ravel_pytree(x)
        return flat, lambda y: ravel_pytree(self.G(tree(y), *args, **kwargs))[0].astype(flat.dtype), tree

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """G and its Jacobian at the start."""
        flat, G, _ = self._flat(init, args, kwargs)
        inverse = jnp.linalg.inv(jax.jacfwd(G)(flat))
        return nothing_known(init, Memory(G(flat), inverse, inverse, Trace.new(flat)))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One step of x, and of H."""
        flat, G, tree = self._flat(x, args, kwargs)
        value, first, H, trace = state.memory
        s = -H @ value
        new = flat + s
        new_value = G(new)
        Hy = H @ (new_value - value)
        pivot = jnp.vdot(s, Hy)
        H = H + jnp.where(pivot == 0, 0.0, 1 / jnp.where(pivot == 0, 1.0, pivot)) * jnp.outer(s - Hy, s @ H)
        error, trace = judged(trace, new, H @ new_value, curvature=1.0)
        other, _ = judged(trace, new, first @ new_value, curvature=1.0)
        error = jnp.maximum(error, other)  # NaN if one of them is
        return tree(new), State(
            state.iteration + 1, error, error <= self.tol, memory=Memory(new_value, first, H, trace)
        )
