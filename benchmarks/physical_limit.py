"""The cost of a derivative in products with the Jacobian of F, which no matrix-free method can do without.

A matrix-free linear solve consists of products with A = dF/dx and of vector operations. The unit of time is one product
as it runs inside a solve, measured by a chain of products in one compiled loop. A derivative whose time is 1 in units
of its own products does nothing but multiply. Where a product is as cheap as adding vectors, no method can come close
to 1; the yardstick is then the same method written by hand with the same number of products, without any check of the
result and without a convergence test. JAXopt's CG, GMRES and BiCGStab are those of `jax.scipy.sparse.linalg`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import jaxopt.linear_solve as theirs
import numpy as np

import implicitdiff as idf

from . import _large
from ._harness import compiled, interleave, ready
from ._large import Large
from ._report import Claim, Report, Table, relative_error

TOL = 1e-10
RESTART = 40
CHAIN = 16  # products in the loop that gives the unit
TARGET = 1.15


def measure(quick: bool) -> Report:
    report = Report([], [])
    for problem in problems(quick):
        for transpose in (True,) if quick else (True, False):
            _measure(report, problem, transpose, budget=0.2 if quick else 4)
    return report


def problems(quick: bool) -> list[Large]:
    """A dense and a sparse problem that are symmetric, and one of each that is not; in a quick run, a small one."""
    if quick:
        return [_large.dense(10_000, 20)]
    return [_large.dense(100_000, 60), _large.smoothing(400), _large.advection(320), _large.fixed_point(100_000, 40)]


class Tally:
    """Counts the products of a solve while it runs."""

    def __init__(self):
        self.count = 0

    def add(self) -> None:
        self.count += 1

    def of(self, product: Callable) -> Callable:
        def counted(v):
            jax.debug.callback(self.add)
            return product(v)

        return counted


def methods(problem: Large) -> dict[str, Any]:
    """Our methods for a problem, first the one that is the default."""
    if problem.symmetric:
        return {"CG": idf.krylov.CG}
    return {"BiCGStab": idf.krylov.BiCGStab, "GMRES": partial(idf.krylov.GMRES, restart=RESTART)}


def competitors(problem: Large, transpose: bool, tally: Tally | None, steps: dict[str, int]) -> dict[str, Callable]:
    """Derivatives (v, x, theta, *data) -> product of v with the Jacobian; with a tally, they count their products."""

    def ours(linear_solver):
        return _derivative(problem.attach(idf.Implicit(linear_solver=linear_solver)), transpose)

    def by_rule(solve):
        return _large.by_rule(problem.F, solve, transpose)

    def with_jaxopt(solve):
        if tally is not None:
            solve = partial(_counted, solve, tally)
        if transpose:  # JAXopt uses a custom_vjp, which has no forward mode; it has a function for it
            return _derivative(jaxopt.implicit_diff.custom_root(problem.F, solve=solve)(_given), transpose)
        return lambda v, x, theta, *data: jaxopt.implicit_diff.root_jvp(
            lambda x, theta: problem.F(x, theta, *data), x, (theta,), (v,), solve=solve
        )

    known = methods(problem)
    # With more than 8192 unknowns, the default is its Krylov method at the tolerance of that method.
    result = {"ours, default": ours(_counting(next(iter(known.values()))(), tally) if tally else None)}
    result |= {f"ours, {name}": ours(_counting(method(rtol=TOL), tally)) for name, method in known.items()}
    result |= {f"by hand, {name}": by_rule(MINIMAL[name](steps.get(name, 1))) for name in known}
    result |= {name: with_jaxopt(partial(solve, tol=TOL)) for name, solve in THEIRS[problem.symmetric].items()}
    return result


MINIMAL = {
    "CG": _large.minimal_cg,
    "BiCGStab": _large.minimal_bicgstab,
    "GMRES": partial(_large.minimal_gmres, restart=RESTART),
}
THEIRS = {
    True: {"jaxopt, CG": theirs.solve_cg},
    # "batched" finishes every restart, "incremental" may stop within one; neither is always faster.
    False: {
        "jaxopt, BiCGStab": theirs.solve_bicgstab,
        "jaxopt, GMRES": partial(theirs.solve_gmres, restart=RESTART),
        "jaxopt, GMRES, incremental": partial(theirs.solve_gmres, restart=RESTART, solve_method="incremental"),
    },
}


def _given(x, theta, *data):
    return x


def _derivative(solver: Callable, transpose: bool) -> Callable:
    if transpose:
        return lambda v, x, theta, *data: jax.vjp(lambda t: solver(x, t, *data), theta)[1](v)[0]
    return lambda v, x, theta, *data: jax.jvp(lambda t: solver(x, t, *data), (theta,), (v,))[1]


def _counting(method: Any, tally: Tally | None) -> Any:
    if tally is None:
        return method
    of = tally.of

    class Counting(type(method)):  # type: ignore[misc]
        def solve(self, product, b, *rest):
            return super().solve(of(product), b, *rest)

    return Counting(**vars(method))


def _counted(solve: Callable, tally: Tally, product: Callable, b: Any) -> Any:
    return solve(tally.of(product), b)


def _counts(problem: Large, transpose: bool, args: tuple) -> dict[str, int]:
    """The number of products that each competitor takes, including the check of the result."""
    tally, counts = Tally(), dict[str, int]()
    for name, f in competitors(problem, transpose, tally, {}).items():
        if name.startswith("by hand"):  # as many as ours, without the check of the result
            counts[name] = counts[name.replace("by hand", "ours")] - 1
            continue
        tally.count = 0
        jax.block_until_ready(jax.jit(f)(*args))
        jax.effects_barrier()
        counts[name] = tally.count
    return counts


def _chain(problem: Large, transpose: bool, length: int) -> Callable:
    def chained(v, x, theta, *data):
        A = _large.product(problem.F, x, theta, data, transpose)
        return jax.lax.fori_loop(0, length, lambda _, v: A(v), v)

    return chained


def _measure(report: Report, problem: Large, transpose: bool, budget: float) -> None:
    mode, v = ("VJP" if transpose else "JVP"), np.random.default_rng(1).standard_normal(problem.x.shape)
    args = (jnp.asarray(v), *problem.args)
    counts = _counts(problem, transpose, args)
    known = list(methods(problem))
    steps = {name: counts[f"by hand, {name}"] for name in known}
    runs, missing = ready(competitors(problem, transpose, None, steps), lambda f: compiled(f, *args))
    exact = problem.vjp(v) if transpose else problem.jvp(v)
    errors = {name: relative_error(run(), exact) for name, run in runs.items()}
    runs["chain"], runs["product"] = (compiled(_chain(problem, transpose, k), *args) for k in (CHAIN, 1))
    times = interleave(runs, budget, least=3, missing=missing)
    for name, count in counts.items():
        times.seconds[f"products of {name}"] = times.seconds["chain"] / CHAIN * count
    rows: list[dict[str, Any]] = []
    for name, count in counts.items():
        if name in missing:
            rows.append({"what": name, "error": missing[name]})
            continue
        ratio = times.ratio(name, f"products of {name}")
        rows.append(
            {
                "what": name,
                "products": count,
                "ms": 1e3 * times.median(name),
                "ms / products": ratio.median,
                "quartiles": f"{ratio.low:.2f}-{ratio.high:.2f}",
                f"x by hand, {known[0]}": times.ratio(name, f"by hand, {known[0]}").median,
                "error": errors[name],
            }
        )
    note = (
        f"One product takes {1e3 * times.median('chain') / CHAIN:.3g} ms in a loop of {CHAIN}, "
        f"{1e3 * times.median('product'):.3g} ms called alone."
    )
    report.tables.append(Table(f"{mode}, {problem.name}, n = {problem.x.size:,}", rows, note))
    pairs = [("ours, default", "products of ours, default", TARGET)]
    for own in known:
        peers = [name for name in counts if name.startswith(f"jaxopt, {own}")]
        pairs += [(f"ours, {own}", f"by hand, {own}", TARGET), (f"ours, {own}", times.fastest(peers), 1.1)]
    for name, other, target in pairs:
        what = f"{mode}, {problem.name}: {name} / {other}"
        report.claims.append(Claim.of_times(what, times, name, other, target))
    report.claims.append(Claim(f"{mode}, {problem.name}: error by default", errors["ours, default"], 1e-10))
