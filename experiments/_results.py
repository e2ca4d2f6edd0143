"""Where an experiment leaves what it found: NAME.json with every number, NAME.md for readers, NAME-*.png."""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib

from measuring import machine
from measuring.tables import markdown, pack, save

from ._page import write_page
from ._verdicts import Claim

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PACKAGES = ("implicitdiff", "jax", "jaxlib", "lineax", "mlxtend", "numpy", "optax", "scikit-learn", "scipy")
COLOURS = dict(implicit="#1f77b4", unrolled="#d62728", bound="#555555", estimate="#2ca02c", polished="#9467bd")
STYLE = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Results:
    """What one experiment found, gathered until `close` writes it."""

    def __init__(self, name: str, out: Path, settings: Mapping[str, Any]):
        """Make the folder `out`; `settings` are the options of the run."""
        self.name, self.folder = name, Path(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = dict(settings)
        self.claims: list[Claim] = []
        self.tables: dict[str, dict[str, Any]] = {}
        self.figures: list[str] = []
        self.start = time.perf_counter()
        plt.rcParams.update(STYLE)

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.folder / f"{self.name}.json"

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], shown: Sequence[str] | None = None) -> None:
        """Keep the rows, and print them.

        Args:
            name: of the table.
            rows: each a dict from column to value.
            shown: the columns that the page shows; all by default, and with () the page leaves the table out.
        """
        self.tables[name] = {"shown": None if shown is None else list(shown), **pack(rows)}
        print(f"\n{name}\n{markdown(rows)}", flush=True)

    def figure(self, name: str, figure: Any) -> None:
        """Write a figure."""
        figure.savefig(self.folder / f"{self.name}-{name}.png")
        self.figures.append(name)
        plt.close(figure)

    def claim(self, *claims: Claim) -> None:
        """Note what became of claims."""
        self.claims += claims
        for claim in claims:
            print(f"{claim.status}: {claim.claim} {claim.found}", flush=True)

    def close(self) -> None:
        """Write the JSON file and the page."""
        record = dict(
            experiment=self.name,
            date=machine.today(),
            commit=machine.commit(),
            seconds=round(time.perf_counter() - self.start, 1),
            settings=self.settings,
            machine=f"{machine.system()}, {machine.cpu()}, {jax.devices()[0].device_kind}",
            versions=dict(python=platform.python_version(), **machine.versions(PACKAGES)),
            claims=[claim._asdict() for claim in self.claims],
            figures=self.figures,
            tables=self.tables,
        )
        save(self.path, record)
        if write_page(self.path.with_suffix(".md"), record):
            print(f"{self.name}.md has kept the discussion of earlier results: read it again.")
