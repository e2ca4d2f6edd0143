"""The VJP of a ridge solution in a vector theta; the forward solve costs nothing.

At equal tolerances this library should not be slower than the fastest solver of JAXopt. By default it should be
accurate and faster than JAXopt's default, and for small n as fast as a rule written by hand for this problem.
"""

from collections.abc import Callable
from functools import partial

import jaxopt
import lineax as lx

import implicitdiff as idf

from ._harness import Times, compiled, interleave, ready
from ._report import Claim, Report, Table, relative_error, timing_rows
from ._ridge import by_hand, ours, ridge, vjp_in_theta, with_jaxopt, with_optimistix

TOL = 1e-6
krylov, theirs = idf.krylov, jaxopt.linear_solve

COMPETITORS: dict[str, Callable] = {
    "ours, default": ours,
    "ours, default, not told that it is positive definite": partial(ours, positive_definite=None),
    "ours, CG 1e-6": partial(ours, krylov.CG(rtol=TOL)),
    "ours, MINRES 1e-6": partial(ours, krylov.MINRES(rtol=TOL)),
    "ours, BiCGStab 1e-6": partial(ours, krylov.BiCGStab(rtol=TOL)),
    "ours, GMRES 1e-6": partial(ours, krylov.GMRES(rtol=TOL)),
    "ours, Cholesky": partial(ours, lx.Cholesky()),
    "ours, LU": partial(ours, lx.LU()),
    "jaxopt, default (normal CG 1e-5)": with_jaxopt,
    "jaxopt, normal CG 1e-6": partial(with_jaxopt, theirs.solve_normal_cg, tol=TOL),
    "jaxopt, CG 1e-6": partial(with_jaxopt, theirs.solve_cg, tol=TOL),
    "jaxopt, GMRES 1e-6": partial(with_jaxopt, theirs.solve_gmres, tol=TOL),
    "jaxopt, BiCGStab 1e-6": partial(with_jaxopt, theirs.solve_bicgstab, tol=TOL),
    "jaxopt, Cholesky": partial(with_jaxopt, theirs.solve_cholesky),
    "jaxopt, LU": partial(with_jaxopt, theirs.solve_lu),
    "by hand, Cholesky": by_hand,
    "optimistix, default (LU)": with_optimistix,
    "optimistix, CG 1e-6": partial(with_optimistix, lx.CG(TOL, TOL), positive_definite=True),
}
DEFAULT, PEER = "ours, default", "jaxopt, default (normal CG 1e-5)"
AT_TOLERANCE = [name for name in COMPETITORS if name.startswith("jaxopt") and name != PEER]
SAME_METHOD = ("CG 1e-6", "BiCGStab 1e-6", "GMRES 1e-6", "LU", "Cholesky")


def measure(quick: bool) -> Report:
    report = Report([], [])
    for n in (10,) if quick else (10, 200, 1000):
        problem = ridge(n)
        runs, missing = ready(COMPETITORS, partial(_run, problem.args))
        errors = {name: relative_error(run(), problem.gradient) for name, run in runs.items()}
        times = interleave(runs, budget=1 if quick else 15, least=3 if quick else 15, missing=missing)
        report.tables.append(Table(f"n = {n}", timing_rows(times, errors, DEFAULT)))
        report.claims.extend(claims(n, times, errors))
    return report


def _run(args: tuple, make: Callable) -> Callable:
    return compiled(vjp_in_theta(make()), *args)


def claims(n: int, times: Times, errors: dict[str, float]) -> list[Claim]:
    best = times.fastest(AT_TOLERANCE)
    result = [Claim.of_times(f"n = {n}: our CG 1e-6 / fastest of JAXopt ({best})", times, "ours, CG 1e-6", best, 1.1)]
    mine = times.fastest([name for name in COMPETITORS if name.startswith("ours")])
    result.append(Claim.of_times(f"n = {n}: our fastest ({mine}) / fastest of JAXopt", times, mine, best, 1.1))
    for method in SAME_METHOD:
        what = f"n = {n}: {method}, ours / JAXopt's"
        result.append(Claim.of_times(what, times, f"ours, {method}", f"jaxopt, {method}", 1.1))
    result.append(Claim(f"n = {n}: error by default", errors[DEFAULT], 1e-8))
    if n == 10:
        result.append(Claim.of_times("n = 10: default / by hand", times, DEFAULT, "by hand, Cholesky", 1.3))
    if n == 1000:
        result.append(Claim.of_times("n = 1000: default / JAXopt's default", times, DEFAULT, PEER, 0.5))
        untold = "ours, default, not told that it is positive definite"
        result.append(
            Claim.of_times(
                "n = 1000: default, not told that A is positive definite / JAXopt's default", times, untold, PEER, 0.5
            )
        )
    return result
