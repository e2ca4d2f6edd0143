"""Bilevel optimisation with minibatches: x, the adjoint solution and theta move together, without inner solves.

Source: Dagreou, Ablin, Vaiter, Moreau, "A framework for bilevel optimization that enables stochastic and global
variance reduction algorithms", NeurIPS 2022; Defazio, Bach, Lacoste-Julien, "SAGA", 2014.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree, Scalar

from ..optimality import stationary
from ..solvers._iterative import floating
from ._checkpoint import Checkpoint
from ._history import History
from ._host import Entry, Host
from ._hypergradient import Hypergradient
from ._inner import Inner
from ._state import CAUSES, CONVERGED, NOT_FINITE, RUNNING, Problem, check_log, fault
from .minimize import Result, strong

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
# Power iterations for the constants behind the default steps, and the number of batches that are used.
POWER, ASKED = 10, 8
# Newton steps before hyper-gradients are differenced, the number of differences, and their relative length.
NEWTON, DIFFERENCES, DIFFERENCE = 5, 5, 1e-3
# The steps of SOBA fall as these powers of the epoch, in its theory and in its authors' experiments.
INNER_DECAY, OUTER_DECAY = 0.4, 0.6


class Directions(NamedTuple):
    """The directions of x, v and theta, from one batch, as means over batches, or one for each batch.

    Attributes:
        x: grad_x inner, from an inner batch.
        hessian: hess_xx inner v, from the same batch.
        cross: d/deta of grad_x inner' v, from the same batch.
        outer_x: grad_x outer, from an outer batch.
        outer_eta: grad_eta outer, from the same batch.
    """

    x: Array
    hessian: Array
    cross: Array
    outer_x: Array
    outer_eta: Array


class Iterate(NamedTuple):
    """The variables that a step changes, as vectors; memory is None for SOBA."""

    x: Float[Array, " n"]
    v: Float[Array, " n"]
    eta: Float[Array, " p"]
    step: Int[Array, ""]
    memory: Directions | None
    mean: Directions | None


def minimize_stochastic(
    outer: Callable[[PyTree, PyTree, PyTree], Scalar],
    inner: Callable[[PyTree, PyTree, PyTree], Scalar],
    theta: PyTree,
    *,
    x0: PyTree,
    outer_data: PyTree,
    inner_data: PyTree,
    batch_size: int,
    method: Literal["saba", "soba"] = "saba",
    inner_step: float | Schedule | None = None,
    outer_step: float | Schedule | None = None,
    max_steps: int = 10_000,
    tol: float = 1e-5,
    time_limit: float | None = None,
    seed: int = 0,
    projection: Callable[[PyTree], PyTree] | None = None,
    log: bool | PyTree = False,
    progress: bool | None = None,
    callback: Callable[[int, PyTree, PyTree, float], Any] | None = None,
    checkpoint: Checkpoint | str | None = None,
) -> Result:
    """Minimise outer(theta, x*(theta)) with x*(theta) = argmin_x inner(x, theta) by minibatches; both are sample means.

    With v near v* = -hess_xx inner^-1 grad_x outer, each step draws one batch of each data set and moves

        x     by -inner_step * grad_x inner
        v     by -inner_step * (hess_xx inner v + grad_x outer)
        theta by -outer_step * (grad_theta outer + (d/dtheta grad_x inner)' v)

    SOBA uses the directions of the batches as they are. Its steps must decrease, because with constant steps it only
    reaches a neighbourhood of the solution. SABA remembers the direction of each batch and uses
    new - remembered + mean of the remembered; it converges to a stationary point with constant steps. Its memory is
    (inner batches) (2 n + p) + (outer batches) (n + p) numbers.

    An epoch has as many steps as there are batches of the larger data set, and is one compiled `scan`. After each
    epoch, loss and hyper-gradient on all data are computed after one Newton step on x, as in `minimize`.

    Args:
        outer: `outer(theta, x, batch)` to a real scalar, a mean over the samples of the batch.
        inner: `inner(x, theta, batch)`, also a mean, and strongly convex in x. Terms that do not depend on samples,
            such as a ridge penalty, are part of each mean.
        theta: the starting point, a pytree of floating-point arrays.
        x0: the starting point for x.
        outer_data: a pytree of arrays with one sample in each row; a batch of outer has batch_size rows of each array.
        inner_data: the same for inner. If theta has a weight for each sample, the index of the sample has to be data.
        batch_size: number of rows of a batch; divides both numbers of samples. Batches are drawn once and then kept.
        method: "saba" or "soba".
        inner_step: step size of x and v. A function of the number of the step is used as it is; a number is constant
            for SABA and falls as (1 + epochs)^-2/5 for SOBA. None means 1 / (3 L), where L is the largest eigenvalue of
            hess_xx inner on single batches at the start, by power iterations on up to 8 of them.
        outer_step: step size of theta (of its logarithm if log); for SOBA it falls as (1 + epochs)^-3/5. None means
            inner_step mu / (2 M), where mu is the smallest eigenvalue of hess_xx inner on all data and M the largest
            one of the Hessian of the outer problem, by differences of hyper-gradients, both at the start. Theta then
            moves so slowly that x and v can follow. Both constants may be different elsewhere: if the loss rises or is
            not finite, take smaller steps. On ill-conditioned problems larger steps may work and are faster.
        max_steps: number of steps, rounded up to whole epochs.
        tol: stop when the norm of the hyper-gradient on all data (of the projected step under a projection) is at most
            this.
        time_limit: seconds after which no new epoch begins.
        seed: seed of the batches; the same seed gives the same run.
        projection: `projection(theta)`, onto the set of allowed theta.
        log: True to search over the logarithm of theta, which must be positive; or a pytree of booleans like theta.
        progress: whether to show a progress bar; None shows one in a terminal.
        callback: `callback(epoch, theta, x, loss)` after each epoch; returning True ends the run.
        checkpoint: a `Checkpoint`, or its path; written at regular intervals and at the end. A run that finds one
            continues as if it had never stopped.

    Returns:
        A `Result` with theta and x (after a Newton step) of the epoch with the smallest loss. Its history has one entry
        for each epoch, in which `evaluations` and `inner_iterations` count steps and `tolerance` is NaN.

    Raises:
        ValueError: arrays have different numbers of rows; batch_size does not divide them; inner or outer is not a mean
            over samples; theta is not positive with log; no step can be estimated at the start; a checkpoint belongs to
            another problem.

    Warns:
        RuntimeWarning: the run ended because a value was not finite.

    Source: Dagreou et al., NeurIPS 2022, algorithms SOBA and SABA.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> rows = jnp.arange(8.0)  # x* = 3.5 theta / 4.5
        >>> found = idf.bilevel.minimize_stochastic(
        ...     lambda t, x, batch: jnp.mean((x - batch) ** 2),
        ...     lambda x, t, batch: jnp.mean(batch) * (x - t) ** 2 + x**2,
        ...     0.0, x0=0.0, outer_data=rows, inner_data=rows, batch_size=2, max_steps=4000)
        >>> print(found.theta.round(3), found.x.round(3))
        4.5 3.5
    """
    if method not in ("soba", "saba"):
        raise ValueError(f'method must be "soba" or "saba"; found {method!r}.')
    theta, x0 = strong(floating(theta)), strong(floating(x0))
    check_log(theta, log)
    random = np.random.default_rng(seed)
    data = tuple(
        _batches(name, given, batch_size, random)
        for name, given in (("outer_data", outer_data), ("inner_data", inner_data))
    )
    run = _Stochastic(outer, inner, theta, x0, projection, log, tol, method == "saba")
    run.check_means(data)
    counts = [jax.tree.leaves(part)[0].shape[0] for part in data]
    length = max(counts)
    epoch = jax.jit(run.epoch, static_argnums=3)
    look = jax.jit(run.look)

    problem = run.problem(data)
    eta = problem.project(problem.eta_of(theta))
    flat, _ = ravel_pytree(x0)
    iterate = Iterate(flat, jnp.zeros_like(flat), eta, jnp.int32(0), None, None)
    run.schedules = run.steps(iterate, data, look, inner_step, outer_step, length)
    if method == "saba":
        iterate = jax.jit(run.remember)(iterate, data)
    key = jax.random.key(seed)

    def looked(iterate: Iterate, best: tuple | None) -> _Run:
        at, found, norm, cause = look(iterate._replace(memory=None, mean=None), data)
        if best is None or float(found.loss) < float(best[2]):
            best = at, found.x, found.loss
        return _Run(iterate, best, at, found, float(norm), int(cause))

    def entry(run: _Run) -> Entry:
        number = int(run.iterate.step) // length
        loss, norm, steps = float(run.found.loss), run.norm, length if number else 0
        return Entry(
            row=(loss, norm, float(run.found.gradient_error), steps, int(run.found.linear_iterations), steps, np.nan),
            steps=number * length,
            status=NOT_FINITE if run.cause else CONVERGED if norm <= tol else RUNNING,
            shown=(number, run.theta, run.found.x, loss),
            bar=f"loss {loss:.6g}, gradient {norm:.1e}",
            warning=f"epoch {number}: {CAUSES[run.cause]}; take smaller steps." if run.cause else "",
        )

    def advance(run: _Run, number: int) -> _Run:
        return looked(epoch(run.iterate, data, jax.random.fold_in(key, number), length), run.best)

    at, found, _, _ = jax.eval_shape(look, iterate._replace(memory=None, mean=None), data)
    host = Host("minimize_stochastic", max_steps, time_limit, callback, progress, checkpoint)
    last, columns, status = host.drive(
        lambda: looked(iterate, None),
        advance,
        entry,
        kept=lambda run: (run.iterate, run.best),
        resume=lambda arrays: looked(*arrays),
        like=(iterate, (at, found.x, found.loss)),
    )
    theta, x, loss = last.best
    return Result(theta, x, loss, History(*columns), jnp.int32(status))


class _Run(NamedTuple):
    """A run after an epoch: the iterate, the best (theta, x, loss), and the evaluation of the iterate on all data."""

    iterate: Iterate
    best: tuple
    theta: PyTree
    found: Hypergradient
    norm: float
    cause: int


class _Stochastic:
    """The steps as pure functions; data are (outer, inner), each with leading axes (batches, rows)."""

    schedules: tuple[Schedule, Schedule]

    def __init__(self, outer, inner, theta, x0, projection, log, tol, remembers):
        self.outer, self.inner, self.theta, self.remembers = outer, inner, theta, remembers
        self.options = projection, log, tol
        self.flat, self.unravel = ravel_pytree(x0)

    def problem(self, data: tuple) -> Problem:
        """The problem on all data; its inner solver returns x unchanged, so that only the Newton step moves it."""
        every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
        condition = stationary(lambda x, t: self.inner(x, t, every[1]), positive_definite=True)
        return Problem(
            lambda t, x: self.outer(t, x, every[0]), Inner((lambda x, t: x, condition), None), self.theta, *self.options
        )

    def look(self, iterate: Iterate, data: tuple) -> tuple[PyTree, Hypergradient, Array, Array]:
        """Theta, loss and hyper-gradient on all data, the norm for the stopping test, and what is not finite."""
        problem = self.problem(data)
        found, _ = problem.evaluate(iterate.eta, self.unravel(iterate.x), -iterate.v, jnp.float32(0))
        theta = problem.theta_of(iterate.eta)
        return theta, found, problem.stationarity(iterate.eta, found.gradient), fault(found)

    def inner_directions(self, x: Array, v: Array, eta: Array, batch: PyTree, theta_of: Callable) -> tuple:
        """grad_x, and the products with v of its derivatives in x and eta: one reverse pass, by symmetry."""
        gradient = lambda x, eta: jax.grad(lambda x: self.inner(self.unravel(x), theta_of(eta), batch))(x)  # noqa: E731
        value, pull = jax.vjp(gradient, x, eta)
        return value, *pull(v)

    def outer_directions(self, x: Array, eta: Array, batch: PyTree, theta_of: Callable) -> tuple:
        """grad_x and grad_eta."""
        return jax.grad(lambda x, eta: self.outer(theta_of(eta), self.unravel(x), batch), argnums=(0, 1))(x, eta)

    def remember(self, iterate: Iterate, data: tuple) -> Iterate:
        """The start with the memory of a pass over all batches."""
        theta_of, (x, v, eta) = self.problem(data).theta_of, iterate[:3]
        memory = Directions(
            *lax.map(lambda batch: self.inner_directions(x, v, eta, batch, theta_of), data[1]),
            *lax.map(lambda batch: self.outer_directions(x, eta, batch, theta_of), data[0]),
        )
        return iterate._replace(memory=memory, mean=jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), memory))

    def epoch(self, iterate: Iterate, data: tuple, key: Array, length: int) -> Iterate:
        """`length` steps, each with a random batch of each data set."""
        problem = self.problem(data)
        counts = [jax.tree.leaves(part)[0].shape[0] for part in data]
        draws = [jax.random.randint(k, (length,), 0, n) for k, n in zip(jax.random.split(key), counts, strict=True)]

        def step(now: Iterate, draw: tuple) -> tuple[Iterate, None]:
            j, i = draw
            of_outer, of_inner = (
                jax.tree.map(lambda leaf, k=k: leaf[k], part) for part, k in zip(data, draw, strict=True)
            )
            d = Directions(
                *self.inner_directions(now.x, now.v, now.eta, of_inner, problem.theta_of),
                *self.outer_directions(now.x, now.eta, of_outer, problem.theta_of),
            )
            memory, mean = now.memory, now.mean
            if memory is not None and mean is not None:
                at, number = Directions(i, i, i, j, j), Directions(*[counts[1]] * 3, *[counts[0]] * 2)
                change = jax.tree.map(lambda new, old, k: new - old[k], d, memory, at)
                memory = jax.tree.map(lambda old, new, k: old.at[k].set(new), memory, d, at)
                d = jax.tree.map(jnp.add, change, mean)
                mean = jax.tree.map(lambda m, c, n: m + c / n, mean, change, number)
            rho, gamma = (schedule(now.step) for schedule in self.schedules)
            moved = Iterate(
                now.x - rho * d.x,
                now.v - rho * (d.hessian + d.outer_x),
                problem.project(now.eta - gamma * (d.outer_eta + d.cross)),
                now.step + 1,
                memory,
                mean,
            )
            return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, now), None

        if self.remembers:
            # The running mean accumulates rounding errors.
            iterate = iterate._replace(mean=jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), iterate.memory))
        return lax.scan(step, iterate, tuple(draws))[0]

    def check_means(self, data: tuple) -> None:
        """Check that outer and inner are means: with sums over samples, the loss on all data would be wrong."""

        @jax.jit
        def values(data: tuple) -> tuple:
            x = self.unravel(self.flat)
            every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
            functions = lambda b: self.outer(self.theta, x, b), lambda b: self.inner(x, self.theta, b)
            return tuple((jnp.mean(lax.map(f, b)), f(e)) for f, b, e in zip(functions, data, every, strict=True))

        for name, (mean, full) in zip(("outer", "inner"), values(data), strict=True):
            mean, full = float(mean), float(full)
            if np.isfinite(mean) and abs(mean - full) > 1e-3 * max(abs(mean), abs(full)):
                raise ValueError(
                    f"{name} must be a mean over the samples of its batch: at the start it is {full:.6g} on all data, "
                    f"but {mean:.6g} in the mean over batches."
                )

    def steps(
        self, start: Iterate, data: tuple, look: Callable, inner_step, outer_step, length: int
    ) -> tuple[Schedule, Schedule]:
        """The step sizes of x and theta as functions of the step."""
        if inner_step is None or (outer_step is None and callable(inner_step)):
            L = float(jax.jit(self.largest)(data))
            first = 1 / (3 * L) if L > 0 else np.inf
            if not np.isfinite(first) or first <= 0:
                raise ValueError(
                    "No step can be estimated: inner has no positive curvature in x at the start, or is not finite. "
                    "Give inner_step and outer_step."
                )
        else:
            first = 0.0 if callable(inner_step) else float(inner_step)
        inner_step = first if inner_step is None else inner_step
        if outer_step is None:
            mu, M = self.smallest_and_outer(start, data, look)
            outer_step = first * mu / (2 * M) if M > 0 else np.inf
            if not np.isfinite(outer_step) or outer_step <= 0:
                raise ValueError(
                    f"No outer_step can be estimated: at the start the smallest eigenvalue of hess_xx inner is "
                    f"{mu:.3g}, the largest one of the outer Hessian {M:.3g}. Give outer_step."
                )
        decays = (0.0, 0.0) if self.remembers else (INNER_DECAY, OUTER_DECAY)

        def schedule(given: Any, decay: float) -> Schedule:
            return given if callable(given) else lambda step: given * (1 + step / length) ** -decay

        return schedule(inner_step, decays[0]), schedule(outer_step, decays[1])

    def hessian(self, x: Array, batch: PyTree) -> Callable[[Array], Array]:
        gradient = jax.grad(lambda x: self.inner(self.unravel(x), self.theta, batch))
        return lambda v: jax.jvp(gradient, (x,), (v,))[1]

    def _power(self, product: Callable, iterations: int = POWER) -> Array:
        """The largest eigenvalue in modulus of a symmetric matrix, or a little less."""
        start = jax.random.normal(jax.random.key(0), self.flat.shape, self.flat.dtype)
        step = lambda _, v: (w := product(v)) / jnp.maximum(jnp.linalg.norm(w), 1e-30)  # noqa: E731
        v = lax.fori_loop(0, iterations, step, start / jnp.linalg.norm(start))
        return jnp.linalg.norm(product(v))

    def largest(self, data: tuple) -> Array:
        """The largest curvature of a batch among the first few."""
        few = jax.tree.map(lambda leaf: leaf[:ASKED], data[1])
        return jnp.max(lax.map(lambda batch: self._power(self.hessian(self.flat, batch)), few))

    def smallest(self, x: Array, data: tuple) -> Array:
        """The smallest eigenvalue of the inner Hessian on all data, or a little more."""
        every = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data[1])
        product = self.hessian(x, every)
        # A shift slightly above the largest eigenvalue makes the smallest one the largest in modulus.
        L = 1.05 * self._power(product)
        return L - self._power(lambda v: L * v - product(v), 5 * POWER)

    def smallest_and_outer(self, iterate: Iterate, data: tuple, look: Callable) -> tuple[float, float]:
        """`smallest`, and the largest eigenvalue of the outer Hessian by differences of hyper-gradients."""

        def at(eta: Array, now: Iterate) -> tuple[Array, Iterate]:
            found = look(now._replace(eta=eta), data)[1]
            return found.gradient, now._replace(x=ravel_pytree(found.x)[0], v=-found.adjoint)

        eta = iterate.eta
        for _ in range(NEWTON):
            gradient, iterate = at(eta, iterate)
        mu = float(jax.jit(self.smallest)(iterate.x, data))
        length = DIFFERENCE * max(1.0, float(jnp.linalg.norm(eta)) / np.sqrt(eta.size))
        direction, M = gradient, jnp.linalg.norm(gradient)
        for _ in range(DIFFERENCES):
            there = eta + length * direction / jnp.maximum(jnp.linalg.norm(direction), 1e-30)
            # A second Newton step, because the error after the first is of the order of the squared difference.
            direction = (at(there, at(there, iterate)[1])[0] - gradient) / length
            M = jnp.linalg.norm(direction)
        return mu, float(M)


def _batches(name: str, data: PyTree, size: int, random: np.random.Generator) -> PyTree:
    """Rows in random order, with axes (batches, rows of a batch, ...)."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(data)]
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"{name}: all arrays must have one sample a row; found shapes {[a.shape for a in leaves]}.")
    (count,) = counts
    if not isinstance(size, int | np.integer) or not 1 <= size <= count or count % size:
        raise ValueError(f"batch_size = {size} must be a whole number that divides the {count} samples of {name}.")
    order = random.permutation(count)
    shape = lambda leaf: jnp.asarray(leaf)[order].reshape(-1, size, *jnp.shape(leaf)[1:])  # noqa: E731
    return jax.tree.map(shape, data)
