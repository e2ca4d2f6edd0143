"""The derivatives of each projection, in the point and in the parameters of the set."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from projection_cases import CASES, CONVEX

# A product has the derivatives of its factors, a dual those of the cone: see test_cones.py.
NAMES = [name for name in CASES if "product" not in name and "dual" not in name]


@cache
def flat(name):
    """The projection as a function of one vector of all its arguments, and that vector for a point v."""
    case = CASES[name]
    theta = jax.tree.map(lambda t: jnp.asarray(t, float), case.theta)

    def vector(v):
        return ravel_pytree((jnp.asarray(v, float), theta))

    _, unravel = vector(np.zeros(case.shape))
    return lambda z: jnp.ravel(case.project(*unravel(z))), lambda v: np.asarray(vector(v)[0])


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


SLOW = ("power", "transport")  # to compile


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_agrees_with_finite_differences(name):
    case, run, rng, norms = CASES[name], compiled(name), np.random.default_rng(4), []
    for size in (0.5, 1.0, 3.0):
        z = flat(name)[1](size * rng.normal(size=case.shape))
        _, forward, reverse, _, hessian, row_sums = run(z)
        both = differences(lambda z: np.concatenate([run(z)[0], run(z)[3]]), z)
        expected, second = np.split(both, [len(forward)])
        np.testing.assert_allclose(forward, expected, atol=1e-7)
        np.testing.assert_allclose(reverse, expected, atol=1e-7)
        np.testing.assert_allclose(hessian, second, atol=1e-6 * (1 + size))
        np.testing.assert_allclose(row_sums, np.sum(hessian, axis=0), atol=1e-10)
        v_size = np.prod(case.shape)
        norms.append([np.linalg.norm(expected[:, :v_size]), np.linalg.norm(expected[:, v_size:])])
    in_v, in_theta = np.max(norms, axis=0)
    assert in_v > 0.5 or name == "zero"
    assert in_theta > 0.1 or case.theta is None


@pytest.mark.parametrize("name", NAMES)
def test_is_finite_at_kinks(name):
    case = CASES[name]
    for v in (np.zeros(case.shape), np.ones(case.shape), -np.ones(case.shape), *case.kinks):
        results = compiled(name)(flat(name)[1](v))
        for result in results:
            assert np.all(np.isfinite(result)), v
        if name in CONVEX:
            assert_averaged(results[1][:, : v.size])


@pytest.mark.parametrize("name", [name for name in NAMES if name in CONVEX])
def test_jacobian_is_that_of_a_projection(name):
    rng = np.random.default_rng(5)
    for size in (0.1, 1.0, 10.0):
        v = size * rng.normal(size=CASES[name].shape)
        assert_averaged(compiled(name)(flat(name)[1](v))[1][:, : v.size])


def assert_averaged(J):
    """Symmetric, with eigenvalues in [0, 1]: so are Jacobians of projections onto convex sets, and their limits."""
    np.testing.assert_allclose(J, J.T, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(J)
    assert eigenvalues.min() >= -1e-12
    assert eigenvalues.max() <= 1 + 1e-12


def jacobian(name, v):
    v = np.asarray(v, float)
    return compiled(name)(flat(name)[1](v))[1][:, : v.size]


def test_documented_elements():
    # A constraint that holds with equality counts as active.
    assert not jacobian("non_negative", np.zeros(5)).any()
    np.testing.assert_array_equal(jacobian("hypercube", [0.8, 0.0, 0.4, -1.0, 2.0]), np.diag([0, 0, 1.0, 0, 0]))
    np.testing.assert_allclose(jacobian("l2_ball", 1.3 * np.eye(5)[0]), np.diag([0, 1.0, 1, 1, 1]), atol=1e-15)
    assert not jacobian("l1_ball", 1.3 * np.eye(5)[0]).any()
    assert not jacobian("simplex", 1.3 * np.eye(5)[0]).any()
    np.testing.assert_array_equal(jacobian("l2_sphere", np.zeros(5)), 0)
    for name in ("second_order", "semidefinite", "exponential", "power"):
        assert not jacobian(name, np.zeros(CASES[name].shape)).any()
    np.testing.assert_allclose(
        jacobian("isotonic", [1, 1, 2, 4, 3]),
        np.kron(np.diag([1, 0, 0]), np.full((2, 2), 0.5))[:5, :5]
        + np.diag([0, 0, 1, 0, 0])
        + np.pad(np.full((2, 2), 0.5), (3, 0)),
    )
    interior = jacobian("l1_ball", np.full(5, 0.1))
    np.testing.assert_array_equal(interior, np.eye(5))


@pytest.mark.parametrize("name", NAMES)
def test_float32(name):
    # The derivative is as accurate as the arithmetic, not as the square root of it.
    case, rng = CASES[name], np.random.default_rng(6)
    theta = jax.tree.map(lambda t: jnp.asarray(t, float), case.theta)
    v, v_dot = rng.normal(size=(2, *case.shape))
    along = jax.jit(lambda v, v_dot, theta: jax.jvp(lambda v: case.project(v, theta), (v,), (v_dot,)))
    for a, b in zip(along(np.float32(v), np.float32(v_dot), theta), along(v, v_dot, theta), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-5)
