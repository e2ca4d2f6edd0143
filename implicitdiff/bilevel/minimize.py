"""The outer loop: on the host with checkpoints and a progress bar, or inside jit and vmap."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, PyTree, Scalar

from .._compiled import compiled
from .._varying import while_loop
from ..solvers._iterative import floating
from ._adaptive import Adaptive
from ._checkpoint import Checkpoint
from ._history import History
from ._host import Entry, Host
from ._inner import Inner
from ._optax import Optax
from ._state import CAUSES, MEANING, OUT_OF_STEPS, RUNNING, Problem, State, check_log

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
        check_log(theta, log)
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
        host = Host("minimize", max_steps, time_limit, callback, progress, checkpoint)
        best, columns, status = _on_host(host, problem, method, eta, x0, adjoint)
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


def _traced(method: Any, eta: Array, x0: PyTree, adjoint: Array, max_steps: int) -> tuple[State, list, Array]:
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
    history = [*(columns[name] for name in RECORDED), jnp.full(max_steps + 1, jnp.nan, eta.dtype)]
    return best, history, status


def _on_host(
    host: Host, problem: Problem, method: Any, eta: Array, x0: PyTree, adjoint: Array
) -> tuple[State, list, Array]:
    """The run step by step."""
    like = jax.eval_shape(lambda: method.init(eta, x0, adjoint))
    # Buffers are not donated, so that the last state is still there after an interrupt in the middle of a step.
    step = compiled(lambda state, best: _step(method, state, best), like, like)

    def start() -> tuple[State, State]:
        first = method.init(eta, x0, adjoint)
        return step(first, first)

    def entry(run: tuple[State, State]) -> Entry:
        state, number = run[0], int(run[0].iteration)
        rejected = f"{int(state.rejected)} trial point(s) rejected because {CAUSES[int(state.cause)]}"
        return Entry(
            row=tuple(np.asarray(getattr(state, name)).item() for name in RECORDED),
            steps=number,
            status=int(state.status),
            shown=(number, problem.theta_of(state.eta), state.x, float(state.loss)),
            bar=f"loss {float(state.loss):.6g}, gradient {float(state.gradient_norm):.1e} "
            f"+- {float(state.gradient_error):.0e}",
            warning=f"step {number}: {rejected}." if int(state.rejected) else "",
        )

    (_, best), columns, status = host.drive(
        start, lambda run, _: step(*run), entry, kept=lambda run: run, resume=tuple, like=(like, like)
    )
    return best, columns, jnp.int32(status)
