"""Transformations of optax as solvers, whole and by minibatches."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree_utils as otu
from jaxtyping import Array, PyTree, Scalar

from .._adjoint import Adjoint
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._precision import full_precision
from .._root import attach
from . import _batches
from ._iterative import floating, nothing_known
from ._state import Result, State, Trace, judged
from ._unconverged import OnUnconverged
from .gradient_descent import ObjectiveSolver


class Memory(NamedTuple):
    """Attributes: the state of the optax transformation; what the error is judged by."""

    inner: PyTree
    trace: Trace


@dataclasses.dataclass(frozen=True)
class OptaxSolver(ObjectiveSolver):
    """A solver by an optax transformation; see `optax_solver`."""

    transformation: optax.GradientTransformation

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """The transformation's."""
        del args, kwargs
        return nothing_known(init, Memory(self.transformation.init(init), Trace.new(init)))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One step of the transformation."""
        new, following, value, gradient = self._step(x, state, args, kwargs)
        error, trace = judged(state.memory.trace, x, gradient, value)
        memory = following.memory._replace(trace=trace)
        following = State(state.iteration + 1, error, error <= self.tol, memory=memory)
        # At the end x itself, whose gradient was tested.
        kept = jax.tree.map(lambda old, new: jnp.where(following.converged, old, new), x, new)
        return kept, following

    def _step(self, x: PyTree, state: State, args: tuple, kwargs: dict) -> tuple[PyTree, State, Array, PyTree]:
        value, ascent = self.objective.both(x, *args, **kwargs)
        # optax, like jax.grad, has the conjugate of the direction of steepest ascent.
        gradient = jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, ascent)
        extended = optax.with_extra_args_support(self.transformation)
        updates, inner = extended.update(
            gradient, state.memory.inner, x, value=value, grad=gradient,
            value_fn=lambda x: self.objective(x, *args, **kwargs),
        )  # fmt: skip
        error = otu.tree_norm(gradient).astype(state.error.dtype)
        memory = state.memory._replace(inner=inner)
        following = State(state.iteration + 1, error, error <= self.tol, memory=memory)
        return optax.apply_updates(x, updates), following, value, ascent

    def _batch_step(self, x: PyTree, state: State, *args: Any) -> tuple[PyTree, State]:
        return self._step(x, state, args, {})[:2]

    @full_precision
    def run_iterator(self, init: PyTree, iterator: Iterable[PyTree], *args: Any) -> Result:
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
        progress = self._shown()
        start = init if unrolled else stop(init)
        x, state, theta = _batches.iterate(
            self._batch_step, start, self.init_state(start), iterator, args, self.maxiter, progress, unrolled
        )
        state = stop(state)
        if unrolled:
            return Result(x, state._replace(converged=jnp.zeros_like(state.converged)))
        x = stop(x)
        if self.condition is None:
            x = _batches.without_derivative(x, theta)
            return Result(x, state._replace(converged=jnp.zeros_like(state.converged)))
        F = as_root(self.condition)
        error = stop(compiled_call(lambda x, *args: otu.tree_norm(F(x, *args)), x, *stop(args)))
        return Result(attach(F, x, args, {}, self.adjoint), state._replace(error=error, converged=error <= self.tol))


def optax_solver(
    f: Callable[..., Scalar],
    transformation: optax.GradientTransformation,
    *,
    maxiter: int = 1000,
    tol: float = 1e-6,
    condition: Callable | None = None,
    adjoint: Adjoint | None = None,
    progress: bool = False,
    has_aux: bool = False,
    value_and_grad: bool = False,
    callback: Callable[[int, float], Any] | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> OptaxSolver:
    """A minimum of f(x, *args) by any optax transformation: `run(init, *args)`.

    `state.error` is the norm of the gradient relative to what a change of x by its own size would make it. With
    minibatches, `run_iterator(init, iterator, *args)` takes steps on
    f(x, *args, batch); see there.

    Args:
        f: smooth function `f(x, *args)` to a real scalar.
        transformation: such as `optax.adam(1e-2)` or `optax.lbfgs()`.
        maxiter: the largest number of steps.
        tol: stop when `state.error` is at most that.
        condition: another condition for the derivative than `optimality.stationary(f)`; `run_iterator` needs one of
            the whole problem.
        adjoint: how the derivative is computed. `Unrolled()` with `optax.lbfgs` is for forward mode: optax's own
            reverse mode is NaN there.
        progress: whether to show a bar.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).
        callback: `callback(iteration, error)` on the host, some 50 times.
        on_unconverged: what happens to a result that did not converge: "warn", "nan", "raise" or "ignore".

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
        f, transformation, maxiter=maxiter, tol=tol, condition=condition, adjoint=adjoint, progress=progress,
        has_aux=has_aux, value_and_grad=value_and_grad, callback=callback, on_unconverged=on_unconverged,
    )  # fmt: skip
