"""A deep equilibrium model, whose output is the fixed point of one layer, trained with five derivatives.

x* = tanh(W x* + U u + b) for an image u, followed by logistic regression on x*. W = 2 kappa (I + V V')^-1 V has the
singular values 2 kappa s / (1 + s^2) <= kappa < 1 for the singular values s of V, so that the layer contracts and x*
exists and is unique. Training starts from an orthogonal V, for which all of them are kappa = 0.95. The forward solver
is always Anderson acceleration on the whole batch. The backward pass is one of: the implicit function theorem, with
GMRES on the whole batch or with a factorisation for each image; the first terms of the Neumann series (a single one
is the one-step derivative); and the iterations themselves, Anderson's or plain ones. The data are the digits of
scikit-learn, in float32, with 64 units, 5 draws and 10 epochs of Adam, whose learning rate was not tuned for each
derivative.

There are two networks. In `all units`, each unit sees the image and is read by the regression. In `apart`, the image
enters one half of the units and the other half is read: what is learned about U has to pass through W, and the
one-step derivative in U is zero.

Source: Bai, Kolter, Koltun, "Deep equilibrium models", 2019; Fung, Heaton, Li, McKenzie, Osher, Yin, "JFB:
Jacobian-free backpropagation", 2022; Bolte, Pauwels, Vaiter, "One-step differentiation of iterative algorithms",
2023.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from tqdm import tqdm

from measuring.timing import in_turns

from . import _equilibrium as model
from ._equilibrium import FIRST
from ._results import Results
from ._verdicts import Claim, graded, of_cases

NETWORKS = ("all units", "apart")
# No network is trained with these: their gradient is that of another derivative, at another cost.
SAME = ("implicit, LU for each image", "unrolled plain")
MARGIN = 0.01  # of accuracy; the whole interval of the difference has to lie above -MARGIN
EXACT = dict(tol=1e-12, maxiter=400)  # of the forward solve, so that only the error of the derivative is left


def run(results: Results, quick: bool, seed: int) -> None:
    """Train with every derivative on every draw; error, time and memory of each gradient."""
    seeds, epochs, units = (range(seed, seed + 2), 2, 16) if quick else (range(seed, seed + 5), 10, 64)
    ways = model.ways()
    if quick:
        ways = {name: way for name, way in ways.items() if name in (FIRST, "one step")}
    given = example(model.start(seed, units, NETWORKS[0]), seed)
    steps = {name: jax.jit(model.training_step(way)).lower(*given).compile() for name, way in ways.items()}
    scores = jax.jit(model.loss_of(ways[FIRST]))
    runs = [
        {"network": network, "derivative": name, "seed": draw}
        | model.train(step, scores, model.digits(draw), model.start(draw, units, network), epochs, draw)
        for network in NETWORKS
        for draw in tqdm(seeds, network, disable=None, leave=False)
        for name, step in steps.items()
        if name not in SAME
    ]
    results.table("runs", [{key: value for key, value in row.items() if key != "params"} for row in runs], ())
    accuracy = accuracies(runs, [name for name in ways if name not in SAME])
    results.table("accuracy", accuracy)
    trained = {row["network"]: row["params"] for row in runs if row["derivative"] == FIRST and row["seed"] == seed}
    errors = gradient_errors(steps, trained, seed, units)
    results.table("gradient", errors)
    cost = costs(steps, example(trained["all units"], seed), 3 if quick else 40)
    results.table("cost", cost)
    results.figure("overview", draw(runs, errors, cost))
    results.claim(*claims(accuracy, errors, cost))


def accuracies(runs: list[dict[str, Any]], ways: list[str]) -> list[dict[str, Any]]:
    """Mean accuracy, and the mean difference from the implicit derivative on the same draws with a 95 % interval."""
    rows = []
    for network in NETWORKS:
        of = lambda name, what: np.array(  # noqa: E731
            [row[what] for row in runs if (row["network"], row["derivative"]) == (network, name)]  # noqa: B023
        )
        for name in ways:
            difference = of(name, "test accuracy") - of(FIRST, "test accuracy")
            half = scipy.stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
            rows.append(
                {
                    "network": network,
                    "derivative": name,
                    "test accuracy": float(of(name, "test accuracy").mean()),
                    "difference": float(difference.mean()),
                    "+-": float(half),
                    "training loss": float(of(name, "training loss").mean()),
                    "iterations": float(of(name, "iterations").mean()),
                    "finite": bool(of(name, "finite").all()),
                }
            )
    return rows


def gradient_errors(steps, trained: dict[str, Any], seed: int, units: int) -> list[dict[str, Any]]:
    """Relative error of the gradient before and after training: as trained, and in float64 at a solution to 1e-12."""
    given = {
        (network, when): params
        for network in NETWORKS
        for when, params in (("before", model.start(seed, units, network)), ("after", trained[network]))
    }
    _, state, X, y = example(given[NETWORKS[0], "before"], seed)
    exact = {key: model.exact_gradient(params, X, y) for key, params in given.items()}
    precise_ways = model.ways(rtol=1e-12, **EXACT)
    rows = []
    for name, step in tqdm(steps.items(), "gradients", disable=None, leave=False):
        fine = jax.jit(model.gradient_of(precise_ways[name]))
        for (network, when), params in given.items():
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
            rows.append(
                {
                    "derivative": name,
                    "network": network,
                    "training": when,
                    "spectral radius": float(exact[network, when]["radius"]),
                    "error": model.relative_error(step(params, state, X, y)[-1], exact[network, when]),
                    "error, float64": model.relative_error(fine(wide, X.astype(float), y)[0], exact[network, when]),
                }
            )
    return rows


def example(params, seed: int) -> tuple:
    """The arguments of a training step."""
    data = model.digits(seed)
    return params, model.optimizer.init(params), data.X[: model.BATCH], data.y[: model.BATCH]


def costs(programs: dict[str, Any], given: tuple, repetitions: int) -> list[dict[str, Any]]:
    """The time and memory of a training step of the trained network, compiled before and run in turns."""
    seconds = in_turns({name: partial(program, *given) for name, program in programs.items()}, repetitions)
    rows = []
    for name, program in programs.items():
        ratio = seconds[name] / seconds[FIRST]
        rows.append(
            {
                "derivative": name,
                "ms": 1e3 * float(np.median(seconds[name])),
                "ratio": float(np.median(ratio)),
                "5 %": float(np.quantile(ratio, 0.05)),
                "95 %": float(np.quantile(ratio, 0.95)),
                "MB": program.memory_analysis().temp_size_in_bytes / 1e6,
            }
        )
    return rows


MARKS = ("o", "P", "s", "^", "v", "*", "X")
INKS = ("#1f77b4", "#17becf", "#2ca02c", "#9467bd", "#ff7f0e", "#d62728", "#8c564b")


def draw(runs: list[dict[str, Any]], errors: list[dict[str, Any]], cost: list[dict[str, Any]]) -> plt.Figure:
    """Error of the gradient against time of a training step; differences in accuracy on the same draw."""
    figure, (left, *others) = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained", width_ratios=(1.4, 1, 1))
    style = {
        row["derivative"]: dict(marker=mark, color=ink, ms=7, ls="")
        for row, mark, ink in zip(cost, MARKS, INKS, strict=False)
    }
    # A larger, hollow mark, because it lies on that of the other implicit derivative.
    style.get("implicit, LU for each image", {}).update(mfc="none", ms=11)
    for row in cost:
        worst = max(e["error"] for e in errors if e["derivative"] == row["derivative"] and e["training"] == "after")
        left.loglog(row["ms"], worst, label=row["derivative"], **style[row["derivative"]])
    left.set(xlabel="ms for a training step", ylabel="relative error of the gradient")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    for axis, network in zip(others, NETWORKS, strict=True):
        table = {(row["derivative"], row["seed"]): row["test accuracy"] for row in runs if row["network"] == network}
        for place, row in enumerate(cost):
            points = [100 * (value - table[FIRST, s]) for (n, s), value in table.items() if n == row["derivative"]]
            if points and row["derivative"] != FIRST:
                axis.plot(np.full(len(points), place), points, alpha=0.6, **style[row["derivative"]])
        axis.axhline(0, color=INKS[0], lw=1)
        axis.set(title=network, xticks=[], xlabel="one mark for each draw", ylabel="accuracy minus implicit's (points)")
    return figure


def claims(accuracy, errors, cost) -> Iterator[Claim]:
    """Which derivative is right, which one trains as well, and at what cost."""
    price = {row["derivative"]: row for row in cost}
    after = {(row["network"], row["derivative"]): row for row in errors if row["training"] == "after"}
    exact = float(np.max([row["error, float64"] for row in errors if row["derivative"].startswith("implicit")]))
    trained = float(np.max([row["error"] for row in errors if row["derivative"] == FIRST]))
    yield Claim(
        "The implicit gradient is that of a dense linear solve in float64.",
        graded(exact < 1e-8, exact < 1e-4),
        f"Relative error at most {exact:.1e} at a solution to 1e-12; as trained, in float32 and with a tolerance "
        f"of {model.TOLERANCE:g}, {trained:.1e}.",
    )
    cheap = [name for name in price if name.startswith("Neumann") or name == "one step"]
    off = {name: [after[network, name]["error"] for network in NETWORKS] for name in cheap}
    falling = [off[more][i] <= off[fewer][i] for more, fewer in itertools.pairwise(cheap) for i in range(len(NETWORKS))]
    yield Claim(
        "The error of the Neumann series falls with its terms.",
        of_cases(falling),
        "; ".join(f"{name} {near:.2g} and {far:.2g}" for name, (near, far) in off.items())
        + f" ({' and '.join(NETWORKS)}).",
    )
    for network in NETWORKS:
        rows = {row["derivative"]: row for row in accuracy if row["network"] == network}
        reach = [rows[name]["difference"] - rows[name]["+-"] >= -MARGIN for name in cheap]
        yield Claim(
            f"{network}: with the cheap derivatives at most {100 * MARGIN:g} point of accuracy is lost.",
            of_cases(reach),
            "; ".join(_difference(rows[name]) for name in cheap) + f"; exact {rows[FIRST]['test accuracy']:.3f}.",
        )
    for name in (name for name in price if name.startswith("unrolled")):
        slower, larger = price[name]["5 %"] > 1, price[name]["MB"] > price[FIRST]["MB"]
        yield Claim(
            f"Implicit takes less time and memory than {name}.",
            of_cases([slower, larger]),
            f"{price[name]['ratio']:.1f} ({price[name]['5 %']:.1f} to {price[name]['95 %']:.1f}) times the time, "
            f"{price[name]['MB']:.1f} against {price[FIRST]['MB']:.1f} MB.",
        )


def _difference(row: dict[str, Any]) -> str:
    return f"{row['derivative']} {100 * row['difference']:+.1f} +- {100 * row['+-']:.1f} points"
