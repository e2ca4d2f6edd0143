"""What a topic hands back, and how it is written: Markdown for people, CSV and JSON for programs."""

import csv
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._harness import ROOT, Times

PACKAGES = ("jax", "jaxlib", "numpy", "lineax", "jaxopt", "optimistix", "scikit-learn")


class Claim(NamedTuple):
    """One target: what is claimed, what was measured, and the largest value that meets it.

    For a ratio of times, `measured` is the median of the ratios within a round, `spread` has their quartiles, and
    `of_minima` is the ratio of the shortest times, which other load on the machine disturbs least.
    """

    what: str
    measured: float
    target: float
    spread: str = ""
    of_minima: float | str = ""

    @classmethod
    def of_times(cls, what: str, times: Times, name: str, other: str, target: float) -> "Claim":
        """That `name` takes at most `target` times as long as `other`."""
        ratio = times.ratio(name, other)
        minima = times.minimum(name) / times.minimum(other)
        return cls(what, ratio.median, target, f"{ratio.low:.2f}-{ratio.high:.2f}", minima)

    @property
    def verdict(self) -> str:
        return "met" if self.measured <= self.target else "missed"  # NaN is missed

    def row(self) -> dict[str, Any]:
        return dict(claim=self.what, measured=self.measured, spread=self.spread, of_minima=self.of_minima,
                    target=f"<= {self.target:g}", verdict=self.verdict)  # fmt: skip


class Table(NamedTuple):
    """Rows of measurements, each a dict from column to value."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""


class Report(NamedTuple):
    """What one topic measured, and what that says of its targets."""

    tables: list[Table]
    claims: list[Claim]


def timing_rows(times: Times, errors: dict[str, float], reference: str) -> list[dict[str, Any]]:
    """One row a competitor: milliseconds, time in units of the reference's with quartiles, and the error."""
    result = []
    for name in times.seconds:
        ratio = times.ratio(name, reference)
        result.append({
            "what": name, "min ms": 1e3 * times.minimum(name), "median ms": 1e3 * times.median(name),
            f"x {reference}": ratio.median, "quartiles": f"{ratio.low:.2f}-{ratio.high:.2f}",
            "error": errors.get(name, ""),
        })  # fmt: skip
    return result


def relative_error(value: Any, reference: np.ndarray) -> float:
    """In the Euclidean norm, NaN where the value has NaN."""
    value = np.asarray(value, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def markdown(title: str, report: Report) -> str:
    parts = [f"## {title}"]
    if report.claims:
        parts.append(_grid([claim.row() for claim in report.claims]))
    for table in report.tables:
        parts += [f"### {table.title}", *([table.note] if table.note else []), _grid(table.rows)]
    return "\n\n".join(parts) + "\n"


def _grid(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_text(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:,.0f}" if abs(value) >= 1000 and abs(value) < 1e7 else f"{value:.3g}"
    return str(value)


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    import jax

    found = dict(platform=platform.platform(), cpu=_cpu(), cores=os.cpu_count(), python=platform.python_version(),
                 device=str(jax.devices()[0]), load=[round(x, 2) for x in os.getloadavg()], commit=_commit(),
                 blas_threads=os.environ.get("OPENBLAS_NUM_THREADS"))  # fmt: skip
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor()


def _commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT)
    return run.stdout.strip() or "unknown"


def write(folder: Path, name: str, title: str, report: Report, where: dict[str, Any]) -> None:
    """Write NAME.md, NAME.json and a NAME-K.csv for each table into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    measured_on = "\n".join(f"- {key}: {value}" for key, value in where.items())
    (folder / f"{name}.md").write_text(f"{markdown(title, report)}\nMeasured on\n{measured_on}\n")
    tables = [table._asdict() for table in report.tables]
    claims = [claim.row() for claim in report.claims]
    content = dict(topic=name, title=title, machine=where, claims=claims, tables=tables)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, default=float))
    for number, rows in enumerate([claims, *(table.rows for table in report.tables)]):
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with open(folder / f"{name}-{number or 'claims'}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
