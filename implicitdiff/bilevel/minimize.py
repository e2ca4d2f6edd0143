"""The outer loop: on the host with checkpoints and a progress bar, or inside jit and vmap."""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, PyTree, Scalar

from .._program import compiled
from .._varying import while_loop
from ..solvers._iterative import floating
from ._adaptive import Adaptive
from ._checkpoint import Checkpoint
from ._history import History
from ._inner import Inner
from ._optax import Optax
from ._state import (
    CAUSES,
    INTERRUPTED,
    MEANING,
    NOT_FINITE,
    OUT_OF_STEPS,
    OUT_OF_TIME,
    RUNNING,
    Problem,
    State,
)

RECORDED = (
    "loss",
    "gradient_norm",
    "gradient_error",
    "inner_iterations",
    "linear_iterations",
    "evaluations",
    "tolerance",
)


class Result(NamedTuple):
    """What `minimize` returns.

    Attributes:
        theta: the theta with the smallest loss.
        x: the inner solution for it.
        loss: the outer loss for it.
        history: one entry for each step.
        status: why the run ended; `message` says it in words.
    """

    theta: PyTree
    x: PyTree
    loss: Array
    history: History
    status: Array

    @property
    def message(self) -> str:
        """Why the run ended."""
        return MEANING[int(self.status)]


def minimize(
    outer: Callable[[PyTree, PyTree], Scalar],
    inner: Any,
    theta: PyTree,
    *,
    x0: PyTree | None = None,
    args: Callable[[PyTree], tuple] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    projection: Callable[[PyTree], PyTree] | None = None,
    log: bool | PyTree = False,
    tol: float = 1e-5,
    max_steps: int = 100,
    time_limit: float | None = None,
    callback: Callable[[int, PyTree, PyTree, float], Any] | None = None,
    progress: bool | None = None,
    checkpoint: Checkpoint | str | None = None,
) -> Result:
    """Minimise outer(theta, x*(theta)) over theta, where x* solves the inner problem.

    The hyper-gradient follows from the implicit function theorem and takes one adjoint solve; x and the adjoint
    solution start from those of the last step. Loss and gradient are evaluated after one Newton step on the inner
    conditions, which also estimates their errors. Without an optimizer there is nothing to choose: the directions are
    those of L-BFGS (or, under a projection, of the spectral projected gradient method), and the line search solves the
    inner problem only as precisely as the comparison of two losses needs.

    Args:
        outer: `outer(theta, x)` to a real scalar; differentiated in both.
        inner: a solver decorated with `custom_root` or `custom_fixed_point`; a solver of `implicitdiff.solvers`, those
            of SciPy, scikit-learn and optimistix among them; or a pair (solver, condition) with
            `solver(x, *args(theta))` and a root condition F or a condition of `implicitdiff.optimality`. A solver with
            a parameter `tol` is told how precise it has to be. NumPy code has to be wrapped in `host_solver`.
        theta: the starting point, a pytree of floating-point arrays.
        x0: the first starting point of the inner solver; may be None if the solver takes none.
        args: theta -> the arguments of inner after x; `(theta,)` by default.
        optimizer: None, or any optax transformation, which then chooses the steps.
        projection: `projection(theta)`, onto the set of allowed theta.
        log: True to search over the logarithm of theta, which must be positive; or a pytree of booleans like theta.
        tol: stop when the norm of the hyper-gradient (in the logarithm if log; of the projected step under a
            projection) is at most this.
        max_steps: maximum number of outer steps.
        time_limit: seconds after which no new step begins.
        callback: `callback(step, theta, x, loss)` after each step; returning True ends the run.
        progress: whether to show a progress bar; None shows one in a terminal.
        checkpoint: a `Checkpoint`, or its path.

    Returns:
        A `Result`. An interrupted run (Ctrl-C) returns the best result so far. Under jit or vmap (theta or x0 is
        traced) the whole run is one loop; callback, progress, time_limit and checkpoint work on the host only.

    Raises:
        TypeError: inner is none of these, or x0 is missing.
        ValueError: theta is not positive with log; a checkpoint belongs to another problem; options of the host are
            used under jit.

    Warns:
        RuntimeWarning: a trial point was rejected because something was not finite there; the warning says what.

    Source: Pedregosa, ICML 2016; Salehi et al., "An adaptively inexact first-order method for bilevel optimization",
    2024; Ehrhardt, Roberts, 2024; Blondel et al., NeurIPS 2022, section 4.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> inner = idf.solvers.GradientDescent(lambda x, t: jnp.sum((x - t) ** 2) + jnp.sum(x**2))  # x* = t / 2
        >>> found = idf.bilevel.minimize(lambda t, x: jnp.sum((x - 1) ** 2), inner, jnp.zeros(2), x0=jnp.zeros(2))
        >>> print(found.theta.round(3), found.message.split(":")[0])
        [2. 2.] converged
    """
    theta = strong(floating(theta))
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((theta, x0)))
    if not traced:
        positive = jax.tree.map(
            lambda leaf, flag: bool(jnp.all(leaf > 0)) or not flag,
            theta,
            jax.tree.map(lambda _: log, theta) if isinstance(log, bool) else log,
        )
        if not all(jax.tree.leaves(positive)):
            raise ValueError("log=True searches over log(theta): theta must be positive.")
    posed = Inner(inner, args)
    x0 = _start(posed, theta, x0)
    problem = Problem(outer, posed, theta, projection, log, tol)
    eta = problem.eta_of(theta)
    floor = 1e3 * float(jnp.finfo(eta.dtype).eps)
    method: Any = Adaptive(problem, floor) if optimizer is None else Optax(problem, optimizer, floor)
    size = sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in jax.tree.leaves(x0))
    adjoint = jnp.zeros(size, jnp.result_type(jnp.float32, *(jnp.real(leaf).dtype for leaf in jax.tree.leaves(x0))))
    if traced:
        if callback is not None or progress or time_limit is not None or checkpoint is not None:
            raise ValueError(
                "callback, progress, time_limit and checkpoint need the host: call minimize outside of jit."
            )
        best, columns, status = _traced(method, eta, x0, adjoint, max_steps)
    else:
        run = _Host(problem, method, max_steps, time_limit, callback, progress, checkpoint)
        best, columns, status = run(eta, x0, adjoint)
    return Result(problem.theta_of(best.eta), best.x, best.loss, History(*columns), status)


def strong(tree: PyTree) -> PyTree:
    """The arrays without weak types, which would change during the loop."""
    return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, leaf.dtype), tree)


def _start(inner: Inner, theta: PyTree, x0: PyTree) -> PyTree:
    if x0 is not None:
        return strong(floating(x0))
    if inner.has_init:
        raise TypeError("minimize needs x0, where the inner solver starts: its solver takes a starting point.")
    shapes = jax.eval_shape(lambda theta: inner.solve(None, theta, jnp.float32(1)).x, theta)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _step(method: Any, state: State, best: State) -> tuple[State, State]:
    """One outer step, and the better of its result and the best so far."""
    new = method.step(state)
    smaller = new.loss < best.loss
    return new, jax.tree.map(lambda a, b: jnp.where(smaller, a, b), new, best)


def _traced(method: Any, eta: Array, x0: PyTree, adjoint: Array, max_steps: int) -> tuple[State, tuple, Array]:
    """The run as one loop; a batch continues until its last element has ended."""
    first = method.init(eta, x0, adjoint)
    columns = {name: jnp.full(max_steps + 1, jnp.nan, eta.dtype) for name in RECORDED}

    def body(carry):
        state, best, columns = carry
        new, best = _step(method, state, best)
        columns = {name: column.at[new.iteration].set(getattr(new, name)) for name, column in columns.items()}
        return new, best, columns

    def unfinished(carry):
        return (carry[0].status == RUNNING) & (carry[0].iteration < max_steps)

    last, best, columns = while_loop(unfinished, body, (first, first, columns))
    status = jnp.where(last.status == RUNNING, OUT_OF_STEPS, last.status)
    # By name, because a loop returns a dictionary sorted by its keys.
    history = *(columns[name] for name in RECORDED), jnp.full(max_steps + 1, jnp.nan, eta.dtype)
    return best, history, status


class _Host:
    """The run step by step."""

    def __init__(self, problem: Problem, method: Any, max_steps: int, time_limit, callback, progress, checkpoint):
        self.problem, self.max_steps, self.time_limit, self.callback = problem, max_steps, time_limit, callback
        # Buffers are not donated, so that the last state is still there after an interrupt in the middle of a step.
        self.init, self.method = method.init, method
        self.progress = sys.stderr.isatty() if progress is None else progress
        self.checkpoint = Checkpoint.of(checkpoint)
        self.rows: list[tuple] = []

    def __call__(self, eta: Array, x0: PyTree, adjoint: Array) -> tuple[State, tuple, Array]:
        begin, bar = time.perf_counter(), self._bar()
        state = best = None
        stopped = RUNNING
        try:
            like = jax.eval_shape(lambda: self.init(eta, x0, adjoint))
            step = compiled(lambda state, best: _step(self.method, state, best), like, like)
            loaded = None if self.checkpoint is None else self.checkpoint.load((like, like))
            if loaded is None:
                start = self.init(eta, x0, adjoint)
                state, best = step(start, start)
                self._record(state, time.perf_counter() - begin)
            else:
                (state, best), self.rows = loaded
                begin -= self.rows[-1][-1]
            while stopped == RUNNING and int(state.status) == RUNNING:
                if int(state.iteration) >= self.max_steps:
                    stopped = OUT_OF_STEPS
                elif self.time_limit is not None and time.perf_counter() - begin > self.time_limit:
                    stopped = OUT_OF_TIME
                else:
                    state, best = step(state, best)
                    self._record(state, time.perf_counter() - begin)
                    if self.checkpoint is not None and int(state.iteration) % self.checkpoint.every == 0:
                        self.checkpoint.save((state, best), self.rows)
                    stopped = self._show(bar, state)
        except KeyboardInterrupt:
            if state is None or best is None:
                raise
            stopped = INTERRUPTED
        finally:
            if bar is not None:
                bar.close()
        if self.checkpoint is not None:
            self.checkpoint.save((state, best), self.rows)
        if int(state.status) == NOT_FINITE:
            self._warn(state)
        status = state.status if stopped == RUNNING else jnp.int32(stopped)
        columns = tuple(np.array(column) for column in zip(*self.rows, strict=True))
        return best, columns, status

    def _record(self, state: State, seconds: float) -> None:
        self.rows.append((*(np.asarray(getattr(state, name)).item() for name in RECORDED), seconds))

    def _bar(self) -> Any:
        if not self.progress:
            return None
        from tqdm import tqdm  # optional, for the progress bar only

        return tqdm(total=self.max_steps, desc="minimize")

    def _show(self, bar: Any, state: State) -> int:
        if int(state.rejected):
            self._warn(state)
        if bar is not None:
            bar.set_postfix_str(
                f"loss {float(state.loss):.6g}, gradient {float(state.gradient_norm):.1e} "
                f"+- {float(state.gradient_error):.0e}",
                refresh=False,
            )
            bar.update(int(state.iteration) - bar.n)
        if self.callback is not None:
            theta = self.problem.theta_of(state.eta)
            if self.callback(int(state.iteration), theta, state.x, float(state.loss)):
                return INTERRUPTED
        return RUNNING

    def _warn(self, state: State) -> None:
        warnings.warn(
            f"bilevel.minimize, step {int(state.iteration)}: {int(state.rejected)} trial point(s) rejected because "
            f"{CAUSES[int(state.cause)]}.",
            RuntimeWarning,
            stacklevel=4,
        )
