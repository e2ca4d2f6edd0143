"""Mirror descent."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .. import optimality
from ._iterative import IterativeSolver, nothing_known
from ._state import State, Trace, judged, real_dtype


class Memory(NamedTuple):
    """Attributes: the step size of the last step; what the error is judged by."""

    stepsize: Float[Array, ""]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class MirrorDescent(IterativeSolver):
    """Mirror descent for min_x f(x, theta_f) over a convex set C(theta_C): `run(init, theta_f, theta_C)`.

    x+ = proj^phi_C(grad phi(x) - s grad f(x)), in the geometry of phi. `state.error` is |x+ - x| / s
    relative to what a change of x by its own size would make it.

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

    def own_condition(self, state: State) -> Callable:
        """T of `optimality.mirror_descent`."""
        return optimality.mirror_descent(self.f, self.projection, self.mirror_map, state.memory.stepsize)

    def _size(self, iteration: Array, dtype: Any) -> Array:
        size = self.stepsize(iteration) if callable(self.stepsize) else self.stepsize
        return jnp.asarray(size, dtype)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_C: Any = None) -> State:
        """Nothing is known yet."""
        del theta_f, theta_C
        return nothing_known(init, Memory(self._size(jnp.int32(0), real_dtype(init)), Trace.new(init)))

    def update(self, x: PyTree, state: State, theta_f: Any = None, theta_C: Any = None) -> tuple[PyTree, State]:
        """One step."""
        s = self._size(state.iteration, state.error.dtype)
        new = optimality.mirror_descent(self.f, self.projection, self.mirror_map, s)(x, theta_f, theta_C)
        new = jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), x, new)
        residual = jax.tree.map(lambda a, b: (a - b) / s.astype(a.dtype), x, new)
        error, trace = judged(state.memory.trace, x, residual)
        return new, State(state.iteration + 1, error, error <= self.tol, memory=Memory(s, trace))
