"""Solvers of optimistix and optax, with the derivatives of this library."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree_utils as otu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import optimality
from .._adjoint import Adjoint
from .._decorators import stop
from .._program import compiled_call
from .._root import as_root, attach
from ._iterative import IterativeSolver, floating


class OptimistixState(NamedTuple):
    """Attributes: steps; the norm of the condition's residual at x; whether optimistix reports success."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class OptimistixSolver:
    """An optimistix solver whose result is differentiable; see `optimistix_solver`.

    Attributes:
        iterate: `iterate(init, *args)` to optimistix's solution.
        condition: what x satisfies.
        adjoint: how the derivative is computed.
    """

    iterate: Callable
    condition: Callable
    adjoint: Adjoint | None = None

    def run(self, init: PyTree, *args: Any) -> tuple[PyTree, OptimistixState]:
        """Solve from `init`; returns (x, state), x differentiable in args."""

        def solve(init, *args):
            import optimistix as optx

            found = self.iterate(init, *args)
            return found.value, found.stats["num_steps"], found.result == optx.RESULTS.successful

        fixed = stop(args)
        x, steps, success = stop(compiled_call(solve, stop(floating(init)), *fixed))
        F = as_root(self.condition)
        error = otu.tree_norm(F(x, *fixed))
        return attach(F, x, args, {}, self.adjoint), OptimistixState(jnp.asarray(steps), stop(error), success)


def optimistix_solver(
    fn: Callable[..., PyTree],
    solver: Any,
    *,
    max_steps: int = 1000,
    condition: Callable | None = None,
    adjoint: Adjoint | None = None,
) -> OptimistixSolver:
    """Any optimistix minimiser, root finder, least-squares or fixed-point solver: `run(init, *args)`.

    What is solved, and what the solution satisfies, follows from the kind of solver: a minimiser makes the gradient of
    fn zero (`optimality.stationary`), a root finder fn, a least-squares solver the gradient of 1/2 |fn|^2, a solver for
    fixed points fn(x) - x.

    Args:
        fn: `fn(x, *args)`; mind that optimistix itself calls functions `fn(x, args)`.
        solver: such as `optimistix.BFGS(rtol=1e-8, atol=1e-8)`.
        max_steps: the largest number of steps; where they do not suffice `state.converged` is false.
        condition: another condition for the derivative.
        adjoint: how the derivative is computed.

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

    def half_square(x: PyTree, *args: Any) -> Array:
        return 0.5 * otu.tree_norm(fn(x, *args), squared=True)

    entry: Any
    own: Callable
    if isinstance(solver, optx.AbstractMinimiser):
        entry, own = optx.minimise, optimality.stationary(fn)
    elif isinstance(solver, optx.AbstractRootFinder):
        entry, own = optx.root_find, optimality.root(fn)
    elif isinstance(solver, optx.AbstractLeastSquaresSolver):
        entry, own = optx.least_squares, optimality.stationary(half_square)
    elif isinstance(solver, optx.AbstractFixedPointSolver):
        entry, own = optx.fixed_point, fn
    else:
        raise TypeError(f"optimistix_solver needs a solver of optimistix, found {type(solver).__name__}.")

    def iterate(init: PyTree, *args: Any) -> Any:
        return entry(lambda x, args: fn(x, *args), solver, init, args, max_steps=max_steps, throw=False)

    return OptimistixSolver(iterate, own if condition is None else condition, adjoint)


class OptaxState(NamedTuple):
    """Attributes: see `State`; the state of the optax transformation."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    inner: PyTree


@dataclasses.dataclass(frozen=True)
class _OptaxSolver(IterativeSolver):
    """See `optax_solver`."""

    f: Callable[..., Scalar]
    transformation: optax.GradientTransformation

    def own_condition(self, state: OptaxState) -> Callable:
        """F of `optimality.stationary`."""
        del state
        return optimality.stationary(self.f)

    def init_state(self, init: PyTree, *args: Any) -> OptaxState:
        """The transformation's."""
        del args
        dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(init))).dtype
        return OptaxState(
            jnp.int32(0), jnp.asarray(jnp.inf, dtype), jnp.array(False), self.transformation.init(init)
        )  # fmt: skip

    def update(self, x: PyTree, state: OptaxState, *args: Any):
        """One step of the transformation."""
        value, gradient = jax.value_and_grad(self.f)(x, *args)
        extended = optax.with_extra_args_support(self.transformation)
        updates, inner = extended.update(
            gradient, state.inner, x, value=value, grad=gradient, value_fn=lambda x: self.f(x, *args)
        )
        error = otu.tree_norm(gradient).astype(state.error.dtype)
        converged = error <= self.tol
        # At the end x itself, whose gradient was tested.
        new = jax.tree.map(lambda old, new: jnp.where(converged, old, new), x, optax.apply_updates(x, updates))
        return new, OptaxState(state.iteration + 1, error, converged, inner)


def optax_solver(
    f: Callable[..., Scalar],
    transformation: optax.GradientTransformation,
    *,
    maxiter: int = 1000,
    tol: float = 1e-6,
    condition: Callable | None = None,
    adjoint: Adjoint | None = None,
    progress: bool = False,
) -> IterativeSolver:
    """A minimum of f(x, *args) by any optax transformation: `run(init, *args)`.

    `state.error` is the norm of the gradient. For minibatches call `update` yourself with the batch among args, and
    attach the derivative of the full problem to the result by `implicit_root`.

    Args:
        f: smooth function `f(x, *args)` to a real scalar.
        transformation: such as `optax.adam(1e-2)` or `optax.lbfgs()`.
        maxiter: the largest number of steps.
        tol: stop when the norm of the gradient is at most that.
        condition: another condition for the derivative.
        adjoint: how the derivative is computed.
        progress: whether to show a bar.

    Returns:
        A solver with `init_state`, `update` and `run`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, implicitdiff as idf
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = idf.solvers.optax_solver(f, optax.lbfgs())
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """
    return _OptaxSolver(
        f, transformation, maxiter=maxiter, tol=tol, condition=condition, adjoint=adjoint, progress=progress
    )
