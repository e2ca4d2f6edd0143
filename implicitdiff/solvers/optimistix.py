"""Solvers of optimistix, with the derivatives of this library."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax.tree_utils as otu
from jaxtyping import Array, PyTree

from .. import optimality
from .._adjoint import Adjoint, Unrolled
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._precision import full_precision
from .._root import attach
from ._state import Result, State, Trace, floating, judged, size, solved_to
from ._unconverged import OnUnconverged, check_policy, settle


@dataclasses.dataclass(frozen=True)
class OptimistixSolver:
    """An optimistix solver whose result is differentiable; see `optimistix_solver`.

    Attributes:
        iterate: `iterate(init, *args)` to optimistix's solution.
        condition: what x satisfies.
        adjoint: how the derivative is computed; with `Unrolled()` optimistix's own iterations are differentiated.
        on_unconverged: what happens to a result that is no solution.
        name: for messages.
    """

    iterate: Callable
    condition: Callable
    adjoint: Adjoint | None = None
    on_unconverged: OnUnconverged = "warn"
    name: str = "optimistix"

    def run(self, init: PyTree, *args: Any) -> Result:
        """Solve from `init`.

        Returns:
            (x, state), x differentiable in args; `state.error` is the length of the step that would make the condition
            true, were its Jacobian what it is along its residual, relative to x; `state.converged` whether optimistix
            reports success and the error is small; `state.aux` what fn returned beside its value.

        Raises:
            RuntimeError: not converged, with `on_unconverged="raise"`.
        """
        if isinstance(self.adjoint, Unrolled):
            x, state = self._found(floating(init), args)
            return Result(settle(x, state, self._policy(), self.name, _REMEDY), stop(state))
        x, state, F, _ = self.solved(init, *args)
        return Result(attach(F, x, args, {}, self.adjoint), state)

    def _policy(self) -> OnUnconverged:
        return "ignore" if self.on_unconverged == "warn" else self.on_unconverged

    @full_precision
    def solved(self, init: PyTree, *args: Any) -> tuple[PyTree, State, Callable, tuple]:
        """(x, state, F, args) with F(x, *args) = 0; nothing is attached to x."""
        solve = lambda init, *args: self._found(init, args)  # noqa: E731
        x, state = stop(compiled_call(solve, stop(floating(init)), *stop(args)))
        x = settle(x, state, self.on_unconverged, self.name, _REMEDY)
        return x, state, as_root(self.condition), args

    def _found(self, init: PyTree, args: tuple) -> tuple[PyTree, State]:
        import optimistix as optx

        found = self.iterate(init, *args)
        x, fixed = stop((found.value, args))
        F = as_root(self.condition)
        residual = F(x, *fixed)
        # The curvature along the residual is that of a change of x by it, relative to its size.
        length = size(x) + 1e-2 * size(jax.tree.map(jnp.subtract, x, init))
        step = jnp.where(size(residual) > 0, 1e-4 * length / jnp.where(size(residual) > 0, size(residual), 1.0), 0.0)
        moved = F(jax.tree.map(lambda a, r: a + (step * r).astype(a.dtype), x, residual), *fixed)
        change = size(jax.tree.map(jnp.subtract, moved, residual))
        curvature = change / jnp.where(length > 0, 1e-4 * length, 1.0)
        error, _ = judged(Trace.new(init), x, residual, curvature=curvature)
        success = (found.result == optx.RESULTS.successful) & (error <= min(1e3 * solved_to(error.dtype), 1e-2))
        return found.value, State(jnp.asarray(found.stats["num_steps"]), error, success, aux=stop(found.aux))


_REMEDY = (
    "Raise max_steps, loosen the tolerances of the solver (it may not reach them in this precision), start closer, "
    "scale the problem, or choose another method."
)


def optimistix_solver(
    fn: Callable[..., PyTree],
    solver: Any,
    options: dict[str, Any] | None = None,
    *,
    has_aux: bool = False,
    max_steps: int = 1000,
    condition: Callable | None = None,
    adjoint: Adjoint | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> OptimistixSolver:
    """Any optimistix minimiser, root finder, least-squares or fixed-point solver: `run(init, *args)`.

    What is solved, and what the solution satisfies, follows from the kind of solver: a minimiser makes the gradient of
    fn zero (`optimality.stationary`), a root finder fn, a least-squares solver the gradient of 1/2 |fn|^2, a solver for
    fixed points fn(x) - x.

    Args:
        fn: `fn(x, *args)`; mind that optimistix itself calls functions `fn(x, args)`.
        solver: such as `optimistix.BFGS(rtol=1e-8, atol=1e-8)`.
        options: options of that solver, such as `dict(lower=0.0, upper=1.0)` of `optimistix.Bisection`.
        has_aux: whether fn returns (value, aux).
        max_steps: the largest number of steps; where they do not suffice `state.converged` is false.
        condition: another condition for the derivative.
        adjoint: how the derivative is computed; `Unrolled()` differentiates the iterations, in forward mode or, where
            optimistix can, in reverse mode.
        on_unconverged: what happens to a result that is no solution: "warn" when called eagerly, "nan", "raise" (also
            under jit) or "ignore".

    Returns:
        A solver with `run`.

    Raises:
        TypeError: solver is none of optimistix's.

    Example:
        >>> import jax, jax.numpy as jnp, optimistix as optx, implicitdiff as idf
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = idf.solvers.optimistix_solver(f, optx.BFGS(rtol=1e-6, atol=1e-6))
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """
    import optimistix as optx

    check_policy(on_unconverged)

    def value(x: PyTree, *args: Any) -> Any:
        return fn(x, *args)[0] if has_aux else fn(x, *args)

    def half_square(x: PyTree, *args: Any) -> Array:
        return 0.5 * otu.tree_norm(value(x, *args), squared=True)

    entry: Any
    own: Callable
    if isinstance(solver, optx.AbstractMinimiser):
        entry, own = optx.minimise, optimality.stationary(value)
    elif isinstance(solver, optx.AbstractRootFinder):
        entry, own = optx.root_find, optimality.root(value)
    elif isinstance(solver, optx.AbstractLeastSquaresSolver):
        entry, own = optx.least_squares, optimality.stationary(half_square)
    elif isinstance(solver, optx.AbstractFixedPointSolver):
        entry, own = optx.fixed_point, value
    else:
        raise TypeError(f"optimistix_solver needs a solver of optimistix, found {type(solver).__name__}.")

    unrolled = isinstance(adjoint, Unrolled)

    def iterate(init: PyTree, *args: Any) -> Any:
        extra = dict(adjoint=optx.RecursiveCheckpointAdjoint()) if unrolled else {}
        return entry(
            lambda x, args: fn(x, *args), solver, init, args, options, has_aux=has_aux, max_steps=max_steps,
            throw=False, **extra,
        )  # fmt: skip

    condition = own if condition is None else condition
    return OptimistixSolver(iterate, condition, adjoint, on_unconverged, f"optimistix's {type(solver).__name__}")
