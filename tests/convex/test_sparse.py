"""Sparse data: the derivative by a sparse factorisation, bounds, and what SciPy and padded BCOO matrices are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO
from scipy.sparse.linalg import spsolve

from implicitdiff.convex import NonNegative, SecondOrder, Zero, solve_conic, solve_qp

RANDOM = np.random.default_rng(0)


def control(horizon, states=4, inputs=2):
    """Model-predictive control: min of inputs and states along x' = A x + B u, with bounds on u."""
    A = 0.95 * np.linalg.qr(RANDOM.standard_normal((states, states)))[0]
    B = RANDOM.standard_normal((states, inputs))
    P = sp.block_diag([sp.diags_array(np.r_[0.1 * np.ones(inputs), np.ones(states)])] * horizon)
    steps = sp.block_diag([sp.hstack([-sp.csr_array(B), sp.eye_array(states)])] * horizon)
    before = sp.kron(sp.eye_array(horizon, k=-1), sp.hstack([sp.csr_array((states, inputs)), sp.csr_array(A)]))
    b = np.r_[A @ (3 * RANDOM.standard_normal(states)), np.zeros((horizon - 1) * states)]
    bound = np.tile(np.r_[0.5 * np.ones(inputs), np.inf * np.ones(states)], horizon)
    return P, sp.csr_array(steps - before), b, bound


HORIZON = 80
P, A, B, BOUND = control(HORIZON)
N = P.shape[0]
W = jnp.asarray(RANDOM.standard_normal(N))


def test_derivatives_of_a_large_sparse_program_are_those_of_the_dense_one():
    """In forward and reverse mode, in all data, under jit with data that are traced."""
    sparse = [BCOO.from_scipy_sparse(M.tocoo()) for M in (P, A)]
    place = sparse[1].indices

    def loss(data, indices, b, bound):
        return jnp.vdot(W, solve_qp(sparse[0], W, BCOO((data, indices), shape=A.shape), b, lb=-bound, ub=bound).x)

    def dense(A, b, bound):
        return jnp.vdot(W, solve_qp(P.toarray(), W, A, b, lb=-bound, ub=bound).x)

    args = sparse[1].data, place, jnp.asarray(B), jnp.asarray(BOUND)
    found = jax.jit(jax.grad(loss, argnums=(0, 2, 3)))(*args)
    expected = jax.grad(dense, argnums=(0, 1, 2))(jnp.asarray(A.toarray()), *args[2:])
    np.testing.assert_allclose(found[0], expected[0][place[:, 0], place[:, 1]], atol=1e-7)
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    assert np.all(found[2][np.isinf(BOUND)] == 0)
    t = jnp.asarray(RANDOM.standard_normal(len(B)))
    push = jax.jvp(lambda b: loss(args[0], place, b, args[3]), (args[2],), (t,))[1]
    np.testing.assert_allclose(push, jnp.vdot(found[1], t), rtol=1e-7)


def test_second_derivatives_batches_and_second_order_cones():
    """A ball around each of many points that are coupled in a chain."""
    count = 160
    chain = sp.diags_array([2.5 * np.ones(3 * count), *2 * [-np.ones(3 * count - 3)]], offsets=[0, 3, -3])
    rows = sp.kron(sp.eye_array(count), sp.vstack([sp.csr_array((1, 3)), -sp.eye_array(3)]))
    cones = [SecondOrder(4)] * count
    mixed = BCOO.from_scipy_sparse(rows.tocoo()), BCOO.from_scipy_sparse(chain.tocoo())
    q = jnp.asarray(2 * RANDOM.standard_normal(3 * count))

    def loss(radius, rows, chain):
        b = jnp.zeros((count, 4)).at[:, 0].set(radius).ravel()
        return jnp.sum(jnp.sin(solve_conic(chain, q, rows, b, cones).x))

    radii = jnp.array([0.6, 1.1])
    found = jax.jit(jax.vmap(jax.value_and_grad(lambda r: loss(r, *mixed))))(radii)
    h = 1e-4
    for i, radius in enumerate(radii):
        slope = (loss(radius + h, *mixed) - loss(radius - h, *mixed)) / (2 * h)
        np.testing.assert_allclose(found[1][i], slope, rtol=1e-4)
    second = jax.grad(jax.grad(lambda r: loss(r, *mixed)))(radii[0])
    slopes = [jax.grad(lambda r: loss(r, *mixed))(radii[0] + sign * h) for sign in (1, -1)]
    np.testing.assert_allclose(second, (slopes[0] - slopes[1]) / (2 * h), rtol=1e-2)


def test_scipy_matrices_and_padded_ones_are_taken():
    small, equations = np.diag([1.0, 2.0, 4.0]), np.array([[1.0, 1.0, 1.0]])
    plain = solve_qp(small, -np.ones(3), equations, np.ones(1), np.eye(3), np.ones(3)).x
    padded = BCOO.fromdense(jnp.asarray(small), nse=7)
    for matrix in (sp.csr_array(small), sp.coo_matrix(small), padded):
        found = solve_qp(matrix, -np.ones(3), equations, np.ones(1), sp.eye_array(3, format="csc"), np.ones(3)).x
        np.testing.assert_allclose(found, plain, atol=1e-9)
    gradient = jax.grad(
        lambda data: solve_qp(BCOO((data, padded.indices), shape=(3, 3)), -np.ones(3), equations, np.ones(1)).x[0]
    )(padded.data)
    assert np.all(np.isfinite(gradient))


def test_bounds_and_infinite_sides():
    """One-sided and two-sided bounds, as rows of G and as lb and ub, with their multipliers."""
    P, q = jnp.eye(3), jnp.array([-3.0, 0.5, 2.0])
    lower, upper = jnp.array([-jnp.inf, -1.0, -1.0]), jnp.array([1.0, 1.0, jnp.inf])
    found = solve_qp(P, q, lb=lower, ub=upper)
    np.testing.assert_allclose(found.x, jnp.clip(-q, lower, upper), atol=1e-9)
    np.testing.assert_allclose(found.ub_dual, [2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found.lb_dual, [0, 0, 1], atol=1e-9)
    by_bounds = jax.jacobian(lambda lower, upper: solve_qp(P, q, lb=lower, ub=upper).x, argnums=(0, 1))(lower, upper)
    np.testing.assert_allclose(by_bounds[0], np.diag([0.0, 0, 1]), atol=1e-9)
    np.testing.assert_allclose(by_bounds[1], np.diag([1.0, 0, 0]), atol=1e-9)
    both = solve_qp(P, q, G=jnp.concatenate([-P, P]), h=jnp.concatenate([-lower, upper]))
    np.testing.assert_allclose(both.x, found.x, atol=1e-9)
    assert np.all(np.isinf(both.slack[jnp.array([0, 5])]))
    np.testing.assert_allclose(solve_qp(P, q, lb=0.25, solver="jax").x, jnp.maximum(-q, 0.25), atol=1e-9)
    with pytest.raises(ValueError, match="infeasible"):
        solve_qp(P, q, lb=1.0, ub=-1.0)


def test_a_degenerate_large_program_is_nan_and_says_why():
    """Two equal equations have no unique multipliers."""
    twice = sp.vstack([A, A[:1]])
    loss = lambda b: jnp.sum(jnp.sin(solve_qp(P, W, twice, b).eq_dual))
    found = jax.grad(loss)(jnp.append(jnp.asarray(B), B[0]))
    assert np.all(np.isnan(found))


def test_many_unknowns_need_no_dense_matrix():
    """20,000 unknowns: a dense matrix of the system would take 13 GB."""
    n = 20_000
    P = sp.diags_array([2.5 * np.ones(n), *2 * [-np.ones(n - 1)]], offsets=[0, 1, -1])
    q = jnp.asarray(np.sin(np.arange(n) / 50.0))
    total = sp.csr_array(np.ones((1, n)))
    rows = sp.vstack([total, -sp.eye_array(n)])

    def f(q, lower):
        b = jnp.append(1.0, -lower * jnp.ones(n))
        return jnp.sum(solve_conic(P, q, rows, b, [Zero(1), NonNegative(n)]).x ** 2)

    gradient = jax.grad(f)(q, -0.1)
    assert np.all(np.isfinite(gradient))
    # With the active bounds fixed, x is the solution of a linear system.
    x = np.asarray(solve_conic(P, q, rows, jnp.append(1.0, 0.1 * jnp.ones(n)), [Zero(1), NonNegative(n)]).x)
    free = np.flatnonzero(x > -0.1 + 1e-7)
    border = sp.csc_array(np.ones((1, len(free))))
    system = sp.block_array([[sp.csc_array(P)[free][:, free], border.T], [border, None]], format="csc")
    expected = np.zeros(n)
    expected[free] = -spsolve(system, np.append(2 * x[free], 0.0))[:-1]
    assert 1000 < len(free) < n - 1000
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.max(np.abs(expected)))
