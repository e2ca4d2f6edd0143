"""A lasso with one weight for each of thousands of genes, tuned on a validation set.

The expression of one gene is predicted from that of the 4,918 others in the patients of DBCD (SurvSet). Split i
predicts the gene with the i-th largest variance; 177 patients are for training, 59 for validation and 59 for the
test. There are 20 splits.

    min over w > 0 of |X_val x*(w) - y_val|^2 / m_val,   x*(w) = argmin_x 1/2m |X x - y|^2 + sum_j w_j |x_j|

is solved by `bilevel.minimize` in log w, from the best single weight, in at most 30 steps. Where x_j = 0, the
derivative in w_j is zero, so only the weights of the support are tuned. Compared with this are: a single weight, by
grids and by `bilevel.minimize`; the adaptive lasso, w_j = t / |X_j'y| with t to be tuned; a penalty gamma sum_j (log
w_j - log w_0)^2, with gamma fixed beforehand; and LassoCV of scikit-learn, which sees training and validation
patients together.

Errors are mean squares. "% against the grid" is the mean of the logarithms of the ratios of test errors, with 1.96
standard errors, corrected for the overlap of the splits.

Source: Bertrand et al., "Implicit differentiation of Lasso-type models for hyperparameter optimization", 2020;
adaptive lasso from marginal regression: Huang, Ma, Zhang, "Adaptive lasso for sparse high-dimensional regression
models", 2008; corrected intervals: Nadeau, Bengio, "Inference for the generalization error", 2003.
"""

import time
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import lineax as lx
import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LassoCV
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import implicitdiff as idf

from . import _genes, _lasso
from ._results import COLOURS, Results
from ._verdicts import Claim, graded, of_cases

SHARES = 0.6, 0.8
PENALTIES = 1e-3, 1e-2
MARGIN = 5.0  # % of the test error
SMALLEST = 2e-2  # weight of a grid, relative to the smallest weight for which x is zero
# A single weight is found soon, often at a kink of the validation error, where the gradient does not become small.
STEPS_OF_ONE = 10
FEATURES = "a weight a feature"
METHODS = {
    "grid": "one weight, grid of {}",
    "bilevel": "one weight, bilevel",
    "adaptive": "adaptive lasso, bilevel",
    "cv": "LassoCV on both parts",
}


def expressions(quick: bool) -> np.ndarray:
    """Expressions (patients, genes), with the genes of largest variance first."""
    table = _genes.frame("DBCD").filter(like="num_").to_numpy(float)
    ordered = table[:, np.argsort(-table.var(0), kind="stable")]
    return ordered[:, :600] if quick else ordered


def split(table: np.ndarray, target: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(X, y) of each part, standardised by the training part."""
    order = np.random.default_rng([seed, target]).permutation(len(table))
    parts = np.split(order, [round(share * len(table)) for share in SHARES])
    X, y = np.delete(table, target, axis=1), table[:, target]
    train = parts[0]
    X = (X - X[train].mean(0)) / X[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    return {name: (X[rows], y[rows]) for name, rows in zip(("train", "validation", "test"), parts, strict=True)}


def error(x, data) -> float:
    """Mean squared error; the targets have variance 1 on the training part."""
    return float(np.mean((data[0] @ np.asarray(x) - data[1]) ** 2))


def largest(X: np.ndarray, y: np.ndarray) -> float:
    """The smallest single weight for which x is zero."""
    return float(np.max(np.abs(X.T @ y)) / len(y))


def grid(data: dict, number: int) -> tuple[np.ndarray, float, int]:
    """(x, weight, solves) of the single weight with the least validation error; each fit starts from the last one."""
    X, y = data["train"]
    x, best = np.zeros(X.shape[1]), (np.inf, np.zeros(X.shape[1]), 0.0)
    for weight in largest(X, y) * np.geomspace(1, SMALLEST, number):
        x = _lasso.fit(x, X, y, np.full(X.shape[1], weight), 1e-3)
        best = min(best, (error(x, data["validation"]), x, weight), key=lambda found: found[0])
    # The grid is solved only as precisely as the comparison needs; its winner is solved again.
    return _lasso.fit(best[1], X, y, np.full(X.shape[1], best[2])), best[2], number + 1


@partial(jax.jit, static_argnames="steps")
def tune(data: dict, stepsize, start, shape, x0, gamma, steps: int):
    """Tune the weights `theta * shape` from theta = start, which is one number or one for each feature."""
    X, y = data["validation"]
    outer = lambda t, x: jnp.mean((X @ x - y) ** 2) + gamma * jnp.sum(jnp.log(t / start) ** 2)  # noqa: E731
    inner = _lasso.solve, _lasso.condition(stepsize)
    return idf.bilevel.minimize(
        outer, inner, start, x0=x0, args=lambda t: (data["train"], t * shape), log=True, max_steps=steps, tol=1e-4
    )


def study(table: np.ndarray, target: int, seed: int, grids: tuple[int, ...], steps: int) -> list[dict]:
    """All methods on one split."""
    data = split(table, target, seed)
    X, y = data["train"]
    p, rows = X.shape[1], []
    stepsize = len(y) / np.linalg.norm(X, 2) ** 2

    def note(method, x, solves, seconds, spread=1.0):
        rows.append(
            {
                "target": target,
                "method": method,
                "test error": error(x, data["test"]),
                "validation error": error(x, data["validation"]),
                "training error": error(x, data["train"]),
                "support": int(np.count_nonzero(x)),
                "inner solves": int(solves),
                "seconds": seconds,
                "spread": spread,
            }
        )

    def tuned(method, start, shape, x0, gamma, before=0):
        begin = time.perf_counter()
        longest = min(steps, STEPS_OF_ONE) if np.ndim(start) == 0 else steps
        found = tune(data, stepsize, start, shape, x0, gamma, longest)
        weights = np.asarray(found.theta * shape)
        # Fit again with these weights, because the x of the search is the one after a Newton step.
        x = _lasso.fit(np.asarray(found.x), X, y, weights)
        solves = before + np.nansum(found.history.evaluations)
        moved = np.exp(np.max(np.abs(np.log(np.asarray(found.theta / start)))))
        note(method, x, solves, time.perf_counter() - begin, float(moved))
        return found, x, solves

    for number in grids:
        begin = time.perf_counter()
        x, _, solves = grid(data, number)
        note(METHODS["grid"].format(number), x, solves, time.perf_counter() - begin)
    top, zero, ones = largest(X, y), np.zeros(p), np.ones(p)
    single, x, solves = tuned(METHODS["bilevel"], 0.1 * top, ones, zero, 0.0)
    # Weights inversely proportional to the correlation with y, and 1 for the largest correlation.
    shape = top / np.maximum(np.abs(X.T @ y) / len(y), 1e-3 * top)
    tuned(METHODS["adaptive"], 0.1 * top, shape, zero, 0.0)
    for gamma in (0.0, *PENALTIES):
        name = FEATURES + (f", penalty {gamma:g}" if gamma else "")
        tuned(name, np.full(p, float(single.theta)), ones, x, gamma, solves)
    begin = time.perf_counter()
    both = [np.concatenate([a, b]) for a, b in zip(data["train"], data["validation"], strict=True)]
    alphas = top * np.geomspace(1, SMALLEST, grids[-1])
    model = LassoCV(alphas=alphas, cv=5, fit_intercept=False, max_iter=20_000).fit(*both)
    note(METHODS["cv"], model.coef_, 5 * len(alphas) + 1, time.perf_counter() - begin)
    return rows


def derivative(table: np.ndarray, seed: int, repetitions: int) -> list[dict]:
    """The gradient of the validation error in all weights, by the whole system and by the system of the support."""
    data = split(table, 0, seed)
    x, weight, _ = grid(data, 20)
    (X, y), weights = data["train"], np.full(len(x), weight)
    x = _lasso.fit(x, X, y, weights, 0.0)
    stepsize, (V, t), S = len(y) / np.linalg.norm(X, 2) ** 2, data["validation"], np.flatnonzero(x)
    capacity = 32 * -(-len(S) // 32)

    def attached(adjoint):
        return lambda weights, x, data: idf.implicit_fixed_point(
            _lasso.condition(stepsize), x, data, weights, adjoint=adjoint
        )

    ways = {
        f"all {len(x)} unknowns, conjugate gradients (default)": attached(None),
        f"the {capacity} largest, support among them": lambda weights, x, data: _lasso.restricted(
            x, data, weights, stepsize, capacity
        ),
        f"all {len(x)} unknowns, LU": attached(idf.Implicit(linear_solver=lx.LU())),
    }
    # On the support X_S'(X_S x_S - y) / m = -w sign(x_S): dx_S = -(X_S'X_S / m)^-1 diag(sign(x_S)) dw_S.
    exact = np.zeros(len(x))
    slope = 2 * V.T @ (V @ x - t) / len(t)
    exact[S] = -np.sign(x[S]) * np.linalg.solve(X[:, S].T @ X[:, S] / len(y), slope[S])
    compiled, seconds, rows = {}, {name: [] for name in ways}, []
    values = (jnp.asarray(weights), jnp.asarray(x), data["train"])
    for name, way in ways.items():
        gradient = jax.jit(jax.grad(lambda *a, way=way: jnp.mean((V @ way(*a) - t) ** 2)))
        begin = time.perf_counter()
        compiled[name] = gradient.lower(*values).compile()
        found = np.asarray(compiled[name](*values))
        rows.append(
            {
                "system": name,
                "support": len(S),
                "milliseconds": 0.0,
                "5 %": 0.0,
                "95 %": 0.0,
                "times the restricted": 0.0,
                "relative error": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
                "temporary MB": compiled[name].memory_analysis().temp_size_in_bytes / 1e6,
                "compiled and run once in s": time.perf_counter() - begin,
            }
        )
    for i in range(repetitions):
        for name, program in compiled.items():
            if i < 3 or not name.endswith("LU"):
                begin = time.perf_counter()
                jax.block_until_ready(program(*values))
                seconds[name].append(1e3 * (time.perf_counter() - begin))
    restricted = np.array(list(seconds.values())[1])
    for row, spent in zip(rows, seconds.values(), strict=True):
        low, middle, high = np.quantile(spent, (0.05, 0.5, 0.95))
        ratio = np.median(np.array(spent) / restricted[: len(spent)])
        row.update({"milliseconds": middle, "5 %": low, "95 %": high, "times the restricted": ratio})
    return rows


def half_width(values: np.ndarray) -> float:
    """1.96 standard errors of the mean, corrected for the overlap of the training sets (Nadeau, Bengio)."""
    return float(1.96 * np.std(values, ddof=1) * np.sqrt(1 / len(values) + (1 - SHARES[1]) / SHARES[0]))


def run(results: Results, quick: bool, seed: int) -> None:
    """The cost of the derivative, and what tuning thousands of weights brings."""
    table = expressions(quick)
    costs = derivative(table, seed, 5 if quick else 30)
    results.table("derivative", costs)
    splits, grids, steps = (2, (10, 30), 6) if quick else (20, (10, 100), 30)
    # Coordinate descent makes millions of short products, for which threads of the BLAS would wait for each other.
    with threadpool_limits(1, user_api="blas"):
        found = [study(table, i, seed, grids, steps) for i in tqdm(range(splits), desc="splits", disable=None)]
    rows = [row for one in found for row in one]
    results.table("splits", rows, ())
    columns = {
        name: {
            key: np.array([row[key] for row in rows if row["method"] == name], float)
            for key in rows[0]
            if key != "method"
        }
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    reference = METHODS["grid"].format(grids[-1])
    summary = []
    for name, column in columns.items():
        # Ratios, because some targets can be predicted much better than others.
        gap = 100 * np.log(column["test error"] / columns[reference]["test error"])
        summary.append(
            {
                "method": name,
                "test error": column["test error"].mean(),
                "% against the grid": gap.mean(),
                "+-": half_width(gap),
                "better": int(np.sum(gap < 0)),
                "worse": int(np.sum(gap > 0)),
                "validation error": column["validation error"].mean(),
                "training error": column["training error"].mean(),
                "support": float(np.median(column["support"])),
                "inner solves": float(np.median(column["inner solves"])),
                "largest factor of a weight": float(np.median(column["spread"])),
            }
        )
    results.table("summary", summary)
    results.figure("errors", draw(columns, reference))
    results.claim(*claims(costs, {row["method"]: row for row in summary}, reference))


def draw(columns: dict, reference: str) -> plt.Figure:
    """Test and validation error of each split beside that of the grid."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.0), sharey=True, layout="constrained")
    names = [name for name in columns if name != reference]
    for axis, kind in zip(axes, ("validation error", "test error"), strict=True):
        for i, name in enumerate(names):
            ratio = columns[name][kind] / columns[reference][kind]
            colour = COLOURS["implicit"] if name.startswith(FEATURES) else COLOURS["bound"]
            axis.plot(ratio, i + np.linspace(-0.2, 0.2, len(ratio)), ".", color=colour, alpha=0.4)
            axis.plot(np.exp(np.mean(np.log(ratio))), i, "D", color=colour)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set(xlabel=f"{kind} / that of the {reference.split(', ')[1]}", yticks=range(len(names)), xscale="log")
        low, high = axis.get_xlim()
        axis.set_xticks([tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3) if low <= tick <= high])
        axis.xaxis.set_major_formatter("{x:.2g}")
        axis.minorticks_off()
    axes[0].set_yticklabels(names)
    axes[0].invert_yaxis()
    axes[0].set_title("what is tuned")
    axes[1].set_title("what counts")
    return figure


def claims(costs: list[dict], summary: dict[str, dict], reference: str) -> Iterator[Claim]:
    """Whether the restriction pays, whether search beats the grid, and whether many weights do."""
    whole, support, formed = costs
    ratio = whole["times the restricted"]
    yield Claim(
        "The linear system of the support alone makes the derivative cheaper, and as exact.",
        graded(ratio > 2 and support["relative error"] < 1e-6, ratio > 1),
        f"{support['milliseconds']:.2g} ms against {whole['milliseconds']:.2g} ms by conjugate gradients on all "
        f"unknowns ({ratio:.2g} times) and {formed['milliseconds']:.2g} ms by LU; relative errors "
        f"{support['relative error']:.0e}, {whole['relative error']:.0e} and {formed['relative error']:.0e}; "
        f"support {support['support']}.",
    )
    one, fine = summary[METHODS["bilevel"]], summary[reference]
    # The whole interval, because a wide one would otherwise show that anything is as good.
    same = one["% against the grid"] + one["+-"] < MARGIN
    fewer = one["inner solves"] < fine["inner solves"] / 2
    yield Claim(
        f"One weight found by its derivative is at most {MARGIN:g} % worse than the fine grid's, in half its solves.",
        of_cases([same, fewer]),
        f"{one['% against the grid']:+.1f} +- {one['+-']:.1f} % test error, {one['inner solves']:.0f} inner solves "
        f"against {fine['inner solves']:.0f}.",
    )
    for name, row in summary.items():
        if name.startswith(FEATURES):
            gap = row["% against the grid"]
            yield Claim(
                f"{name.capitalize()}: a lower test error than one weight for all.",
                graded(gap + row["+-"] < 0, gap < 0),
                f"{gap:+.1f} +- {row['+-']:.1f} %, better on {row['better']} and worse on {row['worse']} targets; "
                f"validation error {row['validation error']:.3f} against {fine['validation error']:.3f}, training "
                f"error {row['training error']:.3f} against {fine['training error']:.3f}.",
            )
