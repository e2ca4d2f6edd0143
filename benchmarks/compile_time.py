"""The time to trace and compile a VJP, and the time to the first derivative in a fresh process.

Both libraries use the same kind of linear solver. The last table is what users wait for when they try a library.
"""

from functools import partial

import jaxopt
import lineax as lx

import implicitdiff as idf

from ._first import first_derivative
from ._harness import Times, compilation, in_new_process
from ._report import Claim, Report, Table
from ._ridge import by_hand, ours, ridge, vjp_in_theta, with_jaxopt, with_optimistix

krylov, theirs = idf.krylov, jaxopt.linear_solve

# (kind, ours, JAXopt's, target)
PAIRS = [
    ("LU", partial(ours, lx.LU()), partial(with_jaxopt, theirs.solve_lu), 1.2),
    ("Cholesky", partial(ours, lx.Cholesky()), partial(with_jaxopt, theirs.solve_cholesky), 1.2),
    ("CG", partial(ours, krylov.CG(rtol=1e-6)), partial(with_jaxopt, theirs.solve_cg, tol=1e-6), 1.5),
    ("BiCGStab", partial(ours, krylov.BiCGStab(rtol=1e-6)), partial(with_jaxopt, theirs.solve_bicgstab, tol=1e-6), 1.5),
    ("GMRES", partial(ours, krylov.GMRES(rtol=1e-6)), partial(with_jaxopt, theirs.solve_gmres, tol=1e-6), 1.5),
]
OTHERS = {
    "ours, default": ours,
    "ours, default, not told that it is positive definite": partial(ours, positive_definite=None),
    "jaxopt, default": with_jaxopt,
    "by hand, Cholesky": by_hand,
    "optimistix, default": with_optimistix,
}


def measure(quick: bool) -> Report:
    report = Report([], [])
    pairs = PAIRS[:2] if quick else PAIRS
    competitors = {f"{who}, {kind}": make for kind, a, b, _ in pairs for who, make in (("ours", a), ("jaxopt", b))}
    for n in (10,) if quick else (10, 200):
        args = ridge(n).args
        makers = {name: _maker(make, args) for name, make in (competitors | OTHERS).items()}
        measured = compilation(makers, rounds=1 if quick else 7)
        total = measured["total"]
        report.tables.append(Table(f"n = {n}", _rows(measured, "ours, default"), "Medians, in milliseconds."))
        for kind, _, _, target in pairs:
            what = f"n = {n}: {kind}, ours / JAXopt's"
            report.claims.append(Claim.of_times(what, total, f"ours, {kind}", f"jaxopt, {kind}", target))
    _first_derivative(report, rounds=1 if quick else 7)
    return report


def _maker(make, args):
    return lambda: (vjp_in_theta(make()), args)


def _rows(measured: dict[str, Times], reference: str) -> list[dict]:
    total = measured["total"]
    rows = []
    for name in total.seconds:
        ratio = total.ratio(name, reference)
        times = {part: 1e3 * measured[part].median(name) for part in ("trace", "compile", "total")}
        rows.append(
            {"what": name, **times, f"x {reference}": ratio.median, "quartiles": f"{ratio.low:.2f}-{ratio.high:.2f}"}
        )
    return rows


def _first_derivative(report: Report, rounds: int) -> None:
    libraries = ("implicitdiff", "jaxopt")
    results: dict[str, list[dict]] = {library: [] for library in libraries}
    for _ in range(rounds):
        for library in libraries:
            results[library].append(in_new_process(first_derivative, library))
    rows = []
    for library, found in results.items():
        best = {part: min(run[part] for run in found) for part in ("import_s", "first_s", "peak_mb")}
        rows.append({"what": library, **best})
    note = "Minimum over fresh processes: seconds to import after jax, and for the first eager gradient, n = 10."
    report.tables.append(Table("first derivative", rows, note))
    ours, jaxopts = rows[0], rows[1]
    report.claims.append(Claim("import after jax, seconds", ours["import_s"], 0.5))
    report.claims.append(Claim("first derivative, seconds", ours["first_s"], 0.6))
    report.claims.append(Claim("first derivative / JAXopt's", ours["first_s"] / jaxopts["first_s"], 1.2))
