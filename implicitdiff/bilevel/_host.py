"""The loop of a run on the host: history, checkpoint, progress bar, callback, and the reasons to stop."""

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import PyTree

from ._checkpoint import Checkpoint
from ._state import INTERRUPTED, OUT_OF_STEPS, OUT_OF_TIME, RUNNING

Run = TypeVar("Run")


class Entry(NamedTuple):
    """What the host sees of a run after a step.

    Attributes:
        row: the entry of the history, without the time.
        steps: number of steps made so far.
        status: RUNNING, or why the method ends the run.
        shown: arguments of the callback.
        bar: text for the progress bar.
        warning: text of a warning, or "".
    """

    row: tuple
    steps: int
    status: int
    shown: tuple
    bar: str
    warning: str


class Host(NamedTuple):
    """How a run on the host is limited, shown and kept; see `minimize` for the fields."""

    name: str
    max_steps: int
    time_limit: float | None
    callback: Callable | None
    progress: bool | None
    checkpoint: Checkpoint | str | os.PathLike | None

    def drive(
        self,
        start: Callable[[], Run],
        step: Callable[[Run, int], Run],
        entry: Callable[[Run], Entry],
        kept: Callable[[Run], PyTree],
        resume: Callable[[PyTree], Run],
        like: PyTree,
    ) -> tuple[Run, list[np.ndarray], int]:
        """Make steps until something ends the run.

        Args:
            start: makes the run and evaluates the starting point.
            step: the next state of the run; its second argument is the number of entries of the history.
            entry: what the host sees of a state.
            kept: the arrays that a checkpoint stores.
            resume: makes the run again from these arrays.
            like: shapes and dtypes of these arrays.

        Returns:
            The last state, the columns of the history, and the status.
        """
        begin, saved, bar = time.perf_counter(), Checkpoint.of(self.checkpoint), self._bar()
        rows: list[tuple] = []
        run, status, known = None, RUNNING, 1
        try:
            loaded = None if saved is None else saved.load(like)
            if loaded is None:
                new = start()
            else:
                arrays, rows = loaded
                known = len(rows)
                begin -= rows.pop()[-1]  # the entry of the state that was stored, which is added again
                new = resume(arrays)
            while True:
                seen = entry(new)
                rows.append((*seen.row, time.perf_counter() - begin))
                run = new  # after an interrupt, the state and the history belong together
                if saved is not None and (len(rows) - 1) % saved.every == 0:
                    saved.save(kept(run), rows)
                if seen.warning:
                    warnings.warn(f"bilevel.{self.name}, {seen.warning}", RuntimeWarning, stacklevel=3)
                if bar is not None:
                    bar.set_postfix_str(seen.bar, refresh=False)
                    bar.update(seen.steps - bar.n)
                stop = self.callback is not None and len(rows) > known and self.callback(*seen.shown)
                status = seen.status or self._ended(stop, seen.steps, rows[-1][-1])
                if status != RUNNING:
                    break
                new = step(run, len(rows))
        except KeyboardInterrupt:
            if run is None:
                raise
            status = INTERRUPTED
        finally:
            if bar is not None:
                bar.close()
        if saved is not None:
            saved.save(kept(run), rows)
        return run, [np.array(column) for column in zip(*rows, strict=True)], status

    def _ended(self, stop: Any, steps: int, seconds: float) -> int:
        if stop:
            return INTERRUPTED
        if steps >= self.max_steps:
            return OUT_OF_STEPS
        return OUT_OF_TIME if self.time_limit is not None and seconds > self.time_limit else RUNNING

    def _bar(self) -> Any:
        if not (sys.stderr.isatty() if self.progress is None else self.progress):
            return None
        from tqdm import tqdm  # optional, for the progress bar only

        return tqdm(total=self.max_steps, desc=self.name)
