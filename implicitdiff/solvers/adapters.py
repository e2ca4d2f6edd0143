"""Solvers of optimistix and optax, with the derivatives of this library."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree_utils as otu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import optimality
from .._adjoint import Adjoint
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._precision import full_precision
from .._root import attach
from . import _batches
from ._iterative import IterativeSolver, floating
from ._progress import Progress


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
        x, state, F, _ = self.solved(init, *args)
        return attach(F, x, args, {}, self.adjoint), state

    @full_precision
    def solved(self, init: PyTree, *args: Any) -> tuple[PyTree, OptimistixState, Callable, tuple]:
        """(x, state, F, args) with F(x, *args) = 0; nothing is attached to x."""

        def solve(init, *args):
            import optimistix as optx

            found = self.iterate(init, *args)
            return found.value, found.stats["num_steps"], found.result == optx.RESULTS.successful

        fixed = stop(args)
        x, steps, success = stop(compiled_call(solve, stop(floating(init)), *fixed))
        F = as_root(self.condition)
        error = otu.tree_norm(F(x, *fixed))
        return x, OptimistixState(jnp.asarray(steps), stop(error), success), F, args


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
class OptaxSolver(IterativeSolver):
    """A solver by an optax transformation; see `optax_solver`."""

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
        new, following = self._step(x, state, *args)
        # At the end x itself, whose gradient was tested.
        kept = jax.tree.map(lambda old, new: jnp.where(following.converged, old, new), x, new)
        return kept, following

    def _step(self, x: PyTree, state: OptaxState, *args: Any):
        value, gradient = jax.value_and_grad(self.f)(x, *args)
        extended = optax.with_extra_args_support(self.transformation)
        updates, inner = extended.update(
            gradient, state.inner, x, value=value, grad=gradient, value_fn=lambda x: self.f(x, *args)
        )
        error = otu.tree_norm(gradient).astype(state.error.dtype)
        return optax.apply_updates(x, updates), OptaxState(state.iteration + 1, error, error <= self.tol, inner)

    @full_precision
    def run_iterator(self, init: PyTree, iterator: Iterable[PyTree], *args: Any) -> tuple[PyTree, OptaxState]:
        """One step for each batch: `f(x, *args, batch)`.

        What the run approximates is the minimum of the whole problem, of which no batch knows. So the derivative is
        that of `condition`, called as condition(x, *args), without a batch. It is off by as much as x is, in first
        order; with `adjoint=Implicit(polish=1)` in second order. `Unrolled()` differentiates the steps.

        A step is compiled once for each shape of a batch. The loop is Python's: this cannot be called under jit.

        Args:
            init: where to start.
            iterator: batches, pytrees of arrays; the run ends with it, or after `maxiter` of them. No batch ends it
                earlier, `tol` does not matter to the steps.
            *args: what the problem depends on besides the data.

        Returns:
            (x, state). Where there is a condition `state.error` is the norm of its residual at x, else that of the
            last batch's gradient, which cannot tell whether x is a solution: `state.converged` is false then.

        Raises:
            TypeError: called under jit; or differentiated without a condition.
            ValueError: the iterator gives no batch.

        Example:
            >>> import jax, jax.numpy as jnp, optax, implicitdiff as idf
            >>> data = jnp.array([1.0, 2.0, 3.0, 6.0])
            >>> f = lambda x, weight, batch: 0.5 * jnp.mean((x - batch) ** 2) + 0.5 * weight * x**2
            >>> F = idf.optimality.stationary(lambda x, weight: f(x, weight, data))
            >>> solver = idf.solvers.optax_solver(f, optax.sgd(lambda k: 1 / (k + 2)), condition=F)
            >>> batches = [data[:2], data[2:]] * 200
            >>> print(jax.grad(lambda w: solver.run_iterator(0.0, batches, w)[0])(1.0).round(2))  # -mean / 4
            -0.75
        """
        unrolled = self._unrolls()
        init, args = floating(init), _batches.as_arrays(args)
        progress = Progress(type(self).__name__, self.maxiter) if self.progress else None
        start = init if unrolled else stop(init)
        x, state, theta = _batches.iterate(
            self._step, start, self.init_state(start), iterator, args, self.maxiter, progress, unrolled
        )
        state = stop(state)
        if unrolled:
            return x, state._replace(converged=jnp.zeros_like(state.converged))
        x = stop(x)
        if self.condition is None:
            x = _batches.without_derivative(x, theta)
            return x, state._replace(converged=jnp.zeros_like(state.converged))
        F = as_root(self.condition)
        error = stop(compiled_call(lambda x, *args: otu.tree_norm(F(x, *args)), x, *stop(args)))
        return attach(F, x, args, {}, self.adjoint), state._replace(error=error, converged=error <= self.tol)


def optax_solver(
    f: Callable[..., Scalar],
    transformation: optax.GradientTransformation,
    *,
    maxiter: int = 1000,
    tol: float = 1e-6,
    condition: Callable | None = None,
    adjoint: Adjoint | None = None,
    progress: bool = False,
) -> OptaxSolver:
    """A minimum of f(x, *args) by any optax transformation: `run(init, *args)`.

    `state.error` is the norm of the gradient. With minibatches, `run_iterator(init, iterator, *args)` takes steps on
    f(x, *args, batch); see there.

    Args:
        f: smooth function `f(x, *args)` to a real scalar.
        transformation: such as `optax.adam(1e-2)` or `optax.lbfgs()`.
        maxiter: the largest number of steps.
        tol: stop when the norm of the gradient is at most that.
        condition: another condition for the derivative than `optimality.stationary(f)`; `run_iterator` needs one of
            the whole problem.
        adjoint: how the derivative is computed. `Unrolled()` with `optax.lbfgs` is for forward mode: optax's own
            reverse mode is NaN there.
        progress: whether to show a bar.

    Returns:
        A solver with `init_state`, `update`, `run` and `run_iterator`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, implicitdiff as idf
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = idf.solvers.optax_solver(f, optax.lbfgs())
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """
    return OptaxSolver(
        f, transformation, maxiter=maxiter, tol=tol, condition=condition, adjoint=adjoint, progress=progress
    )
