"""scikit-learn fits to data of every shape, unit and location: the derivative is that of the library's own fit."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.base
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from sklearn.svm import SVC, LinearSVC

import implicitdiff as idf

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((40, 3)) * [1.0, 2.0, 0.5]
Y = X @ [1.0, -0.7, 0.4] + 0.3 * RANDOM.standard_normal(40) + 2.0
LABELS = (Y > 2.0).astype(int)
EXACT = dict(tol=1e-14, max_iter=100_000)
REGRESSIONS = {
    "ridge": (Ridge(), "alpha", 0.5),
    "lasso": (Lasso(**EXACT), "alpha", 0.05),
    "elastic net": (ElasticNet(l1_ratio=0.4, **EXACT), "alpha", 0.05),
}
CLASSIFIERS = {
    "logistic": (LogisticRegression(solver="newton-cholesky", **EXACT), "C", 0.3),
    "linear SVC": (LinearSVC(dual=False, **EXACT), "C", 0.3),
    "SVC": (SVC(tol=1e-10), "C", 0.7),
}
ALL = REGRESSIONS | CLASSIFIERS


def at(name, X, y, value, weights=None, **options):
    """Values of the fit at the samples themselves, as a function of its parameter and the weights."""
    solver = idf.solvers.sklearn_solver(ALL[name][0], **options)
    given = {ALL[name][1]: value} | ({} if weights is None else dict(sample_weight=weights))
    model, state = solver.run(X, y, given)
    return solver.decision_function(model, X, X, given), state


def exact(name, X, y, value, weights):
    fit = sklearn.base.clone(ALL[name][0]).set_params(**{ALL[name][1]: float(value)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit.fit(X, np.ravel(y), sample_weight=weights)
    return fit.decision_function(X) if hasattr(fit, "decision_function") else fit.predict(X)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_samples_without_weight(name, shape):
    """Masks and folds, and targets in a column, against finite differences of scikit-learn."""
    y = Y if name in REGRESSIONS else LABELS
    y = y[:, None] if shape == "(n, 1)" else y
    weights = np.where(np.arange(40) % 3 == 0, 0.0, 1.0 + np.arange(40) / 40)
    value, h = ALL[name][2], 1e-4
    got, slope = jax.jvp(lambda v: at(name, X, y, v, weights)[0], (value,), (1.0,))
    np.testing.assert_allclose(got, exact(name, X, y, value, weights), atol=1e-6)
    expected = (exact(name, X, y, value + h, weights) - exact(name, X, y, value - h, weights)) / (2 * h)
    np.testing.assert_allclose(slope, expected, atol=2e-4 * np.max(np.abs(expected)))


@pytest.mark.parametrize("name", ["SVC", "lasso"])
def test_the_derivative_in_a_weight_that_is_zero(name):
    """It is that of more weight: a sample with zero weight can enter the fit."""
    y = Y if name == "lasso" else LABELS
    value, h, weights = ALL[name][2], 1e-3, np.where(np.arange(40) == np.argmin(Y), 0.0, 1.0)
    for moved in [int(np.argmin(Y)), 1]:
        d = np.zeros(40)
        d[moved] = 1.0
        J = jax.jvp(lambda w: at(name, X, y, value, w)[0], (jnp.asarray(weights),), (jnp.asarray(d),))[1]
        # of second order, to the right
        ends = [exact(name, X, y, value, weights + k * h * d) for k in range(3)]
        expected = (-3 * ends[0] + 4 * ends[1] - ends[2]) / (2 * h)
        np.testing.assert_allclose(J, expected, atol=2e-3 * max(np.max(np.abs(expected)), 1e-2))


@pytest.mark.parametrize("name", [n for n in ALL if n != "linear SVC"])  # it penalises the intercept
@pytest.mark.parametrize(("dtype", "shift", "rtol"), [("float64", 1e4, 1e-6), ("float32", 1000.0, 2e-3)])
def test_features_far_from_zero(name, dtype, shift, rtol):
    """A shift of all features changes the intercept and nothing else."""
    y, value = Y if name in REGRESSIONS else LABELS, ALL[name][2]
    moved = (X + shift).astype(dtype)
    near = np.asarray(moved, np.float64) - shift

    def derivatives(X):
        solver = idf.solvers.sklearn_solver(ALL[name][0])

        def coef(value, X):
            model = solver.run(X, y, {ALL[name][1]: value})[0]
            return model.dual_coef if name == "SVC" else model.coef

        return jax.jacobian(coef)(value, X), jax.jacobian(coef, 1)(value, X)

    for got, expected in zip(derivatives(moved), derivatives(near), strict=True):
        assert got.dtype == dtype or got.ndim == 1
        np.testing.assert_allclose(got, expected, atol=rtol * np.max(np.abs(expected)))


@pytest.mark.parametrize("name", [n for n in ALL if n != "SVC"])
def test_features_in_mixed_units(name):
    y, units = Y if name in REGRESSIONS else LABELS, np.array([1e-2, 1.0, 30.0])
    run = lambda w: at(name, X * units, y, ALL[name][2], w)[0]
    w, d, h = jnp.ones(40), jnp.asarray(RANDOM.standard_normal(40)), 1e-4
    got = jax.jvp(run, (w,), (d,))[1]
    expected = (run(w + h * d) - run(w - h * d)) / (2 * h)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.max(np.abs(expected)))


def test_units_of_ridge():
    """Next to no penalty: the derivative of a prediction does not depend on the units of the features."""
    run = lambda X: jax.jacobian(lambda w: at("ridge", X, Y, 1e-30, w)[0])(jnp.ones(40))
    np.testing.assert_allclose(run(X * [1e-3, 1.0, 1e3]), run(X), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_units_of_lasso(scale):
    """Features times s and the penalty times s leave the predictions alone; targets times t move alpha and all else."""
    run = lambda a, s, t: at("lasso", X * s, Y * t, a * s * t)
    (value, state), (expected, _) = run(0.05, scale, 1.0), run(0.05, 1.0, 1.0)
    assert state.converged
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    slope = lambda s, t: jax.jacobian(lambda a: run(a, s, t)[0])(0.05)
    np.testing.assert_allclose(slope(scale, 1.0), slope(1.0, 1.0), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(slope(1.0, scale), scale * slope(1.0, 1.0), rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("targets", [2, 40])
def test_several_targets_with_weights(name, targets):
    """Each target is a fit of its own, also where there are as many of them as samples."""
    many = np.stack([Y + 0.1 * k * X[:, 0] for k in range(targets)], axis=1)
    weights = jnp.linspace(0.5, 1.5, 40)
    fit = lambda y: lambda w: at(name, X, y, REGRESSIONS[name][2], w)[0]
    value, push = jax.linearize(fit(many), weights)
    for k in (0, 1):
        alone, push_alone = jax.linearize(fit(many[:, k]), weights)
        d = jnp.asarray(RANDOM.standard_normal(40))
        np.testing.assert_allclose(value[:, k], alone, rtol=1e-9)
        np.testing.assert_allclose(push(d)[:, k], push_alone(d), atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_integer_features(name):
    y = Y if name in REGRESSIONS else LABELS
    whole = np.round(3 * X).astype(int)
    slope = lambda X: jax.jacobian(lambda v: at(name, X, y, v)[0])(ALL[name][2])
    np.testing.assert_array_equal(slope(whole), slope(whole.astype(float)))


def test_a_fit_that_stops_early_is_said():
    run = lambda policy, **o: idf.solvers.sklearn_solver(Lasso(max_iter=1, tol=1e-12), on_unconverged=policy).run(
        X @ [[1, 0.9, 0.8], [0, 1, 0.9], [0, 0, 1]], Y, dict(alpha=1e-3), **o
    )
    with pytest.warns(RuntimeWarning, match="scikit-learn's Lasso did not converge.*max_iter"):
        state = run("warn")[1]
    assert not state.converged
    assert state.iteration == 1
    assert 1e-5 < state.error < 1
    assert np.isnan(run("nan")[0].coef).all()
    with pytest.raises(RuntimeError, match="max_iter"):
        run("raise")
    with pytest.raises(Exception, match="max_iter"):
        jax.block_until_ready(jax.jit(lambda: run("raise"))())
    assert np.isfinite(run("ignore")[0].coef).all()
    with pytest.raises(ValueError, match="on_unconverged"):
        run("never")


def test_a_fit_that_stopped_at_once_has_not_converged():
    """Scikit-learn does not warn: on features of size 1e8 its tolerance is met where it starts."""
    solver = idf.solvers.sklearn_solver(CLASSIFIERS["logistic"][0].__class__(), on_unconverged="ignore")
    labels = (np.median(Y) < Y).astype(int)
    for unit, expected in ((1.0, True), (1e8, False)):
        _, state = jax.jit(lambda C, unit=unit: solver.run(X * unit, labels, dict(C=C / unit**2)))(0.3)
        assert bool(state.converged) == expected
        assert expected or state.error > 1e-2
