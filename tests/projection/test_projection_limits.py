"""Where arithmetic is at its limits: huge and tiny entries, float32, ties, and sizes beyond toys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projection_cases import CASES, marginal_rows, run
from projection_references import polyhedral

from implicitdiff import projection

EXTREMES = [(np.float32, 1e30), (np.float64, 1e200), (np.float32, 1e8), (np.float64, 1e12)]
CONES = [name for name, case in CASES.items() if case.cone]
UNBOUNDED = ["hyperplane", "half_space", "affine_set"]
COMPACT = [name for name in CASES if name not in CONES + UNBOUNDED]


def energy_gradient(project):
    return jax.jit(jax.grad(lambda v, theta: jnp.sum(project(v, theta) ** 2)))


@pytest.mark.parametrize("name", CASES)
def test_huge_entries(name):
    case = CASES[name]
    v = np.random.default_rng(3).normal(size=case.shape)
    for dtype, c in EXTREMES:
        x = run(name, dtype(c) * v.astype(dtype), case.theta)
        if name in CONES:  # homogeneous
            x, expected = x / dtype(c), case.reference(v, case.theta)
        elif name in UNBOUNDED:
            x, expected = x / dtype(c), case.reference(v * c, case.theta) / c
        else:  # far away in a generic direction, the nearest point is one vertex, or the end of the direction
            expected = case.reference(v * 1e4, case.theta)
        np.testing.assert_allclose(x, expected, rtol=0, atol=8 * np.finfo(dtype).eps if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("name", [name for name in CONES if "product" not in name and "dual" not in name])
def test_gradient_of_huge_and_tiny_entries(name):
    case = CASES[name]
    v = np.random.default_rng(3).normal(size=case.shape).astype(np.float32)
    gradient = energy_gradient(case.project)
    expected = gradient(v, case.theta)
    for c in np.float32([1e30, 1e-30]):
        np.testing.assert_allclose(gradient(c * v, case.theta) / c, expected, atol=1e-5)


@pytest.mark.parametrize("name", CONES)
def test_tiny_entries(name):
    case = CASES[name]
    v = np.random.default_rng(3).normal(size=case.shape)
    for dtype, c in ((np.float32, 1e-30), (np.float64, 1e-200)):
        x = run(name, dtype(c) * v.astype(dtype), case.theta) / dtype(c)
        np.testing.assert_allclose(x, case.reference(v, case.theta), rtol=0, atol=16 * np.finfo(dtype).eps)


def test_simplex_is_shift_invariant_in_float32():
    np.testing.assert_array_equal(projection.simplex(np.float32([1e8, 1e8 + 8, 0])), [0, 1, 0])
    v = np.float32([0.5, 0.25, -1.0])
    np.testing.assert_array_equal(projection.simplex(v + np.float32(2**20)), projection.simplex(v))
    np.testing.assert_array_equal(projection.l1_ball(np.float32([1e8, -1e8 - 8, 0])), [0, -1, 0])
    x = projection.box_section(np.float32([1e8, 1e8 + 8, 0]), (0.0, 1.0, 1.0, 1.0))
    np.testing.assert_array_equal(x, [0, 1, 0])


def test_gradient_at_the_origin_is_finite():
    # Of peers, these are NaN.
    for project in (projection.l2_ball, projection.l2_sphere, projection.l1_ball, projection.second_order):
        gradient = jax.jit(jax.grad(lambda v, p=project: jnp.sum(p(v))))(np.zeros(4))
        assert np.all(np.isfinite(gradient))


def test_gradient_of_transport_is_not_zero():
    V = np.random.default_rng(0).normal(size=(4, 4))
    weights = np.random.default_rng(1).normal(size=(4, 4))
    for project in (lambda V: projection.transport(V, (np.ones(4), np.ones(4))), projection.birkhoff):
        gradient = jax.jit(jax.grad(lambda V, p=project: jnp.sum(weights * p(V))))(V)
        assert np.linalg.norm(gradient) > 0.1
        # The set lies in the matrices with these sums: rows and columns of the gradient sum to zero.
        np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_simplex_as_polyhedron_is_exact(dtype):
    # A peer calls this set empty, and its value is wrong by 1e-2.
    n, project = 12, jax.jit(projection.polyhedron)
    constraints = np.ones((1, n)), np.ones(1), -np.eye(n), np.zeros(n)
    for seed in range(5):
        v = np.random.default_rng(seed).normal(size=n).astype(dtype)
        np.testing.assert_allclose(project(v, constraints), projection.simplex(v), atol=20 * np.finfo(dtype).eps)


def test_polyhedron_with_many_and_dependent_rows():
    rng, project = np.random.default_rng(0), jax.jit(projection.polyhedron)
    for _ in range(5):
        v, G = 3 * rng.normal(size=8), rng.normal(size=(40, 8))
        G[20:30], h = G[:10], np.abs(rng.normal(size=40))
        h[20:30] = h[:10]
        equation = rng.normal(size=(1, 8))
        A, b = np.concatenate([equation, 2 * equation]), np.array([0.1, 0.2])
        np.testing.assert_allclose(project(v, (A, b, G, h)), polyhedral(v, A, b, G, h), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_box_section_is_exact(dtype):
    # A peer stops at 8e-7 in float64.
    rng, n = np.random.default_rng(0), 1000
    project = jax.jit(projection.box_section)
    for size in (0.01, 1.0, 100.0):
        v, w = size * rng.normal(size=n), rng.normal(size=n)
        lower, upper = -rng.uniform(size=n), rng.uniform(size=n)
        c = 0.3 * np.sum(np.where(w > 0, upper, lower) * w)
        v, lower, upper, w = (a.astype(dtype) for a in (v, lower, upper, w))
        x = np.asarray(project(v, (lower, upper, w, dtype(c))), np.float64)
        assert np.all((lower <= x) & (x <= upper))
        assert abs(w @ x - dtype(c)) <= 20 * np.finfo(dtype).eps * np.sum(abs(w))
        # Optimal: one multiplier moves all free coordinates, and pushes the others against their bounds.
        free = (lower < x) & (x < upper)
        tau = np.sum((w * (x - v))[free].astype(float)) / np.sum(w[free].astype(float) ** 2)
        np.testing.assert_allclose(x, np.clip(v + tau * w, lower, upper), atol=20 * np.finfo(dtype).eps * (1 + size))


@pytest.mark.parametrize("kind", ["noise", "walk", "integers", "constant", "decreasing"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_isotonic_agrees_with_scikit_learn(kind, dtype):
    isotonic_regression = pytest.importorskip("sklearn.isotonic").isotonic_regression
    rng, n = np.random.default_rng(0), 1000
    v = {
        "noise": rng.normal(size=n),
        "walk": rng.normal(size=n).cumsum(),
        "integers": rng.integers(0, 5, size=n),
        "constant": np.ones(n),
        "decreasing": -np.arange(n),
    }[kind].astype(dtype)
    x = ISOTONIC(v)
    assert np.all(np.diff(x) >= 0)
    expected = isotonic_regression(v.astype(np.float64))
    np.testing.assert_allclose(x, expected, atol=40 * np.finfo(dtype).eps * np.max(abs(v)))
    # Equal entries tell the blocks of the derivative.
    assert len(np.unique(x)) == len(np.unique(np.round(expected, 9)))


ISOTONIC = jax.jit(projection.isotonic)


@pytest.mark.parametrize("kind", ["noise", "huge", "integers", "zeros"])
def test_transport_is_exact(kind):
    rng, (m, n) = np.random.default_rng(0), (12, 9)
    for _ in range(3):
        V = rng.integers(0, 3, size=(m, n)) + 0.0 if kind == "integers" else rng.normal(size=(m, n))
        V = 1e6 * V if kind == "huge" else V
        a = rng.integers(1, 4, size=m) + 0.0
        a[:3] = 0 if kind == "zeros" else a[:3]
        b = rng.dirichlet(np.ones(n)) * a.sum()
        X = TRANSPORT(V, (a, b))
        expected = polyhedral(V.ravel(), marginal_rows(m, n), np.concatenate([a, b]), -np.eye(m * n), np.zeros(m * n))
        np.testing.assert_allclose(X.ravel(), expected, atol=1e-10)
        np.testing.assert_allclose(X.sum(0), b, atol=1e-14)
        np.testing.assert_allclose(X.sum(1), a, atol=1e-14)


TRANSPORT = jax.jit(projection.transport)


def test_permutahedron_of_many():
    v, w = np.random.default_rng(0).normal(size=(2, 300))
    v[::7] = v[0]
    x = np.asarray(jax.jit(projection.permutahedron)(v, w))
    # In the set: sums of the k largest are bounded. Nearest: (v - x)'x is the maximum of (v - x)'z over permutations z of w.
    assert np.all(np.cumsum(-np.sort(-x)) <= np.cumsum(-np.sort(-w)) + 1e-12)
    np.testing.assert_allclose((v - x) @ x, np.sort(v - x) @ np.sort(w), rtol=1e-14)


@pytest.mark.parametrize("alpha", [None, 1e-3, 0.3, 0.999])
def test_curved_cones_with_entries_of_all_sizes(alpha):
    rng = np.random.default_rng(0)
    v = np.float32(rng.choice([-1, 1], size=(500, 3)) * 10.0 ** rng.uniform(-12, 12, size=(500, 3)))
    size = np.linalg.norm(v.astype(float), axis=-1)
    theta = None if alpha is None else np.full(500, np.float32(alpha))
    single, double = (CURVED[alpha is None](v.astype(dtype), theta) for dtype in (np.float32, np.float64))
    for (x, J), eps in ((single, 2.0**-23), (double, 2.0**-52)):
        # Complementarity, and in the derivative v is mapped to the projection: both by homogeneity.
        assert np.all(abs(np.sum(x.astype(float) * (x.astype(float) - v), axis=-1)) <= 10 * eps * size**2)
        assert np.all(np.linalg.norm(np.einsum("kij,kj->ki", J, v) - x, axis=-1) <= 10 * eps * size)
        assert np.all(np.linalg.norm(J, 2, axis=(1, 2)) <= 1 + 10 * eps)
    assert np.all(np.max(abs(single[0] - double[0]), axis=-1) <= 1e-6 * size)


CURVED = {
    exponential: jax.jit(jax.vmap(lambda v, theta, f=f: (f(v, theta), jax.jacobian(f)(v, theta))))
    for exponential, f in ((True, projection.exponential), (False, projection.power))
}
