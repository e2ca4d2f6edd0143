"""Each condition, attached to a solver of independent make, against finite differences of that solver."""

import jax
import numpy as np
import pytest
from independent import (
    ON_SIMPLEX,
    RIDGE,
    box_least_squares,
    elastic_net,
    group_lasso,
    lasso,
    non_negative_least_squares,
    nonlinear_program,
    on_simplex,
    ridge,
)

CASES = {
    "lasso": lasso,
    "elastic net": elastic_net,
    "group lasso": group_lasso,
    "non-negative least squares": non_negative_least_squares,
    "box": box_least_squares,
    "nonlinear program, product": lambda: nonlinear_program("product"),
    "nonlinear program, natural": lambda: nonlinear_program("natural"),
    **{f"simplex, {name}": lambda name=name: on_simplex(name) for name in ON_SIMPLEX},
    **{f"ridge, {name}": lambda name=name: ridge(name) for name in RIDGE},
}


def primal(x):
    return np.asarray(x[0] if isinstance(x, tuple) else x)


@pytest.mark.parametrize("name", CASES)
def test_derivative(name):
    case = CASES[name]()
    theta = case.theta
    x = case.solve(theta)
    random = np.random.default_rng(0)
    direction = random.standard_normal(theta.shape)
    h = case.h  # four points: an error of h^4
    values = [primal(case.solve(theta + k * h * direction)) for k in (-2, -1, 1, 2)]
    expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    assert np.linalg.norm(expected) > 1e-3

    value, got = jax.jvp(lambda t: case.attach(x, t), [theta], [direction])
    np.testing.assert_allclose(value, primal(x), atol=1e-12)
    np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=case.rtol * np.max(np.abs(expected)))

    cotangent = random.standard_normal(expected.shape)
    (pulled,) = jax.vjp(lambda t: case.attach(x, t), theta)[1](cotangent)
    np.testing.assert_allclose(np.sum(pulled * direction), np.sum(cotangent * expected), rtol=1e-5, atol=1e-6)
    if case.closed_form is not None:
        exact = jax.jvp(case.closed_form, [theta], [direction])[1]
        np.testing.assert_allclose(got, exact, rtol=1e-9)
