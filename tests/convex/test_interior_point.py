"""The interior-point method in JAX against Clarabel, closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import implicitdiff as idf
from implicitdiff.convex import NonNegative, SecondOrder, Zero, solve_conic, solve_qp


def random_qp(n, p, m, seed=0):
    """A QP with a unique solution where about half of the inequalities could be active."""
    random = np.random.default_rng(seed)
    L = random.standard_normal((n, n)) / np.sqrt(n)
    x0 = random.standard_normal(n)
    A, G = random.standard_normal((p, n)), random.standard_normal((m, n))
    return L @ L.T + 0.1 * np.eye(n), random.standard_normal(n), A, A @ x0, G, G @ x0 + random.uniform(0, 0.5, m)


def solve(*data):
    """Called eagerly the method is compiled once for each shape: nearly all tests use (6, 2, 8)."""
    return solve_qp(*data, solver="jax", raise_on_failure=False)


@pytest.mark.parametrize("shape", [(6, 2, 8), (3, 0, 20)])
def test_solutions_are_those_of_clarabel(shape):
    for seed in range(10):
        data = random_qp(*shape, seed)
        found, expected = solve(*data), solve_qp(*data)
        assert found.status == 0
        for got, want in zip(found[:4], expected[:4], strict=True):
            np.testing.assert_allclose(got, want, atol=1e-8)


@pytest.mark.parametrize("tiny", [1e-5, 1e-6, 1e-7])
def test_multipliers_and_slacks_that_are_both_tiny(tiny):
    """Of the order of the square root of the tolerance, where the iterates cannot tell which constraint is active."""
    P, _, A, _, G, _ = random_qp(6, 2, 8, seed=1)
    random = np.random.default_rng(2)
    x = random.standard_normal(6)
    lam = np.array([1.0, tiny, 0.3 * tiny, 0, 0, 0, 0, 0])
    slack = np.array([0, 0, 0, tiny, 0.1 * tiny, 1.0, 0.5, 0.2])
    found = solve(P, -P @ x - A.T @ np.array([0.5, -0.2]) - G.T @ lam, A, A @ x, G, G @ x + slack)
    assert found.status == 0
    for got, want in ((found.x, x), (found.ineq_dual, lam), (found.slack, slack)):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_without_constraints():
    P, q = random_qp(6, 2, 8)[:2]
    np.testing.assert_allclose(solve(P, q).x, np.linalg.solve(P, -q), rtol=1e-12)


def test_linear_programs_and_units():
    """A vertex; data in units that differ by ten powers of ten, which change nothing but the units of the result."""
    P, q, A, b, G, h = random_qp(6, 2, 8, seed=4)
    plain = solve(P, q, A, b, G, h)
    columns, rows, size = 10.0 ** np.array([-1, 1, 2, 0, 1, 0]), 10.0 ** (np.arange(8) - 4), 1e4
    scaled = solve(
        size * P * columns * columns[:, None], size * q * columns, A * columns, b, rows[:, None] * G * columns, rows * h
    )
    assert scaled.status == 0
    np.testing.assert_allclose(scaled.x * columns, plain.x, rtol=1e-8)
    np.testing.assert_allclose(scaled.ineq_dual * rows / size, plain.ineq_dual, atol=1e-8)
    # A linear program whose dual is feasible, so that it is bounded.
    q = -G.T @ np.random.default_rng(0).uniform(0.1, 1, 8)
    found, expected = solve(np.zeros((6, 6)), q, A, b, G, h), solve_qp(None, q, A, b, G, h)
    assert found.status == 0
    for got, want in zip(found[:4], expected[:4], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-8)


def test_programs_without_a_solution_do_not_disturb_others():
    good, other = (random_qp(6, 2, 8, seed=seed) for seed in (1, 2))
    P, q, A, b, G, h = good
    infeasible = (P, q, A, b, np.vstack([G[:6], np.ones((1, 6)), -np.ones((1, 6))]), np.append(h[:6], [-1.0, -1.0]))
    first = np.eye(6)[0]
    unbounded = (np.zeros_like(P), -first, A * (1 - first), b, G - np.outer(np.abs(G[:, 0]) + G[:, 0], first), h)
    nan, indefinite = (P, q * np.nan, A, b, G, h), (P - 3 * np.eye(6), q, A, b, G, h)
    asymmetric = (P + np.triu(np.ones((6, 6)), 1), q, A, b, G, h)
    programs = [good, infeasible, unbounded, nan, indefinite, asymmetric, other]
    stacked = tuple(map(np.stack, zip(*programs, strict=True)))

    def loss(q, P, *rest):
        found = jax.vmap(lambda *data: solve_qp(*data, solver="jax", raise_on_failure=False))(P, q, *rest)
        return jnp.nansum(found.x), found

    of_q, found = jax.jit(jax.grad(loss, has_aux=True))(stacked[1], stacked[0], *stacked[2:])
    np.testing.assert_array_equal(found.status, [0, 2, 3, 4, 4, 4, 0])
    for i in (0, 6):
        P, q, *rest = programs[i]
        np.testing.assert_allclose(found.x[i], solve_qp(P, q, *rest).x, atol=1e-8)
        expected = jax.grad(lambda q: jnp.sum(solve_qp(P, q, *rest).x))(jnp.asarray(q))
        np.testing.assert_allclose(of_q[i], expected, atol=1e-8)
    for part in (*found[:4], of_q):
        assert np.isnan(part[1:6]).all()
    reasons = {"infeasible": infeasible, "unbounded": unbounded, "NaN": nan, "semidefinite": indefinite}
    for reason, program in reasons.items():
        with pytest.raises(ValueError, match=reason):
            solve_qp(*program, solver="jax")


def test_derivatives_are_those_of_differences_and_of_clarabel():
    data = tuple(map(jnp.asarray, random_qp(6, 2, 8, seed=3)))
    random = np.random.default_rng(0)
    d = [jnp.asarray(random.standard_normal(a.shape)) for a in data]
    d[0] = d[0] + d[0].T
    parts = lambda *data: solve(*data)[:4]
    h = 1e-5
    ends = [parts(*(a + s * h * t for a, t in zip(data, d, strict=True))) for s in (-1, 1)]
    got = jax.jvp(parts, data, tuple(d))[1]
    for tangent, a, b in zip(got, *ends, strict=True):
        np.testing.assert_allclose(tangent, (b - a) / (2 * h), rtol=1e-6, atol=1e-6)
    weights = jnp.asarray(random.standard_normal(6))
    gradient = lambda solver: jax.grad(lambda *data: weights @ solve_qp(*data, solver=solver).x, range(6))(*data)
    for a, b in zip(gradient("jax"), gradient("clarabel"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_float32():
    for seed in range(5):
        single = [part.astype(np.float32) for part in random_qp(6, 2, 8, seed)]
        found = solve(*single)
        assert found.status == 0
        assert found.x.dtype == np.float32
        np.testing.assert_allclose(found.x, solve_qp(*(part.astype(float) for part in single)).x, rtol=1e-4, atol=1e-4)
    gradient = lambda data: jax.grad(lambda q: jnp.sum(solve(data[0], q, *data[2:]).x))(jnp.asarray(data[1]))
    assert gradient(single).dtype == np.float32
    np.testing.assert_allclose(
        gradient(single), gradient([part.astype(float) for part in single]), rtol=1e-3, atol=1e-3
    )


def test_degenerate_vertex_and_redundant_constraints():
    # x = (1, 1) whatever the cost near (-1, -1); the third constraint is implied by the others.
    G, h, q = jnp.array([[1.0, 0], [0, 1.0], [1.0, 1.0]]), jnp.array([1.0, 1.0, 2.0]), jnp.array([-1.0, -1.0])
    x = lambda q, h: solve_qp(np.zeros((2, 2)), q, G=G, h=h, solver="jax").x
    np.testing.assert_allclose(x(q, h), [1, 1], atol=1e-9)
    np.testing.assert_allclose(jax.jacobian(x)(q, h), 0, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(lambda h: x(q, h), [h], [h])[1], [1, 1], atol=1e-6)
    # The projection of 0 onto sum(x) >= b, written three times: x = b / 2.
    thrice = lambda b: solve_qp(np.eye(2), np.zeros(2), G=-np.ones((3, 2)), h=-b * jnp.ones(3), solver="jax").x
    np.testing.assert_allclose(thrice(1.5), 0.75, atol=1e-9)
    np.testing.assert_allclose(jax.jacobian(thrice)(1.5), 0.5, atol=1e-9)


def test_cones_in_any_order_and_sparse_data():
    P, q, A, b, G, h = random_qp(5, 2, 4, seed=5)
    rows, sides = np.vstack([G[:2], A[:1], G[2:], A[1:]]), np.concatenate([h[:2], b[:1], h[2:], b[1:]])
    cones = [NonNegative(2), Zero(1), NonNegative(2), Zero(1)]
    expected = solve_conic(P, q, rows, sides, cones)
    for second in (rows, BCOO.fromdense(jnp.asarray(rows))):
        found = solve_conic(P, q, second, sides, cones, solver="jax")
        for got, want in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_allclose(got, want, atol=1e-8)


def test_wrong_use():
    with pytest.raises(ValueError, match="Zero and NonNegative"):
        solve_conic(np.eye(3), np.ones(3), np.eye(3), np.ones(3), [SecondOrder(3)], solver="jax")
    with pytest.raises(TypeError, match="max_iter"):
        solve_qp(np.eye(3), np.ones(3), solver="jax", max_iter=3)
    stopped = solve_qp(*random_qp(6, 2, 8, seed=3), solver="jax", maxiter=0, raise_on_failure=False)
    assert stopped.status == 4
    assert np.isnan(stopped.x).all()
    assert idf.convex.STATUS[4].startswith("the solver failed")
