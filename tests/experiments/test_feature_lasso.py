"""A weight a feature: the fit, its derivative by whole and restricted systems, the loop, and the quick version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

import implicitdiff as idf
from experiments import _lasso, feature_lasso
from experiments._results import Results
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    X = random.standard_normal((30, 50))
    return X, X[:, :4] @ np.array([2.0, -1.5, 1.0, 0.5]) + 0.1 * random.standard_normal(30)


def test_fit_is_the_lasso_of_scikit_learn_and_satisfies_its_conditions(problem):
    X, y = problem
    x = _lasso.fit(np.zeros(50), X, y, np.full(50, 0.1), 0.0)
    np.testing.assert_allclose(x, Lasso(0.1, fit_intercept=False, tol=1e-13).fit(X, y).coef_, atol=1e-7)
    weights = np.random.default_rng(1).uniform(0.05, 0.3, 50)
    x = _lasso.fit(np.zeros(50), X, y, weights, 0.0)
    slope, on = X.T @ (y - X @ x) / 30, x != 0
    assert 2 < on.sum() < 30
    np.testing.assert_allclose(slope[on], (weights * np.sign(x))[on], atol=1e-6)
    assert np.all(np.abs(slope) <= weights + 1e-6)


def test_derivatives_are_those_of_finite_differences(problem):
    X, y = problem
    weights = np.random.default_rng(2).uniform(0.05, 0.3, 50)
    solve = lambda weights: _lasso.fit(np.zeros(50), X, y, weights, 0.0)
    x, c = solve(weights), np.random.default_rng(3).standard_normal(50)
    stepsize = 30 / np.linalg.norm(X, 2) ** 2
    ways = [
        lambda weights: idf.implicit_fixed_point(_lasso.condition(stepsize), jnp.asarray(x), (X, y), weights),
        lambda weights: _lasso.restricted(jnp.asarray(x), (X, y), weights, stepsize, capacity=20),
    ]
    assert np.count_nonzero(x) < 20  # some places of the restricted system are not needed
    gradients = [jax.grad(lambda weights, way=way: c @ way(weights))(jnp.asarray(weights)) for way in ways]
    h = 1e-5
    expected = [c @ (solve(weights + h * e) - solve(weights - h * e)) / (2 * h) for e in np.eye(50)]
    assert np.linalg.norm(expected) > 1
    for gradient in gradients:
        np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_grid_takes_the_least_validation_error(problem):
    X, y = problem
    data = {"train": (X[:20], y[:20]), "validation": (X[20:], y[20:])}
    x, weight, solves = feature_lasso.grid(data, 5)
    weights = feature_lasso.largest(X[:20], y[:20]) * np.geomspace(1, feature_lasso.SMALLEST, 5)
    errors = [
        np.mean((X[20:] @ Lasso(w, fit_intercept=False, tol=1e-10).fit(X[:20], y[:20]).coef_ - y[20:]) ** 2)
        for w in weights
    ]
    assert weight == weights[np.argmin(errors)]
    np.testing.assert_allclose(feature_lasso.error(x, data["validation"]), min(errors), rtol=1e-4)
    assert solves == 6


def test_tuning_lowers_the_validation_error_and_counts_its_solves(problem):
    X, y = problem
    data = {"train": (X[:20], y[:20]), "validation": (X[20:], y[20:])}
    start, stepsize = np.full(50, 0.2), 20 / np.linalg.norm(X[:20], 2) ** 2
    before = feature_lasso.error(_lasso.fit(np.zeros(50), X[:20], y[:20], start), data["validation"])
    found = feature_lasso.tune(data, stepsize, start, np.ones(50), np.zeros(50), 0.0, 8)
    after = feature_lasso.error(_lasso.fit(np.zeros(50), X[:20], y[:20], np.asarray(found.theta)), data["validation"])
    assert after < 0.9 * before
    np.testing.assert_allclose(found.loss, after, rtol=1e-3)
    spent = np.asarray(found.history.evaluations)
    assert np.nansum(spent) >= np.sum(~np.isnan(spent)) >= 2
    assert np.all(np.nan_to_num(spent) == np.round(np.nan_to_num(spent)))


def test_quick(tmp_path):
    pytest.importorskip("SurvSet")
    results = Results("feature_lasso", tmp_path, {})
    feature_lasso.run(results, quick=True, seed=0)
    results.close()
    assert (tmp_path / "feature_lasso-errors.png").stat().st_size > 1000
    tables = load(results.path)["tables"]
    assert all(row["relative error"] < 1e-6 for row in unpack(tables["derivative"]))
    rows = {row["method"]: row for row in unpack(tables["summary"])}
    many, one = rows[feature_lasso.FEATURES], rows[feature_lasso.METHODS["bilevel"]]
    # What was tuned got better; a mean of 0 predicts with an error of 1 or so.
    assert many["validation error"] < one["validation error"]
    assert all(row["test error"] < 0.5 and row["inner solves"] >= 1 for row in rows.values())
    assert one["inner solves"] < rows[feature_lasso.METHODS["cv"]]["inner solves"]
