"""What a topic hands back, and how it is written: Markdown for people, CSV and JSON for programs."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._harness import Times


class Claim(NamedTuple):
    """One target: what is claimed, what was measured, and the largest value that meets it.

    For a ratio of times, `measured` is the median of the ratios within a round, and `of_minima` is the ratio of the
    shortest times, which other load on the machine disturbs least.

    Attributes:
        missing: why it could not be measured, the competitor for instance: neither met nor missed.
        quartiles: of what was measured, where it was measured more than once.
    """

    what: str
    measured: float
    target: float
    missing: str = ""
    quartiles: tuple[float, ...] = ()
    of_minima: float | str = ""

    @classmethod
    def of_times(cls, what: str, times: Times, name: str, other: str, target: float) -> "Claim":
        """That `name` takes at most `target` times as long as `other`."""
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
        return dict(claim=self.what, measured=self.measured, spread=self.missing or _range(self.quartiles),
                    of_minima=self.of_minima, target=f"<= {self.target:g}", verdict=self.verdict)  # fmt: skip


class Table(NamedTuple):
    """Rows of measurements, each a dict from column to value."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""


class Plot(NamedTuple):
    """Lines over a common axis, both axes logarithmic unless said otherwise.

    `lines` is a dict from a competitor to its (xs, ys), or (xs, ys, lows, highs) where there is a spread to show.
    """

    name: str
    title: str
    xlabel: str
    ylabel: str
    lines: dict[str, tuple]
    logx: bool = True
    logy: bool = True


class Report(NamedTuple):
    """What one topic measured, and what that says of its targets."""

    tables: list[Table]
    claims: list[Claim]
    plots: Sequence[Plot] = ()


def timing_rows(times: Times, errors: dict[str, float], reference: str) -> list[dict[str, Any]]:
    """One row a competitor: milliseconds, time in units of the reference's with quartiles, and the error.

    A competitor that could not be measured has its reason in the place of the error.
    """
    result: list[dict[str, Any]] = []
    for name in times.seconds:
        ratio = times.ratio(name, reference)
        result.append({
            "what": name, "min ms": 1e3 * times.minimum(name), "median ms": 1e3 * times.median(name),
            f"x {reference}": ratio.median, "quartiles": _range(ratio[1:]), "error": errors.get(name, ""),
        })  # fmt: skip
    return result + [{"what": name, "error": reason} for name, reason in times.missing.items()]


def relative_error(value: Any, reference: np.ndarray) -> float:
    """In the Euclidean norm, NaN where the value has NaN."""
    value = np.asarray(value, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def markdown(title: str, report: Report, figures: Sequence[str] = ()) -> str:
    """The targets, the tables, and between them the figures with these names of files."""
    parts = [f"## {title}"]
    parts += [f"![{_alt(name)}]({name})" for name in figures]
    if report.claims:
        parts.append(grid([claim.row() for claim in report.claims]))
    for table in report.tables:
        parts += [f"### {table.title}", *([table.note] if table.note else []), grid(table.rows)]
    return "\n\n".join(parts) + "\n"


def _alt(file: str) -> str:
    return file.removesuffix(".png").replace("-", ": ", 1).replace("-", " ")


def grid(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_text(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:,.0f}" if 1000 <= abs(number) < 1e7 else f"{number:.3g}"
    return str(value).replace("|", "\\|")


def _range(quartiles: Sequence[float]) -> str:
    return "-".join(f"{value:.3g}" for value in quartiles)


def write(folder: Path, name: str, title: str, report: Report, where: dict[str, Any], seconds: float) -> None:
    """Write NAME.md, NAME.json, for each table tables/NAME-K.csv, and a NAME-*.png for each figure."""
    from ._plots import figures

    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{name}-*.png"), *tables.glob(f"{name}-*.csv")):  # no name of a topic has a hyphen
        old.unlink()
    claims = [claim.row() for claim in report.claims]
    content = dict(topic=name, title=title, seconds=round(seconds, 1), machine=where, claims=claims)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, default=float) + "\n")
    for number, table in enumerate(report.tables, 1):
        columns = list(dict.fromkeys(column for row in table.rows for column in row))
        with open(tables / f"{name}-{number}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.rows)
    drawings = {f"{name}-{re.sub(r'[^A-Za-z0-9_]+', '-', part)}.png": draw for part, draw in figures(title, report)}
    measured_on = "\n".join(f"- {key}: {value}" for key, value in where.items())
    text = f"{markdown(title, report, list(drawings))}\nMeasured on\n\n{measured_on}\n"
    (folder / f"{name}.md").write_text(text)
    for path, draw in drawings.items():
        draw(folder / path)
