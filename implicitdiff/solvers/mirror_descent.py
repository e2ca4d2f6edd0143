"""Mirror descent."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax.tree_utils as otu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import optimality
from ._iterative import IterativeSolver


class MirrorDescentState(NamedTuple):
    """Attributes: see `State`; the step size of the last step."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    stepsize: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class MirrorDescent(IterativeSolver):
    """Mirror descent for min_x f(x, theta_f) over a convex set C(theta_C): `run(init, theta_f, theta_C)`.

    x+ = proj^phi_C(grad phi(x) - s grad f(x)), in the geometry of phi. `state.error` is |x+ - x| / s.

    Attributes:
        f: smooth convex function `f(x, theta_f)` to a real scalar.
        projection: Bregman projection `projection(y, theta_C)` of a dual point, as in `implicitdiff.mirror`.
        mirror_map: grad phi, as in `implicitdiff.mirror`.
        stepsize: positive number, or a function of the iteration (0, 1, ...) to one.

    Source: Beck, Teboulle, "Mirror descent and nonlinear projected subgradient methods for convex optimization", 2003.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> solver = idf.solvers.MirrorDescent(f, idf.mirror.simplex, idf.mirror.log, 0.5)
        >>> print(solver.run(jnp.ones(2) / 2, jnp.array([0.75, 0.25]), 1.0)[0].round(3))
        [0.75 0.25]
    """

    f: Callable[..., Scalar]
    projection: Callable[..., PyTree]
    mirror_map: Callable[[PyTree], PyTree]
    stepsize: float | Callable[[Array], Array] = 1.0

    def own_condition(self, state: MirrorDescentState) -> Callable:
        """T of `optimality.mirror_descent`."""
        return optimality.mirror_descent(self.f, self.projection, self.mirror_map, state.stepsize)

    def _size(self, iteration: Array, dtype: Any) -> Array:
        size = self.stepsize(iteration) if callable(self.stepsize) else self.stepsize
        return jnp.asarray(size, dtype)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_C: Any = None) -> MirrorDescentState:
        """Nothing is known yet."""
        del theta_f, theta_C
        dtype = otu.tree_dtype(init, "highest")
        zero = jnp.int32(0)
        return MirrorDescentState(zero, jnp.asarray(jnp.inf, dtype), jnp.array(False), self._size(zero, dtype))

    def update(self, x: PyTree, state: MirrorDescentState, theta_f: Any = None, theta_C: Any = None):
        """One step."""
        s = self._size(state.iteration, state.error.dtype)
        new = optimality.mirror_descent(self.f, self.projection, self.mirror_map, s)(x, theta_f, theta_C)
        error = otu.tree_norm(otu.tree_sub(new, x)) / s
        return new, MirrorDescentState(state.iteration + 1, error, error <= self.tol, s)
