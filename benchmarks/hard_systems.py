"""Accuracy with default settings on random systems with condition numbers from 1e2 to 1e8.

A derivative may be NaN where the precision does not suffice, but never a number that is far off.
"""

from functools import partial

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

import implicitdiff as idf

from ._report import Claim, Report, Table, largest, relative_error
from ._systems import matrix, solution

LU = jaxopt.linear_solve.solve_lu
CONDITIONS = (1e2, 1e4, 1e6, 1e8)
PRECISIONS, UNITS = (np.float64, np.float32), (1e-14, 1e-5)


def measure(quick: bool) -> Report:
    """The product of v with A^-1, the Jacobian of the root of A x = theta."""
    report = Report([], [])
    told = idf.optimality.stationary(_energy, positive_definite=True)
    ours = {
        "told": idf.custom_root(told)(_given),
        "told symmetric": idf.custom_root(idf.optimality.stationary(_energy))(_given),
        "not told": idf.custom_root(_linear)(_given),
    }
    peers = {
        "jaxopt, default": jaxopt.implicit_diff.custom_root(_linear)(_given),
        "jaxopt, LU": jaxopt.implicit_diff.custom_root(_linear, solve=LU)(_given),
    }
    # Compiled once for each size and precision.
    ours, peers = ({name: jax.jit(partial(_vjp, run)) for name, run in group.items()} for group in (ours, peers))
    sizes = {10: 3, 500: 1} if quick else {10: 20, 100: 10, 1000: 1, 2000: 1}
    for dtype, unit in zip(PRECISIONS, UNITS, strict=True):
        rows = []
        for n, seeds in sizes.items():
            competitors = ours | (peers if n <= (100 if quick else 1000) else {})  # larger ones take minutes
            for condition in CONDITIONS[:: 3 if quick else 1]:
                rows += [_row(n, seeds, condition, symmetric, competitors, dtype, unit) for symmetric in (True, False)]
        note = (
            "Largest finite error of the VJP over two spectra, two right-hand sides (random, and one whose solution is "
            "random) and the seeds. `told`: our solver knows that the matrix is positive definite; `worst` is the "
            "largest error of ours, and `NaN` counts the derivatives that ours refused."
        )
        name = dtype.__name__
        told = [row for row in rows if "worst" in row]
        report.tables.append(Table(name, rows, note))
        report.claims.append(Claim(f"{name}: largest finite error", largest(row["worst"] for row in told), 1e-2))
        if dtype is np.float64:
            units = largest(row[f"/ condition x {unit:g}"] for row in told)
            report.claims.append(Claim(f"{name}: error / (condition x {unit:g})", units, 1.0))
            report.claims.append(Claim(f"{name}: number of NaN", sum(int(r["NaN"].split("/")[0]) for r in rows), 0))
    return report


def _energy(x, theta, A):
    return 0.5 * x @ (A @ x) - theta @ x


def _linear(x, theta, A):
    return A @ x - theta


def _given(x, *_):
    return x


def _row(n, seeds, condition, symmetric, competitors, dtype, unit) -> dict:
    solvers = {name: run for name, run in competitors.items() if symmetric or name not in ("told", "told symmetric")}
    errors: dict[str, list[float]] = {name: [] for name in solvers}
    for A, v, exact in _cases(n, seeds, condition, symmetric, dtype):
        for name, run in solvers.items():
            errors[name].append(relative_error(run(jnp.zeros(n, dtype), v, A), exact))
    ours = np.array([error for name, found in errors.items() if "told" in name for error in found])
    row = {
        "n": n,
        "condition": f"{condition:.0e}",
        "matrix": "positive definite" if symmetric else "not symmetric",
        "NaN": f"{np.isnan(ours).sum()}/{ours.size}",
        **{name: max((e for e in errors.get(name, ()) if not np.isnan(e)), default="") for name in competitors},
    }
    if np.all(np.isnan(ours)):
        return row  # there is no error to report
    worst = float(np.nanmax(ours))
    return row | {"worst": worst, f"/ condition x {unit:g}": worst / condition / unit}


def _cases(n, seeds, condition, symmetric, dtype):
    """Matrices A, right-hand sides v, and the solutions of A' u = v."""
    for seed in range(seeds):
        for spectrum in ("geometric", "outlier"):
            random = np.random.default_rng([n, seed, 1])
            A = matrix(n, condition, symmetric, spectrum, seed).astype(dtype)
            exact_A = A.T.astype(np.float64)
            right = np.stack([random.standard_normal(n), exact_A @ random.standard_normal(n)], 1).astype(dtype)
            exact = solution(exact_A, right.astype(np.float64))
            for v, u in zip(right.T, exact.T, strict=True):
                yield jnp.asarray(A), jnp.asarray(v), u


def _vjp(solver, x, v, A):
    return jax.vjp(lambda theta: solver(x, theta, A), x)[1](v)[0]
