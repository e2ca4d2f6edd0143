"""Bilevel optimisation: `bilevel.minimize` beside a loop around JAXopt whose step size was tuned.

The quadratic problem of benchmark_bilevel (Dagreou et al., NeurIPS 2022), rewritten from its definition: inner and
outer objective are 1/2 x'Hx + 1/2 t'Kt + t'Cx + a'x + b't with random eigenvectors. H has a spectrum from mu to 1, K
the same with one eigenvalue replaced by 0, and C has singular values 0.1. The original draws samples whose means tend
to these matrices; here the matrices themselves are used, because the mean of 1,024 samples of rank one in dimension
1,024 would be nearly singular.
"""

import gc
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

import implicitdiff as idf

from ._harness import Times
from ._report import Claim, Report, Table, timing_rows

CURVATURES = (0.1,)  # the smallest eigenvalues of H; the largest is 1
GOAL = 1e-2  # of the squared norm of the hyper-gradient
STEPS = (1.0, 2.0, 5.0, 10.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
MOST = 500  # steps that a loop may take
TOL = 0.9 * GOAL**0.5  # of `minimize`: the norm of the hyper-gradient at which it stops
SOLVERS = (jaxopt.GradientDescent, jaxopt.LBFGS)
LINEAR = 1024  # samples behind a linear term: each has norm sqrt(dimension / 1024)
OURS, WHOLE = "minimize", "minimize, one jit"


class Quadratic(NamedTuple):
    """H, K, C, a, b of one objective."""

    H: np.ndarray
    K: np.ndarray
    C: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def __call__(self, x, t):
        return 0.5 * x @ self.H @ x + 0.5 * t @ self.K @ t + t @ self.C @ x + self.a @ x + self.b @ t


class Simulated(NamedTuple):
    """Both objectives, the start, and the hyper-gradient in closed form: hessian @ theta + offset."""

    inner: Quadratic
    outer: Quadratic
    theta: np.ndarray
    hessian: np.ndarray
    offset: np.ndarray

    def truth(self, theta: np.ndarray) -> float:
        """The squared norm of the hyper-gradient."""
        return float(np.sum((self.hessian @ theta + self.offset) ** 2))


def simulated(n: int, d: int, mu: float) -> Simulated:
    """The problem is drawn again until the outer problem is convex, as in the original."""
    random = np.random.default_rng(0)
    for _ in range(20):
        g, f = _quadratic(random, n, d, mu), _quadratic(random, n, d, mu)
        # x* = base + J theta
        base, J = -np.linalg.solve(g.H, g.a), -np.linalg.solve(g.H, g.C.T)
        hessian = f.K + f.C @ J + J.T @ f.C.T + J.T @ f.H @ J
        offset = f.C @ base + f.b + J.T @ (f.H @ base + f.a)
        if np.linalg.eigvalsh(hessian)[0] > 0:
            return Simulated(g, f, random.standard_normal(d), hessian, offset)
    raise ValueError("No convex outer problem in 20 draws.")


def _quadratic(random: np.random.Generator, n: int, d: int, mu: float) -> Quadratic:
    basis = lambda k: np.linalg.qr(random.standard_normal((k, k)))[0]  # noqa: E731
    U, V = basis(n), basis(d)
    H, K = (U * np.geomspace(mu, 1, n)) @ U.T, (V * np.append(0, np.geomspace(mu, 1, d - 1))) @ V.T
    C = 0.1 * basis(d) @ basis(n)[:, :d].T
    a, b = (random.standard_normal(k) / np.sqrt(LINEAR) for k in (n, d))
    return Quadratic(H, K, C, a, b)


class Loop(NamedTuple):
    """What a user of JAXopt writes: differentiate the solution of the solver, and take gradient steps in theta."""

    value_and_grad: Callable
    problem: Simulated

    @classmethod
    def of(cls, problem: Simulated, solver: type) -> "Loop":
        """A new loop of which nothing has been compiled."""
        inner, outer = (Quadratic(*map(jnp.asarray, part)) for part in (problem.inner, problem.outer))
        solve = solver(lambda x, t: inner(x, t), maxiter=1000, implicit_diff=True)

        def loss(theta, x):
            x = solve.run(x, theta).params
            return outer(x, theta), x

        return cls(jax.jit(jax.value_and_grad(loss, has_aux=True)), problem)

    def __call__(self, step: float, most: int) -> list[jax.Array]:
        """The thetas along the way; each solve starts from the last solution."""
        theta, x = jnp.asarray(self.problem.theta), jnp.zeros(len(self.problem.inner.H))
        thetas = [theta]
        for _ in range(most):
            (_, x), gradient = self.value_and_grad(theta, x)
            theta = theta - step * gradient
            thetas.append(theta)
        return thetas

    def needed(self, step: float, most: int) -> int:
        """The number of steps to the goal; `most` if this step size does not reach it in fewer."""
        theta, x = jnp.asarray(self.problem.theta), jnp.zeros(len(self.problem.inner.H))
        for done in range(most):
            norm = self.problem.truth(np.asarray(theta))
            if norm <= GOAL:
                return done
            if not norm < 1e9:
                break
            (_, x), gradient = self.value_and_grad(theta, x)
            theta = theta - step * gradient
        return most


def tuned(problem: Simulated, solver: type) -> tuple[float, int]:
    """The step size that needs the fewest steps, and their number; the cost of the search is not counted."""
    loop, best, fewest = Loop.of(problem, solver), np.nan, MOST
    for step in STEPS:
        count = loop.needed(step, fewest)
        if count < fewest:
            best, fewest = step, count
    return best, fewest


def minimised(problem: Simulated) -> tuple[idf.bilevel.Result, list[np.ndarray]]:
    """A call of `minimize` for which only the tolerance is chosen, and the thetas along the way."""
    inner, outer = (Quadratic(*map(jnp.asarray, part)) for part in (problem.inner, problem.outer))
    thetas = [problem.theta]
    found = idf.bilevel.minimize(
        lambda t, x: outer(x, t),
        idf.solvers.GradientDescent(lambda x, t: inner(x, t)),
        jnp.asarray(problem.theta),
        x0=jnp.zeros(len(inner.H)),
        tol=TOL,
        callback=lambda step, theta, x, loss: thetas.append(np.asarray(theta)),
    )
    return found, thetas


def in_one_program(problem: Simulated) -> Callable:
    """The same under jit: a function of theta."""
    inner, outer = (Quadratic(*map(jnp.asarray, part)) for part in (problem.inner, problem.outer))
    solver, x0 = idf.solvers.GradientDescent(lambda x, t: inner(x, t)), jnp.zeros(len(inner.H))
    run = jax.jit(lambda t: idf.bilevel.minimize(lambda t, x: outer(x, t), solver, t, x0=x0, tol=TOL)[:3])
    return run.lower(jnp.asarray(problem.theta)).compile()


def without_compilation(found: idf.bilevel.Result, last: int) -> float:
    """Seconds to entry `last` of the history; the first three entries, which compile, are charged like the others."""
    seconds = np.diff(found.history.time, prepend=0.0)
    pace = seconds / found.history.evaluations
    seconds[:3] = found.history.evaluations[:3] * np.median(pace[3:])
    return float(seconds[: last + 1].sum())


def measure(quick: bool) -> Report:
    report = Report([], [])
    n, d = (128, 20) if quick else (1024, 100)
    for mu in CURVATURES:
        problem = simulated(n, d, mu)
        where = f"n = {n}, d = {d}, condition {1 / mu:.0f}"
        solvers = SOLVERS[:1] if quick else SOLVERS
        chosen = {f"JAXopt {solver.__name__}": (solver, *tuned(problem, solver)) for solver in solvers}
        warm, cold, norms, steps = _rounds(problem, chosen, rounds=1 if quick else 5)
        for title, times in (("compilation excluded", warm), ("whole call, compilation included", cold)):
            rows = timing_rows(times, norms, OURS)
            for row in rows:
                row["squared norm at the end"] = row.pop("error")
                row["outer steps"] = steps[row["what"]]
                row["step size"] = f"{chosen[row['what']][1]:g}, tuned" if row["what"] in chosen else "none given"
            report.tables.append(Table(f"{where}: time to a squared hyper-gradient of {GOAL:g}, {title}", rows))
            best = times.fastest(list(chosen))
            report.claims.append(Claim.of_times(f"{where}, {title}: minimize / {best}", times, OURS, best, 0.5))
        report.claims.append(Claim(f"{where}: squared norm where minimize ends", norms[OURS], GOAL))
    return report


def _rounds(problem: Simulated, chosen: dict, rounds: int) -> tuple[Times, Times, dict, dict]:
    """All take turns, in a new order in each round; the caches of JAX are cleared before each whole call."""
    warm: dict[str, list[float]] = {name: [] for name in (*chosen, OURS, WHOLE)}
    cold: dict[str, list[float]] = {name: [] for name in (*chosen, OURS, WHOLE)}
    norms, steps, order = {}, {name: count for name, (_, _, count) in chosen.items()}, list(warm)
    shuffle = np.random.default_rng(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            jax.clear_caches()
            gc.collect()
            begin = time.perf_counter()
            if name == OURS:
                found, thetas = minimised(problem)
                cold[name].append(time.perf_counter() - begin)
                reached = [problem.truth(theta) <= GOAL for theta in thetas]
                last = reached.index(True) if True in reached else len(thetas) - 1
                warm[name].append(without_compilation(found, last))
                end, steps[name] = thetas[last], last
            else:
                if name == WHOLE:
                    run = in_one_program(problem)
                    call = lambda run=run: run(jnp.asarray(problem.theta))[0]  # noqa: E731
                else:
                    solver, step, count = chosen[name]
                    loop = Loop.of(problem, solver)
                    call = lambda loop=loop, step=step, count=count: loop(step, count)[-1]  # noqa: E731
                end = jax.block_until_ready(call())
                cold[name].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                jax.block_until_ready(call())
                warm[name].append(time.perf_counter() - begin)
            norms[name] = problem.truth(np.asarray(end))
    steps[WHOLE] = "to its own stop"
    return *(Times({name: np.array(v) for name, v in kind.items()}) for kind in (warm, cold)), norms, steps
