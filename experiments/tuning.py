"""Hyper-parameters of five models: `bilevel.minimize` against a grid of ten points for each parameter.

One third of the data is for training, one for validation (the outer loss) and one for the test. The grids run from
1e-3 to 1e3 in logarithmic steps. Where a grid over all parameters cannot be run (ten of them), it runs over one value
that all share. Both sides use the same solver and search in the same box; the grid solves from a cold start and to
the default tolerance.

Source: Pedregosa, "Hyperparameter optimization with approximate gradient", 2016; Bertrand et al., "Implicit
differentiation for fast hyperparameter selection in non-smooth convex learning", JMLR 2022.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.svm import SVC

import implicitdiff as idf

from ._results import COLOURS, Results
from ._verdicts import Claim, of_cases

LOW, HIGH = 1e-3, 1e3
POINTS = 10
SHOWN = (
    "model",
    "parameters",
    "grid points",
    "validation loss, grid",
    "validation loss, bilevel",
    "test loss, grid",
    "test loss, bilevel",
    "solves, bilevel",
    "seconds, grid",
    "seconds, bilevel",
    "ended",
)


class Data(NamedTuple):
    """Standardised samples in rows; the targets of a regression are standardised, labels are 0 and 1."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class Model(NamedTuple):
    """A solver with parameters theta in a box, the loss of its solution on a set, and the parameters of the grid."""

    solver: Any
    x0: Any
    theta: np.ndarray
    args: Callable[[Any], tuple]
    loss: Callable[[Any, Any, tuple], Any]
    data: str
    box: tuple = (LOW, HIGH)
    grid: Callable[[tuple], Any] = lambda point: jnp.asarray(point)
    over: int | None = None  # number of parameters in the grid; None for all


def data(load: Callable, regression: bool, seed: int) -> Data:
    """Random thirds of the data, standardised by the training part."""
    X, y = load(return_X_y=True)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(y)), 3)
    mean, scale = X[parts[0]].mean(0), X[parts[0]].std(0)
    y = (y - y[parts[0]].mean()) / y[parts[0]].std() if regression else y
    return Data(*(((X[part] - mean) / scale, y[part]) for part in parts))


def squares(theta, x, part):
    X, y = part
    return 0.5 * jnp.mean((X @ x - y) ** 2)


def logistic(score, y):
    return jnp.mean(jnp.logaddexp(0.0, score) - y * score)


def models(seed: int, quick: bool) -> dict[str, tuple[Model, Data]]:
    """Regressions on the diabetes data (10 features), classifications of the breast cancer data (3 groups of 10)."""
    diabetes, cancer = data(load_diabetes, True, seed), data(load_breast_cancer, False, seed)
    X, y = map(jnp.asarray, diabetes.train)
    p, k = X.shape[1], cancer.train[0].shape[1]
    fit = lambda x, _: squares(None, x, (X, y))  # noqa: E731
    ridge = idf.solvers.GradientDescent(lambda x, w: fit(x, w) + 0.5 * jnp.sum(w * x**2), maxiter=20_000)
    shrink = lambda prox: idf.solvers.ProximalGradient(fit, prox, maxiter=20_000)  # noqa: E731
    share = lambda point: jnp.full(p, point[0])  # noqa: E731
    Xc, yc = map(jnp.asarray, cancer.train)
    # One weight each for the mean, the standard error and the worst value of ten measurements.
    group = lambda w: jnp.append(jnp.repeat(w, 10), 0.0)  # noqa: E731
    score = lambda x, X: X @ x[:-1] + x[-1]  # noqa: E731
    classify = idf.solvers.GradientDescent(
        lambda x, w: logistic(score(x, Xc), yc) + 0.5 * jnp.sum(group(w) * x**2), maxiter=50_000
    )
    machine = idf.solvers.sklearn_solver(SVC(tol=1e-8))
    named = lambda t: dict(C=t[0], gamma=t[1])  # noqa: E731

    def margin(theta, model, part):
        return logistic(machine.decision_function(model, part[0], Xc, named(theta)), part[1])

    found = {
        "ridge": Model(ridge, jnp.zeros(p), np.ones(1), lambda t: (t,), squares, "diabetes"),
        "ridge, a weight each": Model(
            ridge, jnp.zeros(p), np.ones(p), lambda t: (t,), squares, "diabetes", grid=share, over=1
        ),
        # Small enough for all features to be selected: the derivative in the weight of any other is zero.
        "lasso, a weight each": Model(
            shrink(idf.prox.lasso),
            jnp.zeros(p),
            np.full(p, 3e-3),
            lambda t: (None, t),
            squares,
            "diabetes",
            grid=share,
            over=1,
        ),
        "elastic net": Model(
            shrink(idf.prox.elastic_net),
            jnp.zeros(p),
            np.full(2, 0.1),
            lambda t: (None, (t[0], t[1])),
            squares,
            "diabetes",
        ),
        "logistic, three groups": Model(
            classify,
            jnp.zeros(k + 1),
            np.ones(3),
            lambda t: (t,),
            lambda theta, x, part: logistic(score(x, part[0]), part[1]),
            "breast cancer",
        ),
        "SVM, C and gamma": Model(
            machine,
            None,
            np.array([1.0, 0.03]),
            lambda t: (Xc, cancer.train[1], named(t)),
            margin,
            "breast cancer",
            box=(np.array([1e-2, 1e-4]), np.array([1e3, 1.0])),
        ),
    }
    chosen = ["ridge", "elastic net"] if quick else list(found)
    return {name: (found[name], diabetes if found[name].data == "diabetes" else cancer) for name in chosen}


def search(model: Model, sets: Data, points: int) -> tuple[float, Any, int, int]:
    """Grid search: the least validation loss, where it is, solves and inner iterations."""
    count = model.theta.size if model.over is None else model.over
    low, high = (np.broadcast_to(bound, model.theta.size)[:count] for bound in model.box)
    grid = itertools.product(*(np.geomspace(a, b, points) for a, b in zip(low, high, strict=True)))
    validation = tuple(map(jnp.asarray, sets.validation))

    def at(theta):
        x, state = model.solver.run(*([] if model.x0 is None else [model.x0]), *model.args(theta))
        iterations = state["iteration"] if isinstance(state, dict) else state.iteration
        return model.loss(theta, x, validation), iterations

    evaluate, best, where, solves, iterations = jax.jit(at), np.inf, None, 0, 0
    for point in grid:
        theta = model.grid(point)
        loss, steps = evaluate(theta)
        solves, iterations = solves + 1, iterations + int(steps)
        if loss < best:
            best, where = float(loss), theta
    return best, where, solves, iterations


def tune(name: str, model: Model, sets: Data, points: int) -> tuple[dict, np.ndarray]:
    """One row of the table, and the validation loss after each step of `bilevel.minimize`."""
    begin = time.perf_counter()
    grid_loss, where, grid_solves, grid_iterations = search(model, sets, points)
    grid_seconds = time.perf_counter() - begin
    validation = tuple(map(jnp.asarray, sets.validation))
    tuned = idf.bilevel.minimize(
        lambda theta, x: model.loss(theta, x, validation),
        model.solver,
        jnp.asarray(model.theta),
        x0=model.x0,
        args=model.args,
        log=True,
        projection=lambda t: jnp.clip(t, *model.box),
        tol=1e-6,
        progress=False,
    )
    history = tuned.history
    start = [] if model.x0 is None else [model.x0]
    losses = {
        which: float(model.loss(theta, model.solver.run(*start, *model.args(theta))[0], part))
        for which, theta, part in (
            ("grid", where, sets.test),
            ("bilevel", tuned.theta, sets.test),
            ("exact", tuned.theta, validation),
        )
    }
    row = {
        "model": name,
        "data": model.data,
        "parameters": model.theta.size,
        "in the grid": model.over or model.theta.size,
        "grid points": grid_solves,
        "validation loss, grid": grid_loss,
        "validation loss, bilevel": losses["exact"],
        "test loss, grid": losses["grid"],
        "test loss, bilevel": losses["bilevel"],
        "solves, bilevel": int(history.evaluations.sum()),
        "inner iterations, grid": grid_iterations,
        "inner iterations, bilevel": int(history.inner_iterations.sum()),
        "seconds, grid": grid_seconds,
        "seconds, bilevel": float(history.time[-1]),
        "ended": tuned.message.split(":")[0],
    }
    return row, np.asarray(history.loss)


def run(results: Results, quick: bool, seed: int) -> None:
    """Tune every model both ways."""
    rows, paths = [], {}
    for name, (model, sets) in models(seed, quick).items():
        row, paths[name] = tune(name, model, sets, 4 if quick else POINTS)
        rows.append(row)
        print(name, flush=True)
    results.table("tuning", rows, SHOWN)
    results.figure("losses", draw(rows, paths))
    results.claim(*claims(rows, 4 if quick else POINTS))


def claims(rows: list[dict], points: int) -> Iterator[Claim]:
    """Whether the losses are as good as the grid's, and what they cost."""
    better = [row["validation loss, bilevel"] <= row["validation loss, grid"] * (1 + 1e-6) for row in rows]
    yield Claim(
        f"The validation loss is at least as good as that of a grid of {points} points for each parameter.",
        of_cases(better),
        f"{sum(better)} of {len(rows)} models.",
    )
    many = [row for row in rows if row["grid points"] >= points**2]
    yield Claim(
        "It takes a tenth of the grid's inner solves, where the grid has two or three parameters.",
        of_cases(row["solves, bilevel"] <= 0.1 * row["grid points"] for row in many),
        ", ".join(f"{row['model']} {row['solves, bilevel']} of {row['grid points']}" for row in many) + ".",
    )
    same = [row for row in rows if row["parameters"] == row["in the grid"]]
    work = [row["inner iterations, bilevel"] / row["inner iterations, grid"] for row in same]
    yield Claim(
        "It takes a tenth of the grid's inner iterations, where both search the same parameters: its solves are loose "
        "and start from the last solution.",
        of_cases(share <= 0.1 for share in work),
        ", ".join(f"{row['model']} {share:.3f}" for row, share in zip(same, work, strict=True)) + ".",
    )


def draw(rows: list[dict], paths: dict[str, np.ndarray]) -> plt.Figure:
    """Validation loss of each model against outer steps, over the grid's best."""
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.1 * columns, 2.4 * lines), layout="constrained", squeeze=False
    )
    for axis, row in zip(axes.ravel(), rows, strict=False):
        best, path = row["validation loss, grid"], paths[row["model"]]
        axis.plot(path, color=COLOURS["implicit"], label="bilevel.minimize")
        axis.axhline(best, color=COLOURS["bound"], linestyle="--", label="best of the grid")
        axis.set(title=f"{row['model']} ({row['solves, bilevel']} solves, grid {row['grid points']})")
        axis.set_ylim(min(best, path.min()) * 0.97, max(best * 1.3, min(path[0], 2.5 * best)))
        axis.title.set_fontsize(8)
    for axis in axes.ravel()[len(rows) :]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("outer step")
    for axis in axes[:, 0]:
        axis.set_ylabel("validation loss")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
