"""Hyper-gradients on 1, 2, 4 and 8 devices of the host: time, memory for each device, and communication.

Each number of devices gets a fresh process, because JAX counts its devices once. The devices share the cores of the
machine, so time falls with the number of cores and not with that of devices. The overhead of more devices is measured
against the same problem on one device of the same process, in turns. The linear solver is conjugate gradients.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicitdiff as idf

from ._harness import in_new_process, interleave
from ._report import Claim, Plot, Report, Table, largest, relative_error

FLAG = "--xla_force_host_platform_device_count"
NOTE = f"""The {os.cpu_count()} cores bound the time, whatever the number of devices; `x one device` is the ratio to the
time of the same problem on one device of the same process. Gathers and reductions are counted in the compiled program;
`largest` is the number of elements of the largest reduction. The error is against a factorisation in NumPy."""


def objective(x, log_weights, A, b):
    """Ridge regression with one weight for each feature."""
    return 0.5 * jnp.mean((A @ x - b) ** 2) + 0.5 * jnp.sum(jnp.exp(log_weights) * x**2)


def solve(init, log_weights, A, b):
    """Solve by conjugate gradients, which need products only."""
    product = lambda v: A.T @ (A @ v) / b.size + jnp.exp(log_weights) * v  # noqa: E731
    return jax.scipy.sparse.linalg.cg(product, A.T @ b / b.size, init, tol=1e-12)[0]


def hyper_gradient(log_weights, training, validation):
    """The loss on validation samples, and its gradient in the logarithms of the weights."""
    adjoint = idf.Implicit(linear_solver=idf.krylov.CG())
    condition = idf.optimality.stationary(objective, positive_definite=True)
    ridge = idf.custom_root(condition, adjoint=adjoint)(solve)

    def loss(log_weights):
        A, b = validation
        return 0.5 * jnp.mean((A @ ridge(jnp.zeros_like(log_weights), log_weights, *training) - b) ** 2)

    return jax.value_and_grad(loss)(log_weights)


class Problem(NamedTuple):
    """Samples in rows; sharded are the "rows" of the data, or its "columns" together with x."""

    title: str
    rows: int
    columns: int
    split: str

    def specs(self) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
        """The partition of x, of A and of b."""
        if self.split == "rows":
            return PartitionSpec(), PartitionSpec("i"), PartitionSpec("i")
        return PartitionSpec("i"), PartitionSpec(None, "i"), PartitionSpec()

    def arguments(self) -> tuple:
        """Weights, training and validation samples: Gaussian, with a largest singular value of about sqrt(rows)."""
        random, n = np.random.default_rng(0), self.columns
        samples = lambda: random.standard_normal((self.rows, n)) / np.sqrt(max(1, n / self.rows))  # noqa: E731
        sets = ((A, A @ np.full(n, n**-0.5) + random.standard_normal(self.rows)) for A in (samples(), samples()))
        return np.linspace(-1, 1, n), *sets

    def exact(self, log_weights, training, validation) -> tuple[float, np.ndarray]:
        """The exact result of `hyper_gradient`, by a factorisation of the smaller of the two Gram matrices."""
        (A, b), (Av, bv), weights = training, validation, np.exp(log_weights)

        def inverse(v):  # of A'A / m + diag(weights)
            if self.columns <= self.rows:
                return np.linalg.solve(A.T @ A / self.rows + np.diag(weights), v)
            Av = A @ (v / weights)
            return (v - A.T @ np.linalg.solve(self.rows * np.eye(self.rows) + (A / weights) @ A.T, Av)) / weights

        x = inverse(A.T @ b / self.rows)
        residual = Av @ x - bv
        return 0.5 * float(np.mean(residual**2)), -weights * x * inverse(Av.T @ residual / self.rows)


def on_devices(count: int, budget: float, problems: list[list]) -> dict:
    """Each problem on `count` devices and, in turns, on one of them; to be run in a fresh process."""
    jax.config.update("jax_enable_x64", True)
    return dict(found=[_on_devices(count, budget, Problem(*problem)) for problem in problems])


def _on_devices(count: int, budget: float, problem: Problem) -> list[dict[str, Any]]:
    arguments = problem.arguments()
    exact = [np.asarray(part) for part in problem.exact(*arguments)]
    runs, rows, results = {}, [], {}
    for devices in sorted({1, count}):
        mesh = jax.make_mesh((devices,), ("i",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        x, A, b = (NamedSharding(mesh, spec) for spec in problem.specs())
        args = jax.device_put(arguments, (x, (A, b), (A, b)))
        program = jax.jit(hyper_gradient).lower(*args).compile()
        runs[str(devices)] = lambda program=program, args=args: program(*args)
        results[devices] = [np.asarray(part) for part in program(*args)]
        memory: Any = program.memory_analysis()
        text = str(program.as_text())
        gathered = [size for size in _collectives(text, "all-gather") if size >= problem.columns]
        summed = _collectives(text, "all-reduce")
        rows.append(
            {
                "devices": devices,
                "rows": problem.rows,
                "columns": problem.columns,
                "data MB a device": memory.argument_size_in_bytes / 1e6,
                "scratch MB a device": memory.temp_size_in_bytes / 1e6,
                "all-gathers of x": len(gathered),
                "all-reduces": len(summed),
                "largest": max(summed, default=0),
            }
        )
    times = interleave(runs, budget, least=3)
    for row in rows:
        name, result = str(row["devices"]), results[row["devices"]]
        ratio = times.ratio(name, "1")
        row |= {
            "median ms": 1e3 * times.median(name),
            "x one device": ratio.median,
            "quartiles": f"{ratio.low:.2f}-{ratio.high:.2f}",
            "difference": largest(map(relative_error, result, results[1])),
            "error": largest(map(relative_error, result, exact)),
        }
    return rows


def _collectives(program: str, kind: str) -> list[int]:
    """The number of elements of each result of such an operation in the text of a compiled program."""
    shapes = re.findall(rf"= (.*?) {kind}(?:-start)?\(", program)
    return [
        math.prod(int(d) for d in dims.split(",") if d) for s in shapes for dims in re.findall(r"\w\[([\d,]*)\]", s)
    ]


@contextmanager
def _host_devices(count: int) -> Iterator[None]:
    """Give processes that are started inside so many devices; this process has read the variable already."""
    before = os.environ.get("XLA_FLAGS")
    kept = [flag for flag in (before or "").split() if not flag.startswith(FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([*kept, f"{FLAG}={count}"])
    try:
        yield
    finally:
        os.environ.pop("XLA_FLAGS")
        if before is not None:
            os.environ["XLA_FLAGS"] = before


def measure(quick: bool) -> Report:
    counts = (8,) if quick else (1, 2, 4, 8)
    share = 10_000 if quick else 50_000
    tables: dict[str, list[dict[str, Any]]] = {}
    for count in counts:
        problems = [
            Problem(f"{4 * share:,} rows in all", 4 * share, 20, "rows"),
            Problem(f"{2 * share:,} columns in all, x in shards", 64, 2 * share, "columns"),
        ]
        if not quick:
            problems.append(Problem(f"{share:,} rows a device", share * count, 20, "rows"))
        with _host_devices(count):
            found = in_new_process(on_devices, count, 0.5 if quick else 2, problems)["found"]
        for problem, rows in zip(problems, found, strict=True):
            # The first process gives the row for one device.
            tables.setdefault(problem.title, []).extend(rows if count == counts[0] else rows[-1:])
    claims = [claim for title, rows in tables.items() for claim in _claims(title, rows)]
    return Report([Table(title, rows, NOTE) for title, rows in tables.items()], claims, _plots(tables))


def _memory(row: dict[str, Any]) -> float:
    return row["data MB a device"] + row["scratch MB a device"]


def _claims(title: str, rows: list[dict[str, Any]]) -> Iterator[Claim]:
    if "in all" in title:
        what = f"{title}: memory a device, 8 devices / 1"
        yield Claim(what, _memory(rows[-1]) / _memory(rows[0]), 1.1 / 8)
    yield Claim(f"{title}: gathers of the size of x or more", largest(row["all-gathers of x"] for row in rows), 0)
    yield Claim(f"{title}: difference from one device", largest(row["difference"] for row in rows), 1e-12)


def _plots(tables: dict[str, list[dict[str, Any]]]) -> list[Plot]:
    def lines(*columns: Callable[[dict], float]) -> dict[str, tuple]:
        return {
            title: ([row["devices"] for row in rows], *([column(row) for row in rows] for column in columns))
            for title, rows in tables.items()
        }

    memory, time, ratio = "data and scratch, MB a device", "milliseconds", "time / one device of the same process"
    return [
        Plot("memory", f"Memory: {memory}", "devices", memory, lines(_memory)),
        Plot("time", "Value and hyper-gradient", "devices", time, lines(lambda row: row["median ms"])),
        Plot(
            "ratio",
            "The same problem on one device",
            "devices",
            ratio,
            lines(lambda row: row["x one device"]),
            logy=False,
        ),
    ]
