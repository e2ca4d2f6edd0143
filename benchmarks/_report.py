"""What a topic hands back: tables of measurements, claims about them, and lines to draw."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._harness import Times


class Claim(NamedTuple):
    """One target: what is claimed, what was measured, and the largest value that meets it.

    For a ratio of times, `measured` is the median of the ratios within a round, and `of_minima` is the ratio of the
    shortest times, which other load on the machine disturbs least.

    Attributes:
        missing: why nothing was measured (a competitor is not installed, for instance); the target is then neither
            met nor missed.
        quartiles: of the measured value, if it was measured more than once.
    """

    what: str
    measured: float
    target: float
    missing: str = ""
    quartiles: tuple[float, ...] = ()
    of_minima: float | str = ""

    @classmethod
    def of_times(cls, what: str, times: Times, name: str, other: str, target: float) -> "Claim":
        """The claim that `name` takes at most `target` times as long as `other`."""
        if name in times.seconds and other in times.missing:
            return cls(what, float("nan"), target, times.missing[other])
        ratio = times.ratio(name, other)
        of_minima = times.minimum(name) / times.minimum(other)
        return cls(what, ratio.median, target, quartiles=(ratio.low, ratio.high), of_minima=of_minima)

    @property
    def verdict(self) -> str:
        if self.missing:
            return "not measured"
        return "met" if self.measured <= self.target else "missed"  # NaN is missed

    def row(self) -> dict[str, Any]:
        return {
            "claim": self.what,
            "measured": self.measured,
            "quartiles": self.missing or _range(self.quartiles),
            "ratio of minima": self.of_minima,
            "target": f"<= {self.target:g}",
            "verdict": self.verdict,
        }


class Table(NamedTuple):
    """Rows of measurements, each a dict from column to value.

    Attributes:
        on_page: False for a long table whose numbers are drawn: it is stored in the JSON file only.
    """

    title: str
    rows: list[dict[str, Any]]
    note: str = ""
    on_page: bool = True


class Plot(NamedTuple):
    """Lines over a common axis; both axes are logarithmic by default.

    `lines` is a dict from a competitor to its (xs, ys), or to (xs, ys, lows, highs) with a band to draw.
    """

    name: str
    title: str
    xlabel: str
    ylabel: str
    lines: dict[str, tuple]
    logx: bool = True
    logy: bool = True


class Report(NamedTuple):
    """What one topic measured, and how it compares with the targets."""

    tables: list[Table]
    claims: list[Claim]
    plots: Sequence[Plot] = ()


def timing_rows(times: Times, errors: dict[str, float], reference: str) -> list[dict[str, Any]]:
    """One row for each competitor: milliseconds, the ratio to the time of the reference with its quartiles, the error.

    For a competitor that could not be measured, the reason stands in place of the error.
    """
    result: list[dict[str, Any]] = []
    for name in times.seconds:
        ratio = times.ratio(name, reference)
        row = {
            "what": name,
            "min ms": 1e3 * times.minimum(name),
            "median ms": 1e3 * times.median(name),
            f"x {reference}": ratio.median,
            "quartiles": _range(ratio[1:]),
            "error": errors.get(name, ""),
        }
        result.append(row)
    return result + [{"what": name, "error": reason} for name, reason in times.missing.items()]


def largest(values: Iterable[float]) -> float:
    """The largest value, for a claim about all of them. NaN, which misses a target, where there is one or no value.

    Python's `max` passes over NaN unless it comes first.
    """
    found = np.array(list(values), np.float64)
    return float(np.max(found)) if found.size else float("nan")


def relative_error(value: Any, reference: np.ndarray) -> float:
    """The relative error in the Euclidean norm; NaN if the value has NaN."""
    value = np.asarray(value, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def _range(quartiles: Sequence[float]) -> str:
    return "-".join(f"{value:.3g}" for value in quartiles)
