"""Gradient descent: accelerated, with a line search."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PyTree

from . import _descent
from ._iterative import IterativeSolver
from ._objective import Objective
from ._state import State


@dataclasses.dataclass(frozen=True)
class ObjectiveSolver(IterativeSolver):
    """Base of the solvers of min_x f(x, *args): what f returns, and the condition of its minimum.

    Attributes:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient), with
            the gradient as `jax.grad` gives it.
    """

    f: Callable[..., Any]
    has_aux: bool = dataclasses.field(default=False, kw_only=True)
    value_and_grad: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def objective(self) -> Objective:
        """The objective with its gradient."""
        return Objective(self.f, self.has_aux, self.value_and_grad)

    def own_condition(self, state: State) -> Callable:
        """F of `optimality.stationary`."""
        del state
        return self.objective.stationary()

    def finished(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> State:
        """The state with the value of f at x, and aux."""
        value, aux = self.objective.parts(x, *args, **kwargs)
        return state._replace(value=value, aux=aux)


@dataclasses.dataclass(frozen=True)
class GradientDescent(ObjectiveSolver):
    """Gradient descent for min_x f(x, *args): `run(init, *args, **kwargs)`.

    x+ = y - s grad f(y), with Nesterov's acceleration of y, started afresh where it leads uphill. Without a step size,
    one is found by a line search, see `ProximalGradient`. `state.error` is the norm of the gradient at y relative to
    what a change of x by its own size would make it; `state.value` is f(x).

    Attributes:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar.
        stepsize: positive number, or a function of the iteration (0, 1, ...) to one; None searches.
        accelerated: whether to use momentum.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).

    Raises:
        ValueError: stepsize is not positive.

    Source: O'Donoghue, Candes, "Adaptive restart for accelerated gradient schemes", 2015.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.GradientDescent(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.zeros(()), a)[0])(0.0))
        1.0
    """

    stepsize: float | Callable[[Array], Array] | None = None
    accelerated: bool = True

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """No momentum yet."""
        both = lambda x: self.objective.both(x, *args, **kwargs)  # noqa: E731
        return _descent.begin(both, self.stepsize, init)

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One step from y, and the next y."""
        both = lambda x: self.objective.both(x, *args, **kwargs)  # noqa: E731
        value_of = lambda x: self.objective(x, *args, **kwargs)  # noqa: E731
        return _descent.advance(self, both, value_of, lambda v, _: v, x, state)
