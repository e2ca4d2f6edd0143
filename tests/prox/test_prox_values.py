"""The value of each proximal operator: against a solver, by properties that characterise it, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prox_cases import CASES

from implicitdiff import prox

RUN = {name: jax.jit(case.prox) for name, case in CASES.items()}
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0])


def objective(case, x, v, scaling):
    penalty = case.g(x, case.theta)
    return np.sum((x - v) ** 2) / 2 + (scaling * penalty if scaling or np.isfinite(penalty) else np.inf)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_clarabel(name):
    cvxpy = pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    case = CASES[name]
    v = np.random.default_rng(1).normal(size=case.shape)
    x = cvxpy.Variable(case.shape)
    term = case.atoms(x, case.theta)
    term, constraints = term if isinstance(term, tuple) else (term, [])
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - v) / 2 + 0.7 * term), constraints)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    np.testing.assert_allclose(RUN[name](v, case.theta, 0.7), x.value, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(seed=seeds, size=scales, scaling=scales)
def test_is_the_minimum(name, seed, size, scaling):
    # The objective is 1-strongly convex: it grows from its minimum x at least like 1/2 ||z - x||^2, in all directions.
    case, rng = CASES[name], np.random.default_rng(seed)
    v = size * rng.normal(size=case.shape)
    x = np.asarray(RUN[name](v, case.theta, scaling))
    here = objective(case, x, v, scaling)
    if not np.isfinite(here):  # log barrier with scaling 0, on the boundary
        assert "log" in name
        return
    for step in (1e-6, 1e-3, 1.0):
        for z in (x + step * rng.normal(size=case.shape), x * (1 - min(step, 0.5)), np.maximum(x - step, 0)):
            grown = here + np.sum((z - x) ** 2) / 2
            assert objective(case, z, v, scaling) >= grown - 1e-12 * (1 + abs(here))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15)
@given(seed=seeds, size=scales, scaling=scales)
def test_is_firmly_non_expansive(name, seed, size, scaling):
    case, rng = CASES[name], np.random.default_rng(seed)
    v, w = rng.normal(size=(2, *case.shape)) * size
    moved = np.asarray(RUN[name](v, case.theta, scaling)) - np.asarray(RUN[name](w, case.theta, scaling))
    assert np.sum(moved**2) <= np.sum(moved * (v - w)) + 1e-12 * (1 + size**2)


def l1_ball(v, radius):
    if np.sum(abs(v)) <= radius:
        return v
    u = -np.sort(-abs(v))
    tau = ((np.cumsum(u) - radius) / np.arange(1, v.size + 1)).max()
    return np.sign(v) * np.maximum(abs(v) - tau, 0)


def spectral_ball(v, radius):
    U, s, Vt = np.linalg.svd(v, full_matrices=False)
    return U @ np.diag(np.minimum(s, radius)) @ Vt


CONJUGATES = {  # a norm and the projection onto the ball of its dual norm
    "lasso": (prox.lasso, lambda v, r: np.clip(v, -r, r)),
    "group lasso": (lambda v, r: prox.group_lasso(v, r, axis=None), lambda v, r: v * min(1, r / np.linalg.norm(v))),
    "l1_linf": (lambda v, r: prox.l1_linf(v, r, axis=None), lambda v, r: l1_ball(v.ravel(), r).reshape(v.shape)),
    "nuclear norm": (prox.nuclear_norm, spectral_ball),
}


@pytest.mark.parametrize("name", CONJUGATES)
@settings(max_examples=25)
@given(seed=seeds, size=scales, radius=st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
def test_moreau(name, seed, size, radius):
    operator, ball = CONJUGATES[name]
    v = (size + 0.01) * np.random.default_rng(seed).normal(size=(4, 3))
    np.testing.assert_allclose(operator(v, radius) + ball(v, radius), v, atol=1e-14 * (1 + size))


@pytest.mark.parametrize("kind", ["walk", "noise", "integers", "constant", "alternating"])
@pytest.mark.parametrize("weight", [0.0, 1e-14, 0.5, 2.0, 1e3])
def test_total_variation_is_exact(kind, weight):
    # Optimal if and only if u_i = sum_{j <= i} (v - x)_j is in [-weight, weight], and -weight (weight) where x rises (falls).
    rng = np.random.default_rng(0)
    v = {
        "walk": rng.normal(size=200).cumsum(),
        "noise": rng.normal(size=200),
        "integers": rng.integers(0, 4, size=200).astype(float),
        "constant": np.ones(200),
        "alternating": np.arange(200) % 2.0,
    }[kind]
    x = np.asarray(TV(v, weight))
    u, rise = np.cumsum(v - x), np.diff(x)
    assert abs(u[-1]) < 1e-11
    assert np.max(abs(u)) <= weight + 1e-11
    np.testing.assert_allclose(u[:-1][rise != 0], -weight * np.sign(rise[rise != 0]), atol=1e-11)


TV = jax.jit(prox.total_variation)


def test_total_variation_of_short_signals():
    assert TV(np.array([3.0]), 1.0) == 3.0
    np.testing.assert_array_equal(TV(np.array([0.0, 3.0]), 1.0), [1.0, 2.0])
    assert TV(np.zeros(0), 1.0).shape == (0,)


def test_shrinks_to_exact_zeros_and_ties():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(5, 4))
    for operator in (prox.group_lasso, prox.l1_linf, prox.lasso):
        assert not np.any(operator(v, 100.0))
    assert not np.any(prox.nuclear_norm(v, 100.0))
    x = TV(rng.normal(size=50), 3.0)
    assert len(np.unique(x)) < 15


@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    case = CASES[name]
    v = 3 * np.random.default_rng(2).normal(size=case.shape)
    x = RUN[name](np.float32(v), case.theta, 0.5)  # theta in float64: the result follows v
    assert x.dtype == (jnp.float64 if name == "none" and not isinstance(x, jax.Array) else jnp.float32)
    np.testing.assert_allclose(x, RUN[name](v, case.theta, 0.5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_overflows_nor_vanishes(scale):
    # g is homogeneous: prox(c v, c theta) = c prox(v, theta). Squares of 1e30 and 1e-30 do not exist in float32.
    rng = np.random.default_rng(3)
    v = np.float32(rng.normal(size=(3, 4)))
    for operator in map(jax.jit, (prox.lasso, prox.group_lasso, prox.l1_linf, prox.nuclear_norm, prox.total_variation)):
        x = operator(np.float32(scale) * v, np.float32(scale)) / np.float32(scale)
        np.testing.assert_allclose(x, operator(v, 1.0), atol=2e-6)
    x = prox.log_barrier(np.float32(1e18) * v, np.float32(1e36)) / np.float32(1e18)
    np.testing.assert_allclose(x, prox.log_barrier(v, 1.0), rtol=1e-6)
    assert np.all(prox.log_barrier(np.array([-1e30, 1e30], np.float32), 1.0) > 0)


def test_float32_far_from_zero():
    v = np.float32([1e7 + 1, 1e7 + 4, 1e7 + 2])
    np.testing.assert_array_equal(prox.total_variation(v, 1.0), np.float32([1e7 + 2, 1e7 + 2.5, 1e7 + 2.5]))
    np.testing.assert_array_equal(prox.l1_linf(v, 1.0), np.float32([1e7 + 1, 1e7 + 3, 1e7 + 2]))
