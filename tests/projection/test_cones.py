"""Products of cones: layout of matrices, duals, grouping of many cones, and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projection_cases import CONES

from implicitdiff import projection
from implicitdiff.projection import cones


def test_layout_of_matrices():
    # The upper triangle column by column, off the diagonal times sqrt 2: inner products are kept.
    r = 2**0.5
    X = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(cones.to_vector(X), [1, 2 * r, 3, 4 * r, 5 * r, 6])
    np.testing.assert_allclose(cones.to_matrix(cones.to_vector(X)), X, rtol=1e-15)
    assert cones.to_vector(np.float32(X)).dtype == cones.to_matrix(np.ones(6, np.float32)).dtype == np.float32
    for n in (0, 1, 2, 7):
        assert cones.to_matrix(jnp.zeros(cones.PositiveSemidefinite(n).size)).shape == (n, n)


def test_matrices_as_vectors():
    S = np.random.default_rng(0).normal(size=(4, 4))
    S = S + S.T
    x = cones.product(cones.to_vector(S), [cones.PositiveSemidefinite(4)])
    np.testing.assert_allclose(cones.to_matrix(x), projection.semidefinite(S), atol=1e-14)


def test_cones_without_entries():
    assert cones.product(np.zeros(0), []).shape == (0,)
    np.testing.assert_array_equal(
        cones.product(np.ones(1), [cones.Zero(0), cones.NonNegative(1), cones.SecondOrder(0)]), [1]
    )


def test_sizes():
    assert [cone.size for cone in CONES] == [2, 2, 3, 3, 3, 3, 3]
    assert cones.PositiveSemidefinite(10).size == 55


def test_each_power_cone_has_its_exponent():
    alphas = [0.2, 0.5, 0.9]
    v = np.random.default_rng(1).normal(size=9)
    for product, single in ((cones.product, projection.power), (cones.product_dual, projection.power_dual)):
        x = jax.jit(lambda v, f=product: f(v, [cones.Power(alpha) for alpha in alphas]))(v)
        single = jax.jit(single)
        expected = [single(part, alpha) for part, alpha in zip(v.reshape(3, 3), alphas, strict=True)]
        np.testing.assert_allclose(x.reshape(3, 3), expected, atol=1e-15)


def test_a_thousand_cones_are_one_operation():
    few, many = ([cones.SecondOrder(3)] * k for k in (2, 1000))
    sizes = [len(jax.make_jaxpr(lambda v, c=c: cones.product(v, c))(np.zeros(3 * len(c))).eqns) for c in (few, many)]
    assert sizes[0] == sizes[1]
    v = np.random.default_rng(2).normal(size=3000)
    np.testing.assert_array_equal(cones.product(v, many).reshape(-1, 3), projection.second_order(v.reshape(-1, 3)))


@pytest.mark.parametrize("product", [cones.product, cones.product_dual])
def test_derivative(product):
    v = np.random.default_rng(3).normal(size=19)
    f = jax.jit(lambda v: product(v, CONES))
    J = jax.jit(jax.jacrev(lambda v: product(v, CONES)))(v)
    expected = [(f(v + 1e-6 * e) - f(v - 1e-6 * e)) / 2e-6 for e in np.eye(19)]
    np.testing.assert_allclose(J, expected, atol=1e-8)  # symmetric
    np.testing.assert_allclose(J @ v, f(v), atol=1e-14)  # homogeneous
