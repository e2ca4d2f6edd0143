"""Bregman projections onto the transportation and the Birkhoff polytope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicitdiff import mirror

transport = jax.jit(mirror.transport)
birkhoff = jax.jit(mirror.birkhoff)


def rng():
    return np.random.default_rng(0)


A, B = rng().dirichlet(np.ones(4)), rng().dirichlet(np.ones(3))
Y = 3 * rng().normal(size=(4, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["random", "distances"])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (60, 40)])
def test_has_the_marginals(dtype, kind, shape):
    m, n = shape
    random, eps = rng(), np.finfo(dtype).eps
    y = {
        "random": -random.random(shape),
        "distances": -((np.linspace(0, 1, m)[:, None] - np.linspace(0, 1, n)) ** 2),
    }[kind]
    equal = np.full(m, 1 / m), np.full(n, 1 / n)
    for a, b in (equal, (3 * random.dirichlet(np.ones(m)), 3 * random.dirichlet(np.ones(n)))):
        for size in (0.0, 1.0, 1e2, 1e3):
            x = np.asarray(transport(dtype(size * y), (dtype(a), dtype(b))))
            assert x.dtype == dtype
            assert np.all(x >= 0)
            np.testing.assert_allclose(x.sum(axis=1), a, atol=4 * eps * a.sum(), rtol=4 * eps)
            np.testing.assert_allclose(x.sum(axis=0), b, atol=4 * eps * b.sum(), rtol=4 * eps)


def test_agrees_with_sinkhorn():
    K, v = np.exp(Y), np.ones(3)
    for _ in range(2000):
        u = A / (K @ v)
        v = B / (K.T @ u)
    np.testing.assert_allclose(transport(Y, (A, B)), u[:, None] * K * v, rtol=1e-12)


def test_is_the_minimum():
    x = np.asarray(transport(Y, (A, B)))

    def objective(x):
        return np.sum(x * np.log(x) - x - x * Y)

    for i in range(3):  # directions that keep the marginals
        for j in range(2):
            for step in (1e-6, -1e-6, 1e-4, -1e-4):
                z = x.copy()
                z[i : i + 2, j : j + 2] += step * x.min() / 1e-4 * np.array([[0.5, -0.5], [-0.5, 0.5]])
                assert objective(x) <= objective(z) + 1e-15


def test_is_invariant_to_shifts_of_rows_and_columns():
    shifted = Y + 10 * rng().normal(size=(4, 1)) + 10 * rng().normal(size=3)
    np.testing.assert_allclose(transport(shifted, (A, B)), transport(Y, (A, B)), rtol=1e-12)


def along(y, a, b):
    """X as a function of a step in which all arguments move, the marginals such that they stay balanced."""
    random = rng()
    moves = [random.normal(size=z.shape) for z in (y, a, b)]
    for move in moves[1:]:
        move -= move.mean()
    return lambda step: mirror.transport(y + step * moves[0], (a + step * moves[1], b + step * moves[2]))


def difference(f):
    return (f(1e-6) - f(-1e-6)) / 2e-6


def test_derivatives():
    f = along(Y, A, B)
    forward, slope = jax.jit(jax.jacfwd(f)), difference(jax.jit(f))
    assert np.linalg.norm(slope) > 1e-2
    np.testing.assert_allclose(forward(0.0), slope, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(0.0), slope, atol=1e-9)
    second = difference(forward)
    assert np.linalg.norm(second) > 1e-2
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacrev(f)))(0.0), second, atol=1e-8)


def test_derivative_of_wide_matrices():
    f = along(Y.T, B, A)
    np.testing.assert_allclose(jax.jit(jax.jacrev(f))(0.0), difference(jax.jit(f)), atol=1e-9)


@pytest.fixture(scope="module")
def birkhoff_jacobian():
    return jax.jit(jax.jacrev(mirror.birkhoff))


def test_jacobian_is_symmetric_and_semidefinite(birkhoff_jacobian):
    y = rng().normal(size=(4, 4))
    J = birkhoff_jacobian(y).reshape(16, 16)
    np.testing.assert_allclose(J, J.T, atol=1e-15)
    assert np.linalg.eigvalsh(J).min() > -1e-15
    assert np.linalg.matrix_rank(J, tol=1e-10) == 9
    np.testing.assert_allclose(J.sum(axis=0), 0, atol=1e-15)


@pytest.mark.parametrize("size", [20.0, 40.0, 1e3, 1e6])
def test_near_a_permutation(birkhoff_jacobian, size):
    # Here the Jacobian of the condition is singular to the dtype's precision; that of X goes to zero.
    P = np.eye(4)[[2, 0, 3, 1]]
    y = size * P + 0.1 * rng().normal(size=(4, 4))
    np.testing.assert_allclose(birkhoff(y), P, atol=2 * np.exp(-size + 2))
    J = birkhoff_jacobian(y)
    assert np.all(np.isfinite(J))
    E = rng().normal(size=(4, 4))
    slope = (birkhoff(y + 1e-3 * E) - birkhoff(y - 1e-3 * E)) / 2e-3
    np.testing.assert_allclose(np.tensordot(J, E, 2), slope, rtol=1e-4, atol=1e-12)


def test_marginals_with_zeros():
    y = rng().normal(size=(3, 3))
    a, b = jnp.array([0.5, 0.0, 0.5]), jnp.array([0.3, 0.7, 0.0])
    x = transport(y, (a, b))
    assert not np.any(x[1])
    assert not np.any(x[:, 2])
    np.testing.assert_allclose(x.sum(axis=0), b, atol=1e-15)
    da, db = jnp.array([-1.0, 1.0, 0.0]), jnp.array([-0.5, -0.5, 1.0])
    slope = (
        -3 * x + 4 * transport(y, (a + 1e-6 * da, b + 1e-6 * db)) - transport(y, (a + 2e-6 * da, b + 2e-6 * db))
    ) / 2e-6
    np.testing.assert_allclose(
        jax.jit(jax.jacfwd(lambda s: mirror.transport(y, (a + s * da, b + s * db))))(0.0), slope, atol=1e-8
    )
    assert not np.any(transport(y, (0 * a, 0 * b)))


def test_batches():
    y = rng().normal(size=(5, 4, 3))
    a = rng().dirichlet(np.ones(4), size=5)
    x = transport(y, (a, B))
    for i in range(5):
        np.testing.assert_allclose(x[i], transport(y[i], (a[i], B)), atol=1e-15)
    gradient = jax.grad(lambda y, a: jnp.sum(mirror.transport(y, (a, B)) ** 2))
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(y, a), jax.jit(gradient)(y, a), atol=1e-15)


def test_forbidden_entries():
    x = birkhoff(jnp.zeros((3, 3)).at[0, 0].set(-jnp.inf))
    np.testing.assert_allclose(x.sum(axis=0), 1, rtol=1e-14)
    assert x[0, 0] == 0


def test_nan_stays_visible():
    assert np.all(np.isnan(birkhoff(np.full((2, 2), np.nan))))
    assert np.all(np.isnan(birkhoff(jnp.zeros((3, 3)).at[0].set(-jnp.inf))))  # no such matrix


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0, -1.0], [0.0, 0.0]), ([1.0, 1.0], [1.0, 1.1]), ([np.nan, 1.0], [1.0, 1.0]), ([np.inf, 1], [np.inf, 1])],
)
def test_refuses_nonsense(a, b):
    marginals = np.array(a), np.array(b)
    with pytest.raises(ValueError, match="found row marginals"):
        mirror.transport(np.zeros((2, 2)), marginals)
    assert np.all(np.isnan(transport(np.zeros((2, 2)), marginals)))


def test_says_which_shapes_do_not_fit():
    with pytest.raises(ValueError, match=r"found \(2, 3\), \(3,\) and \(3,\)"):
        mirror.transport(np.zeros((2, 3)), (np.ones(3), np.ones(3)))
    with pytest.raises(ValueError, match=r"square matrices .* found shape \(2, 3\)"):
        mirror.birkhoff(np.zeros((2, 3)))
