"""Real scikit-learn fits: derivatives against finite differences of scikit-learn itself, on its own data sets."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.base
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from sklearn.svm import SVC, LinearSVC

import implicitdiff as idf

DIABETES = load_diabetes(return_X_y=True)
DIABETES = DIABETES[0], (DIABETES[1] - DIABETES[1].mean()) / DIABETES[1].std()
CANCER = load_breast_cancer(return_X_y=True)
CANCER = ((CANCER[0] - CANCER[0].mean(0)) / CANCER[0].std(0))[:200, :6], CANCER[1][:200]
DIGITS = load_digits(n_class=3, return_X_y=True)
DIGITS = DIGITS[0][:120, 10:18] / 16, DIGITS[1][:120]
EXACT = dict(tol=1e-14, max_iter=200_000)

CASES = {
    "ridge": (Ridge(), DIABETES, dict(alpha=0.5)),
    "ridge without intercept": (Ridge(fit_intercept=False), DIABETES, dict(alpha=0.5)),
    "lasso": (Lasso(**EXACT), DIABETES, dict(alpha=0.01)),
    "elastic net": (ElasticNet(**EXACT), DIABETES, dict(alpha=0.01, l1_ratio=0.6)),
    "logistic, two classes": (LogisticRegression(solver="newton-cholesky", **EXACT), CANCER, dict(C=0.3)),
    "logistic, three classes": (LogisticRegression(solver="newton-cg", tol=1e-12, max_iter=5000), DIGITS, dict(C=0.3)),
    "SVM": (LinearSVC(loss="squared_hinge", dual=False, tol=1e-12, max_iter=100_000), CANCER, dict(C=0.05)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_a_fit(name):
    estimator, (X, y), parameters = CASES[name]
    parameters = parameters | dict(sample_weight=np.linspace(0.5, 1.5, y.size))
    solver = idf.solvers.sklearn_solver(estimator)

    def run(X, parameters):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn doubts that it converged to 1e-14
            return solver.run(X, y, parameters)[0]

    model = run(X, parameters)
    assert model.coef.shape[-1] == X.shape[1]
    random = np.random.default_rng(0)
    d = (
        random.standard_normal(X.shape),
        {k: np.float64(random.standard_normal(np.shape(v)) * 0.1 * np.mean(v)) for k, v in parameters.items()},
    )
    moved = lambda s: run(X + s * d[0], {k: v + s * d[1][k] for k, v in parameters.items()})
    h = 1e-4
    ends = [moved(s) for s in (-h, h)]
    floats = {k: jnp.asarray(v) for k, v in parameters.items()}
    got = jax.jvp(run, (jnp.asarray(X), floats), (jnp.asarray(d[0]), {k: jnp.asarray(v) for k, v in d[1].items()}))[1]
    expected = jax.tree.map(lambda a, b: (b - a) / (2 * h), *ends)
    if name == "logistic, three classes":  # only differences of intercepts are determined
        got, expected = (m._replace(intercept=m.intercept - m.intercept.mean()) for m in (got, expected))
    scale = np.max(np.abs(expected.coef))
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * scale), got, expected)


SVCS = {
    "linear": (SVC(kernel="linear", tol=1e-10), dict(C=0.7)),
    "rbf": (SVC(tol=1e-10), dict(C=1.3, gamma=0.2)),
    "rbf, gamma by scale": (SVC(tol=1e-10), dict(C=1.3)),
    "poly": (SVC(kernel="poly", degree=2, tol=1e-10), dict(C=0.6, gamma=0.3, coef0=0.8)),
}


@pytest.mark.parametrize("name", SVCS)
def test_a_kernel_machine(name):
    """The decision function of scikit-learn itself, and its finite differences."""
    estimator, parameters = SVCS[name]
    X, y = CANCER[0][:60], CANCER[1][:60]
    X_new = CANCER[0][60:75]
    parameters = parameters | dict(sample_weight=np.linspace(0.5, 1.5, 60))
    solver = idf.solvers.sklearn_solver(estimator)

    def decision(X, parameters):
        return solver.decision_function(solver.run(X, y, parameters)[0], X_new, X, parameters)

    def exact(X, parameters):
        numbers = {k: float(v) for k, v in parameters.items() if k != "sample_weight"}
        fit = sklearn.base.clone(estimator).set_params(**numbers).fit(X, y, parameters["sample_weight"])
        at_bound = np.abs(fit.dual_coef_[0]) == fit.C * parameters["sample_weight"][fit.support_]
        return fit.decision_function(X_new), (fit.support_[at_bound].tolist(), fit.support_.tolist())

    value, support = exact(X, parameters)
    assert 0 < len(support[0]) < len(support[1]) < 60  # samples at both bounds and between them
    np.testing.assert_allclose(decision(X, parameters), value, atol=1e-9)
    # Not shorter: libsvm rounds its kernel to single precision.
    h, random = 1e-3, np.random.default_rng(0)
    floats = jax.tree.map(jnp.asarray, parameters)
    if "gamma" in parameters:
        partial = jax.jit(jax.jacfwd(decision, argnums=1))(X, floats)
        for k in set(parameters) - {"sample_weight"}:
            ends = [exact(X, parameters | {k: parameters[k] + s * h}) for s in (-1, 1)]
            assert ends[0][1] == ends[1][1] == support  # else this is no derivative
            expected = (ends[1][0] - ends[0][0]) / (2 * h)
            assert np.max(np.abs(expected)) > 1e-3
            np.testing.assert_allclose(partial[k], expected, atol=2e-4 * np.max(np.abs(expected)))
        return
    d = 0.3 * random.standard_normal(X.shape), random.standard_normal(60)
    moved = lambda s: exact(X + s * d[0], parameters | dict(sample_weight=parameters["sample_weight"] + s * d[1]))
    ends = [moved(s * h) for s in (-1, 1)]
    assert ends[0][1] == ends[1][1] == support
    expected = (ends[1][0] - ends[0][0]) / (2 * h)
    loss = lambda X, p: jnp.vdot(decision(X, p), expected)
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(X), floats)
    along = jnp.vdot(got[0], d[0]) + jnp.vdot(got[1]["sample_weight"], d[1])
    np.testing.assert_allclose(along, np.sum(expected**2), rtol=2e-4)


def test_a_kernel_machine_without_free_samples_has_no_derivative():
    X, y = np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([0, 0, 1, 1])
    solver = idf.solvers.sklearn_solver(SVC(C=1e-3, kernel="linear"))
    model = solver.run(X, y)[0]
    np.testing.assert_allclose(model.dual_coef, [-1e-3, -1e-3, 1e-3, 1e-3])
    assert np.isnan(jax.jacobian(lambda C: solver.run(X, y, dict(C=C))[0])(1e-3).intercept)


def test_a_lasso_path_under_jit_and_vmap():
    X, y = DIABETES
    solver = idf.solvers.sklearn_solver(Lasso(**EXACT))
    alphas = jnp.array([0.3, 0.1, 0.03])
    coefs = jax.jit(jax.vmap(lambda a: solver.run(X, y, dict(alpha=a))[0].coef))(alphas)
    for alpha, coef in zip(alphas, coefs, strict=True):
        np.testing.assert_allclose(coef, Lasso(float(alpha), **EXACT).fit(X, y).coef_, atol=1e-12)
    slopes = jax.jit(jax.vmap(jax.jacrev(lambda a: solver.run(X, y, dict(alpha=a))[0].coef)))(alphas)
    h = 1e-5
    expected = (Lasso(0.1 + h, **EXACT).fit(X, y).coef_ - Lasso(0.1 - h, **EXACT).fit(X, y).coef_) / (2 * h)
    np.testing.assert_allclose(slopes[1], expected, atol=1e-6 * np.max(np.abs(expected)))


def test_wrong_use():
    with pytest.raises(TypeError, match="Lasso"):
        idf.solvers.sklearn_solver(object())
    with pytest.raises(ValueError, match="positive"):
        idf.solvers.sklearn_solver(Lasso(positive=True))
    with pytest.raises(ValueError, match="hinge"):
        idf.solvers.sklearn_solver(LinearSVC(loss="hinge"))
    with pytest.raises(ValueError, match="labels"):
        idf.solvers.sklearn_solver(LogisticRegression()).run(CANCER[0], CANCER[1] + 1)
    with pytest.raises(TypeError, match="close over"):
        jax.jit(lambda y: idf.solvers.sklearn_solver(LogisticRegression()).run(CANCER[0], y)[0])(CANCER[1])
    with pytest.raises(ValueError, match="liblinear"):
        idf.solvers.sklearn_solver(LogisticRegression(solver="liblinear"))
    with pytest.raises(ValueError, match="intercept_scaling"):
        idf.solvers.sklearn_solver(LinearSVC()).run(*CANCER, dict(intercept_scaling=2.0))
    with pytest.raises(ValueError, match="two classes"):
        idf.solvers.sklearn_solver(LinearSVC()).run(*DIGITS)
    for refused in (dict(kernel="sigmoid"), dict(kernel="precomputed"), dict(class_weight="balanced")):
        with pytest.raises(ValueError, match=next(iter(refused))):
            idf.solvers.sklearn_solver(SVC(**refused))
    machine = idf.solvers.sklearn_solver(SVC(kernel="linear"))
    with pytest.raises(ValueError, match="two classes"):
        machine.run(*DIGITS)
    with pytest.raises(ValueError, match="gamma"):
        machine.run(*CANCER, dict(gamma=1.0))
    with pytest.raises(TypeError, match="samples X"):
        machine.decision_function(machine.run(*CANCER)[0], CANCER[0])
