"""The inner problem: how it is solved to a given accuracy, and which conditions its solution satisfies."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._arguments import Arguments
from .._decorators import DifferentiableSolver, stop
from .._fixed_point import as_root
from .._implicit import Implicit
from .._program import name_of
from ..optimality._condition import Condition
from ..solvers._iterative import IterativeSolver
from ..solvers.named import Named
from ..solvers.optimistix import OptimistixSolver
from ..solvers.scipy import ScipySolver
from ..solvers.sklearn import SklearnSolver

# Adapters of other libraries: `solved` returns x and its conditions.
ADAPTERS = ScipySolver, OptimistixSolver, Named, SklearnSolver


class Solved(NamedTuple):
    """An inner solution, its iterations (0 if the solver does not report them), and its conditions F(x, theta)."""

    x: PyTree
    iterations: Array
    F: Condition


class Inner:
    """The inner solver, with an accuracy that can be chosen."""

    def __init__(self, inner: Any, args: Callable[[PyTree], tuple] | None):
        """Accept a decorated solver, a solver of `implicitdiff.solvers`, or a pair (solver, condition)."""
        self.args = (lambda theta: (theta,)) if args is None else args
        self.adjoint = Implicit()
        self.has_init = True
        self.has_aux = False
        self.arguments: Arguments | None = None  # which of them go to the condition
        if isinstance(inner, IterativeSolver):
            self.solver: Any = dataclasses.replace(inner, adjoint=None, progress=False)
            self.condition: Any = None
            given: Any = inner.adjoint
        elif isinstance(inner, ADAPTERS):
            self.solver, self.condition, given = inner, None, inner.adjoint
            self.has_init = not isinstance(inner, SklearnSolver)
        elif isinstance(inner, DifferentiableSolver):
            self.solver, self.condition, given = inner.solver, inner.F, inner.adjoint
            self.has_init, self.has_aux, self.arguments = inner.has_init, inner.has_aux, inner.arguments
        elif isinstance(inner, tuple) and len(inner) == 2 and all(map(callable, inner)):
            (self.solver, condition), given = inner, None
            self.arguments = Arguments(self.solver, condition, has_init=True)
            self.condition = as_root(condition) if hasattr(condition, "is_root") else condition
        else:
            raise TypeError(
                "inner must be a solver decorated with custom_root or custom_fixed_point, a solver of "
                f"implicitdiff.solvers, or a pair (solver, condition); found {type(inner).__name__}."
            )
        if given is not None and not isinstance(given, Implicit):
            raise TypeError(f"bilevel.minimize differentiates implicitly: the inner solver has adjoint={given!r}.")
        self.adjoint = Implicit() if given is None else given
        self.takes_tol = isinstance(inner, IterativeSolver) or _has_parameter(self.solver, "tol")

    def solve(self, x: PyTree, theta: PyTree, tol: Array) -> Solved:
        """Solve from x to a given accuracy, if the solver has a tolerance."""
        args = stop(self.args(theta))
        if isinstance(self.solver, IterativeSolver):
            solver: Any = dataclasses.replace(self.solver, tol=tol)  # type: ignore[arg-type]
            x, state = stop(solver._loop(stop(x), *args))
            condition = solver.own_condition(state) if solver.condition is None else solver.condition
            return Solved(x, state.iteration, self.bound(as_root(condition)))
        given = (stop(x),) if self.has_init else ()
        if isinstance(self.solver, ADAPTERS):
            x, state, F, _ = self.solver.solved(*given, *args)
            iterations = state["iteration"] if isinstance(state, dict) else state.iteration
            return Solved(stop(x), jnp.asarray(iterations, jnp.int32), self.bound(F))
        x = self.solver(*given, *args, **(dict(tol=tol) if self.takes_tol else {}))
        if self.has_aux:
            x = x[0]
        return Solved(stop(x), jnp.int32(0), self.bound(self.condition))

    def bound(self, F: Callable) -> Condition:
        """F(x, theta) from F(x, *args), with the known properties of its Jacobian."""
        known = {name: getattr(F, name, None) for name in ("symmetric", "positive_definite", "parts")}
        return Condition(F, name_of(F), is_root=True, **known).after(self.args_of_F)

    def args_of_F(self, theta: PyTree) -> tuple[tuple, dict[str, Any]]:
        """The arguments of F after x: those of the solver after init, its defaults among them."""
        args = self.args(theta)
        if self.arguments is None:
            return args, {}
        call = self.arguments.of_F((None, *args) if self.has_init else args, {})
        return call.args, call.kwargs


def _has_parameter(function: Callable, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
