"""Inverse control: the cost of a controller, learned from its behaviour through quadratic programs.

A controller of a linear system with 4 states and 2 bounded inputs plans by a quadratic program over a horizon of 10
steps. From 30 noisy plans the five weights of its cost are learned by least squares, whose Jacobian comes through the
programs (`convex.solve_qp(solver="jax")`), for 20 random systems and four levels of noise. The result is judged in
two ways. The same Jacobian predicts the standard errors of the learned weights, which statistics can check; and the
gradients by every backend are compared with central differences. In time, the competitor is cvxpylayers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from measuring.timing import in_turns

from . import _inverse_control as ic
from ._results import Results
from ._verdicts import Claim, graded, of_cases, of_count

NOISES = 0.0, 0.01, 0.05, 0.2  # standard deviation; the bound of the inputs is 1
STARTS, HORIZON = 30, 10
SPREAD = 1.5  # log weights are uniform between -SPREAD and SPREAD
OURS = "solve_qp, jax"
RECOVERY = (
    "noise",
    "median of the largest error",
    "worst",
    "within 1 %",
    "within 10 %",
    "share within two standard errors",
    "median excess cost, first guess",
    "median excess cost, learned",
)
COLOURS = "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd"


class Case(NamedTuple):
    """A system, the logarithms of the true weights, and initial states."""

    plant: ic.Plant
    true: np.ndarray
    starts: np.ndarray
    new: np.ndarray  # initial states without a demonstration


def cases(count: int, horizon: int, starts: int, random: np.random.Generator) -> list[Case]:
    return [
        Case(
            ic.random_plant(random, horizon),
            random.uniform(-SPREAD, SPREAD, ic.WEIGHTS),
            *2 * random.standard_normal((2, starts, ic.STATES)),
        )
        for _ in range(count)
    ]


def recover(
    given: list[Case], solver: str, random: np.random.Generator
) -> tuple[list[dict[str, Any]], list[list[ic.Fit]]]:
    """Learn the weights of each system at each level of noise, and drive with them from new initial states."""
    plans = ic.by_qp(solver)

    @jax.jit
    def off(plant, starts, shown, log_weights):
        difference = lambda w: (plans(plant, w, starts) - shown).ravel()  # noqa: E731
        return difference(log_weights), jax.jacfwd(difference)(log_weights)

    rows, fits = [], []
    for number, case in enumerate(tqdm(given, desc="control: systems", disable=None)):
        exact = np.asarray(plans(case.plant, case.true, case.starts))
        spent = [
            ic.cost_of(case.true, *ic.drive(plans, case.plant, w, case.new, 25))
            for w in (case.true, np.zeros(ic.WEIGHTS))
        ]
        of_case = []
        for noise in NOISES:
            shown = exact + noise * random.standard_normal(exact.shape)

            def residuals(log_weights, case=case, shown=shown):
                return map(np.asarray, off(case.plant, case.starts, shown, log_weights))

            fit = ic.learn(residuals, np.zeros(ic.WEIGHTS), noise, maxiter=60)
            driven = ic.cost_of(case.true, *ic.drive(plans, case.plant, fit.log_weights, case.new, 25))
            rows.append(
                {
                    "system": number,
                    "noise": noise,
                    "inputs at the bound": float(np.mean(np.abs(exact) > 1 - 1e-6)),
                    "largest error of a weight": float(np.max(np.abs(np.exp(fit.log_weights - case.true) - 1))),
                    "largest standard error": float(np.max(fit.deviation)),
                    "within two standard errors": int(np.sum(np.abs(fit.log_weights - case.true) < 2 * fit.deviation)),
                    "rms of plans": float(np.sqrt(fit.error)),
                    "evaluations": fit.evaluations,
                    "excess cost, first guess": spent[1] / spent[0] - 1,
                    "excess cost, learned": driven / spent[0] - 1,
                }
            )
            of_case.append(fit)
        fits.append(of_case)
    return rows, fits


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each level of noise."""
    lines = []
    for noise in NOISES:
        part = [row for row in rows if row["noise"] == noise]
        of = {key: np.array([row[key] for row in part], float) for key in part[0]}
        error = of["largest error of a weight"]
        lines.append(
            {
                "noise": noise,
                "systems": len(part),
                "median of the largest error": float(np.median(error)),
                "worst": float(np.max(error)),
                "within 1 %": int(np.sum(error < 0.01)),
                "within 10 %": int(np.sum(error < 0.1)),
                "median of the largest standard error": float(np.median(of["largest standard error"])),
                "share within two standard errors": float(
                    np.sum(of["within two standard errors"]) / len(part) / ic.WEIGHTS
                )
                if noise
                else "",
                "median excess cost, first guess": float(np.median(of["excess cost, first guess"])),
                "median excess cost, learned": float(np.median(of["excess cost, learned"])),
                "excess under a tenth of the first guess's": int(
                    np.sum(of["excess cost, learned"] < 0.1 * of["excess cost, first guess"])
                ),
            }
        )
    return lines


def backends(size: int) -> tuple[dict[str, Callable], list[str]]:
    """Each backend as a function (log_weights, plant, starts, shown) -> (loss, gradient), and what is not installed."""

    def differentiated(plans, compiled=True):
        def loss(log_weights, plant, starts, shown):
            return jnp.mean((plans(plant, log_weights, starts) - shown) ** 2)

        both = jax.value_and_grad(loss)
        return jax.jit(both) if compiled else both

    found = {
        OURS: differentiated(ic.by_qp("jax")),
        "solve_qp, clarabel": differentiated(ic.by_qp("clarabel")),
        "our CvxpyLayer": differentiated(ic.by_layer(size)),
    }
    peers = {
        "cvxpylayers": ic.by_cvxpylayers(size),
        "cvxpylayers, dense": ic.by_cvxpylayers(size, mode="dense", solve_method="Clarabel"),
    }
    found |= {name: differentiated(plans, compiled=False) for name, plans in peers.items() if plans is not None}
    return found, [name for name, plans in peers.items() if plans is None]


def differences(value: Callable, log_weights: np.ndarray, width: float = 1e-6) -> np.ndarray:
    """Central differences of a function of the weights."""
    return np.array(
        [float(value(log_weights + h) - value(log_weights - h)) / (2 * width) for h in width * np.eye(len(log_weights))]
    )


def gradients(given: list[Case], horizon: int, repetitions: int, random: np.random.Generator):
    """Errors of the gradients on all systems, and the seconds of one gradient, in turns."""
    runs, missing = backends(ic.INPUTS * horizon)
    errors: dict[str, list[float]] = {name: [] for name in runs}
    for case in tqdm(given, desc=f"control: gradients, horizon {horizon}", disable=None):
        at = random.uniform(-SPREAD, SPREAD, ic.WEIGHTS)
        shown = random.uniform(-1, 1, (len(case.starts), ic.INPUTS * horizon))
        data = case.plant, case.starts, shown
        judge = differences(lambda w, data=data: runs["solve_qp, clarabel"](w, *data)[0], at)
        for name, run in runs.items():
            errors[name].append(float(np.linalg.norm(run(at, *data)[1] - judge) / np.linalg.norm(judge)))
    seconds = in_turns({name: partial(run, at, *data) for name, run in runs.items()}, repetitions)
    rows = []
    for name in runs:
        low, middle, high = np.quantile(seconds[name] / seconds[OURS], (0.05, 0.5, 0.95))
        rows.append(
            {
                "horizon": horizon,
                "variables": ic.INPUTS * horizon,
                "programs": len(data[1]),
                "backend": name,
                "worst error of the gradient": float(np.max(errors[name])),
                "median error": float(np.median(errors[name])),
                "seconds": float(np.median(seconds[name])),
                f"times {OURS}": float(middle),
                "5 %": float(low),
                "95 %": float(high),
            }
        )
    return rows, missing


def run(results: Results, quick: bool, seed: int) -> None:
    """Recovery, then gradients and their time for several horizons."""
    random = np.random.default_rng(seed)
    count, starts, horizons = (2, 6, (4,)) if quick else (20, STARTS, (10, 20, 40))
    given = cases(count, horizons[0] if quick else HORIZON, starts, random)
    # Compiling the interior-point method for the device takes longest.
    rows, fits = recover(given, "clarabel" if quick else "jax", random)
    results.table("systems", rows, ())
    of_noise = summary(rows)
    results.table("recovery", of_noise, RECOVERY)
    timing = []
    for horizon in horizons:
        at = given if quick else cases(count if horizon == HORIZON else 5, horizon, starts, random)
        part, missing = gradients(at, horizon, 3 if quick else 15, random)
        timing += part
    results.table("gradients", timing)
    if missing:
        results.settings["not installed"] = ", ".join(missing)
    results.figure("overview", draw(given, rows, fits, timing))
    results.claim(*claims(of_noise, timing))


def draw(given: list[Case], rows: list[dict[str, Any]], fits: list[list[ic.Fit]], timing) -> plt.Figure:
    """Learned against true weights, a drive of the system with the worst first guess, and the time of a gradient."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    edges = 0.02, 50  # points outside are drawn at the edge
    for k in reversed(range(len(NOISES))):
        pairs = np.array([(case.true, of[k].log_weights) for case, of in zip(given, fits, strict=True)])
        left.loglog(
            *np.exp(pairs).transpose(1, 0, 2).reshape(2, -1), ".", ms=5, color=COLOURS[k], label=f"{NOISES[k]:g}"
        )
    ends = np.exp([-SPREAD, SPREAD])
    left.plot(ends, ends, color="black", lw=0.8)
    left.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    left.minorticks_off()
    left.set(
        ylim=(0.9 * edges[0], 1.1 * edges[1]),
        xlabel="true weight",
        ylabel="learned weight",
        title=f"{len(given)} systems, {ic.WEIGHTS} weights each",
    )
    left.legend(title="noise of the plans", frameon=False)
    guess = [row["excess cost, first guess"] for row in rows if row["noise"] == 0]
    chosen = int(np.argmax(guess))
    plans, case = ic.by_qp("clarabel"), given[chosen]
    drivers = {
        "first guess": (np.zeros(ic.WEIGHTS), "#888888", "-"),
        "demonstrator": (case.true, "black", "-"),
        f"learned, noise {NOISES[-1]:g}": (fits[chosen][-1].log_weights, COLOURS[3], "--"),
    }
    for name, (weights, colour, line) in drivers.items():
        states, _ = ic.drive(plans, case.plant, weights, case.new, 25)
        middle.plot(np.linalg.norm(states[:, 0], axis=-1), line, color=colour, label=name)
    middle.set(xlabel="time step", ylabel="norm of the state", title=f"system {chosen}, from a state not demonstrated")
    middle.legend(frameon=False)
    for name, colour in zip(dict.fromkeys(row["backend"] for row in timing), COLOURS, strict=False):
        part = [row for row in timing if row["backend"] == name]
        right.loglog(
            [row["variables"] for row in part], [row["seconds"] for row in part], "o-", color=colour, label=name
        )
    sizes = sorted({row["variables"] for row in timing})
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.minorticks_off()
    right.set(xlabel="variables of a program", ylabel=f"seconds for the gradient of {timing[0]['programs']} programs")
    right.legend(frameon=False)
    return figure


def claims(of_noise: list[dict[str, Any]], timing: list[dict[str, Any]]) -> Iterator[Claim]:
    """Recovery of the weights and its statistics, accuracy of the gradients, and their time."""
    clean, loudest = of_noise[0], of_noise[-1]
    yield Claim(
        "From exact demonstrations the weights are recovered within 1 % on every system.",
        of_count(clean["within 1 %"], clean["systems"]),
        f"{clean['within 1 %']} of {clean['systems']}; the worst weight is {clean['worst']:.1e} off.",
    )
    shares = [line["share within two standard errors"] for line in of_noise[1:]]
    inside = float(np.mean(shares))
    yield Claim(
        "From noisy ones they are as far off as the implicit Jacobian says: 95 % within two standard errors.",
        graded(abs(inside - 0.95) <= 0.04, abs(inside - 0.95) <= 0.1),
        f"{inside:.1%} ({', '.join(f'{s:.0%} at {noise:g}' for s, noise in zip(shares, NOISES[1:], strict=True))}); "
        f"median of the largest error {loudest['median of the largest error']:.1%} at noise {loudest['noise']:g}.",
    )
    cheap, guess = loudest["excess under a tenth of the first guess's"], loudest["median excess cost, first guess"]
    yield Claim(
        f"Learned at noise {loudest['noise']:g}, a controller loses less than a tenth of what the first guess loses.",
        of_count(cheap, loudest["systems"], part=0.5),
        f"From new states, on {cheap} of {loudest['systems']} systems; cost above the demonstrator's (median): first "
        f"guess {guess:.2%}, learned {loudest['median excess cost, learned']:.3%}.",
    )
    # np.max, because NaN is then the worst error of all; the result of Python's max depends on where it stands.
    worst = {
        name: float(np.max([row["worst error of the gradient"] for row in timing if row["backend"] == name]))
        for name in dict.fromkeys(row["backend"] for row in timing)
    }
    ours = np.max([error for name, error in worst.items() if not name.startswith("cvxpylayers")])
    yield Claim(
        "Gradients by every backend of ours are those of central differences to 1e-5.",
        graded(ours < 1e-5, ours < 1e-3),
        "Worst relative error: " + ", ".join(f"{name} {error:.0e}" for name, error in worst.items()) + ".",
    )
    for peer in [name for name in worst if name.startswith("cvxpylayers")]:
        part = [row for row in timing if row["backend"] == peer]
        yield Claim(
            f"A gradient by {OURS} takes less time than by {peer}.",
            of_cases(row["5 %"] > 1 for row in part),
            "; ".join(
                f"{row[f'times {OURS}']:.1f} times ({row['5 %']:.1f} to {row['95 %']:.1f}) with "
                f"{row['variables']} variables"
                for row in part
            )
            + f", {part[0]['programs']} programs.",
        )
