"""Estimates and bounds of the error of a derivative against the true error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf
from implicitdiff.certify import error_bound, error_estimate

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.standard_normal((30, 5)))
S = jnp.asarray(np.sign(RANDOM.standard_normal(30)))


def objective(x, t):
    return jnp.mean(jax.nn.softplus(-S * (X @ x))) + 0.5 * jnp.sum(jnp.exp(t) * x**2)


F = idf.optimality.stationary(objective, positive_definite=True)
T = jnp.linspace(-3.0, -1.0, 5)


@jax.jit
def solve(t, steps):
    return jax.lax.fori_loop(0, steps, lambda _, x: x - jax.grad(objective)(x, t), jnp.zeros(5))


EXACT = solve(T, 3000)
V, C = jnp.asarray(RANDOM.standard_normal(5)), jnp.asarray(RANDOM.standard_normal(5))
H = 1e-5
TRUE_JACOBIAN = jnp.stack([(solve(T + H * e, 3000) - solve(T - H * e, 3000)) / (2 * H) for e in jnp.eye(5)], axis=1)


@pytest.mark.parametrize("steps", [15, 30, 60])
def test_estimate_of_jvp_vjp_and_jacobian(steps):
    x = solve(T, steps)
    distance = jnp.linalg.norm(x - EXACT)
    assert 1e-6 < distance < 0.2
    for estimate, J, true in (
        (error_estimate(F, x, T, tangents=(V,)), lambda a: a, TRUE_JACOBIAN @ V),
        (error_estimate(F, x, T, cotangent=C), lambda a: a[0], TRUE_JACOBIAN.T @ C),
    ):
        error = jnp.linalg.norm(J(estimate.derivative) - true)
        np.testing.assert_allclose(estimate.distance, distance, rtol=0.1)
        np.testing.assert_allclose(estimate.error, error, rtol=0.2, atol=1e-9)
        assert jnp.linalg.norm(J(estimate.corrected) - true) <= 0.2 * error + 1e-9
        np.testing.assert_allclose(estimate.norm, jnp.linalg.norm(J(estimate.derivative)))
    whole = error_estimate(F, x, T)
    here = jax.jacobian(lambda t: idf.implicit_root(F, x, t))(T)
    np.testing.assert_allclose(whole.error, jnp.linalg.norm(here - TRUE_JACOBIAN), rtol=0.2, atol=1e-9)
    np.testing.assert_allclose(whole.norm, jnp.linalg.norm(here), rtol=1e-12)
    np.testing.assert_allclose(whole.residual, jnp.linalg.norm(F(x, T)), rtol=1e-12)


def test_under_jit_and_vmap_and_in_a_loop():
    xs = jnp.stack([solve(T, k) for k in (30, 60)])
    single = [error_estimate(F, x, T, cotangent=C).error for x in xs]
    batch = jax.jit(jax.vmap(lambda x: error_estimate(F, x, T, cotangent=C).error))(xs)
    np.testing.assert_allclose(batch, single, rtol=1e-9)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(lambda x: error_bound(F, x, T).bound))(xs), [error_bound(F, x, T).bound for x in xs], rtol=1e-9
    )

    def until_accurate(t):  # iterate until the derivative is known to 1 %
        def unfinished(x):
            estimate = error_estimate(F, x, t, cotangent=C)
            return estimate.error > 0.01 * estimate.norm

        return jax.lax.while_loop(unfinished, lambda x: x - jax.grad(objective)(x, t), jnp.zeros(5))

    x = jax.jit(until_accurate)(T)
    J = jax.jacobian(lambda t: idf.implicit_root(F, x, t))(T)
    relative = jnp.linalg.norm(C @ J - C @ TRUE_JACOBIAN) / jnp.linalg.norm(C @ J)
    assert 1e-3 < relative < 0.012


def test_many_unknowns_without_a_matrix():
    n = 700
    d = jnp.linspace(1.0, 3.0, n)
    G = idf.optimality.stationary(lambda x, a: jnp.sum(d * x**2 / 2 + jnp.cosh(x) - a * x), positive_definite=True)
    a = 2 + jnp.sin(jnp.arange(n))
    exact = jnp.zeros(n)
    for _ in range(30):
        exact = exact - (d * exact + jnp.sinh(exact) - a) / (d + jnp.cosh(exact))
    x = exact + 1e-3 * jnp.cos(jnp.arange(n) ** 2)
    J = lambda x: 1 / (d + jnp.cosh(x))  # diagonal
    estimate = error_estimate(G, x, a, samples=16)
    np.testing.assert_allclose(estimate.distance, jnp.linalg.norm(x - exact), rtol=0.01)
    np.testing.assert_allclose(estimate.error, jnp.linalg.norm(J(x) - J(exact)), rtol=0.2)
    bound = error_bound(G, x, a, tangents=(jnp.ones(n),), beta=0.0, gamma=jnp.sinh(jnp.max(exact) + 0.1), samples=2)
    true = jnp.linalg.norm(J(x) - J(exact))
    assert bound.rigorous
    assert true < bound.bound < 400 * true  # bounds are by norms


def test_pytrees_complex_numbers_and_other_arguments():
    def G(x, a, name, table):
        assert name == "quadratic"
        return dict(u=x["u"] ** 2 - a["p"] * table[1], w=x["w"] ** 2 - a["q"])

    a = dict(p=jnp.array([2.0, 3.0]), q=jnp.array(1.0 + 2.0j))
    table = jnp.array([1, 2])
    exact = dict(u=jnp.sqrt(a["p"] * 2), w=jnp.sqrt(a["q"]))
    x = jax.tree.map(lambda leaf: leaf * 1.01, exact)
    tangents = (dict(p=jnp.ones(2), q=jnp.array(1j)), None, None)
    estimate = error_estimate(G, x, a, "quadratic", table, tangents=tangents)
    true = dict(u=1 / exact["u"], w=0.5j / exact["w"])
    size = lambda tree: np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in jax.tree.leaves(tree)))
    error = size(jax.tree.map(jnp.subtract, estimate.derivative, true))
    np.testing.assert_allclose(estimate.error, error, rtol=0.05)
    reverse = error_estimate(G, x, a, "quadratic", table, cotangent=x)
    assert reverse.derivative[1:] == (None, None)
    _, pull = jax.vjp(lambda a: idf.implicit_root(G, x, a, "quadratic", table), a)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), reverse.derivative[0], pull(x)[0])


def test_bound_by_given_constants_is_theorem_1():
    # Ridge: A = 2 (X'X + diag t), B = 2 diag x, so alpha is known, beta = 2 and gamma = 0.
    y = X @ jnp.ones(5)
    ridge = idf.optimality.stationary(lambda x, t: jnp.sum((X @ x - y) ** 2) + jnp.sum(t * x**2))
    t = jnp.full(5, 0.3)
    A = 2 * (X.T @ X + jnp.diag(t))
    exact = jnp.linalg.solve(A, 2 * X.T @ y)
    alpha = jnp.linalg.eigvalsh(A)[0]
    for scale in (1.0, 1e-3):
        x = exact + scale * C
        bound = error_bound(ridge, x, t, alpha=alpha, beta=2.0, gamma=0.0)
        J = lambda x: jax.jacobian(lambda t: idf.implicit_root(ridge, x, t))(t)
        error = jnp.linalg.norm(J(x) - J(exact))
        np.testing.assert_allclose(bound.bound, 2 / alpha * jnp.linalg.norm(x - exact), rtol=1e-8)
        assert error <= bound.bound
        assert bound.rigorous
        assert not error_bound(ridge, x, t).rigorous
        for given in (dict(cotangent=C), dict(tangents=(V,))):
            product = error_bound(ridge, x, t, beta=2.0, gamma=0.0, **given)
            exact_product = (J(x) - J(exact)).T @ C if "cotangent" in given else (J(x) - J(exact)) @ V
            assert jnp.linalg.norm(exact_product) <= product.bound <= 100 * jnp.linalg.norm(exact_product)


def test_bound_holds_and_gives_up_where_nothing_is_known():
    for steps in (1, 10, 30, 60, 120):
        x = solve(T, steps)
        J = jax.jacobian(lambda t: idf.implicit_root(F, x, t))(T)
        bound = error_bound(F, x, T)
        assert jnp.linalg.norm(J - TRUE_JACOBIAN) <= bound.bound
        if np.isfinite(bound.bound):
            assert jnp.linalg.norm(x - EXACT) <= bound.distance
    assert np.isfinite(bound.bound)
    # x^2 = a far from the root: Kantorovich's condition fails.
    assert error_bound(lambda x, a: x**2 - a, jnp.array(0.5), 4.0, beta=0.0, gamma=2.0).bound == np.inf


def test_linear_solve_that_stops_early_is_counted():
    loose = lambda matvec, b: jax.scipy.sparse.linalg.cg(matvec, b, maxiter=2)[0]
    adjoint = idf.Implicit(linear_solver=loose, on_failure="ignore")
    estimate = error_estimate(F, EXACT, T, tangents=(V,), adjoint=adjoint)
    error = jnp.linalg.norm(estimate.derivative - TRUE_JACOBIAN @ V)
    assert error > 1e-3
    bound = error_bound(F, EXACT, T, tangents=(V,), adjoint=adjoint, distance=0.0, beta=1.0, gamma=1.0)
    assert error <= bound.bound <= 10 * error


def test_singular_is_nan_and_wrong_use_is_an_error():
    G = lambda x, a: jnp.array([x[0] + x[1] - a, 2 * (x[0] + x[1] - a)])
    assert np.isnan(error_estimate(G, jnp.ones(2), 2.0, tangents=(1.0,)).error)
    assert not np.isfinite(error_bound(G, jnp.ones(2), 2.0).bound)
    with pytest.raises(TypeError, match="not both"):
        error_estimate(F, EXACT, T, tangents=(V,), cotangent=C)
    with pytest.raises(TypeError, match="one entry for each"):
        error_estimate(F, EXACT, T, tangents=(V, V))
    with pytest.raises(TypeError, match="Implicit"):
        error_estimate(F, EXACT, T, adjoint=idf.OneStep())


def test_polish_makes_the_error_second_order():
    errors = []
    for steps in (30, 60):
        x = solve(T, steps)
        polished = jax.jacobian(lambda t: idf.implicit_root(F, x, t, adjoint=idf.Implicit(polish=1)))(T)
        plain = jax.jacobian(lambda t: idf.implicit_root(F, x, t))(T)
        errors.append([jnp.linalg.norm(x - EXACT), *(jnp.linalg.norm(J - TRUE_JACOBIAN) for J in (plain, polished))])
    (d0, plain0, polished0), (d1, plain1, polished1) = np.array(errors)
    rate = np.log(d0 / d1)
    np.testing.assert_allclose(
        [np.log(plain0 / plain1) / rate, np.log(polished0 / polished1) / rate], [1, 2], atol=0.25
    )
