"""The derivatives of each proximal operator, in the point, in theta and in the scaling."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from prox_cases import CASES

from implicitdiff import prox


@cache
def flat(name):
    """prox as a function of one vector of all its arguments, and where that vector is for theta and scaling 1."""
    case = CASES[name]
    theta = jax.tree.map(jnp.asarray, case.theta)

    def vector(v, scaling):
        return ravel_pytree((jnp.asarray(v, float), theta, scaling))

    _, unravel = vector(np.zeros(case.shape), 1.0)

    def f(z):
        v, theta, scaling = unravel(z)
        return jnp.ravel(jnp.asarray(case.prox(v, theta, scaling)))

    return f, lambda v, scaling=1.0: vector(v, scaling)[0]


@cache
def compiled(name):
    """Value, forward and reverse Jacobian; gradient of a cubic function, its Hessian, and this times all ones."""
    f, _ = flat(name)

    def cubic(z):
        x = f(z)
        return jnp.sum(x**3) + jnp.sum(x) ** 2

    gradient = jax.grad(cubic)
    row_sums = jax.grad(lambda z: jnp.sum(gradient(z)))
    functions = (f, jax.jacfwd(f), jax.jacrev(f), gradient, jax.jacfwd(gradient), row_sums)
    return jax.jit(lambda z: [function(z) for function in functions])


def differences(f, z, step=1e-6):
    return np.stack([(f(z + step * e) - f(z - step * e)) / (2 * step) for e in np.eye(z.size)], axis=-1)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_finite_differences(name):
    v = np.random.default_rng(4).normal(size=CASES[name].shape)
    run, z = compiled(name), np.asarray(flat(name)[1](v, 0.9))
    _, forward, reverse, _, hessian, row_sums = run(z)
    expected = differences(lambda z: np.asarray(run(z)[0]), z)
    np.testing.assert_allclose(forward, expected, atol=1e-8)
    np.testing.assert_allclose(reverse, expected, atol=1e-8)
    assert np.linalg.norm(expected[:, : v.size]) > 0.5
    if CASES[name].theta is not None:
        assert np.linalg.norm(expected[:, v.size :]) > 0.1
    expected = differences(lambda z: np.asarray(run(z)[3]), z)
    np.testing.assert_allclose(hessian, expected, atol=1e-7)
    np.testing.assert_allclose(row_sums, np.sum(hessian, axis=0), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scaling", [0.0, 1.0])
def test_is_finite_and_an_averaged_operator_at_kinks(name, scaling):
    case = CASES[name]
    for v in case.kinks:
        results = compiled(name)(flat(name)[1](v, scaling))
        for result in results:
            assert np.all(np.isfinite(result))
        assert_resolvent(results[1][:, : v.size])


@pytest.mark.parametrize("name", CASES)
def test_jacobian_is_that_of_a_resolvent(name):
    rng = np.random.default_rng(5)
    for size in (0.1, 1.0, 10.0):
        v = size * rng.normal(size=CASES[name].shape)
        assert_resolvent(compiled(name)(flat(name)[1](v))[1][:, : v.size])


def assert_resolvent(J):
    """Symmetric, with eigenvalues in [0, 1]: so are Jacobians of proximal operators, and their limits."""
    np.testing.assert_allclose(J, J.T, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(J)
    assert eigenvalues.min() >= -1e-12
    assert eigenvalues.max() <= 1 + 1e-12


def jacobian(operator, v, *args):
    return np.asarray(jax.jit(jax.jacobian(operator))(jnp.asarray(v, float), *args))


def test_documented_elements():
    assert jacobian(prox.lasso, 1.0, 1.0) == 0
    assert jacobian(prox.lasso, -1.0, 1.0) == 0
    assert jacobian(prox.non_negative_lasso, 1.0, 1.0) == 0
    assert jacobian(prox.non_negative_ridge, 0.0, 1.0) == 0
    assert jacobian(prox.log_barrier, 0.0, 0.0) == 0.5
    assert not jacobian(prox.group_lasso, [3.0, 4.0], 5.0).any()
    np.testing.assert_array_equal(jacobian(prox.nuclear_norm, np.eye(2), 1.0), 0)
    assert jacobian(prox.l1_linf, [1.0, 0.0], 1.0).any()
    np.testing.assert_allclose(
        jacobian(prox.total_variation, [1.0, 1.0, 5.0], 0.1), [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    )


@pytest.mark.parametrize(
    "operator", [prox.lasso, prox.group_lasso, prox.l1_linf, prox.nuclear_norm, prox.total_variation]
)
def test_no_weight_no_change(operator):
    derivative = jax.jit(jax.jacobian(operator))
    for v in (np.zeros((2, 2)), np.ones((2, 2)), np.array([[1.0, -1.0], [0.0, 2.0]])):
        np.testing.assert_array_equal(operator(v, 0.0), v)
        np.testing.assert_array_equal(derivative(v, 0.0).reshape(4, 4), np.eye(4))


@pytest.mark.parametrize(
    "operator",
    [prox.lasso, prox.non_negative_lasso, prox.group_lasso, prox.l1_linf, prox.nuclear_norm, prox.total_variation],
)
def test_weight_zero_has_the_derivative_from_the_right(operator):
    # An outer problem that starts at 0 has to see which way to go.
    v = jnp.array([[3.0, 1.0], [0.5, 2.0]])
    slope = (operator(v, 1e-6) - v) / 1e-6
    np.testing.assert_allclose(jax.jit(jax.jacfwd(lambda w: operator(v, w)))(0.0), slope, atol=1e-5)


def test_nuclear_norm_of_wide_matrices():
    V = jnp.asarray(np.random.default_rng(8).normal(size=(2, 3, 4)))

    def transposed(V):
        return jnp.swapaxes(prox.nuclear_norm(jnp.swapaxes(V, -1, -2), 0.8), -1, -2)

    wide, tall = (jax.jit(jax.jacobian(f)) for f in (lambda V: prox.nuclear_norm(V, 0.8), transposed))
    np.testing.assert_allclose(wide(V), tall(V), atol=1e-14)


def test_nuclear_norm_keeps_digits_of_small_singular_values():
    # The derivative in float32 is limited by that of V itself, not by the squares of its singular values.
    rng = np.random.default_rng(6)
    U, W = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    V, E = U @ np.diag([1, 0.1, 0.01, 3e-3, 1e-3, 1e-4]) @ W, rng.normal(size=(6, 6))

    def along(V, E):
        return jax.jvp(lambda V: prox.nuclear_norm(V, 2e-3), (V,), (E,))[1]

    np.testing.assert_allclose(along(np.float32(V), np.float32(E)), along(V, E), atol=5e-4)


def test_total_variation_of_a_batch():
    rng = np.random.default_rng(7)
    v, weights = rng.normal(size=(3, 4, 10)), rng.uniform(0.1, 1, size=(3, 4))
    together = jax.jit(prox.total_variation)(v, weights)
    one_by_one = jax.jit(jax.vmap(jax.vmap(prox.total_variation)))(v, weights)
    np.testing.assert_allclose(together, one_by_one, atol=1e-15)
    gradient = jax.jit(jax.grad(lambda v, w: jnp.sum(prox.total_variation(v, w) ** 2), argnums=(0, 1)))
    single = jax.jit(
        jax.vmap(jax.vmap(jax.grad(lambda v, w: jnp.sum(prox.total_variation(v, w) ** 2), argnums=(0, 1))))
    )
    for a, b in zip(gradient(v, weights), single(v, weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)
