"""Every verdict of every experiment can come out: the claims are functions of numbers, and here are such numbers."""

import numpy as np
import pytest

from experiments import _svm as svm
from experiments import (
    control,
    deep_equilibrium,
    dictionary,
    distillation,
    feature_lasso,
    guarantees,
    hyper_cleaning,
    molecular,
    ridge_jacobian,
    tuning,
)
from experiments._svm_claims import claims as svm_claims
from experiments._svm_claims import faster, same
from experiments._verdicts import of_cases, of_count

YES, PART, NO, NOTHING = "reproduced", "partly", "not reproduced", "vacuous"


def statuses(claims):
    return [claim.status for claim in claims]


def test_of_cases():
    assert [of_cases(cases) for cases in ([True, True], [True, False], [False], [])] == [YES, PART, NO, NOTHING]
    assert of_cases(np.array([1.0, np.nan]) < 2) == PART  # NaN is no success


def test_of_count():
    assert [of_count(good, 10) for good in (10, 9, 8)] == [YES, PART, NO]
    assert of_count(0, 0) == NOTHING


def points(solution=(1.0, 1e-2, 1e-3, 1e-4), **columns):
    """Rows of `ridge_jacobian` whose errors are as claimed, but for the columns that are given."""
    x = np.array(solution)
    found = dict(solution=x, implicit=x, unrolled=3 * x, bound=2 * x, estimate=x, polished=x**2) | columns
    return [{key: float(value[i]) for key, value in found.items()} for i in range(len(x))]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (points(), [YES, YES, YES, YES]),
        (points(bound=[np.inf] * 4), [NOTHING, YES, YES, YES]),
        (points(bound=[np.inf, 1e-3, 1e-3, 1e-3]), [PART, YES, YES, YES]),
        (points(bound=[0.0] * 4), [NO, YES, YES, YES]),
        (points(unrolled=[0.5, 0.5, 0.5, 0.5]), [YES, PART, YES, YES]),
        (points(unrolled=[0.0] * 4), [YES, NO, YES, YES]),
        (points(estimate=[1.0, 1e-2, 1e-2, 1e-2]), [YES, YES, PART, YES]),
        (points(estimate=[1.0] * 4), [YES, YES, NO, YES]),
        (points(polished=[1.0, 1e-3, 3e-5, 1e-6]), [YES, YES, YES, PART]),  # slope 1.5
        (points(polished=[1.0, 1e-2, 1e-3, 1e-4]), [YES, YES, YES, NO]),  # slope 1
        (points(polished=[1e-14] * 4), [YES, YES, YES, NOTHING]),  # exact at once
        (points(polished=[np.nan] * 4), [YES, YES, YES, NO]),
        (points(implicit=[0.0] * 4, bound=[0.0] * 4), [NOTHING, YES, NOTHING, NOTHING]),
        (points(implicit=[np.nan] * 4), [NOTHING, NOTHING, NOTHING, NOTHING]),
    ],
)
def test_ridge_jacobian(rows, expected):
    assert statuses(ridge_jacobian.claims("a problem", rows)) == expected


COUNTS = dict(
    bounds_finite=10, bounds_broken=0, measurable=10, within_factor_3=10, wrong=5, unflagged=0, false_alarms=0, right=9
)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, [YES, YES, YES]),
        (dict(bounds_broken=1, within_factor_3=9, unflagged=1), [NO, PART, NO]),
        (dict(within_factor_3=7), [YES, NO, YES]),
        (dict(bounds_finite=0, measurable=0, within_factor_3=0, wrong=0), [NOTHING, NOTHING, NOTHING]),
    ],
)
def test_guarantees(counts, expected):
    assert statuses(guarantees.claims(COUNTS | counts)) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ({100: 1.2, 1000: 2.0, 10_000: 3.0}, YES),
        ({100: 1.2, 1000: 1.4, 10_000: 3.0}, PART),
        ({100: 3.0, 1000: 2.8, 10_000: 2.6}, PART),  # it does not grow
        ({80: 2.0}, PART),  # neither of the paper's sizes was timed
        ({100: 2.0, 1000: 2.0, 10_000: 0.9}, NO),
        ({}, NOTHING),
    ],
)
def test_svm_faster(ratio, expected):
    assert faster(ratio)[0] == expected


def test_svm_same_loss():
    gaps = {"a": 1e-3, "b": 0.02}
    assert [same(part)[0] for part in ({"a": 1e-3}, gaps, {"b": np.nan}, {})] == [YES, PART, NO, NOTHING]


@pytest.mark.parametrize(
    ("megabytes", "error", "estimate", "expected"),
    [
        ([3.0, 3.0, 3.1], 1.0, 1.0, (YES, YES)),
        ([3.0, 3.0, 9.0], 1.0, 1e-3, (PART, NO)),
        ([3.0, 6.0, 9.0], 1e-3, 1e-3, (NO, NOTHING)),  # no derivative is wrong
        ([3.0], np.nan, np.nan, (NOTHING, YES)),
    ],
)
def test_svm_memory_and_wrong_gradients(megabytes, error, estimate, expected):
    kinds = svm.KINDS
    row = {
        "solver": svm.PROJECTED,
        "condition": svm.PROJECTED,
        "p": 100,
        "true error": error,
        "true gradient": 10.0,
        "estimated error": estimate,
    } | {f"ratio {kind}": 2.0 for kind in kinds[1:]}
    used = [
        {"inner steps": 10**i, f"MB {kinds[0]}": mb} | {f"MB {kind}": 1.0 for kind in kinds[1:]}
        for i, mb in enumerate(megabytes)
    ]
    losses = {(svm.PROJECTED, kind): np.array([1.0]) for kind in ("implicit", "unrolled")}
    found = {claim.claim: claim.status for claim in svm_claims([row], used, losses, {})}
    assert (
        found["Memory of implicit does not grow with the number of inner steps."],
        [*found.values()][-1],
    ) == expected


def timing(steps, examples, ratio, unrolled, implicit=1.0):
    return {
        "inner steps": steps,
        "at most": steps,
        "training examples": examples,
        "accelerated": False,
        "unrolled / implicit": ratio,
        "5 %": ratio,
        "95 %": ratio,
        f"{distillation.ASKING} / implicit": ratio,
        "unrolled MB": unrolled,
        "implicit MB": implicit,
    }


@pytest.mark.parametrize(
    ("ratio", "cosine", "accuracy", "megabytes", "expected"),
    [
        (4.0, 1.0, 0.87, (5.0, 9.0, 20.0), [YES, YES, YES, YES]),
        (1.5, 0.95, 0.82, (5.0, 5.0, 20.0), [PART, PART, PART, PART]),
        (1.0, 0.5, 0.5, (1.0, 1.0, 1.0), [NO, NO, NO, NO]),
        (np.nan, np.nan, np.nan, (1.0, 1.0, 1.0), [NO, NO, NO, NO]),
    ],
)
def test_distillation(ratio, cosine, accuracy, megabytes, expected):
    path = distillation.Path(*[None] * len(distillation.Path._fields))._replace(rows=[{"test accuracy": accuracy}])
    few, many, whole = megabytes
    rows = [timing(50, 400, ratio, few), timing(500, 400, ratio, many), timing(500, 60_000, ratio, whole)]
    assert statuses(distillation.claims(path, np.array([cosine]), rows)) == expected
    # With one number of steps, nothing is known of more of them. The whole set needs more memory for another reason.
    assert statuses(distillation.claims(path, np.array([cosine]), rows[1:]))[-1] == NOTHING


@pytest.mark.parametrize(
    ("against_genes", "against_unsupervised", "expected"),
    [(0.0, 5.0, [YES, YES]), (-3.0, 2.0, [PART, PART]), (-9.0, 0.5, [NO, NO])],
)
def test_dictionary(against_genes, against_unsupervised, expected):
    others = dict.fromkeys(dictionary.FITS, against_genes) | {
        dictionary.PCA: 0.0,
        dictionary.UNSUPERVISED: against_unsupervised,
    }
    rows = [
        {
            "data": "d",
            "task-driven minus": name,
            "difference": gap,
            "+-": 1.0,
            "+- corrected": 4.0,
            "better": 1,
            "worse": 1,
        }
        for name, gap in others.items()
    ]
    names = (*dictionary.FITS, dictionary.TASK)
    table = [{"data": "d", "classifier": name, "test AUC": 70.0, "variables (median)": 11} for name in names]
    assert statuses(dictionary.claims(rows, table)) == expected


@pytest.mark.parametrize(
    ("implicit", "unrolled", "count", "energy", "expected"),
    [
        (40, 0, 40, 1e-9, [YES, YES, YES, YES, YES]),
        (37, 30, 40, 1e-4, [PART, PART, NO, PART, PART]),
        (10, 40, 40, 1.0, [NO, NO, NO, NO, NO]),
    ],
)
def test_molecular(implicit, unrolled, count, energy, expected):
    row = {
        "implicit within 1 %": implicit,
        "unrolled within 1 %": unrolled,
        "unrolled within 1 %, spheres with contacts": unrolled,
    }
    rows = {dtype: [row | {"steps": steps} for steps in (300, 1000)] for dtype in ("float64", "float32")}
    truth = molecular.Judgement(*[None] * len(molecular.Judgement._fields))._replace(
        width=np.ones(count), slope=np.full(count, 1 + energy), partial=np.ones(count)
    )
    assert statuses(molecular.claims(rows, truth, None)) == expected
    assert statuses(molecular.claims(rows, truth, (0, 0)))[-1] == NOTHING


def model(solves, iterations, loss=1.0, parameters=2, grid=100):
    return {
        "model": "m",
        "parameters": parameters,
        "in the grid": 2,
        "grid points": grid,
        "solves, bilevel": solves,
        "validation loss, grid": 1.0,
        "validation loss, bilevel": loss,
        "inner iterations, grid": 1000,
        "inner iterations, bilevel": iterations,
    }


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([model(5, 50)], [YES, YES, YES]),
        ([model(5, 50), model(50, 500, loss=2.0)], [PART, PART, PART]),
        ([model(50, 500, loss=np.nan)], [NO, NO, NO]),
        ([model(5, 50, parameters=10, grid=10)], [YES, NOTHING, NOTHING]),
        ([], [NOTHING, NOTHING, NOTHING]),
    ],
)
def test_tuning(rows, expected):
    assert statuses(tuning.claims(rows, 10)) == expected


@pytest.mark.parametrize(
    ("auc", "accuracies", "expected"),
    [
        (0.95, (0.7, 0.8, 0.9, 0.9), [YES, YES, YES]),
        (0.85, (0.7, 0.75, 0.76, 0.9), [PART, PART, PART]),
        (0.5, (0.7, 0.8, 0.6, 0.9), [NO, NO, NO]),
        (0.95, (0.9, 0.8, 0.95, 0.9), [YES, NOTHING, YES]),  # the wrong labels cost no accuracy
    ],
)
def test_hyper_cleaning(auc, accuracies, expected):
    names = ("before", "alone", "after", "oracle")
    assert statuses(hyper_cleaning.claims(auc, dict(zip(names, accuracies, strict=True)))) == expected


@pytest.mark.parametrize(
    ("ratio", "gap", "half", "solves", "expected"),
    [
        (10.0, -5.0, 1.0, 10, [YES, YES, YES]),
        (1.5, -5.0, 30.0, 10, [PART, PART, PART]),  # a wide interval does not show that it is as good
        (0.5, 9.0, 1.0, 90, [NO, NO, NO]),
        (np.nan, np.nan, np.nan, 90, [NO, NO, NO]),
    ],
)
def test_feature_lasso(ratio, gap, half, solves, expected):
    cost = {"milliseconds": 1.0, "relative error": 1e-12, "support": 3, "times the restricted": ratio}
    row = {
        "% against the grid": gap,
        "+-": half,
        "inner solves": solves,
        "better": 1,
        "worse": 1,
        "validation error": 1.0,
        "training error": 1.0,
    }
    reference = "one weight, grid of 100"
    summary = {
        reference: row | {"inner solves": 101},
        feature_lasso.METHODS["bilevel"]: row,
        feature_lasso.FEATURES: row,
    }
    assert statuses(feature_lasso.claims([cost] * 3, summary, reference)) == expected


@pytest.mark.parametrize(
    ("errors", "lost", "price", "expected"),
    [
        ((1e-10, 0.01, 0.1, 0.5), 0.0, (2.0, 2.0), [YES, YES, YES, YES, YES]),
        ((1e-5, 0.1, 0.01, 0.5), 0.05, (0.9, 2.0), [PART, PART, PART, PART, PART]),
        ((np.nan, 0.5, 0.1, 0.01), 0.5, (0.9, 0.9), [NO, NO, NO, NO, NO]),
    ],
)
def test_deep_equilibrium(errors, lost, price, expected):
    names = (deep_equilibrium.FIRST, "Neumann, 20 terms", "Neumann, 5 terms", "one step")
    networks = deep_equilibrium.NETWORKS
    accuracy = [
        {
            "network": network,
            "derivative": name,
            "test accuracy": 0.9,
            "+-": 0.001,
            "difference": -0.5 if lost == 0.5 else -lost if name == "one step" else 0.0,
        }
        for network in networks
        for name in names
    ]
    table = [
        {"network": network, "training": "after", "derivative": name, "error": error, "error, float64": error}
        for network in networks
        for name, error in zip(names, errors, strict=True)
    ]
    ratio, megabytes = price
    cost = [{"derivative": name, "MB": 1.0, "ratio": 1.0, "5 %": 1.0, "95 %": 1.0} for name in names]
    cost += [{"derivative": "unrolled plain", "MB": megabytes, "ratio": ratio, "5 %": ratio, "95 %": ratio}]
    assert statuses(deep_equilibrium.claims(accuracy, table, cost)) == expected
    # Without any cheap derivative nothing is known of them.
    few = [row for row in cost if row["derivative"] in (names[0], "unrolled plain")]
    assert statuses(deep_equilibrium.claims(accuracy, table, few))[1:4] == [NOTHING] * 3


@pytest.mark.parametrize(
    ("good", "share", "error", "low", "expected"),
    [
        (20, 0.95, (1e-7, 1e-6), (2.0, 2.0), [YES, YES, YES, YES, YES]),
        (18, 0.88, (1e-7, 1e-4), (2.0, 0.5), [PART, PART, PART, PART, PART]),
        (2, 0.5, (np.nan, 1e-7), (0.5, 0.5), [NO, NO, NO, NO, NO]),  # NaN first or last
        (2, 0.5, (1e-7, np.nan), (0.5, 0.5), [NO, NO, NO, NO, NO]),
    ],
)
def test_control(good, share, error, low, expected):
    lines = [
        {
            "noise": noise,
            "systems": 20,
            "within 1 %": good,
            "worst": 0.1,
            "share within two standard errors": share,
            "median of the largest error": 0.1,
            "excess under a tenth of the first guess's": good,
            "median excess cost, first guess": 0.1,
            "median excess cost, learned": 0.1,
        }
        for noise in control.NOISES
    ]
    table = [
        {
            "backend": backend,
            "worst error of the gradient": e,
            "5 %": at,
            "95 %": at,
            f"times {control.OURS}": at,
            "variables": 20,
            "programs": 30,
        }
        for backend in (control.OURS, "cvxpylayers")
        for e, at in zip(error, low, strict=True)
    ]
    assert statuses(control.claims(lines, table)) == expected
