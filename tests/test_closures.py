"""Arrays that F, or the solver, or both close over are differentiated like arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opaque import COTANGENT, THETA, B, F, M, differences, jacobian, newton

import implicitdiff as idf

J = jacobian(THETA)


def solve_with_a_loop(theta):
    def step(state):
        x, _, k = state
        new = x - jnp.linalg.solve(M + jnp.diag(0.3 * x**2), F(x, theta))
        return new, jnp.max(jnp.abs(new - x)), k + 1

    return jax.lax.while_loop(lambda s: (s[1] > 1e-14) & (s[2] < 30), step, (jnp.zeros(5), jnp.array(1.0), 0))[0]


def closed_over_by_F(theta):
    return idf.custom_root(lambda x: F(x, theta))(lambda init: solve_with_a_loop(jax.lax.stop_gradient(theta)))(None)


def closed_over_by_both(theta):
    return idf.custom_root(lambda x: F(x, theta))(lambda init: solve_with_a_loop(theta))(None)


def closed_over_in_part(theta):
    def condition(x, rest):
        return F(x, jnp.concatenate([theta[:1], rest]))

    return idf.custom_root(condition)(lambda init, rest: solve_with_a_loop(theta))(None, theta[1:])


class Closure:
    """F as a method of an object that holds traced arrays."""

    def __init__(self, theta):
        self.theta = theta

    def condition(self, x):
        return F(x, self.theta)


def closed_over_by_an_object(theta):
    return idf.implicit_root(Closure(theta).condition, solve_with_a_loop(jax.lax.stop_gradient(theta)))


CASES = [closed_over_by_F, closed_over_by_both, closed_over_in_part, closed_over_by_an_object]
TRANSFORMS = {
    "grad": jax.grad,
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "jacfwd": jax.jacfwd,
    "jit of jacfwd": lambda f: jax.jit(jax.jacfwd(f)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES)
def test_first_order(case, transform):
    gradient = TRANSFORMS[transform](lambda theta: case(theta) @ COTANGENT)(THETA)
    np.testing.assert_allclose(gradient, COTANGENT @ J, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_vmap_and_second_order(case):
    expected = differences(lambda theta: COTANGENT @ jacobian(theta), THETA)
    hessian = jax.jit(jax.vmap(jax.hessian(lambda theta: case(theta) @ COTANGENT)))(jnp.stack([THETA, THETA]))
    np.testing.assert_allclose(hessian, np.stack([expected, expected]), rtol=1e-8, atol=1e-9)


def test_constants_that_F_closes_over_may_change():
    """F is traced anew at each call: an older F with the same name must never answer."""
    scale = 1.0

    def condition(x, theta):
        return scale * x - theta

    solver = idf.custom_root(condition)(lambda init, theta: np.asarray(theta) / scale)
    gradient = jax.grad(lambda theta: solver(None, theta))
    assert gradient(1.0) == 1.0
    scale = 4.0
    assert gradient(1.0) == 0.25
    scale = np.array(2.0)
    assert gradient(1.0) == 0.5
    scale = np.array(8.0)
    assert gradient(1.0) == 0.125


def test_newton_is_what_closes_the_circle():
    np.testing.assert_allclose(solve_with_a_loop(THETA), newton(THETA), atol=1e-13)
    assert B.shape == (5, 3)
