"""The figures of `svm`."""

from typing import Any

import matplotlib.pyplot as plt

from ._results import COLOURS

STYLES: dict[str, dict[str, Any]] = {
    "implicit": dict(color=COLOURS["implicit"], marker="o"),
    "implicit, with a dense fallback": dict(color=COLOURS["implicit"], marker="o", ls="--", mfc="none"),
    "unrolled": dict(color=COLOURS["unrolled"], marker="s"),
    "unrolled, JAXopt's loop": dict(color=COLOURS["unrolled"], marker="s", ls="--", mfc="none"),
}


def draw_runtime(rows: list[dict]) -> plt.Figure:
    """Seconds and ratios against p, with the range from 5 to 95 % of the repetitions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for kind in ("implicit", "unrolled", "unrolled, JAXopt's loop"):
        run = [row for row in rows if row[f"s {kind}"] > 0]  # False for NaN
        p = [row["p"] for row in run]
        left.loglog(p, [row[f"s {kind}"] for row in run], ms=4, label=kind, **STYLES[kind])
        if kind != "implicit":
            right.semilogx(p, [row[f"ratio {kind}"] for row in run], ms=4, **STYLES[kind])
            ends = [[row[f"ratio {kind} {end} %"] for row in run] for end in (5, 95)]
            right.fill_between(p, *ends, color=COLOURS["unrolled"], alpha=0.15, lw=0)
    right.axhline(1, color="black", lw=0.8)
    left.set(
        xlabel="features p", ylabel="seconds for an outer iteration", title="projected gradient, its own condition"
    )
    right.set(xlabel="features p", ylabel="unrolled / implicit", title="ratio, 5 to 95 %", ylim=(0, None))
    left.legend(frameon=False)
    return figure


def draw_memory(rows: list[dict]) -> plt.Figure:
    """Megabytes against inner steps."""
    figure, axis = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    for kind, style in STYLES.items():
        if f"MB {kind}" not in rows[0]:
            continue
        axis.loglog(
            [row["inner steps"] for row in rows], [row[f"MB {kind}"] for row in rows], ms=4, label=kind, **style
        )
    axis.set(xlabel="inner steps", ylabel="MB beside the data", title=f"projected gradient, p = {rows[0]['p']}")
    axis.legend(frameon=False)
    return figure


def draw_loss(losses: dict, real: dict) -> plt.Figure:
    """The outer loss along the outer steps."""
    names = list(dict.fromkeys(name for name, _ in real))
    figure, grid = plt.subplots(
        1, 1 + len(names), figsize=(3.3 * (1 + len(names)), 3.4), layout="constrained", squeeze=False
    )
    axes, solvers = grid[0], list(dict.fromkeys(solver for solver, _ in losses))
    for (solver, kind), values in losses.items():
        line = dict(zip(solvers, ("-", "--", ":"), strict=False))[solver]
        axes[0].plot(values, line, color=COLOURS[kind], label=f"{solver}, {kind}")
    axes[0].set(xlabel="outer step", ylabel="validation loss", title="make_classification")
    axes[0].legend(frameon=False, fontsize=7)
    for axis, name in zip(axes[1:], names, strict=True):
        for kind in ("implicit", "unrolled"):
            axis.plot(real[name, kind], ls=STYLES[kind].get("ls", "-"), color=STYLES[kind]["color"], label=kind)
        axis.set(xlabel="outer step", title=name)
        axis.legend(frameon=False, fontsize=7)
    return figure
