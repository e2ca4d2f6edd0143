"""Figures: the lines of a `Plot`, and ratios of times beside their targets. Without matplotlib there are none."""

import importlib.util
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._report import Claim, Plot, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour of a competitor is that of the first of these words in its name. Colour-blind readers can tell them apart.
OURS = "#0072B2"
COLOURS = {
    "ours": OURS,
    "implicitdiff": OURS,
    "jaxopt": "#D55E00",
    "optimistix": "#009E73",
    "unrolled": "#AA3377",
    "cvxpylayers": "#CC79A7",
    "diffcp": "#CC79A7",
    "qpax": "#56B4E9",
    "proxqp": "#8C6D31",
    "optax": "#7A5195",
    "scipy": "#8B5A2B",
    "scikit-learn": "#E69F00",
    "hand": "#555555",
    "implicit": OURS,
}
OTHERS = ("#222222", "#999933", "#882255", "#44AA99")
# Line and marker tell competitors of the same library apart.
STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1, 1, 1, 1, 1)), "v"), ((0, (1, 3)), "P"))
MET, MISSED = OURS, "#D55E00"
# A smaller ratio is drawn as an arrow with its number, which leaves room for the ratios around 1.
FASTEST = 0.03


def figures(title: str, report: Report) -> list[tuple[str, Callable[[Path], None]]]:
    """The name of each figure, and a function that draws it into a file."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    ratios = [claim for claim in report.claims if claim.quartiles and np.isfinite(claim.measured)]
    targets = [("targets", partial(draw_ratios, title, ratios))] if ratios else []
    return [*targets, *((plot.name, partial(draw, plot)) for plot in report.plots)]


def draw(plot: Plot, path: Path) -> None:
    figure, axes = _figure(7.6, 4.0)
    axes.set(title=plot.title, xlabel=plot.xlabel, ylabel=plot.ylabel)
    axes.set_xscale("log" if plot.logx else "linear")
    axes.set_yscale("log" if plot.logy else "linear")
    taken: dict[str, int] = {}
    unknown = [name for name in plot.lines if _library(name) is None]
    # Where no library is named, all lines are ours.
    others = OTHERS if len(unknown) < len(plot.lines) else (OURS, *OTHERS)
    for name, (xs, ys, *spread) in plot.lines.items():
        library = _library(name)
        colour = others[unknown.index(name) % len(others)] if library is None else COLOURS[library]
        style, marker = STYLES[taken.setdefault(colour, 0) % len(STYLES)]
        taken[colour] += 1
        # Ours is drawn last, on top.
        common: dict[str, Any] = dict(color=colour, zorder=4 if colour == OURS else 3)
        xs, ys = _shown(xs, plot.logx), _shown(ys, plot.logy)
        every = max(1, len(xs) // 12)  # markers of many points would hide the line
        axes.plot(
            xs, ys, linestyle=style, marker=marker, markevery=every, markersize=5, linewidth=1.6, label=name, **common
        )
        if spread:
            low, high = (_shown(bound, plot.logy) for bound in spread)
            axes.fill_between(xs, low, high, alpha=0.18, linewidth=0, **common)
    for axis, logarithmic, values in (
        (axes.xaxis, plot.logx, [line[0] for line in plot.lines.values()]),
        (axes.yaxis, plot.logy, [part for line in plot.lines.values() for part in line[1:]]),
    ):
        if logarithmic:
            _log_ticks(axis, np.concatenate([_shown(value, True) for value in values]), axis is axes.xaxis)
    handles, labels = axes.get_legend_handles_labels()
    # In the legend, from top to bottom, as the lines end on the right.
    ends = [_last(plot.lines[label][1]) for label in labels]
    order = sorted(range(len(labels)), key=lambda i: -ends[i])
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
    )
    _save(figure, path)


def draw_ratios(title: str, claims: Sequence[Claim], path: Path) -> None:
    """Ratios of times with their quartiles, beside their targets."""
    from matplotlib.lines import Line2D

    labels = ["\n".join(textwrap.wrap(claim.what, 70)) for claim in claims]
    heights = np.array([1.5 if "\n" in label else 1.0 for label in labels])
    rows = np.cumsum(heights) - heights / 2
    figure, axes = _figure(5.0, 0.6 + 0.24 * heights.sum())
    ends = [value for claim in claims for value in (claim.measured, claim.target, *claim.quartiles)] + [1.0]
    left, right = max(min(ends) / 1.15, FASTEST), max(ends) * 1.15
    axes.set_xscale("log")
    axes.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":", zorder=1.5)
    for row, claim in zip(rows, claims, strict=True):
        colour = MET if claim.verdict == "met" else MISSED
        axes.plot([left, claim.target], [row, row], color="#DDE6EC", linewidth=7, solid_capstyle="butt", zorder=1)
        axes.plot([claim.target] * 2, [row - 0.34, row + 0.34], color="#222222", linewidth=1.6, zorder=2)
        axes.plot(claim.quartiles, [row, row], color=colour, linewidth=2.4, zorder=3)
        if claim.measured > left:
            axes.plot([claim.measured], [row], color=colour, marker="o", markersize=6, zorder=4)
        else:
            axes.plot([left * 1.06], [row], color=colour, marker="<", markersize=7, zorder=4)
            axes.annotate(
                f"{claim.measured:.2g}",
                (left * 1.06, row),
                (7, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                zorder=5,
            )
    axes.set_yticks(rows, labels, fontsize=9)
    axes.set(xlim=(left, right), ylim=(heights.sum(), 0), xlabel="ratio of times (left is faster)")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    _log_ticks(axes.xaxis, np.array([left, right]), False)
    axes.set_title("\n".join(textwrap.wrap(title.rstrip("."), 75)), loc="right", pad=26)
    axes.legend(
        [
            Line2D([], [], color=MET, marker="o", linewidth=2.4),
            Line2D([], [], color=MISSED, marker="o", linewidth=2.4),
            Line2D([], [], color="#222222", marker="|", markersize=11, markeredgewidth=1.6, linewidth=0),
        ],
        ["met", "missed (median, quartiles)", "target"],
        loc="lower right",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        ncols=3,
        fontsize=9,
        columnspacing=1.2,
        handletextpad=0.5,
        borderpad=0.1,
    )
    _save(figure, path)


def _library(name: str) -> str | None:
    return next((library for library in COLOURS if library in name.lower()), None)


def _shown(values: Iterable[float], logarithmic: bool) -> np.ndarray:
    """The values as floats; on a logarithmic axis, NaN for those that are not positive."""
    result = np.array(values, np.float64)
    return np.where(result > 0, result, np.nan) if logarithmic else result


def _last(values: Iterable[float]) -> float:
    finite = [value for value in np.asarray(values, np.float64) if np.isfinite(value)]
    return finite[-1] if finite else -np.inf


def _log_ticks(axis: Any, values: np.ndarray, at_values: bool) -> None:
    """Tick labels in plain numbers: at the values if they are few, else at 1, 2, 5; powers of ten for a wide range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    found = np.unique(values[np.isfinite(values)])
    if not found.size:
        return
    decades = np.log10(found[-1] / found[0])
    if at_values and found.size <= 8 and np.all(np.diff(np.log(found)) > 0.09 * np.log(found[-1] / found[0])):
        axis.set_major_locator(FixedLocator(list(found)))
        axis.set_minor_locator(NullLocator())
    elif decades < 3:
        steps = (1, 2, 5) if decades > 1 else (1, 2, 3, 5, 7) if decades > 0.7 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if decades < 0.25 else LogLocator(subs=steps))
        axis.set_minor_locator(NullLocator())
    else:
        return
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"))


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure and its axes, without pyplot, which would keep figures alive and look for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: "Figure", path: Path) -> None:
    """Write a PNG with a palette, which halves its size."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)
