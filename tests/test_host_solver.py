"""Solvers of other makes: SciPy and scikit-learn, eagerly and under jit and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge

import implicitdiff as idf


def rosenbrock(x, theta):
    return jnp.sum(theta[0] * (x[1:] - x[:-1] ** 2) ** 2 + (theta[1] - x[:-1]) ** 2)


def scipy_minimize(init, theta):
    theta = np.asarray(theta)
    value = jax.jit(jax.value_and_grad(rosenbrock))

    def f(x):
        v, g = value(x, theta)
        return float(v), np.asarray(g, np.float64)

    return scipy.optimize.minimize(f, init, jac=True, method="BFGS", options={"gtol": 1e-11}).x


def test_scipy_eagerly():
    solver = idf.custom_root(idf.optimality.stationary(rosenbrock))(scipy_minimize)
    theta = jnp.array([3.0, 1.2])
    jacobian = jax.jacrev(solver, argnums=1)(np.zeros(3), theta)
    differences = [
        (scipy_minimize(np.zeros(3), theta + h) - scipy_minimize(np.zeros(3), theta - h)) / 2e-5
        for h in 1e-5 * np.eye(2)
    ]
    np.testing.assert_allclose(jacobian, np.stack(differences, 1), rtol=1e-4, atol=1e-5)


def root(init, theta):
    """x_0 + x_1 = theta_0, x_0 exp(x_1) = theta_1, by SciPy's hybrid method."""

    def f(x):
        return np.array([x[0] + x[1] - theta[0], x[0] * np.exp(x[1]) - theta[1]])

    return scipy.optimize.root(f, init, tol=1e-13).x


def F(x, theta):
    return jnp.array([x[0] + x[1] - theta[0], x[0] * jnp.exp(x[1]) - theta[1]])


def test_scipy_root_under_jit_vmap_and_grad():
    solver = idf.custom_root(F)(idf.host_solver(root, lambda init, theta: init))
    init, thetas = np.array([2.0, 0.0]), jnp.array([[2.0, 2.0], [2.5, 2.6], [2.2, 1.8]])
    values = jax.jit(jax.vmap(solver, in_axes=(None, 0)))(init, thetas)
    jacobians = jax.jit(jax.vmap(jax.jacrev(solver, argnums=1), in_axes=(None, 0)))(init, thetas)
    for theta, value, jacobian in zip(thetas, values, jacobians, strict=True):
        np.testing.assert_allclose(value, root(init, np.asarray(theta)), rtol=1e-12)
        exact = np.linalg.inv([[1, 1], [np.exp(value[1]), value[0] * np.exp(value[1])]])
        np.testing.assert_allclose(jacobian, exact, rtol=1e-10)


def test_sklearn_ridge_has_the_closed_form():
    X, y = load_diabetes(return_X_y=True)
    X, y = X - X.mean(0), y - y.mean()

    def loss(w, alpha, X, y):
        return jnp.sum((X @ w - y) ** 2) + alpha * jnp.sum(w**2)

    def fit(init, alpha, X, y):
        return Ridge(alpha=float(alpha), fit_intercept=False, solver="cholesky").fit(X, y).coef_

    solver = idf.custom_root(idf.optimality.stationary(loss, positive_definite=True))(
        idf.host_solver(fit, lambda init, alpha, X, y: init)
    )
    init = np.zeros(10)
    got = jax.jit(jax.jacfwd(solver, argnums=1))(init, 0.5, X, y)
    w = np.linalg.solve(X.T @ X + 0.5 * np.eye(10), X.T @ y)
    np.testing.assert_allclose(got, -np.linalg.solve(X.T @ X + 0.5 * np.eye(10), w), rtol=1e-9)


def test_sklearn_logistic_regression_against_refits():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)

    def loss(w, log_C):
        return jnp.exp(log_C) * jnp.sum(jnp.logaddexp(0, -(2 * y - 1) * (X @ w))) + 0.5 * jnp.sum(w**2)

    def fit(init, log_C):
        model = LogisticRegression(
            C=float(np.exp(log_C)), fit_intercept=False, tol=1e-10, max_iter=500, solver="newton-cg"
        )
        return model.fit(X, y).coef_[0]

    solver = idf.custom_root(idf.optimality.stationary(loss, positive_definite=True))(fit)
    got = jax.jacrev(solver, argnums=1)(None, -1.0)
    np.testing.assert_allclose(got, (fit(None, -1 + 1e-4) - fit(None, -1 - 1e-4)) / 2e-4, rtol=1e-4, atol=1e-6)


def test_large_arrays_pass_through_the_callback():
    n = 1_000_000
    solver = idf.custom_root(lambda x, t: 2 * x - t)(idf.host_solver(lambda init, t: t / 2, lambda init, t: t))
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(solver(None, t) ** 2)))(jnp.ones(n))
    np.testing.assert_allclose(gradient, 0.5, rtol=1e-12)


def test_arguments_reach_the_host_as_they_were_passed():
    seen = []

    def fn(init, theta, name, flag, nothing, function=None):
        seen.append((type(theta), name, flag, nothing, function))
        return {"x": theta * 2}

    solver = idf.host_solver(fn, lambda init, theta, *rest, **kwargs: {"x": theta})
    for call in (solver, jax.jit(solver, static_argnames=("name", "flag", "function"))):
        result = call(None, jnp.ones(2), name="a", flag=True, nothing=None, function=np.sin)
        np.testing.assert_array_equal(result["x"], 2)
    assert all(entry == (np.ndarray, "a", True, None, np.sin) for entry in seen)


def test_results_are_cast_and_checked():
    solver = idf.host_solver(lambda t: [1, 2], [jax.ShapeDtypeStruct((), jnp.float32)] * 2)
    assert all(leaf.dtype == jnp.float32 for leaf in solver(jnp.ones(1)))
    with pytest.raises(TypeError, match=r"expected shape \(3,\) for leaf x, found \(2,\)"):
        idf.host_solver(lambda t: np.ones(2), jax.ShapeDtypeStruct((3,), jnp.float64))(jnp.ones(1))
    with pytest.raises(TypeError, match="expected"):
        idf.host_solver(lambda t: {"y": 1.0}, {"x": jax.ShapeDtypeStruct((), jnp.float64)})(jnp.ones(1))
    with pytest.raises(Exception, match="expected shape"):
        jax.block_until_ready(
            jax.jit(idf.host_solver(lambda t: np.ones(2), jax.ShapeDtypeStruct((3,), jnp.float64)))(jnp.ones(1))
        )


NOT_STRUCTS = {
    "a shape": ((2,), r"found 2 for leaf \[0\].*jax.ShapeDtypeStruct\(\(2,\)"),
    "an int": (2, "found 2:"),
    "a dtype": (jnp.float64, "found .*float64"),
    "a type": (float, "found <class 'float'>"),
    "a string": ({"x": "float64"}, r"found 'float64' for leaf \['x'\]"),
    "nothing": (None, "found None"),
    "empty": ((), r"found \(\)"),
}


@pytest.mark.parametrize("case", NOT_STRUCTS)
def test_a_result_that_is_no_pytree_of_structs(case):
    result, words = NOT_STRUCTS[case]
    with pytest.raises(TypeError, match=words):
        idf.host_solver(lambda init, t: t, result)
    with pytest.raises(TypeError, match=words):
        jax.jit(idf.host_solver(lambda init, t: t, lambda init, t: result))(None, jnp.ones(2))


def test_a_python_float_as_the_likeness_of_the_result():
    solver = idf.host_solver(lambda init, t: t**2, lambda init, t: t)
    for call in (solver, jax.jit(solver)):
        assert call(None, 3.0) == 9.0
        assert call(None, 3.0).dtype == jnp.float64


RETURNED = {
    "a SciPy result": (lambda t: scipy.optimize.OptimizeResult(x=t, success=True), "OptimizeResult: return its .x"),
    "nothing": (lambda t: None, "a return statement is missing"),
    "a list": (lambda t: [1.0, 2.0], r"\(list\)"),
    "a column": (lambda t: t[:, None], r"expected shape \(2,\) for leaf x, found \(2, 1\)"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_host_solver_returns_by_mistake(case):
    fn, words = RETURNED[case]
    solver = idf.host_solver(fn, jax.ShapeDtypeStruct((2,), jnp.float64))
    with pytest.raises(TypeError, match=words):
        solver(jnp.ones(2))
    with pytest.raises(Exception, match=words):
        jax.block_until_ready(jax.jit(solver)(jnp.ones(2)))
