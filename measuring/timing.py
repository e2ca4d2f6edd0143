"""Times of programs that are compared: they take turns, so that the load of a shared machine falls on all of them."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name", bound=Hashable)


def in_turns(
    runs: Mapping[Name, Callable[[], Any]], least: int, most: int = 0, seconds: float = 0.0
) -> dict[Name, np.ndarray]:
    """The seconds that each run takes in each round, after one rehearsal.

    Args:
        runs: calls without arguments; compiled before, where compiling is not to be timed.
        least: rounds that are made in any case.
        most: rounds that are made at most, where there is time.
        seconds: after which no round beyond `least` begins.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    times: dict[Name, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for done in range(max(least, most)):
        if done >= least and time.perf_counter() >= end:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}
