"""What characterises projections, at random points: nearest in the set, firmly non-expansive, Moreau's decomposition."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_cases import CASES, CONVEX, run

from implicitdiff import projection

CONES = [name for name, case in CASES.items() if case.cone]
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3])
roundings = st.sampled_from([None, 0])  # to integers: ties, and points on the boundary


def draw(name, seed, size, digits, count=1):
    v = size * np.random.default_rng(seed).normal(size=(count, *CASES[name].shape))
    return v if digits is None else np.round(v, digits)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8)
@given(seed=seeds, size=scales, digits=roundings)
def test_nearest_point_of_the_set(name, seed, size, digits):
    case = CASES[name]
    v, w = draw(name, seed, size, digits, 2)
    x, z = (np.asarray(run(name, point, case.theta)) for point in (v, w))
    # Idempotent: a projection is in the set.
    np.testing.assert_allclose(run(name, x, case.theta), x, atol=1e-13 * (1 + size))
    # No nearer point, among other points of the set; for convex sets <v - x, z - x> <= 0.
    rounding = 1e-12 * (1 + size) ** 2
    assert np.sum((v - x) ** 2) <= np.sum((v - z) ** 2) + rounding
    if name in CONVEX:
        assert np.sum((v - x) * (z - x)) <= rounding


@pytest.mark.parametrize("name", CONVEX)
@settings(max_examples=8)
@given(seed=seeds, size=scales, digits=roundings)
def test_firmly_non_expansive(name, seed, size, digits):
    v, w = draw(name, seed, size, digits, 2)
    moved = np.asarray(run(name, v, CASES[name].theta)) - np.asarray(run(name, w, CASES[name].theta))
    assert np.sum(moved**2) <= np.sum(moved * (v - w)) + 1e-12 * (1 + size) ** 2


SELF_DUAL = ["non_negative", "second_order", "semidefinite"]
DUALS = {name: name for name in SELF_DUAL} | {
    "zero": "free",
    "free": "zero",
    "exponential": "exponential_dual",
    "exponential_dual": "exponential",
    "power": "power_dual",
    "power_dual": "power",
    "product": "product_dual",
    "product_dual": "product",
}


@pytest.mark.parametrize("name", DUALS)
@settings(max_examples=8)
@given(seed=seeds, size=scales, digits=roundings)
def test_moreau(name, seed, size, digits):
    case = CASES[name]
    (v,) = draw(name, seed, size, digits)
    v = (v + v.T) / 2 if name == "semidefinite" else v
    x, y = np.asarray(run(name, v, case.theta)), np.asarray(run(DUALS[name], -v, case.theta))
    np.testing.assert_allclose(x - y, v, atol=1e-14 * (1 + size))
    assert abs(np.sum(x * y)) <= 1e-14 * (1 + size) ** 2
    # Points of the cone and of its dual are at most at a right angle.
    w = np.asarray(run(DUALS[name], draw(name, seed + 1, size, digits)[0], case.theta))
    assert np.sum(x * w) >= -1e-13 * (1 + size) ** 2


@pytest.mark.parametrize("name", CONES)
@settings(max_examples=5)
@given(seed=seeds, size=scales)
def test_cones_are_homogeneous(name, seed, size):
    case = CASES[name]
    (v,) = draw(name, seed, size, None)
    np.testing.assert_allclose(run(name, 3 * v, case.theta), 3 * run(name, v, case.theta), atol=1e-14 * (1 + size))


def test_dual_of_a_projection():
    v = np.random.default_rng(0).normal(size=(20, 5))
    fall = jax.jit(projection.dual(projection.isotonic))(v)
    # The dual of the monotone cone: sums from the right are not negative, the sum of all is zero.
    assert np.all(np.cumsum(fall[:, ::-1], axis=1) >= -1e-14)
    np.testing.assert_allclose(fall.sum(1), 0, atol=1e-14)
    assert "isotonic" in projection.dual(projection.isotonic).__name__
