"""Derivatives of large sparse systems: discretised equations and a trajectory, beside a hand-written sparse LU.

The unit of time is what an expert writes by hand for one gradient: coloured products, the matrix in SciPy, SuperLU with
the better of two orderings, one solve with the transpose and one product. Colours and pattern are known beforehand on
both sides; the time to find them is given apart. The reference solves with the same matrix and refines the solution
with residuals in extended precision.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import splu

import implicitdiff as idf

from ._harness import Times, in_new_process, interleave, peak_memory_mb, reason
from ._report import Claim, Report, Table, relative_error

ORDERINGS = ("COLAMD", "MMD_AT_PLUS_A")
DEFAULT, LU = "ours, default", "ours, sparse.LU"
TARGET = 1.2


class Case(NamedTuple):
    """A root F(x, theta) = 0, and whether its factors fit into a minute and into memory."""

    name: str
    F: Callable
    x: jax.Array
    theta: jax.Array
    direct: bool = True


def measure(quick: bool) -> Report:
    report = Report([], [])
    rows, against, wrong = [], [], []
    for make in _quick() if quick else _full():
        case = make()
        found, line, ratio = _measure(case, budget=0.5 if quick else 5)
        rows += found
        wrong += [row["error"] for row in found if row["what"].startswith("ours") and _is_wrong(row["error"])]
        against.append(line)
        if ratio is not None:
            report.claims.append(ratio)
    note = "The error of the gradient is relative to the reference; NaN says that the derivative was refused."
    report.tables.append(Table("One gradient", rows, note))
    report.tables.append(Table("Found once, before the first derivative", against))
    report.claims.append(Claim("derivatives of ours that are wrong by more than 1 % and not NaN", len(wrong), 0))
    side = 60 if quick else 316
    memory = [{"what": how} | in_new_process(_alone, side, how) for how in ("by hand", LU)]
    report.tables.append(Table(f"Peak memory of a fresh process, Bratu's problem, {side} x {side}", memory))
    report.claims.append(Claim("peak memory: sparse.LU / by hand", memory[1]["peak_mb"] / memory[0]["peak_mb"], 1.5))
    report.claims.append(_repeated(report, 20 if quick else 100, 50 if quick else 1000))
    return report


def _is_wrong(error: Any) -> bool:
    return isinstance(error, float) and np.isfinite(error) and error > 1e-2


def _quick() -> list[Callable[[], Case]]:
    return [partial(jumps, 2000), partial(trajectory, 40), partial(constrained, 30)]


def _full() -> list[Callable[[], Case]]:
    return [
        partial(jumps, 10_000), partial(jumps, 100_000), partial(layer, 100_000), partial(trajectory, 2000),
        partial(bratu, 316), partial(advection, 316), partial(constrained, 316), partial(bratu, 1000),
        partial(cube, 64),
    ]  # fmt: skip


def _random(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def jumps(n: int) -> Case:
    """Diffusion between layers whose conductivities jump from 1 to 1e6."""
    theta = jnp.where(jnp.arange(n + 1) // 50 % 2 == 0, 1.0, 1e6)

    def F(x, theta):
        return -jnp.diff(theta * jnp.diff(x, prepend=0.0, append=0.0)) - 1.0 / n**2

    return Case("diffusion, jumps", F, jnp.asarray(np.linspace(0, 1, n)), theta)


def layer(n: int) -> Case:
    """A boundary layer: -e u'' + u' = theta."""

    def F(x, theta):
        h = 1.0 / (n + 1)
        second = jnp.diff(x, n=2, prepend=0.0, append=1.0)
        around = jnp.pad(x, 1)
        return -1e-3 * second / h**2 + (around[2:] - around[:-2]) / (2 * h) - theta

    return Case("boundary layer", F, jnp.asarray(np.linspace(0, 1, n)), jnp.ones(n))


def trajectory(steps: int) -> Case:
    """The optimality conditions of a cart-pole trajectory: 5 unknowns and 4 multipliers a step."""

    def rate(z, u):
        _, angle, speed, turn = z
        s, c = jnp.sin(angle), jnp.cos(angle)
        push = u + 0.1 * s * (0.5 * turn**2 + 9.81 * c)
        along = push / (1 + 0.1 * s**2)
        return jnp.stack([speed, turn, along, -(along * c + 9.81 * s) / 0.5])

    def lagrangian(x, weights):
        states, u, multipliers = x[:, :4], x[:, 4], x[:, 5:]
        before = jnp.concatenate([jnp.zeros((1, 4)), states[:-1]])
        defects = states - before - 0.02 * jax.vmap(rate)(before, u)
        return (
            0.5 * jnp.sum(weights[:4] * states**2) + 0.5 * weights[4] * jnp.sum(u**2) + jnp.sum(multipliers * defects)
        )

    x = jnp.asarray(0.1 * _random((steps, 9)))
    return Case("KKT of a trajectory", jax.grad(lagrangian), x, jnp.asarray([1.0, 10.0, 0.1, 0.1, 0.01]))


def _around(u):
    a = jnp.pad(u, 1)
    return a[1:-1, :-2], a[1:-1, 2:], a[:-2, 1:-1], a[2:, 1:-1]


def bratu(side: int) -> Case:
    """-Laplace u = theta exp(u) on the unit square."""

    def F(u, theta):
        return (4 * u - sum(_around(u))) * (side + 1) ** 2 - theta * jnp.exp(u)

    return Case("Bratu", F, jnp.asarray(0.1 * np.abs(_random((side, side)))), jnp.ones((side, side)))


def advection(side: int) -> Case:
    """Diffusion in a turning stream, with a sink that depends on u."""
    at = jnp.linspace(-1, 1, side)
    across, down = 30 * at[:, None], -30 * at[None, :]

    def F(u, theta):
        left, right, above, below = _around(u)
        h = 1.0 / (side + 1)
        return (4 * u - left - right - above - below) / h**2 + (
            across * (right - left) + down * (below - above)
        ) / h + u**3 - theta  # fmt: skip

    return Case("advection", F, jnp.asarray(_random((side, side))), jnp.ones((side, side)))


def constrained(side: int) -> Case:
    """Advection whose sources are raised by a multiplier until u has a given sum: a dense row and a dense column."""
    flow = advection(side)

    def F(x, theta):
        u = x[:-1].reshape(side, side)
        return jnp.append((flow.F(u, theta) + x[-1]).ravel(), jnp.sum(u) - 1.0)

    return Case("advection, dense row", F, jnp.append(flow.x.ravel(), 0.5), flow.theta)


def cube(side: int) -> Case:
    """-Laplace u = theta exp(u) in three dimensions, too large for factors."""

    def F(u, theta):
        a = jnp.pad(u, 1)
        middle = slice(1, -1)
        total = a[2:, middle, middle] + a[:-2, middle, middle] + a[middle, 2:, middle] + a[middle, :-2, middle]
        total += a[middle, middle, 2:] + a[middle, middle, :-2]
        return (6 * u - total) * (side + 1) ** 2 - theta * jnp.exp(u)

    return Case("Bratu in 3-D", F, jnp.asarray(0.1 * np.abs(_random((side,) * 3))), jnp.ones((side,) * 3), False)


class ByHand:
    """What an expert writes: the gradient of v'x in theta, -dF/dtheta' A^-T v."""

    def __init__(self, case: Case, pattern: idf.sparse.Pattern, ordering: str):
        colours, shape = pattern.colours, case.x.shape
        options = dict(SymmetricMode=True) if ordering != "COLAMD" else {}
        self.options: dict[str, Any] = dict(permc_spec=ordering, options=options)
        if ordering != "COLAMD":
            self.options["diag_pivot_thresh"] = 0.1
        self.pattern = pattern

        def shown(x, theta):
            F = lambda x: case.F(x, theta)  # noqa: E731
            seeds = [jnp.asarray((colours.columns == c).astype(float)).reshape(shape) for c in range(colours.forward)]
            parts = [jax.jvp(F, (x,), (seed,))[1].ravel() for seed in seeds]
            pull = jax.vjp(F, x)[1]
            parts += [
                pull(jnp.asarray((colours.rows == c).astype(float)).reshape(shape))[0].ravel()
                for c in range(colours.reverse)
            ]
            return jnp.stack(parts)

        self.shown = jax.jit(shown)
        self.last = jax.jit(lambda x, theta, u: -jax.vjp(lambda t: case.F(x, t), theta)[1](u.reshape(shape))[0])
        self.case = case

    def matrix(self, theta: jax.Array):
        data = np.asarray(self.shown(self.case.x, theta)).ravel()[self.pattern.places]
        return self.pattern.matrix(data)

    def __call__(self, v: np.ndarray, theta: jax.Array) -> jax.Array:
        u = splu(self.matrix(theta), **self.options).solve(v.ravel(), "T")
        return self.last(self.case.x, theta, jnp.asarray(u))

    def reference(self, v: np.ndarray) -> np.ndarray:
        """By refinement with residuals in extended precision."""
        A = self.matrix(self.case.theta)
        factors, long_A, long_v = splu(A, **self.options), A.T.astype(np.longdouble), v.ravel().astype(np.longdouble)
        u = factors.solve(v.ravel(), "T").astype(np.longdouble)
        for _ in range(4):
            u = u + factors.solve(np.asarray(long_v - long_A @ u, np.float64), "T")
        return np.asarray(self.last(self.case.x, self.case.theta, jnp.asarray(np.asarray(u, np.float64))))


def gradient(case: Case, linear_solver: Any) -> Callable:
    how = idf.Implicit(linear_solver=linear_solver)
    run = jax.jit(lambda x, theta, v: jax.vjp(lambda t: idf.implicit_root(case.F, x, t, adjoint=how), theta)[1](v)[0])
    return lambda v, theta: run(case.x, theta, jnp.asarray(v))


def _measure(case: Case, budget: float) -> tuple[list[dict], dict, Claim | None]:
    n, v = case.x.size, _random(case.x.shape, 1)
    if not case.direct:  # A'u for a known u
        known = jnp.asarray(v)
        v = np.asarray(jax.vjp(lambda x: case.F(x, case.theta), case.x)[1](known)[0])
    begin = time.perf_counter()
    pattern = idf.sparse.pattern(case.F, case.x, case.theta)
    middle = time.perf_counter()
    products = pattern.colours.products
    line = {"case": case.name, "n": n, "pattern s": middle - begin, "colours s": time.perf_counter() - middle}
    line |= {"entries": pattern.nnz, "products": products}
    hand = {f"by hand, {ordering}": ByHand(case, pattern, ordering) for ordering in ORDERINGS}
    huge = n > 500_000
    if huge:  # a column ordering would need more memory, and the default minutes
        hand.pop("by hand, COLAMD")
    if case.direct:
        exact = hand["by hand, MMD_AT_PLUS_A"].reference(v)
    else:
        exact = np.asarray(hand["by hand, MMD_AT_PLUS_A"].last(case.x, case.theta, known))
    times = None
    rows: list[dict[str, Any]] = []
    if case.direct:
        calls: dict[str, Callable] = {**hand, LU: gradient(case, idf.sparse.LU(pattern))}
        fresh = iter(range(10**6))

        def run(call):
            # Never the same entries again, or ours would find the factors of the last call.
            return call(v, case.theta * (1 + 1e-9 * next(fresh)))

        runs = {what: partial(run, call) for what, call in calls.items()}
        times = _twice(runs) if huge else interleave(runs, budget, least=3)
        best = times.fastest(list(hand))
        for what, call in calls.items():
            ratio = times.ratio(what, best).median
            row = {"what": what, "s": times.median(what), "x by hand": ratio}
            rows.append(row | {"error": relative_error(call(v, case.theta), exact)})
    if not huge:
        rows.append({"what": DEFAULT} | _once(gradient(case, None), v, case.theta, exact))
    rows = [{"case": case.name, "n": n} | row for row in rows]
    if times is None:
        return rows, line, None
    return rows, line, Claim.of_times(f"{case.name}, n = {n:,}: sparse.LU / by hand", times, LU, best, TARGET)


def _twice(runs: Mapping[str, Callable]) -> Times:
    """The second of two calls each: the first compiles."""
    seconds = {}
    for what, run in runs.items():
        for _ in range(2):
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[what] = np.array([time.perf_counter() - begin])
    return Times(seconds)


def _once(call: Callable, v: np.ndarray, theta: jax.Array, exact: np.ndarray) -> dict[str, Any]:
    try:
        jax.block_until_ready(call(v, theta))  # compiles
        begin = time.perf_counter()
        value = jax.block_until_ready(call(v, theta * (1 + 1e-9)))
        return {"s": time.perf_counter() - begin, "error": relative_error(value, exact)}
    except Exception as error:
        return {"error": reason(error)}


def _alone(side: int, how: str) -> dict:
    jax.config.update("jax_enable_x64", True)
    case = bratu(side)
    pattern, v = idf.sparse.pattern(case.F, case.x, case.theta), _random(case.x.shape, 1)
    call = ByHand(case, pattern, ORDERINGS[1]) if how == "by hand" else gradient(case, idf.sparse.LU(pattern))
    return {"finite": bool(np.all(np.isfinite(call(v, case.theta))))}


def _repeated(report: Report, side: int, calls: int) -> Claim:
    """Gradients with new entries, one after the other: time and memory at the end beside those after some calls."""
    case = bratu(side)
    call, v = gradient(case, idf.sparse.LU()), _random(case.x.shape, 1)
    seconds, resident = [], []
    for k in range(calls):
        begin = time.perf_counter()
        jax.block_until_ready(call(v, case.theta * (1 + 1e-6 * k)))
        seconds.append(time.perf_counter() - begin)
        resident.append(_resident_mb())
    tenth = max(calls // 10, 1)
    rows: list[dict[str, Any]] = [
        {"calls": f"{k + 1:,} to {k + tenth:,}", "median ms": 1e3 * float(np.median(seconds[k : k + tenth])),
         "resident MB": resident[k + tenth - 1]}
        for k in range(tenth, calls - tenth + 1, tenth)
    ]  # fmt: skip
    report.tables.append(Table(f"{calls:,} gradients with new entries, Bratu's problem, {side} x {side}", rows))
    ratio = rows[-1]["median ms"] / rows[0]["median ms"]
    return Claim(f"{calls:,} gradients: time of the last tenth / the second tenth", ratio, 1.2)


def _resident_mb() -> float:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    except FileNotFoundError:
        return peak_memory_mb()
