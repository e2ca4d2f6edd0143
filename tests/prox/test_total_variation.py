"""Total variation of signals of all lengths, against the conditions of optimality of the dual problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicitdiff import prox

# Where the compiler fuses multiplications with additions, equal numbers differ in the last bit.
pytestmark = pytest.mark.rounding

# Vector instructions treat the last entries of a loop differently from the others: lengths that are no multiples.
LENGTHS = (2, 3, 8, 29, 30, 31, 32, 33, 100, 1000)


def assert_optimal(x, v, t):
    """With z_i = sum_{j <= i} (x_j - v_j): |z| <= t, z = t sign(x_{i+1} - x_i) at jumps, and z_n = 0."""
    z = np.cumsum(x - v)
    slack = 1e-14 * len(v) * max(t, np.max(abs(v)))
    assert abs(z[-1]) <= slack
    assert np.all(abs(z[:-1]) <= t + slack)
    jumps = np.diff(x)
    np.testing.assert_allclose(z[:-1][jumps != 0], t * np.sign(jumps[jumps != 0]), atol=slack)


def expected_derivative(x, weights):
    """The gradient of weights'x in v and t: averages over blocks, and the forces at their ends."""
    jumps = np.sign(np.diff(x))
    block = np.append(0, np.cumsum(jumps != 0))
    means = np.bincount(block, weights) / np.bincount(block)
    return means[block], np.sum(jumps * (means[block][:-1] - means[block][1:]))


def signals(n):
    rng = np.random.default_rng(n)
    noise, walk = rng.standard_normal((5, n)), rng.standard_normal((5, n)).cumsum(-1)
    return [*noise, *walk, np.append(np.zeros(n - 1), 9.0), rng.integers(0, 3, size=n) + 0.0]


@pytest.mark.parametrize("n", LENGTHS)
def test_one_signal_of_any_length(n):
    weights = np.random.default_rng(0).standard_normal(n)
    run = jax.jit(
        jax.value_and_grad(lambda v, t: (weights @ (x := prox.total_variation(v, t)), x), (0, 1), has_aux=True)
    )
    for v in signals(n):
        (_, x), (in_v, in_t) = run(v, 2.0)
        x = np.asarray(x)
        assert_optimal(x, v, 2.0)
        expected = expected_derivative(x, weights)
        np.testing.assert_allclose(in_v, expected[0], atol=1e-12)
        np.testing.assert_allclose(in_t, expected[1], atol=1e-12)


def test_a_batch_is_its_signals():
    v = np.array(signals(30))
    x = jax.jit(prox.total_variation)(v, 2.0)
    for one, of_one in zip(v, x, strict=True):
        assert_optimal(np.asarray(of_one), one, 2.0)


def test_no_weight():
    v = jnp.array([1.0, 1.0, 3.0, 2.0])
    run = jax.jit(jax.jacobian(prox.total_variation, (0, 1)))
    in_v, in_t = run(v, 0.0)
    np.testing.assert_array_equal(prox.total_variation(v, 0.0), v)
    np.testing.assert_array_equal(in_v, np.eye(4))
    np.testing.assert_array_equal(in_t, [0, 1, -2, 1])
