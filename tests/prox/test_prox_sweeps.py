"""What holds for every proximal operator: units, numbers that are not finite, half precision, eager calls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prox_cases import CASES
from sweeps import check_compiles_once, check_half_precision, check_loops, check_not_finite, check_units

COUPLED = ("total_variation", "nuclear_norm")
INDIFFERENT = ("none",)  # to its parameters
# How the parameters follow the unit of v; all are lengths where nothing is said.
IN_UNITS = {
    "elastic_net": lambda t, c: (c * t[0], t[1]),
    "ridge": lambda t, c: t,
    "non_negative_ridge": lambda t, c: t,
    "log_barrier": lambda t, c: c * c * t,
}


def lengths(theta, c):
    return jax.tree.map(lambda t: c * t, theta)


def point(name, seed=0):
    return np.random.default_rng(seed).normal(size=CASES[name].shape)


@pytest.mark.parametrize("name", CASES)
def test_units_do_not_matter(name):
    for seed in range(3):
        check_units(CASES[name].prox, point(name, seed), CASES[name].theta, IN_UNITS.get(name, lengths))


@pytest.mark.parametrize("name", CASES)
def test_units_of_scaling_and_weight_cancel(name):
    case = CASES[name]
    if name in ("none", "from_projection"):
        pytest.skip("no weight")
    expected = case.prox(point(name), case.theta, 1.0)
    for c in (1e-12, 1e12):
        np.testing.assert_allclose(case.prox(point(name), lengths(case.theta, 1 / c), c), expected, rtol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_not_finite(name):
    case = CASES[name]
    check_not_finite(case.prox, point(name), case.theta, name not in COUPLED, name in INDIFFERENT)


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_in_loops(name):
    check_loops(CASES[name].prox, point(name, 4), CASES[name].theta)


@pytest.mark.parametrize("name", CASES)
def test_half_precision(name):
    check_half_precision(CASES[name].prox, point(name), CASES[name].theta)


@pytest.mark.parametrize("name", CASES)
def test_eager_calls_compile_once(name):
    check_compiles_once(partial(CASES[name].prox, scaling=jnp.asarray(0.7)), point(name), CASES[name].theta)


def test_a_group_that_is_not_finite_leaves_the_others():
    v = jnp.array([[1.0, np.nan, 2.0], [3.0, 4.0, 0.0]])
    x, gradient = jax.value_and_grad(lambda v: (x := CASES["group_lasso"].prox(v, 1.0))[1] @ x[1])(v)
    assert np.isfinite(x)
    assert np.all(np.isnan(gradient[0]))
    np.testing.assert_allclose(gradient[1], [4.8, 6.4, 0], atol=1e-14)
