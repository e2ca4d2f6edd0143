"""A batch of small systems under vmap: the derivatives of 4096 solutions with n = 10.

The yardstick is the linear algebra alone: `jnp.linalg.solve` of the same batch of matrices. First the matrices are
given (the condition is Q x = theta), then each is formed from the data (ridge regression).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import jaxopt
import lineax as lx
import numpy as np

import implicitdiff as idf

from ._harness import compiled, interleave, ready
from ._report import Claim, Report, Table, relative_error, timing_rows
from ._ridge import by_hand, ours, ridge, vjp_in_theta, with_jaxopt, with_optimistix

N = 10
theirs = jaxopt.linear_solve

RIDGE = {
    "ours, default": ours,
    "ours, not told": partial(ours, positive_definite=None),
    "ours, LU": partial(ours, lx.LU()),
    "ours, CG 1e-6": partial(ours, idf.krylov.CG(rtol=1e-6)),
    "jaxopt, default": with_jaxopt,
    "jaxopt, LU": partial(with_jaxopt, theirs.solve_lu),
    "jaxopt, Cholesky": partial(with_jaxopt, theirs.solve_cholesky),
    "by hand, Cholesky": by_hand,
    "optimistix, default": with_optimistix,
}
QUICK = ("ours, default", "jaxopt, LU")


def measure(quick: bool) -> Report:
    report = Report([], [])
    size, budget = (256, 1) if quick else (4096, 12)
    problem = ridge(N, batch=(size,))

    derivatives: dict[str, Callable] = {
        name: lambda *args, make=make: vjp_in_theta(make())(*args)
        for name, make in RIDGE.items()
        if not quick or name in QUICK
    }
    derivatives["form and jnp.linalg.solve"] = _form_and_solve
    _add(report, "ridge, formed from data", derivatives, problem.args, problem.gradient, budget)

    x, theta, A, _, v = problem.args
    Q = jnp.swapaxes(A, -1, -2) @ A + jax.vmap(jnp.diag)(theta)
    gradient = np.linalg.solve(np.asarray(Q), np.asarray(v)[..., None])[..., 0]
    linear: dict[str, Callable] = {
        "ours, default": _linear(lambda F: idf.custom_root(F)(_given)),
        "ours, LU": _linear(lambda F: idf.custom_root(F, adjoint=idf.Implicit(lx.LU()))(_given)),
        "jaxopt, default": _linear(lambda F: jaxopt.implicit_diff.custom_root(F)(_given)),
        "jaxopt, LU": _linear(lambda F: jaxopt.implicit_diff.custom_root(F, solve=theirs.solve_lu)(_given)),
        "jnp.linalg.solve": lambda x, theta, Q, v: jnp.linalg.solve(Q.T, v),
    }
    _add(report, "matrices given", linear, (x, theta, Q, v), gradient, budget)
    return report


def _given(x, theta, Q):
    return x


def _linear(decorate):
    solver = decorate(lambda x, theta, Q: Q @ x - theta)
    return lambda x, theta, Q, v: jax.vjp(lambda t: solver(x, t, Q), theta)[1](v)[0]


def _form_and_solve(x, theta, A, b, v):
    return -x * jnp.linalg.solve(A.T @ A + jnp.diag(theta), v)


def _add(report: Report, title: str, derivatives: dict, args: tuple, gradient: np.ndarray, budget: float) -> None:
    """The last competitor is the yardstick."""
    mark = list(derivatives)[-1]
    runs, missing = ready(derivatives, lambda f: compiled(jax.vmap(f), *args))
    errors = {name: relative_error(run(), gradient) for name, run in runs.items()}
    times = interleave(runs, budget, least=5, missing=missing)
    report.tables.append(Table(f"{len(gradient)} systems, n = {N}, {title}", timing_rows(times, errors, mark)))
    report.claims.append(Claim.of_times(f"{title}: default / {mark}", times, "ours, default", mark, 1.2))
    what = f"{title}: default / jaxopt, LU"
    report.claims.append(Claim.of_times(what, times, "ours, default", "jaxopt, LU", 1.1))
