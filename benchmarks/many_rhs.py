"""The whole Jacobian of a ridge solution with n = 200 outputs: many right-hand sides at once."""

from collections.abc import Callable
from functools import partial

import jax
import jaxopt
import lineax as lx
import numpy as np

import implicitdiff as idf

from ._harness import compiled, interleave, ready
from ._report import Claim, Report, Table, relative_error, timing_rows
from ._ridge import by_hand, objective, ours, ridge, with_jaxopt, with_optimistix

krylov, theirs = idf.krylov, jaxopt.linear_solve

COMPETITORS: dict[str, Callable] = {
    "ours, default": ours,
    "ours, not told": partial(ours, positive_definite=None),
    "ours, CG 1e-6": partial(ours, krylov.CG(rtol=1e-6)),
    "ours, LU": partial(ours, lx.LU()),
    "ours, Cholesky": partial(ours, lx.Cholesky()),
    "jaxopt, default": with_jaxopt,
    "jaxopt, CG 1e-6": partial(with_jaxopt, theirs.solve_cg, tol=1e-6),
    "jaxopt, LU": partial(with_jaxopt, theirs.solve_lu),
    "jaxopt, Cholesky": partial(with_jaxopt, theirs.solve_cholesky),
    "by hand, Cholesky": by_hand,
    "optimistix, default": with_optimistix,
}
QUICK = ("ours, default", "jaxopt, default", "jaxopt, LU", "by hand, Cholesky", "optimistix, default")
FORWARD = {name: make for name, make in COMPETITORS.items() if name.startswith(("ours", "optimistix"))}


def measure(quick: bool) -> Report:
    report = Report([], [])
    for n in (200,) if quick else (50, 200, 500):
        problem = ridge(n)
        hessian = jax.hessian(objective())(*problem.args[:4])
        jacobian = -np.linalg.inv(np.asarray(hessian)) * problem.x
        for mode, derivative, competitors in (("jacrev", jax.jacrev, COMPETITORS), ("jacfwd", jax.jacfwd, FORWARD)):
            competitors = {name: make for name, make in competitors.items() if not quick or name in QUICK}
            runs, missing = ready(competitors, partial(_run, derivative, problem.args[:4]))
            errors = {name: relative_error(run(), jacobian) for name, run in runs.items()}
            times = interleave(runs, budget=1 if quick else 10, least=3 if quick else 9, missing=missing)
            note = "" if mode == "jacrev" else "JAXopt and the rule by hand use custom_vjp and have no forward mode."
            table = Table(f"{mode}, n = {n}", timing_rows(times, errors, "ours, default"), note)
            report.tables.append(table)
            if n == 200 and mode == "jacrev":
                for other, target in (("jaxopt, default", 0.5), ("jaxopt, LU", 1.1)):
                    what = f"jacrev, n = 200: default / {other}"
                    report.claims.append(Claim.of_times(what, times, "ours, default", other, target))
                report.claims.append(Claim("jacrev, n = 200: error by default", errors["ours, default"], 1e-8))
    return report


def _run(derivative: Callable, args: tuple, make: Callable) -> Callable:
    return compiled(derivative(make(), argnums=1), *args)
