"""The loop of a run on the host, driven with a run that only counts."""

import itertools
import warnings

import jax
import numpy as np
import pytest

from implicitdiff.bilevel._checkpoint import Checkpoint
from implicitdiff.bilevel._host import Entry, Host
from implicitdiff.bilevel._state import CONVERGED, INTERRUPTED, OUT_OF_STEPS, OUT_OF_TIME, RUNNING

LIKE = jax.ShapeDtypeStruct((), np.int64)


def drive(max_steps=5, time_limit=None, callback=None, checkpoint=None, converged=100, interrupt=None, warning=""):
    """Count from 0; `interrupt` is the count at which Ctrl-C arrives before the count is noted."""

    def entry(count):
        if count == interrupt:
            raise KeyboardInterrupt
        return Entry((float(count),), int(count), CONVERGED if count >= converged else RUNNING, (count,), "", warning)

    host = Host("count", max_steps, time_limit, callback, False, checkpoint)
    count, (noted, seconds), status = host.drive(
        lambda: np.int64(0), lambda count, _: count + 1, entry, lambda count: count, lambda array: np.int64(array), LIKE
    )
    assert np.all(np.diff(seconds) >= 0)
    assert list(noted) == list(range(int(count) + 1))  # the history ends with the state that is returned
    return int(count), status


def test_why_a_run_ends():
    assert drive() == (5, OUT_OF_STEPS)
    assert drive(converged=2) == (2, CONVERGED)
    assert drive(converged=5) == (5, CONVERGED)  # the method's own reason comes first
    assert drive(callback=lambda count: count == 3) == (3, INTERRUPTED)
    assert drive(time_limit=0.0) == (0, OUT_OF_TIME)
    assert drive(interrupt=4) == (3, INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):  # there is nothing to return
        drive(interrupt=0)


def test_the_callback_sees_each_step_once_also_the_last(tmp_path):
    seen = []
    note = lambda count: seen.append(int(count))
    path = Checkpoint(tmp_path / "run.npz", every=2)
    assert drive(max_steps=3, callback=note, checkpoint=path) == (3, OUT_OF_STEPS)
    assert drive(max_steps=6, callback=note, checkpoint=path, converged=6) == (6, CONVERGED)
    assert seen == list(range(1, 7))


@pytest.mark.parametrize("interrupt", [1, 2, 3, 4])
def test_an_interrupted_run_is_resumed_where_it_was(tmp_path, interrupt):
    path = Checkpoint(tmp_path / "run.npz", every=2)
    assert drive(checkpoint=path, interrupt=interrupt) == (interrupt - 1, INTERRUPTED)
    assert drive(checkpoint=path) == (5, OUT_OF_STEPS)


def test_warnings_name_the_method_and_point_to_its_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drive(max_steps=1, warning="step: something.")
    assert [str(entry.message) for entry in caught] == ["bilevel.count, step: something."] * 2
    assert all(entry.filename == __file__ for entry in caught)


def test_progress_is_shown_on_request(capsys):
    host = Host("count", 3, None, None, True, None)
    steps = itertools.count()
    host.drive(
        lambda: next(steps),
        lambda *_: next(steps),
        lambda count: Entry((0.0,), count, RUNNING, (), "at work", ""),
        lambda count: count,
        int,
        LIKE,
    )
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "at work" in shown
