"""Isotonic regression with weights, against scikit-learn and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicitdiff import projection

RUN = jax.jit(projection.isotonic)


@pytest.mark.parametrize("n", [1, 2, 7, 31, 33, 100, 1000])
def test_agrees_with_scikit_learn(n):
    isotonic_regression = pytest.importorskip("sklearn.isotonic").isotonic_regression
    rng = np.random.default_rng(n)
    v = rng.normal(size=n).cumsum()
    for w in (rng.uniform(0.1, 3, size=n), 10 ** rng.uniform(-6, 6, size=n), np.ones(n)):
        x = RUN(v, w)
        assert np.all(np.diff(x) >= 0)
        np.testing.assert_allclose(x, isotonic_regression(v, sample_weight=w), atol=1e-11)
        np.testing.assert_allclose(RUN(v, 1e-9 * w), x, atol=1e-12)


def test_derivatives():
    rng = np.random.default_rng(0)
    v, w, u = rng.normal(size=9), rng.uniform(0.2, 3, size=9), rng.normal(size=9)

    def f(z):
        return jnp.sum(u * projection.isotonic(z[:9], z[9:])) ** 3

    gradient = jax.jit(jax.grad(f))
    z = np.concatenate([v, w])
    steps = 1e-6 * np.eye(18)
    expected = np.array([(f(z + e) - f(z - e)) / 2e-6 for e in steps])
    assert np.linalg.norm(expected[9:]) > 0.01
    np.testing.assert_allclose(gradient(z), expected, atol=1e-8)
    hessian = np.array([(gradient(z + e) - gradient(z - e)) / 2e-6 for e in steps])
    np.testing.assert_allclose(jax.jit(jax.hessian(f))(z), hessian, atol=1e-7)


def test_weights_of_each_vector_along_any_axis():
    rng = np.random.default_rng(0)
    V, W = rng.normal(size=(4, 6)), rng.uniform(0.2, 3, size=(4, 6))
    together = projection.isotonic(V.T, W.T, axis=0, increasing=False).T
    for v, w, x in zip(V, W, together, strict=True):
        np.testing.assert_allclose(projection.isotonic(v[::-1], w[::-1])[::-1], x, atol=1e-14)


def test_refuses_weights_that_do_not_fit():
    for weights in (np.array([1.0, -1.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([1.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="positive and finite"):
            projection.isotonic(np.ones(3), weights)
        assert np.all(np.isnan(RUN(np.ones(3), weights)))
    for weights in (2.0, np.ones(2), np.ones((2, 3))):
        with pytest.raises(ValueError, match="a weight for each"):
            projection.isotonic(np.ones(3), weights)
