"""Task-driven dictionary learning for the survival of breast cancer patients (experiment 3 of the paper).

The k = 10 atoms are the rows of a dictionary D (k, p). The code of a patient is x*(D) = argmin_x 1/2 |X_i - x D|^2 +
l1 |x|_1 + l2/2 |x|^2, and a logistic regression on the codes predicts death (or metastasis) within five years:

    min over D, w, b of mean_i loss(y_i (x_i*(D) w + b)) + rho/2 |w|^2,  |D_j| <= 1,

starting from the dictionary that codes the training part best (unsupervised) and its logistic regression. The
derivative of x* is a system of k equations for each patient; patients and splits are batches of one program.

The paper's data (TCGA) are in no package. Used here are DBCD (280 patients, 4,919 genes) and vdv (78 patients) from
SurvSet, and GSE7390 (189 patients, the 76 genes that the package carries), in 20 random splits into 60, 20 and 20 %.
Genes are ranked on the training part only, and parameters are chosen by the validation AUC. l2 is fixed, and the
number of outer steps is one of the parameters. "+-" is 1.96 standard errors over the splits; "corrected" allows for
the overlap of the splits (Nadeau, Bengio).

Source: Blondel et al., NeurIPS 2022, section 4.3; Mairal, Bach, Ponce, "Task-driven dictionary learning", 2012;
corrected intervals: Nadeau, Bengio, "Inference for the generalization error", 2003.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from . import _genes
from ._dictionary import ATOMS, EPOCH, classifier, scores, task_driven, unsupervised
from ._results import COLOURS, Results
from ._verdicts import Claim, graded

L1 = 0.1, 0.3, 1.0  # a code has a standard deviation of about 1
RHO = 10.0, 1.0, 0.1, 0.01
FITS = {"l1 logistic regression": np.logspace(-2, 1, 10), "l2 logistic regression": np.logspace(-5, 1, 10)}
PCA, UNSUPERVISED, TASK = "principal components + l2", "unsupervised dictionary + l2", "task-driven dictionary"


class Found(NamedTuple):
    """Validation and test AUC (candidates, splits), and the number of variables of each classifier."""

    validation: np.ndarray
    test: np.ndarray
    variables: np.ndarray

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Test AUC and variables of the candidate with the best validation AUC in each split; the first of equals."""
        best = np.argmax(self.validation, axis=0)[None]
        return np.take_along_axis(self.test, best, 0)[0], np.take_along_axis(self.variables, best, 0)[0]


def auc(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Area under the ROC curve along the last axis (Mann-Whitney); all rows of y have the same number of positives."""
    ranks, y = rankdata(values, axis=-1), np.broadcast_to(y, np.shape(values))
    n = y.sum(-1)
    return ((ranks * y).sum(-1) - n * (n + 1) / 2) / (n * (y.shape[-1] - n))


def logistic_regression(name: str, C: float) -> LogisticRegression:
    """Scikit-learn's logistic regression; from version 1.8 on, the penalty is named by l1_ratio."""
    l1, new = name.startswith("l1"), tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
    kind = dict(l1_ratio=float(l1)) if new else dict(penalty="l1" if l1 else "l2")
    solver = "liblinear" if l1 else "lbfgs"  # a seed, because liblinear visits the features in random order
    return LogisticRegression(C=C, solver=solver, tol=1e-5, max_iter=2000, random_state=0, **kind)


def on_genes(name: str, split: _genes.Split, grid: np.ndarray) -> Found:
    """Logistic regression on the genes themselves, for each weight of the grid."""
    rows = []
    for C in grid:
        for i, (X, y) in enumerate(zip(split.X["train"], split.y["train"], strict=True)):
            fit = logistic_regression(name, C).fit(X, y)
            aucs = [auc(fit.decision_function(split.X[p][i]), split.y[p][i]) for p in ("validation", "test")]
            rows.append((*aucs, np.count_nonzero(fit.coef_) + 1))
    return Found(*np.array(rows).reshape(len(grid), -1, 3).transpose(2, 0, 1))


def on_codes(
    split: _genes.Split, weights: tuple[tuple, tuple], unsupervised_steps: int, steps: int, bar: tqdm
) -> tuple[dict[str, Found], dict]:
    """Classifiers on principal components and on unsupervised and task-driven dictionaries.

    Also (D, w) of the first split before the first and after the last step, for each (l1, rho).
    """
    l1s, rhos = weights
    train = split.X["train"]
    _, values, axes = np.linalg.svd(train, full_matrices=False)
    # The scores on the principal components of the training part then have variance 1 on average, and codes nearly so.
    scale = np.sqrt(np.mean(values[:, :ATOMS] ** 2, axis=1) / train.shape[1])[:, None, None]
    X = {part: jnp.asarray(data / scale) for part, data in split.X.items()}
    y = jnp.where(split.y["train"], 1.0, -1.0)
    start = jnp.asarray(axes[:, :ATOMS])
    learn = jax.jit(jax.vmap(partial(unsupervised, steps=unsupervised_steps), (0, 0, None)))
    fit = jax.jit(jax.vmap(classifier, (0, 0, None)))
    drive = jax.jit(jax.vmap(partial(task_driven, steps=steps), (0, 0, 0, 0, 0, 0, None, None)))
    predict = jax.jit(jax.vmap(scores, (0, 0, 0, 0, None)))
    look = jax.jit(jax.vmap(jax.vmap(scores, (0, 0, 0, None, None)), (0, 0, 0, 0, None)))
    rows: dict[str, list] = {PCA: [], UNSUPERVISED: [], TASK: []}
    pictures = {}

    def note(name, output):
        """Note the AUC of `output(part)`, scores (splits, patients) or (splits, epochs, patients)."""
        pair = []
        for part in ("validation", "test"):
            values = np.asarray(output(part))
            values = values[:, None] if values.ndim == 2 else values
            pair.append(auc(values, split.y[part][:, None]).T)
        rows[name].append(pair)

    components = {part: np.einsum("spg,sag->spa", data, start) for part, data in X.items()}
    for rho in rhos:
        w, b = fit(components["train"], y, rho)
        note(PCA, lambda part, w=w, b=b: np.einsum("spa,sa->sp", components[part], w) + b[:, None])
    for l1 in l1s:
        D, x = learn(X["train"], start, l1)
        for rho in rhos:
            w, b = fit(x, y, rho)
            note(UNSUPERVISED, lambda part, found=(D, w, b): predict(*found, X[part], l1))  # noqa: B023
            path = drive(X["train"], y, D, x, w, b, l1, rho)
            note(TASK, lambda part, path=path: look(*path, X[part], l1))  # noqa: B023
            pictures[l1, rho] = [np.asarray(a[0]) for a in (D, w)], [np.asarray(a[0, -1]) for a in path[:2]]
            bar.update()
    found = {}
    for name, pairs in rows.items():
        validation, test = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        found[name] = Found(validation, test, np.full(test.shape, ATOMS + 1))
    return found, pictures


def half_width(values: np.ndarray, share: float = 0.0) -> float:
    """1.96 standard errors of the mean; `share` is n_test / n_train for splits of the same patients."""
    return float(1.96 * np.std(values, ddof=1) * np.sqrt(1 / len(values) + share))


def run(results: Results, quick: bool, seed: int) -> None:
    """All classifiers on all data sets, and their paired differences."""
    sets = (
        [("DBCD", "variance")]
        if quick
        else [("DBCD", "variance"), ("DBCD", "t"), ("vdv", "variance"), ("GSE7390", "variance")]
    )
    splits, genes, first, steps = (2, 100, 5, 20) if quick else (20, 1000, 30, 100)
    weights = (L1[1:2], RHO[1:3]) if quick else (L1, RHO)
    table, differences, chosen, pictures, path = [], [], {}, {}, []
    bar = tqdm(total=len(sets) * len(weights[0]) * len(weights[1]), desc="dictionaries", disable=None)
    for name, rank in sets:
        data = _genes.patients(name)
        if data is None:
            print(f"{name} is left out: it comes with scikit-survival (pip install scikit-survival).")
            continue
        split = _genes.split(data, splits, genes, rank, seed)
        shape = {part: X.shape[1:] for part, X in split.X.items()}
        label = f"{name}, {shape['train'][1]} genes by {rank}"
        found = {method: on_genes(method, split, grid) for method, grid in FITS.items()}
        on, pictures[label] = on_codes(split, weights, first, steps, bar)
        best = {method: one.chosen() for method, one in (found | on).items()}
        chosen[label] = {method: 100 * test for method, (test, _) in best.items()}
        share = shape["test"][0] / shape["train"][0]
        table += [
            {
                "data": label,
                "patients": len(data.event),
                "events": int(data.event.sum()),
                "classifier": method,
                "test AUC": 100 * test.mean(),
                "+-": half_width(100 * test),
                "variables (median)": int(np.median(size)),
            }
            for method, (test, size) in best.items()
        ]
        path = path or along(on, weights)
        others = [*FITS, PCA, UNSUPERVISED]
        differences += [compare(label, chosen[label], other, share) for other in others]
    bar.close()
    results.table("auc", table)
    results.table("differences", differences)
    results.table(
        "splits",
        [
            {"data": label, "split": i} | {method: test[i] for method, test in values.items()}
            for label, values in chosen.items()
            for i in range(splits)
        ],
        (),
    )
    results.table("path", path)
    results.figure("auc", draw_auc(chosen))
    label = next(iter(pictures))
    results.figure("atoms", draw_atoms(*pictures[label][L1[1], weights[1][-1]]))
    results.claim(*claims(differences, table))


def along(found: dict[str, Found], weights: tuple[tuple, tuple]) -> list[dict]:
    """Mean test AUC before the first step of Adam, and after more and more of them, for each pair of weights."""
    before = iter(100 * found[UNSUPERVISED].test.mean(1))
    after = 100 * found[TASK].test.mean(1).reshape(len(weights[0]), len(weights[1]), -1)
    marks = sorted({0, after.shape[2] // 2 - 1, after.shape[2] - 1})
    return [
        {"l1": l1, "rho": rho, "unsupervised": next(before)}
        | {f"after {(k + 1) * EPOCH} steps": after[i, j, k] for k in marks}
        for i, l1 in enumerate(weights[0])
        for j, rho in enumerate(weights[1])
    ]


def compare(label: str, values: dict[str, np.ndarray], other: str, share: float) -> dict:
    """Task-driven minus another classifier, split by split."""
    gap = values[TASK] - values[other]
    gap = np.where(np.abs(gap) < 1e-9, 0.0, gap)  # a difference by rounding is no win
    return {
        "data": label,
        "task-driven minus": other,
        "difference": round(float(gap.mean()), 9) + 0.0,
        "+-": half_width(gap),
        "+- corrected": half_width(gap, share),
        "better": int(np.sum(gap > 0)),
        "worse": int(np.sum(gap < 0)),
    }


def draw_auc(chosen: dict[str, dict[str, np.ndarray]]) -> plt.Figure:
    """Test AUC of each split, and the mean with its interval."""
    size = (3.0 + 2.2 * len(chosen), 2.8)
    figure, axes = plt.subplots(
        1, len(chosen), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (label, values) in zip(axes[0], chosen.items(), strict=True):
        for i, (method, test) in enumerate(values.items()):
            colour = COLOURS["implicit"] if method == TASK else COLOURS["bound"]
            axis.plot(test, i + np.linspace(-0.25, 0.25, len(test)), ".", color=colour, alpha=0.35, markersize=4)
            axis.errorbar(test.mean(), i, xerr=half_width(test), fmt="o", color=colour, capsize=3)
        axis.set(xlabel="test AUC (%)", title=label.replace(", ", "\n"), yticks=range(len(values)))
        axis.set_yticklabels(list(values))
    axes[0][0].invert_yaxis()
    return figure


def draw_atoms(before: list[np.ndarray], after: list[np.ndarray]) -> plt.Figure:
    """The atoms before and after, with genes ordered by the atom in which they weigh most; the classifier's weights."""
    D = after[0][np.argsort(after[1])]
    strongest = np.argmax(np.abs(D), axis=0)
    genes = np.lexsort((D[strongest, np.arange(D.shape[1])], strongest))
    figure, axes = plt.subplots(2, 2, figsize=(9, 4.2), width_ratios=(5, 1), sharex="col", layout="constrained")
    order, limit = np.argsort(after[1]), np.quantile(np.abs(D), 0.995)
    for row, (name, (D, w)) in zip(axes, {"unsupervised": before, "task-driven": after}.items(), strict=True):
        image = row[0].imshow(
            D[order][:, genes], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        row[0].set(ylabel="atom", title=f"{name}: weights of the genes in each atom", yticks=range(len(w)))
        row[0].grid(visible=False)
        row[1].barh(range(len(w)), w[order], color=[COLOURS["unrolled" if v > 0 else "implicit"] for v in w[order]])
        row[1].set(ylim=(len(w) - 0.5, -0.5), yticks=[], title="in the classifier")
    axes[1][0].set_xlabel("genes, by the task-driven atom they weigh most in")
    axes[1][1].set_xlabel("weight w")
    figure.colorbar(image, ax=axes[:, 0], label="weight in the atom", pad=0.02)
    return figure


def claims(differences: list[dict], table: list[dict]) -> Iterator[Claim]:
    """Whether ten codes do as well as all genes, and whether the task improves the dictionary."""
    for label in dict.fromkeys(row["data"] for row in differences):
        gap = {row["task-driven minus"]: row for row in differences if row["data"] == label}
        found = {row["classifier"]: row for row in table if row["data"] == label}
        genes = max(FITS, key=lambda name: found[name]["test AUC"])
        say = lambda row: (  # noqa: E731
            f"{row['difference']:+.1f} +- {row['+-']:.1f} (corrected {row['+- corrected']:.1f})"
        )
        # Competitive: at most two points, the standard error in the paper, worse than the better of the two.
        worst, ratio = gap[genes], found["l2 logistic regression"]["variables (median)"] / (ATOMS + 1)
        yield Claim(
            f"{label}: competitive with l1 and l2 logistic regression, with {ratio:.0f} times fewer variables than l2.",
            graded(worst["difference"] > -2, worst["difference"] + worst["+- corrected"] >= 0),
            f"AUC {found[TASK]['test AUC']:.1f}; against l1 {say(gap['l1 logistic regression'])}, which uses "
            f"{found['l1 logistic regression']['variables (median)']} variables; against l2 "
            f"{say(gap['l2 logistic regression'])}.",
        )
        gain = gap[UNSUPERVISED]
        sure = gain["difference"] - gain["+- corrected"] > 0
        yield Claim(
            f"{label}: learning the dictionary for the task improves on the unsupervised one.",
            graded(sure, gain["difference"] > gain["+-"]),
            f"{say(gain)}, better in {gain['better']} and worse in {gain['worse']} of the splits; against principal "
            f"components {say(gap[PCA])}.",
        )
