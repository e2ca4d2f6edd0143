"""Where an experiment leaves what it found: tables, figures, claims, and the settings and versions behind them."""

import csv
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Status = Literal["reproduced", "partly", "not reproduced"]
PACKAGES = ("implicitdiff", "jax", "jaxlib", "lineax", "mlxtend", "numpy", "optax", "scikit-learn", "scipy")
COLOURS = dict(implicit="#1f77b4", unrolled="#d62728", bound="#555555", estimate="#2ca02c", polished="#9467bd")


class Claim(NamedTuple):
    """One claim of the paper or of an issue, and what became of it."""

    claim: str
    status: Status
    found: str


class Results:
    """The folder of one experiment."""

    def __init__(self, name: str, out: Path, settings: Mapping[str, Any]):
        """Make the folder; `settings` are the options of the run."""
        self.name, self.folder = name, out / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = dict(settings)
        self.claims: list[Claim] = []
        self.start = time.perf_counter()
        plt.rcParams.update({"figure.dpi": 110, "savefig.bbox": "tight", "font.size": 9, "axes.grid": True,
                             "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows with the same keys as CSV in full and as Markdown in four digits; print the latter."""
        columns = list(rows[0])
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_short(row[column]) for column in columns) + " |" for row in rows]
        (self.folder / f"{name}.md").write_text("\n".join(lines) + "\n")
        print(f"\n{name}\n" + "\n".join(lines), flush=True)

    def figure(self, name: str, figure: Any) -> None:
        """Write a figure as PNG and SVG."""
        for kind in ("png", "svg"):
            figure.savefig(self.folder / f"{name}.{kind}")
        plt.close(figure)

    def claim(self, claim: str, status: Status, found: str) -> None:
        """Note what became of a claim."""
        self.claims.append(Claim(claim, status, found))
        print(f"{status}: {claim} {found}", flush=True)

    def close(self) -> None:
        """Write claims, settings and versions."""
        versions = {}
        for package in PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "not installed"
        record = dict(
            experiment=self.name, settings=self.settings, seconds=round(time.perf_counter() - self.start, 1),
            claims=[claim._asdict() for claim in self.claims], python=sys.version.split()[0],
            machine=f"{platform.system()} {platform.machine()}, {jax.devices()[0].device_kind}", versions=versions,
        )  # fmt: skip
        (self.folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
