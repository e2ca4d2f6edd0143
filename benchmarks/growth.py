"""Time and memory of one derivative as problems grow: unknowns, parameters, batches, right-hand sides.

The default method depends on the size: a factorisation up to n = 400; then a Krylov method with n / 4 products, and a
factorisation if these are not enough; beyond n = 8192 a Krylov method alone. Both sides of each limit are measured, and
the default is compared with the best of our methods named explicitly, on problems that suit it and on others.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import lineax as lx
import numpy as np
import optimistix as optx

import implicitdiff as idf

from . import _large
from ._harness import interleave, ready
from ._report import Claim, Plot, Report, Table, relative_error
from ._ridge import _Given as Given
from ._ridge import by_hand, ours, ridge, with_jaxopt, with_optimistix

theirs = jaxopt.linear_solve
CG, CHOLESKY = idf.krylov.CG(), lx.Cholesky()
LONGEST = 24  # rows; the numbers of longer tables are shown in figures
TOL = 1e-12  # for the Krylov methods of other libraries, whose default tolerance does not depend on the dtype

DENSE: dict[str, Callable] = {
    "ours, default": ours,
    "ours, Cholesky": partial(ours, CHOLESKY),
    "by hand, Cholesky": by_hand,
    "jaxopt, LU": partial(with_jaxopt, theirs.solve_lu),
    "ours, CG": partial(ours, CG),
    "optimistix, default": with_optimistix,
    "jaxopt, default": with_jaxopt,
}

DEFAULT, EXPLICIT = "ours, default", ("ours, CG", "ours, Cholesky")
PRODUCT = "one product with dF/dtheta'"

Names = tuple[str, ...]


class Loop(NamedTuple):
    """Calls that Python makes one after the other; they are not compiled as a whole."""

    call: Callable[[], Any]


class Case(NamedTuple):
    """One size: the derivatives, as functions of args or as loops, and the exact value."""

    size: int
    args: tuple
    exact: np.ndarray
    derivatives: dict[str, Callable | Loop]


class Sweep(NamedTuple):
    """The sizes of one plot. With `each`, a size is a number of equal problems, and time is given for one of them."""

    name: str
    axis: str
    title: str
    cases: Sequence[Callable[[], Case]]
    each: bool = False


def measure(quick: bool) -> Report:
    reports = [_measure(sweep, budget=0.1 if quick else 0.7) for sweep in (_quick() if quick else _sweeps())]
    tables = [table for report in reports for table in report.tables]
    claims = [claim for report in reports for claim in report.claims]
    return Report(tables, claims, [plot for report in reports for plot in report.plots])


def _sweeps() -> Iterator[Sweep]:
    names: Names = (
        "ours, default",
        "ours, CG",
        "ours, not told",
        "jaxopt, default",
        "jaxopt, CG",
        "optimistix, default",
        "by hand, tridiagonal",
    )
    sizes: tuple[int, ...] = (10, 400, 401, 8192, 8193, 100_000, 1_000_000)
    yield Sweep("unknowns", "n", "a product costs O(n)", [partial(_curve, n, n, names) for n in sizes])
    names = ("ours, default", "ours, CG", "ours, Cholesky", "jaxopt, default", "by hand, tridiagonal")
    stiff = [partial(_curve, n, n, names, stiffness=1e5) for n in (400, 401, 1000, 2000)]
    yield Sweep("stiff", "n", "a product costs O(n), condition 4e5", stiff)
    yield Sweep("dense", "n", "ridge regression", [partial(_dense, n, tuple(DENSE)) for n in (10, 100, 400, 401, 1500)])
    names = ("ours, default", "ours, CG", "jaxopt, CG", PRODUCT, "by hand, tridiagonal")
    sizes = (1, 10_000, 1_000_000)
    yield Sweep("parameters", "parameters", "n = 1000", [partial(_curve, 1000, p, names) for p in sizes])
    names = ("ours, default", "ours, Cholesky", "jaxopt, LU", "optimistix, default", "by hand, Cholesky")
    batches = [partial(_batch, k, names) for k in (1, 100, 1000, 10_000)]
    yield Sweep("batch", "batch", "ridge regression, n = 10", batches, each=True)
    for n, sizes in ((200, (1, 10, 100, 1000)), (500, (1, 10, 100))):
        cases = [partial(_right_hand_sides, n, k, (*names, "ours, CG")) for k in sizes]
        yield Sweep(f"cotangents-{n}", "cotangents", f"ridge regression, n = {n}", cases, each=True)


def _quick() -> Iterator[Sweep]:
    names: Names = ("ours, default", "ours, CG", PRODUCT)
    yield Sweep("parameters", "parameters", "n = 500", [partial(_curve, 500, p, names) for p in (1, 10_000)])
    names = ("ours, default", "ours, Cholesky", "jaxopt, LU")
    yield Sweep("batch", "batch", "ridge regression, n = 10", [partial(_batch, 100, names[:2])], each=True)
    cotangents = [partial(_right_hand_sides, 50, 10, names)]
    yield Sweep("cotangents", "cotangents", "ridge regression, n = 50", cotangents, each=True)


def _measure(sweep: Sweep, budget: float) -> Report:
    """Measure all sizes: a table, the default against the best method named, and plots of time and memory."""
    unit, scale = ("microseconds for each", 1e6) if sweep.each else ("milliseconds", 1e3)
    rows: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    seconds: dict[str, tuple] = {}
    memory: dict[str, tuple] = {}
    medians: list[dict[str, float]] = []
    for case in (make() for make in sweep.cases):  # made one after the other, because the largest hold much data
        temporary: dict[str, float] = {}
        runs, missing = ready({name: name for name in case.derivatives}, partial(_start, case, temporary))
        errors = {what: relative_error(run(), case.exact) for what, run in runs.items() if what != PRODUCT}
        times = interleave(runs, budget, least=3, missing=missing)
        medians.append({what: times.median(what) for what in runs})
        share = case.size if sweep.each else 1
        for what in runs:
            low, middle, high = np.quantile(times.seconds[what], [0.25, 0.5, 0.75]) / share
            _extend(seconds, what, (case.size, *(scale * value for value in (middle, low, high))))
            row = {sweep.axis: case.size, "what": what, "ms": 1e3 * middle * share, "error": errors.get(what, "")}
            if what in temporary:
                _extend(memory, what, (case.size, max(temporary[what], 1e-3)))
                row["temporary MB"] = temporary[what]
            rows.append(row | ({"us each": 1e6 * middle} if sweep.each else {}))
        rows += [{sweep.axis: case.size, "what": what, "error": why} for what, why in missing.items()]
        best = times.fastest([what for what in EXPLICIT if what in runs])
        ratio = times.ratio(DEFAULT, best)
        against.append(
            {
                sweep.axis: case.size,
                "best named": best,
                "default / best": ratio.median,
                "quartiles": f"{ratio.low:.2f}-{ratio.high:.2f}",
            }
        )
    title = f"{sweep.axis}: {sweep.title}"
    worst = max(against, key=lambda row: row["default / best"])
    where = f"{sweep.axis} = {worst[sweep.axis]:,}"
    claims = [Claim(f"{title}: default / {worst['best named']}, at worst ({where})", worst["default / best"], 1.2)]
    if PRODUCT in medians[0]:
        alone = medians[0][DEFAULT] + medians[-1][PRODUCT]
        what = f"{title}: the largest / the smallest and a product with dF/dtheta'"
        claims.append(Claim(what, medians[-1][DEFAULT] / alone, 1.15))
    return Report(
        [
            Table(title, rows, "Temporary: what XLA allocates for the compiled derivative.", len(rows) <= LONGEST),
            Table(f"{title}: the default against the best of our methods named explicitly", against),
        ],
        claims,
        [
            Plot(sweep.name, title, sweep.axis, unit, seconds),
            Plot(f"{sweep.name}-memory", title, sweep.axis, "temporary MB", memory),
        ],
    )


def _start(case: Case, temporary: dict[str, float], name: str) -> Callable[[], Any]:
    derivative = case.derivatives[name]
    if isinstance(derivative, Loop):
        return derivative.call
    executable: Any = jax.jit(derivative).lower(*case.args).compile()
    temporary[name] = executable.memory_analysis().temp_size_in_bytes / 2**20
    return partial(executable, *case.args)


def _extend(lines: dict[str, tuple], what: str, point: tuple) -> None:
    for values, value in zip(lines.setdefault(what, tuple([] for _ in point)), point, strict=True):
        values.append(value)


def _vjp(solver: Callable) -> Callable:
    """(x, theta, ..., v) -> the product of v with the Jacobian of the solution in theta."""
    return lambda x, theta, *rest: jax.vjp(lambda t: solver(x, t, *rest[:-1]), theta)[1](rest[-1])[0]


def _curve(n: int, parameters: int, names: Names, stiffness: float = 10.0) -> Case:
    """Fit a smooth curve to b: A is tridiagonal, and theta gives the weight of each unknown."""
    problem = _large.curve(n, parameters, stiffness)
    v = np.random.default_rng(1).standard_normal(n)

    def with_ours(linear_solver=None, **told):
        return _vjp(problem.attach(idf.Implicit(linear_solver=linear_solver, **told)))

    def with_jaxopt(**options):
        return _vjp(jaxopt.implicit_diff.custom_root(problem.F, **options)(lambda x, theta, *data: x))

    def with_optimistix(x, theta, *data):
        condition = lambda y, args: problem.F(y, *args)  # noqa: E731
        return optx.root_find(condition, Given(), x, (theta, *data), throw=False).value

    def product(x, theta, *rest):
        return jax.vjp(lambda t: problem.F(x, t, *rest[:-1]), theta)[1](rest[-1])[0]

    def tridiagonal(x, theta, *rest):
        diagonal, beside = _large.curve_bands(theta, n, stiffness)
        below, above = beside.at[0].set(0), beside.at[-1].set(0)
        u = jax.lax.linalg.tridiagonal_solve(below, diagonal, above, rest[-1][:, None])[:, 0]
        return product(x, theta, *rest[:-1], -u)

    makers: dict[str, Callable] = {
        "ours, default": with_ours(),
        "ours, CG": with_ours(CG),
        PRODUCT: product,
        "jaxopt, CG": with_jaxopt(solve=partial(theirs.solve_cg, tol=TOL)),
        "by hand, tridiagonal": tridiagonal,
        "ours, Cholesky": with_ours(CHOLESKY),
        "ours, not told": with_ours(positive_definite=False),
        "jaxopt, default": with_jaxopt(),
        "optimistix, default": _vjp(with_optimistix),
    }
    # The first forms the matrix; the others take too long.
    largest = {"optimistix, default": 2000, "jaxopt, default": 100_000, "ours, not told": 100_000}
    derivatives: dict[str, Callable | Loop] = {name: makers[name] for name in names if n <= largest.get(name, n)}
    # Parameter k contributes to weight k mod n.
    exact = np.resize(problem.vjp(v), parameters) * np.exp(problem.theta) / -(-parameters // n)
    return Case(parameters, (*problem.args, jnp.asarray(v)), exact, derivatives)


def _dense(n: int, names: Names) -> Case:
    problem = ridge(n)
    return Case(n, problem.args, problem.gradient, _made(_vjp, names))


def _batch(size: int, names: Names) -> Case:
    """Problems with n = 10: at once by vmap, in chunks of 256, and one after the other in Python."""
    problem = ridge(10, batch=(size,))
    derivatives = _made(lambda solver: jax.vmap(_vjp(solver)), names)
    one = _vjp(ours())
    derivatives["ours, default, lax.map in chunks"] = lambda *args: jax.lax.map(
        lambda row: one(*row), args, batch_size=min(size, 256)
    )
    if size <= 1000:
        jitted, columns = jax.jit(one), [np.asarray(array) for array in problem.args]
        rows = [tuple(map(jnp.asarray, row)) for row in zip(*columns, strict=True)]
        derivatives["ours, default, Python loop"] = Loop(lambda: [jitted(*row) for row in rows])
    return Case(size, problem.args, problem.gradient, derivatives)


def _right_hand_sides(n: int, number: int, names: Names) -> Case:
    """Products of many cotangents with one Jacobian, by vmap."""
    problem = ridge(n)
    v = np.random.default_rng(1).standard_normal((number, n))
    x, theta, A, b, _ = problem.args
    hessian = problem.A.T @ problem.A + np.diag(problem.theta)
    exact = -problem.x * np.linalg.solve(hessian, v.T).T

    def all_of(solver):
        return lambda x, theta, A, b, v: jax.vmap(jax.vjp(lambda t: solver(x, t, A, b), theta)[1])(v)[0]

    return Case(number, (x, theta, A, b, jnp.asarray(v)), exact, _made(all_of, names))


def _made(derivative: Callable, names: Names) -> dict[str, Callable | Loop]:
    return {name: derivative(make()) for name, make in DENSE.items() if name in names}
