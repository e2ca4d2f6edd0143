"""Our solvers against those of scikit-learn, SciPy and CVXPY, on real data."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression, lasso_path

from implicitdiff import mirror, projection, prox, solvers

X, Y = load_diabetes(return_X_y=True)
Y = (Y - Y.mean()) / Y.std()
X = (X - X.mean(0)) / X.std(0)


def least_squares(x, y):
    return 0.5 * jnp.mean((X @ x - y) ** 2)


@pytest.mark.parametrize("kind", ["proximal gradient", "block coordinate descent"])
def test_lasso_path(kind):
    alphas, coefs, _ = lasso_path(X, Y, alphas=[0.3, 0.1, 0.03, 0.01], tol=1e-14, max_iter=100_000)
    if kind == "proximal gradient":
        solver = solvers.ProximalGradient(least_squares, prox.lasso, tol=1e-12, maxiter=20_000)
    else:
        f = solvers.Composite(lambda u, y: 0.5 * jnp.mean((u - y) ** 2), X, smoothness=1 / len(Y))
        solver = solvers.BlockCoordinateDescent(f, prox.lasso, tol=1e-12, maxiter=20_000)
    run = jax.jit(lambda x, alpha: solver.run(x, Y, alpha))
    x = jnp.zeros(10)
    for alpha, coef in zip(alphas, coefs.T, strict=True):
        x, state = run(x, alpha)  # a warm start
        assert state.converged
        np.testing.assert_allclose(x, coef, atol=1e-9)


def test_non_negative_least_squares():
    solver = solvers.ProjectedGradient(least_squares, projection.non_negative, tol=1e-12, maxiter=20_000)
    np.testing.assert_allclose(solver.run(jnp.zeros(10), Y, None)[0], scipy.optimize.nnls(X, Y)[0], atol=1e-9)


def test_non_negative_matrix_factorisation_step():
    """The update of one factor for all rows at once: non-negative least squares, batched."""
    V = load_digits().data[:30] / 16
    H = np.abs(np.random.default_rng(0).standard_normal((5, 64)))
    f = lambda W, H: 0.5 * jnp.sum((W @ H - V) ** 2)
    solver = solvers.ProjectedGradient(f, projection.non_negative, tol=1e-10, maxiter=50_000)
    W, state = solver.run(jnp.ones((30, 5)), H, None)
    assert state.converged
    np.testing.assert_allclose(W, np.stack([scipy.optimize.nnls(H.T, v)[0] for v in V]), atol=1e-8)


def test_multinomial_logistic_regression():
    data, labels = load_digits(return_X_y=True, n_class=4)
    data = data[:200] / 16
    labels = labels[:200]
    C = 0.1
    fit = LogisticRegression(C=C, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000).fit(data, labels)

    def f(W, C):
        score = data @ W.T
        losses = jax.nn.logsumexp(score, axis=1) - jnp.take_along_axis(score, labels[:, None], 1)[:, 0]
        return C * jnp.sum(losses) + 0.5 * jnp.sum(W**2)

    W, state = solvers.GradientDescent(f, tol=1e-9).run(jnp.zeros((4, 64)), C)
    assert state.converged
    np.testing.assert_allclose(W, fit.coef_, atol=1e-7)


def test_support_vector_machine_dual():
    """The box-constrained dual with one equation, against Clarabel."""
    data, labels = load_breast_cancer(return_X_y=True)
    data = ((data - data.mean(0)) / data.std(0))[:80]
    s = np.where(labels[:80] == 1, 1.0, -1.0)
    K = (data * s[:, None]) @ (data * s[:, None]).T + 0.1 * np.eye(80)
    a = cp.Variable(80)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(a, cp.psd_wrap(K)) - cp.sum(a)), [a >= 0, a <= 1, s @ a == 0])
    problem.solve("CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    f = lambda a, K: 0.5 * a @ K @ a - jnp.sum(a)
    solver = solvers.ProjectedGradient(f, projection.box_section, tol=1e-11, maxiter=50_000)
    got, state = jax.jit(solver.run)(jnp.zeros(80), K, (0.0, 1.0, s, 0.0))
    assert state.converged
    np.testing.assert_allclose(got, a.value, atol=1e-7)


def test_isotonic_regression_and_optimal_transport():
    f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
    solver = solvers.ProjectedGradient(f, projection.isotonic)
    np.testing.assert_allclose(solver.run(jnp.zeros(60), Y[:60], None)[0], isotonic_regression(Y[:60]), atol=1e-9)

    # entropic transport by mirror descent: its first step is the solution
    cost = (X[:6, :1] - X[6:10, 0]) ** 2
    a, b = np.full(6, 1 / 6), np.full(4, 1 / 4)
    energy = lambda P, c: jnp.sum(P * c) + 0.5 * jnp.sum(P * (jnp.log(P) - 1))
    solver = solvers.MirrorDescent(energy, mirror.transport, mirror.log, 1.0, tol=1e-10)
    P, state = solver.run(jnp.outer(a, b), cost, (a, b))
    assert state.converged
    plan = cp.Variable((6, 4))
    entropy = cp.sum(-cp.entr(plan) - plan)
    cp.Problem(cp.Minimize(cp.sum(cp.multiply(cost, plan)) + 0.5 * entropy),
               [cp.sum(plan, 1) == a, cp.sum(plan, 0) == b]).solve("CLARABEL")  # fmt: skip
    np.testing.assert_allclose(P, plan.value, atol=1e-5)
