"""How time and memory are measured.

The machine is shared and noisy, and its clock drifts. The competitors therefore take turns in one process, in a new
order in each round. Two of them are compared by the ratio of their times within a round, of which the median over the
rounds and the quartiles are reported; absolute times (minimum and median) are for orientation only. Compilation is
timed separately, and peak memory is measured in fresh processes.
"""

import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
T = TypeVar("T")

# Seconds. A shorter run is repeated within a round, so that the resolution of the clock and dispatch do not matter.
SHORTEST_RUN = 2e-3


class Ratio(NamedTuple):
    """Median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float


class Times(NamedTuple):
    """The seconds of each competitor in each round; `missing` says why a competitor could not be run."""

    seconds: dict[str, np.ndarray]
    missing: Mapping[str, str] = MappingProxyType({})

    def minimum(self, name: str) -> float:
        return float(np.min(self._of(name)))

    def median(self, name: str) -> float:
        return float(np.median(self._of(name)))

    def ratio(self, name: str, other: str) -> Ratio:
        """Time of `name` over that of `other`, round by round; NaN where one of them is missing."""
        ratios = self._of(name) / self._of(other)
        return Ratio(*(float(q) for q in np.quantile(ratios, [0.5, 0.25, 0.75])))

    def fastest(self, names: list[str]) -> str:
        return min([name for name in names if name in self.seconds] or names[:1], key=self.median)

    def _of(self, name: str) -> np.ndarray:
        return np.array([np.nan]) if name in self.missing else self.seconds[name]


def ready(
    competitors: Mapping[str, T], start: Callable[[T], Callable[[], Any]]
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Make a run of each competitor and call it once: the runs, and the reason for each competitor that raises."""
    runs, missing = {}, {}
    for name, competitor in competitors.items():
        try:
            run = start(competitor)
            jax.block_until_ready(run())
        except Exception as error:
            missing[name] = reason(error)
        else:
            runs[name] = run
    return runs, missing


def reason(error: Exception) -> str:
    """Why something cannot be run, in one line that names no path of this machine."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name.partition('.')[0]} is not installed"
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {re.sub(r'(/[^/ ]+)+/', '', first)}"[:160]


def interleave(
    runs: Mapping[str, Callable[[], Any]],
    budget: float,
    least: int = 7,
    most: int = 300,
    missing: Mapping[str, str] = MappingProxyType({}),
) -> Times:
    """Time calls, at least `least` rounds and then until `budget` seconds are spent; see `ready` for `missing`."""
    repeats = {name: _repeats(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), np.random.default_rng(0).shuffle
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for done in range(most):
            if done >= least and time.perf_counter() - start > budget:
                break
            shuffle(order)
            for name in order:
                run, count = runs[name], repeats[name]
                begin = time.perf_counter()
                for _ in range(count):
                    jax.block_until_ready(run())
                seconds[name].append((time.perf_counter() - begin) / count)
    finally:
        gc.enable()
    return Times({name: np.array(values) for name, values in seconds.items()}, missing)


def _repeats(run: Callable[[], Any]) -> int:
    jax.block_until_ready(run())  # compiles, if it was not compiled before
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return max(1, round(SHORTEST_RUN / min(times)))


def compilation(makers: dict[str, Callable[[], tuple[Callable, tuple]]], rounds: int) -> dict[str, Times]:
    """Seconds to trace, to compile (lowering included), and both, of `jax.jit(f)` for `f, args = maker()`.

    A maker returns new function objects, and the caches of JAX are cleared before each measurement, so that no
    competitor profits from anything compiled earlier, not even from JAX's own small helpers.
    """
    trace: dict[str, list[float]] = {name: [] for name in makers}
    compile_: dict[str, list[float]] = {name: [] for name in makers}
    order, shuffle = list(makers), np.random.default_rng(0).shuffle
    for done in range(rounds + 1):
        shuffle(order)
        for name in order:
            jax.clear_caches()
            gc.collect()
            f, args = makers[name]()
            begin = time.perf_counter()
            traced = jax.jit(f).trace(*args)
            middle = time.perf_counter()
            traced.lower().compile()
            end = time.perf_counter()
            if done:  # in the first round JAX still imports modules
                trace[name].append(middle - begin)
                compile_[name].append(end - middle)
    jax.clear_caches()
    tracing = {name: np.array(values) for name, values in trace.items()}
    compiling = {name: np.array(values) for name, values in compile_.items()}
    both = {name: tracing[name] + compiling[name] for name in makers}
    return {"trace": Times(tracing), "compile": Times(compiling), "total": Times(both)}


def compiled(f: Callable, *args: Any) -> Callable[[], Any]:
    """A call of f, compiled ahead of time, for `interleave`."""
    executable = jax.jit(f).lower(*args).compile()
    return lambda: executable(*args)


def in_new_process(function: Callable[..., dict], *args: Any) -> dict:
    """The result of `function(*args)` in a fresh Python, with `peak_mb`, its peak memory; both are passed as JSON."""
    code = (
        f"import json; from benchmarks import _harness; from {function.__module__} import {function.__qualname__} as f;"
        f"print(json.dumps(f(*json.loads({json.dumps(args)!r})) | dict(peak_mb=_harness.peak_memory_mb())))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory_mb() -> float:
    """The largest resident memory that this process has had, in megabytes."""
    try:
        # getrusage would not do: after vfork it reports the maximum of the parent.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)
