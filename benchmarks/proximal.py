"""The derivative of a lasso solution (p = 2,000, 200 selected), and of least squares on the simplex.

JAXopt solves the system, whose matrix is not symmetric, by the normal equations. This library uses that the system is
symmetric on the range of the Jacobian of the proximal operator.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from sklearn.linear_model import Lasso

import implicitdiff as idf

from ._harness import compiled, interleave, ready
from ._report import Claim, Report, Table, relative_error, timing_rows

THEIRS = jaxopt.linear_solve
ADJOINTS = {
    "ours, default": None,
    "ours, rtol 1e-7": idf.Implicit(rtol=1e-7),
    "ours, GMRES": idf.Implicit(linear_solver=idf.krylov.GMRES()),
}
SOLVERS = {
    "jaxopt, default": None,
    "jaxopt, GMRES": THEIRS.solve_gmres,
    "jaxopt, BiCGStab 1e-8": partial(THEIRS.solve_bicgstab, tol=1e-8),
}
QUICK = ("ours, default", "ours, rtol 1e-7", "jaxopt, default")


class Problem(NamedTuple):
    """A solution x, its fixed-point map T(x, y, theta_g), and the gradient of v'x in y and theta_g."""

    T: Callable
    x: np.ndarray
    y: np.ndarray
    theta_g: float
    v: np.ndarray
    gradient: np.ndarray


def measure(quick: bool) -> Report:
    report = Report([], [])
    m, p, k = (100, 300, 40) if quick else (500, 2000, 200)
    for name, make in (("lasso", lasso), ("simplex", simplex)):
        problem = make(m, p, k)
        solvers: dict[str, Any] = {
            title: idf.custom_fixed_point(problem.T, adjoint=adjoint)(lambda x, *_: x)
            for title, adjoint in ADJOINTS.items()
        }
        for title, solve in SOLVERS.items():
            options = {} if solve is None else dict(solve=solve)
            solvers[title] = jaxopt.implicit_diff.custom_fixed_point(problem.T, **options)(lambda x, *_: x)
        solvers = {title: solver for title, solver in solvers.items() if not quick or title in QUICK}
        runs, missing = ready(solvers, partial(_compiled, problem))
        errors = {title: relative_error(run(), problem.gradient) for title, run in runs.items()}
        times = interleave(runs, budget=1 if quick else 15, least=5, missing=missing)
        support = np.count_nonzero(problem.x)
        report.tables.append(
            Table(
                f"{name}, {m} samples, {p} unknowns, {support} not zero",
                timing_rows(times, errors, "ours, default"),
                "",
            )
        )
        other = "jaxopt, default"
        for title in ("ours, default", "ours, rtol 1e-7"):
            report.claims.append(Claim.of_times(f"{name}: {title} / {other}", times, title, other, 1 / 3))
            report.claims.append(Claim(f"{name}: error, {title} / {other}", errors[title] / errors[other], 0.01))
    return report


def _compiled(problem: Problem, solver: Callable):
    def gradient(x, y, theta_g, v):
        of_y, of_g = jax.vjp(lambda y, g: solver(x, y, g), y, theta_g)[1](v)
        return jnp.append(of_y, of_g)

    return compiled(gradient, problem.x, problem.y, problem.theta_g, problem.v)


def _data(m: int, p: int, k: int):
    random = np.random.default_rng(0)
    X = random.standard_normal((m, p)) / np.sqrt(m)
    truth = np.zeros(p)
    truth[random.choice(p, k, replace=False)] = random.uniform(0.5, 1.5, k)
    y = X @ truth + 0.02 * random.standard_normal(m)
    return X, y, random.standard_normal(p), 1 / np.linalg.norm(X, 2) ** 2


def _least_squares(X):
    X = jnp.asarray(X)
    return lambda x, y: 0.5 * jnp.sum((X @ x - y) ** 2)


def lasso(m: int, p: int, k: int) -> Problem:
    """The lasso with a weight for which about k coefficients are selected; x is computed by scikit-learn."""
    X, y, v, stepsize = _data(m, p, k)
    low, high = 1e-4, np.max(np.abs(X.T @ y))
    for _ in range(12):
        weight = np.sqrt(low * high)
        count = np.count_nonzero(Lasso(weight / m, fit_intercept=False, tol=1e-4, max_iter=10_000).fit(X, y).coef_)
        low, high = (weight, high) if count > k else (low, weight)
    x = Lasso(weight / m, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, y).coef_
    S = np.flatnonzero(x)
    G = X[:, S]
    u = np.linalg.solve(G.T @ G, v[S])
    gradient = np.append(G @ u, -u @ np.sign(x[S]))
    return Problem(
        idf.optimality.proximal_gradient(_least_squares(X), idf.prox.lasso, stepsize), x, y, weight, v, gradient
    )


def simplex(m: int, p: int, k: int) -> Problem:
    """Least squares on a simplex of 0.8 times the sum of the coefficients; x by accelerated projected gradient."""
    X, y, v, stepsize = _data(m, p, k)
    scale = 0.8 * k
    T = idf.optimality.projected_gradient(_least_squares(X), idf.projection.simplex, stepsize)

    @jax.jit
    def solve():
        def step(t, state):
            x, z = state
            new = T(z, y, scale)
            return new, new + (t / (t + 3)) * (new - x)

        start = jnp.full(p, scale / p)
        return jax.lax.fori_loop(0, 6000, step, (start, start))[0]

    S = np.flatnonzero(np.asarray(solve()))
    # On its support x solves a linear system, which determines it to full precision.
    G, one = X[:, S], np.ones((S.size, 1))
    saddle = np.block([[G.T @ G, one], [one.T, np.zeros((1, 1))]])
    x = np.zeros(p)
    x[S] = np.linalg.solve(saddle, np.append(G.T @ y, scale))[:-1]
    assert np.all(x >= 0)
    assert np.max(np.abs(T(x, y, scale) - x)) < 1e-10
    u = np.linalg.solve(saddle, np.append(v[S], 0.0))
    return Problem(T, x, y, scale, v, np.append(G @ u[:-1], u[-1]))
