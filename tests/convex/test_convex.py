"""Quadratic and conic programs against active-set derivatives, finite differences and other solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import implicitdiff as idf
from implicitdiff.convex import (
    Exponential,
    NonNegative,
    PositiveSemidefinite,
    Power,
    SecondOrder,
    Zero,
    solve_conic,
    solve_qp,
)


def random_qp(n, p, m, seed=0):
    """A QP with a unique solution where about half of the inequalities could be active."""
    random = np.random.default_rng(seed)
    L = random.standard_normal((n, n)) / np.sqrt(n)
    x0 = random.standard_normal(n)
    A, G = random.standard_normal((p, n)), random.standard_normal((m, n))
    return L @ L.T + 0.1 * np.eye(n), random.standard_normal(n), A, A @ x0, G, G @ x0 + random.uniform(0, 0.5, m)


def active_set_gradient(data, c):
    """d(c'x)/d data by the equations of the active set, in NumPy."""
    P, q, A, b, G, h = data
    found = solve_qp(*data)
    active = np.asarray(found.ineq_dual > found.slack)
    rows = np.vstack([A, G[active]])
    n = q.size
    K = np.block([[P, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    solution = np.linalg.solve(K, np.concatenate([-q, b, h[active]]))
    x, multipliers = solution[:n], solution[n:]
    u = np.linalg.solve(K, np.append(c, np.zeros(len(rows))))
    w = u[n:]
    to_rows = -(np.outer(multipliers, u[:n]) + np.outer(w, x))
    dG, dh = np.zeros_like(G), np.zeros_like(h)
    dG[active], dh[active] = to_rows[len(b) :], w[len(b) :]
    dP = -0.5 * (np.outer(u[:n], x) + np.outer(x, u[:n]))
    return x, active, (dP, -u[:n], to_rows[: len(b)], w[: len(b)], dG, dh)


def test_gradient_is_that_of_the_active_set():
    data = random_qp(30, 5, 40)
    c = np.random.default_rng(1).standard_normal(30)
    x, active, expected = active_set_gradient(data, c)
    assert 0 < active.sum() < 25
    for gradient in (jax.grad, lambda f, **o: jax.jit(jax.grad(f, **o))):
        got = gradient(lambda *data: c @ solve_qp(*data).x, argnums=range(6))(*map(jnp.asarray, data))
        for a, b in zip(got, expected, strict=True):
            assert np.linalg.norm(a - b) <= 1e-8 * np.linalg.norm(b)
    np.testing.assert_allclose(solve_qp(*data).x, x, atol=1e-9)


def test_primal_and_dual_in_both_modes_and_second_order():
    data = tuple(map(jnp.asarray, random_qp(6, 2, 8, seed=3)))
    random = np.random.default_rng(0)
    d = [random.standard_normal(a.shape) for a in data]
    d[0] = d[0] + d[0].T
    parts = lambda *data: solve_qp(*data)[:4]
    h = 1e-5
    ends = [parts(*(a + s * h * t for a, t in zip(data, d, strict=True))) for s in (-1, 1)]
    expected = jax.tree.map(lambda a, b: (b - a) / (2 * h), *ends)
    got = jax.jvp(parts, data, tuple(map(jnp.asarray, d)))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)
    loss = lambda q: jnp.sum(jnp.sin(solve_qp(data[0], q, *data[2:]).x))
    gradient = jax.grad(loss)
    v = jnp.asarray(d[1])
    second = (gradient(data[1] + h * v) - gradient(data[1] - h * v)) / (2 * h)
    np.testing.assert_allclose(jax.hessian(loss)(data[1]) @ v, second, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_absent_constraints(shape):
    p, m = shape
    P, q, A, b, G, h = random_qp(4, p, m, seed=1)
    args = (P, q, A if p else None, b if p else None, G if m else None, h if m else None)
    found = solve_qp(*args)
    assert (found.eq_dual is None, found.slack is None) == (p == 0, m == 0)
    J = jax.jacobian(lambda q: solve_qp(P, q, *args[2:]).x)(q)
    step = 1e-5 * np.eye(4)
    expected = np.stack([(solve_qp(P, q + e, *args[2:]).x - solve_qp(P, q - e, *args[2:]).x) / 2e-5 for e in step], 1)
    np.testing.assert_allclose(J, expected, atol=1e-5)


def test_sparse_data_have_derivatives_on_their_pattern():
    P, q, A, b, G, h = map(jnp.asarray, random_qp(6, 1, 5, seed=2))
    G = G * (np.abs(G) > 0.5)
    P = jnp.diag(jnp.diagonal(P))
    dense = jax.grad(lambda P, G: jnp.sum(solve_qp(P, q, A, b, G, h).x), argnums=(0, 1))(P, G)
    sparse = [BCOO.fromdense(M) for M in (P, G)]
    value = lambda Pd, Gd: jnp.sum(
        solve_qp(
            BCOO((Pd, sparse[0].indices), shape=P.shape), q, A, b, BCOO((Gd, sparse[1].indices), shape=G.shape), h
        ).x
    )
    got = jax.jit(jax.grad(value, argnums=(0, 1)))(sparse[0].data, sparse[1].data)
    for g, d, pattern in zip(got, dense, sparse, strict=True):
        np.testing.assert_allclose(g, d[pattern.indices[:, 0], pattern.indices[:, 1]], atol=1e-8)


def test_a_batch_with_one_bad_problem():
    P, q, A, b, G, h = random_qp(4, 1, 6, seed=5)
    hs = np.stack([h, h + 0.1, h])
    Gs = np.stack([G, G, np.concatenate([G[:4], G[:1], -G[:1]])])
    hs[2, 4], hs[2, 5] = -1.0, -1.0  # g'x <= -1 and -g'x <= -1
    run = lambda G, h: solve_qp(P, q, A, b, G, h)
    found = jax.jit(jax.vmap(run))(Gs, hs)
    assert list(found.status) == [0, 0, 2]
    assert np.isfinite(found.x[:2]).all()
    assert np.isnan(found.x[2]).all()
    J = jax.jit(jax.vmap(jax.jacrev(lambda G, h: run(G, h).x, argnums=1)))(Gs, hs)
    np.testing.assert_allclose(J[1], jax.jacrev(lambda h: run(G, h).x)(jnp.asarray(hs[1])), atol=1e-8)
    assert np.isnan(J[2]).all()


def test_failures_name_themselves():
    P, q = np.eye(2), np.ones(2)
    one = np.ones((1, 2))
    with pytest.raises(ValueError, match="infeasible"):
        solve_qp(P, q, np.vstack([one, one]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="unbounded"):
        solve_qp(None, -q, G=-one, h=np.zeros(1))
    with pytest.raises(ValueError, match="failed"):
        solve_qp(np.array([[1.0, 1.0], [0.0, 1.0]]), q)
    box = dict(G=np.vstack([P, -P]), h=np.ones(4))
    for indefinite in (np.diag([1.0, -1.0]), np.array([[1.0, 2.0], [2.0, 1.0]])):  # Clarabel takes both for solved
        with pytest.raises(ValueError, match="positive semidefinite"):
            solve_qp(indefinite, q, **box)
    assert solve_qp(np.ones((2, 2)), q, **box).status == 0
    with pytest.raises(ValueError, match="failed"):
        solve_qp(P, np.array([np.nan, 1.0]))
    assert solve_qp(P, np.array([np.nan, 1.0]), raise_on_failure=False).status == 4
    with pytest.raises(ValueError, match="both"):
        solve_qp(P, q, one)
    with pytest.raises(ValueError, match="shape"):
        solve_qp(np.eye(3), q)


def test_degenerate_solutions_have_the_least_squares_derivative():
    # A linear program at a vertex with a redundant constraint: x = (1, 1) whatever the cost near (-1, -1).
    G = np.array([[1.0, 0], [0, 1.0], [1.0, 1.0]])
    x = lambda q, h: solve_qp(None, q, G=jnp.asarray(G), h=h).x
    q, h = jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0, 2.0])
    for J in jax.jacobian(x, argnums=(0, 1))(q, h):
        assert np.isfinite(J).all()
    np.testing.assert_allclose(jax.jacobian(x)(q, h), 0, atol=1e-6)
    # Moving all right-hand sides consistently moves the vertex with them.
    np.testing.assert_allclose(jax.jvp(lambda h: x(q, h), [h], [jnp.array([1.0, 1.0, 2.0])])[1], [1, 1], atol=1e-6)


CONES = {
    "second order": [Zero(1), SecondOrder(4)],
    "semidefinite": [NonNegative(1), PositiveSemidefinite(3)],
    "exponential": [NonNegative(1), Exponential(), Exponential()],
    "power": [Power(0.3), NonNegative(1), Power(0.6)],
    "product": [Zero(1), SecondOrder(3), NonNegative(2), PositiveSemidefinite(2), Exponential()],
}


def random_conic(cones, seed=0):
    """Feasible and bounded: a point and a multiplier inside of the cones."""
    random = np.random.default_rng(seed)
    inside = {
        Zero: [0.0],
        NonNegative: [1.0],
        SecondOrder: [2.0, 0.3, 0.2, 0.1],
        Exponential: [0.1, 1.0, 2.0],
        Power: [1.0, 1.0, 0.2],
    }

    def point(cone, dual):
        if isinstance(cone, PositiveSemidefinite):
            return np.asarray(idf.projection.cones.to_vector(np.eye(cone.n) + 0.1))
        if isinstance(cone, Exponential) and dual:
            return np.array([-1.0, 0.5, 1.5])
        values = [1.0] if isinstance(cone, Zero) and dual else inside[type(cone)]
        return np.resize(values, cone.size)

    s, z = (np.concatenate([point(cone, dual) for cone in cones]) for dual in (False, True))
    A = random.standard_normal((s.size, 3))
    return 0.2 * np.eye(3), -A.T @ z, A, A @ np.ones(3) + s


CURVED = ("exponential", "power", "product")  # take long to compile


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in CURVED else []) for name in CONES]
)
def test_conic_programs(name):
    cones = CONES[name]
    data = random_conic(cones)
    solved = jax.jit(lambda *data: tuple(solve_conic(*data, cones)[:3]))
    x, z, s = solved(*data)
    P, q, A, b = data
    np.testing.assert_allclose(P @ x + A.T @ z + q, 0, atol=1e-6)
    np.testing.assert_allclose(A @ x + s, b, atol=1e-6)
    assert abs(s @ z) < 1e-6
    random = np.random.default_rng(1)
    d = [random.standard_normal(a.shape) for a in data]
    d[0] = d[0] + d[0].T
    h = 5e-3  # Clarabel is precise to 1e-7 on curved cones
    ends = [solved(*(a + k * h * t for a, t in zip(data, d, strict=True)))[0] for k in (-2, -1, 1, 2)]
    expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    got = jax.jvp(lambda *data: solve_conic(*data, cones).x, tuple(map(jnp.asarray, data)), tuple(map(jnp.asarray, d)))[
        1
    ]
    np.testing.assert_allclose(got, expected, rtol=5e-4, atol=5e-4 * np.max(np.abs(expected)))


def test_other_solvers():
    data = random_qp(6, 2, 8, seed=3)
    expected = solve_qp(*data)
    gradient = lambda **o: jax.grad(lambda q: jnp.sum(solve_qp(data[0], q, *data[2:], **o).x))(jnp.asarray(data[1]))

    def own(P, q, A, b, cones):
        assert [type(cone).__name__ for cone in cones] == ["Zero", "NonNegative"]
        return expected.x, jnp.append(expected.eq_dual, expected.ineq_dual), jnp.append(jnp.zeros(2), expected.slack)

    np.testing.assert_allclose(gradient(solver=own), gradient(), atol=1e-8)
    scs = pytest.importorskip("scs")
    del scs
    np.testing.assert_allclose(gradient(solver="scs"), gradient(), atol=1e-4)
    with pytest.raises(ValueError, match="one of"):
        solve_qp(*data, solver="gurobi?")
