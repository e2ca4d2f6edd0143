"""Implicit and unrolled derivatives against the number of iterations of the solver: time, memory and error.

All competitors run the same gradient descent for a fixed number of steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ._descent import CLASS_UNROLLED, IMPLICIT, PLAIN, PROBLEMS, UNROLLED, Problem, competitors
from ._harness import Times, in_new_process, interleave, ready
from ._report import Claim, Plot, Report, Table, relative_error

# Bytes. A program that needs more is compiled, and its memory reported, but it is not run.
LARGEST = 2 * 2**30

NOTE = f"""`both` is one compiled program for solution and derivative, to which the temporary memory belongs; it is not
run if it needs more than {LARGEST / 2**30:g} GB. `derivative` is the reverse pass alone, after a solve that has stored
what it needs. With more than 400 unknowns, `ours, implicit` reserves memory for a matrix in case conjugate gradients do
not converge; naming conjugate gradients, as `by CG` does, avoids that. Optimistix is told that the matrix is negative
semidefinite and also uses conjugate gradients, to 1e-12."""


class Programs(NamedTuple):
    """Solution and derivative as one compiled program, and a function that prepares the derivative alone."""

    both: Callable[[], Any]
    derivative: Callable[[], Callable[[], Any]]
    temporary: int


def programs(run: Callable, args: tuple) -> Programs:
    theta, data = args

    def loss(theta, data):
        x = run(theta, data)
        return 0.5 * jnp.sum(x**2), x

    def solve(theta, data):
        return jax.vjp(lambda t: run(t, data), theta)

    both = jax.jit(jax.grad(loss, has_aux=True)).lower(theta, data).compile()

    def derivative():
        x, pullback = jax.jit(solve)(theta, data)
        back = jax.jit(lambda pullback, v: pullback(v)[0]).lower(pullback, x).compile()
        return lambda: back(pullback, x)

    memory: Any = both.memory_analysis()
    return Programs(lambda: both(theta, data)[0], derivative, memory.temp_size_in_bytes)


def alone(name: str, iterations: int) -> dict:
    """Solve the smoothing problem and differentiate it once; to be run in a fresh process."""
    jax.config.update("jax_enable_x64", True)
    problem = PROBLEMS["smoothing"]()
    jax.block_until_ready(programs(competitors(problem, iterations)[name], problem.args).both())
    return {}


class Sweep(NamedTuple):
    """A row for each competitor and number of iterations; `last` holds the times of the largest number."""

    rows: list[dict[str, Any]]
    last: dict[str, Times]
    growth: Times  # times of the implicit derivative alone, the numbers of iterations in turns


def sweep(problem: Problem, counts: tuple[int, ...], names: tuple[str, ...] | None, budget: float) -> Sweep:
    rows, times, implicit = [], {}, {}
    for iterations in counts:
        made: dict[str, Programs] = {}

        def start(item: tuple[str, Callable], made=made):
            name, run = item
            made[name] = programs(run, problem.args)
            if made[name].temporary > LARGEST:
                raise MemoryError("not run")
            return made[name].both

        chosen = {
            name: (name, run)
            for name, run in competitors(problem, iterations).items()
            if names is None or name in names
        }
        both, missing = ready(chosen, start)
        derivatives, without = ready({name: made[name] for name in both}, lambda program: program.derivative())
        implicit[str(iterations)] = derivatives[IMPLICIT]
        errors: dict[str, Any] = {name: relative_error(run(), problem.exact) for name, run in both.items()}
        times = {
            "both": interleave(both, budget, 3, missing=missing),
            "derivative": interleave(derivatives, budget, 3, missing=missing | without),
        }
        for name in chosen:
            row: dict[str, Any] = {"iterations": iterations, "what": name}
            for kind, measured in times.items():
                if name in measured.seconds:
                    ratio = measured.ratio(name, PLAIN)
                    row |= {
                        f"{kind} ms": 1e3 * measured.median(name),
                        f"{kind} x plain": ratio.median,
                        f"{kind} quartiles": f"{ratio.low:.3g}-{ratio.high:.3g}",
                    }
            memory = {"temporary MB": made[name].temporary / 2**20} if name in made else {}
            rows.append(row | memory | {"error": (errors | missing)[name]})
    return Sweep(rows, times, interleave(implicit, budget))


def plots(problem: str, rows: list[dict[str, Any]]) -> list[Plot]:
    labels = {
        "both ms": "solution and derivative, ms",
        "derivative ms": "derivative alone, ms",
        "temporary MB": "temporary memory, MB",
        "error": "relative error",
    }
    result = []
    for column, label in labels.items():
        lines: dict[str, tuple] = {}
        for row in rows:
            if isinstance(row.get(column), float):
                xs, ys = lines.setdefault(row["what"], ([], []))
                xs.append(row["iterations"])
                ys.append(row[column])
        result.append(Plot(f"{problem}-{column.split()[0]}", f"{problem}: {label}", "iterations", label, lines))
    return result


def _claims(problem: str, counts: tuple[int, ...], found: Sweep) -> list[Claim]:
    """The implicit derivative costs the same after any number of iterations, the unrolled one as a plain scan does."""
    few, many = next(count for count in counts if count >= 100), counts[-1]
    memory = {(row["what"], row["iterations"]): row["temporary MB"] for row in found.rows if "temporary MB" in row}
    head = f"{problem}, {many} / {few} iterations: implicit"
    claims = [
        Claim(f"{head}, temporary memory", memory[IMPLICIT, many] / memory[IMPLICIT, few], 1.05),
        Claim.of_times(f"{head}, time of the derivative", found.growth, str(many), str(few), 1.1),
    ]
    for name in (UNROLLED, CLASS_UNROLLED):
        if (name, many) not in memory:
            continue
        head = f"{problem}, {many} iterations: {name} / {PLAIN}"
        claims.append(Claim(f"{head}, temporary memory", memory[name, many] / memory[PLAIN, many], 1.1))
        for kind, times in found.last.items():
            claims.append(Claim.of_times(f"{head}, time of {kind}", times, name, PLAIN, 1.1))
    return claims


def _peaks() -> tuple[Table, Claim]:
    rows = []
    for name in (IMPLICIT, UNROLLED, PLAIN):
        peaks = [in_new_process(alone, name, iterations)["peak_mb"] for iterations in (100, 10_000)]
        rows.append(
            {"what": name, "MB, 100 iterations": peaks[0], "MB, 10,000": peaks[1], "ratio": peaks[1] / peaks[0]}
        )
    table = Table("smoothing: peak of a fresh process", rows, "Resident memory, including Python and JAX.")
    return table, Claim("smoothing, 10,000 / 100 iterations: implicit, peak of the process", rows[0]["ratio"], 1.05)


def measure(quick: bool) -> Report:
    counts = (100, 1_000) if quick else (10, 100, 1_000, 10_000)
    names = (IMPLICIT, CLASS_UNROLLED, PLAIN) if quick else None
    tables, claims, drawn = [], [], []
    for problem in ("ridge",) if quick else tuple(PROBLEMS):
        found = sweep(PROBLEMS[problem](), counts, names, budget=0.3 if quick else 1)
        tables.append(Table(problem, found.rows, NOTE, on_page=False))
        claims += _claims(problem, counts, found)
        drawn += plots(problem, found.rows)
    if not quick:
        table, claim = _peaks()
        tables.append(table)
        claims.append(claim)
    return Report(tables, claims, drawn)
