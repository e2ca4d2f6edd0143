"""Right by default: ill-conditioned systems of known solution, and ridge regression on real data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

import implicitdiff as idf

pytestmark = pytest.mark.rounding


def system(n, condition, kind, seed):
    """A matrix of the given condition number."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    spectrum = np.logspace(0, -np.log10(condition), n)
    return (U * spectrum) @ (U.T if kind == "definite" else V.T)


def F(x, t, A):
    return A @ x - t


F_definite = idf.optimality.stationary(lambda x, t, A: 0.5 * x @ A @ x - t @ x, positive_definite=True)
F_symmetric = idf.optimality.stationary(lambda x, t, A: 0.5 * x @ A @ x - t @ x)
CONDITIONS = {"general": F, "definite": F_definite, "symmetric": F_symmetric}


def products(F):
    @jax.jit
    def run(A, t, v):
        x = lambda t: idf.implicit_root(F, jnp.zeros_like(t), t, A)
        return jax.jvp(x, (t,), (t,))[1], jax.vjp(x, t)[1](v)[0]

    return run


PRODUCTS = {name: products(F) for name, F in CONDITIONS.items()}


@pytest.mark.parametrize("n", [10, 300])
@pytest.mark.parametrize("kind", CONDITIONS)
def test_within_the_condition_number_times_1e_14_or_nan(n, kind):
    for condition in (1e2, 1e4, 1e6, 1e8):
        A = system(n, condition, "definite" if kind != "general" else kind, seed=n)
        x = np.random.default_rng(1).standard_normal(n)
        for got in PRODUCTS[kind](A, A @ x, A.T @ x):
            error = np.linalg.norm(got - x) / np.linalg.norm(x)
            assert error <= condition * 1e-14, (condition, error)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_float32_is_within_a_percent_or_nan(kind):
    for n in (10, 300):
        for condition in (1e1, 1e3, 1e4, 1e5, 1e6, 1e8):
            A = system(n, condition, "definite" if kind != "general" else kind, seed=n).astype(np.float32)
            # The solution of the rounded system, in float64.
            b = np.random.default_rng(2).standard_normal(n).astype(np.float32)
            got = PRODUCTS[kind](A, b, b)
            for product, matrix in zip(got, (A, A.T), strict=True):
                exact = np.linalg.solve(matrix.astype(float), b.astype(float))
                error = np.linalg.norm(product - exact) / np.linalg.norm(exact)
                assert np.isnan(error) or error < 0.01, (n, condition, error)
                assert condition > 1e3 or error < 0.01, (n, condition, error)


DATA = {"breast_cancer": (load_breast_cancer, 1e-3), "digits": (load_digits, 1e-4)}


@pytest.mark.parametrize(("dtype", "limit"), [(np.float64, 1e-8), (np.float32, 1e-2)])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_ridge_on_real_data(name, scaled, dtype, limit):
    load, weight = DATA[name]
    X, y = load(return_X_y=True)
    if scaled:
        X = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    X, y = X.astype(dtype).astype(float), y.astype(float)
    n = X.shape[1]
    H = X.T @ X + weight * np.eye(n)
    x = np.linalg.solve(H, X.T @ y)
    v = np.cos(np.arange(n))
    exact = -np.linalg.solve(H, v) @ x

    def loss(w, weight, X, y):
        return 0.5 * jnp.sum((X @ w - y) ** 2) + 0.5 * weight * jnp.sum(w**2)

    for F in (idf.optimality.stationary(loss), idf.optimality.stationary(loss, positive_definite=True)):
        solver = idf.custom_root(F)(lambda init, weight, X, y: x.astype(dtype))
        data = [a.astype(dtype) for a in (X, y)]
        got = jax.grad(lambda weight: solver(None, weight, *data) @ v.astype(dtype))(jnp.asarray(weight, dtype))
        error = abs(got - exact) / abs(exact)
        assert np.isnan(error) or error < limit, error
        if scaled or dtype == np.float64:
            assert error < limit


@pytest.mark.parametrize("kind", ["definite", "symmetric"])
def test_float32_sees_a_single_direction_that_is_lost(kind):
    n = 500  # too large to be factorised at once: a Krylov method, to which the small eigenvalue is hard to see
    for seed in range(3):
        random = np.random.default_rng(seed)
        v = random.standard_normal(n)
        v /= np.linalg.norm(v)
        for condition in (1e3, 1e6, 1e8):
            A = (np.eye(n) - (1 - 1 / condition) * np.outer(v, v)).astype(np.float32)
            x = random.standard_normal(n)
            b = (A.astype(np.float64) @ x).astype(np.float32)
            exact = np.linalg.solve(A.astype(np.float64), b.astype(np.float64))
            error = np.linalg.norm(PRODUCTS[kind](A, b, b)[0] - exact) / np.linalg.norm(exact)
            assert not error > 1e-2, (condition, error)
            assert condition > 1e3 or error < 1e-3


@pytest.mark.parametrize("condition", [1e2, 1e5])
def test_float32_is_refined_with_residuals_in_float64(condition):
    # Where A itself is known to float32's last digit, so is the solution, whatever the condition number.
    n, random = 50, np.random.default_rng(0)
    U, V = (np.linalg.qr(random.standard_normal((n, n)))[0] for _ in range(2))
    A = ((U * np.geomspace(1, 1 / condition, n)) @ V).astype(np.float32)
    b = random.standard_normal(n).astype(np.float32)
    solution = lambda b: idf.implicit_root(lambda x, b: jnp.asarray(A) @ x - b, jnp.zeros(n, jnp.float32), b)
    for got, exact in (
        (jax.jvp(solution, [b], [b])[1], np.linalg.solve(A.astype(float), b)),
        (jax.vjp(solution, b)[1](jnp.asarray(b))[0], np.linalg.solve(A.T.astype(float), b)),
    ):
        assert got.dtype == jnp.float32
        assert np.linalg.norm(got - exact) <= 1e-7 * np.linalg.norm(exact)
