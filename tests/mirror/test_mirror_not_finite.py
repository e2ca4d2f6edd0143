"""Dual points with entries that are not finite, in half precision, and called eagerly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps import check_compiles_once, check_half_precision

from implicitdiff import mirror

MARGINALS = np.array([0.5, 1.0, 0.7]), np.array([0.9, 0.7, 0.3, 0.3])
CASES = {
    "log": (lambda v, theta: mirror.log(v), (3,), None),
    "non_negative": (mirror.non_negative, (3,), None),
    "box": (mirror.box, (3,), (0.1, 2.0)),
    "simplex": (mirror.simplex, (3,), 1.3),
    "transport": (mirror.transport, (3, 4), MARGINALS),
    "birkhoff": (mirror.birkhoff, (3, 3), None),
}
COUPLED = ("simplex", "transport", "birkhoff")


def point(name):
    return np.random.default_rng(0).uniform(0.1, 1.0, size=CASES[name][1])


@pytest.mark.parametrize("name", CASES)
def test_not_finite(name):
    f, _, theta = CASES[name]
    # inf is the logarithm of no number, but exp and the box saturate.
    for bad in (np.nan, np.inf) if name in (*COUPLED, "log") else (np.nan,):
        v = point(name)
        v.flat[1] = bad
        x, forward, reverse = jax.jit(lambda v: (f(v, theta), jax.jacfwd(f)(v, theta), jax.jacrev(f)(v, theta)))(v)
        forward, reverse = (np.reshape(jacobian, (v.size, v.size)) for jacobian in (forward, reverse))
        if name in COUPLED:
            assert np.all(np.isnan(x))
            assert np.all(np.isnan(forward))
            assert np.all(np.isnan(reverse))
        else:
            np.testing.assert_array_equal(np.isnan(x), [False, True, False])
            assert np.isnan(forward[1, 1])
            assert np.isnan(reverse[1, 1])


def test_no_mass():
    # The logarithm of 0 is -inf.
    y = jnp.log(jnp.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 1.0, 0.0]]))
    X = mirror.birkhoff(y)
    np.testing.assert_array_equal(X == 0, np.isinf(y))
    np.testing.assert_allclose(X.sum(0), 1, atol=1e-14)
    np.testing.assert_array_equal(mirror.simplex(y[0])[0], 0)


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    check_half_precision(CASES[name][0], point(name), CASES[name][2])


@pytest.mark.parametrize("name", CASES)
def test_eager_calls_compile_once(name):
    check_compiles_once(CASES[name][0], point(name), CASES[name][2])
