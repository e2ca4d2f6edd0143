"""The proximal-gradient and the projected-gradient method: accelerated, with a line search."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PyTree

from .. import optimality
from ..optimality._condition import Condition
from . import _descent
from ._state import State
from .gradient_descent import ObjectiveSolver


@dataclasses.dataclass(frozen=True)
class ProximalGradient(ObjectiveSolver):
    """The proximal-gradient method for min_x f(x, theta_f) + g(x, theta_g): `run(init, theta_f, theta_g)`.

    x+ = prox_{s g}(y - s grad f(y)), with Nesterov's acceleration of y, started afresh where it leads uphill. Without
    a step size, one is found by a line search: s is halved until f(x+) <= f(y) + <grad f(y), x+ - y> + |x+ - y|^2/2s,
    and doubled again after steps that were short enough at once. `state.error` is |y - x+| / s, the norm of the
    generalised gradient, relative to what a change of x by its own size would make it; `state.value` is f(x),
    without g.

    Attributes:
        f: smooth convex function `f(x, theta_f)` to a real scalar.
        prox: `prox(v, theta_g, scaling)`, as in `implicitdiff.prox`.
        stepsize: positive number, at most 1 / L for L the Lipschitz constant of the gradient, or a function of the
            iteration (0, 1, ...) to one; None searches.
        accelerated: whether to use momentum.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).

    Raises:
        ValueError: stepsize is not positive.

    Source: Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009; O'Donoghue, Candes, "Adaptive
    restart for accelerated gradient schemes", 2015; Scheinberg, Goldfarb, Bai, "Fast first-order methods for composite
    convex optimization with backtracking", 2014, for steps that grow.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> lasso = idf.solvers.ProximalGradient(f, idf.prox.lasso)
        >>> y = jnp.array([3.0, 0.5])
        >>> print(lasso.run(jnp.zeros(2), y, 1.0)[0].round(3))
        [2. 0.]
        >>> print(jax.jacobian(lambda weight: lasso.run(jnp.zeros(2), y, weight)[0])(1.0))
        [-1.  0.]
    """

    prox: Callable[..., PyTree]
    stepsize: float | Callable[[Array], Array] | None = None
    accelerated: bool = True

    def own_condition(self, state: State) -> Callable:
        """T of `optimality.proximal_gradient`."""
        return proximal_condition(self, self.prox, state)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_g: Any = None) -> State:
        """No momentum yet."""
        del theta_g
        return _descent.begin(lambda x: self.objective.both(x, theta_f), self.stepsize, init)

    def update(self, x: PyTree, state: State, theta_f: Any = None, theta_g: Any = None) -> tuple[PyTree, State]:
        """One step from y, and the next y."""
        both = lambda x: self.objective.both(x, theta_f)  # noqa: E731
        prox = lambda v, s: self.prox(v, theta_g, s)  # noqa: E731
        return _descent.advance(self, both, lambda x: self.objective(x, theta_f), prox, x, state)

    def finished(self, x: PyTree, state: State, theta_f: Any = None, theta_g: Any = None) -> State:
        """The state with the value of f at x, and aux."""
        del theta_g
        return super().finished(x, state, theta_f)


@dataclasses.dataclass(frozen=True)
class ProjectedGradient(ObjectiveSolver):
    """The projected-gradient method for min f(x, theta_f) in a convex set C(theta_C): `run(init, theta_f, theta_C)`.

    `ProximalGradient` whose proximal operator is the projection; see there.

    Attributes:
        f: smooth convex function `f(x, theta_f)` to a real scalar.
        projection: `projection(v, theta_C)`, as in `implicitdiff.projection`.
        stepsize: positive number, or a function of the iteration (0, 1, ...) to one; None searches.
        accelerated: whether to use momentum.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> solver = idf.solvers.ProjectedGradient(f, idf.projection.simplex)
        >>> print(solver.run(jnp.zeros(2), jnp.array([3.0, 0.5]), 1.0)[0].round(3))
        [1. 0.]
    """

    projection: Callable[..., PyTree]
    stepsize: float | Callable[[Array], Array] | None = None
    accelerated: bool = True

    def own_condition(self, state: State) -> Callable:
        """T of `optimality.projected_gradient`."""
        return proximal_condition(self, lambda v, theta_C, _: self.projection(v, theta_C), state)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_C: Any = None) -> State:
        """No momentum yet."""
        del theta_C
        return _descent.begin(lambda x: self.objective.both(x, theta_f), self.stepsize, init)

    def update(self, x: PyTree, state: State, theta_f: Any = None, theta_C: Any = None) -> tuple[PyTree, State]:
        """One step from y, and the next y."""
        both = lambda x: self.objective.both(x, theta_f)  # noqa: E731
        prox = lambda v, _: self.projection(v, theta_C)  # noqa: E731
        return _descent.advance(self, both, lambda x: self.objective(x, theta_f), prox, x, state)

    def finished(self, x: PyTree, state: State, theta_f: Any = None, theta_C: Any = None) -> State:
        """The state with the value of f at x, and aux."""
        del theta_C
        return super().finished(x, state, theta_f)


def proximal_condition(solver: ObjectiveSolver, prox: Callable, state: State) -> Callable:
    """T of `optimality.proximal_gradient` with the solver's f and its last step size."""
    s, objective = state.memory.stepsize, solver.objective
    if not solver.value_and_grad:
        return optimality.proximal_gradient(objective, prox, s)
    return Condition.composed(
        lambda x, theta_f: _descent.add(x, -s, objective.both(x, theta_f)[1]),
        lambda v, theta_g: prox(v, theta_g, s), "proximal_gradient",
    )  # fmt: skip
