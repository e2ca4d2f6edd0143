"""Derivatives of every order through loops: JAX partially evaluates their bodies, and a rule may not be lost there."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import implicitdiff as idf


def root(a):
    return idf.implicit_root(lambda x, a: x**2 - a, jnp.sqrt(a), a)


LOOPS = {
    "scan": lambda a: lax.scan(lambda c, _: (root(c), None), a, None, length=1)[0],
    "scanned input": lambda a: lax.scan(lambda c, v: (c + root(v), None), 0.0, a[None])[0],
    "map": lambda a: lax.map(root, a[None])[0],
    "fori": lambda a: lax.fori_loop(0, 1, lambda _, c: root(c), a),
    "checkpoint in scan": lambda a: lax.scan(lambda c, _: (jax.checkpoint(root)(c), None), a, None, length=1)[0],
    "vmap in scan": lambda a: lax.scan(lambda c, _: (jax.vmap(root)(c[None])[0], None), a, None, length=1)[0],
    "jit in map": lambda a: lax.map(jax.jit(root), a[None])[0],
    "cond in scan": lambda a: lax.scan(lambda c, _: (lax.cond(c > 0, root, lambda c: c, c), None), a, None, length=1)[
        0
    ],
}
MODES = list(product((jax.jacfwd, jax.jacrev), repeat=2))


@pytest.mark.parametrize("loop", LOOPS)
def test_second_derivatives_in_all_four_orders(loop):
    f = LOOPS[loop]
    everything = jax.jit(lambda a: [outer(inner(f))(a) for outer, inner in MODES])
    np.testing.assert_allclose(everything(16.0), 4 * [-0.25 * 16**-1.5], rtol=1e-12)


def test_third_derivatives_and_batches():
    f = LOOPS["scan"]
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.hessian(f)))(16.0), 0.375 * 16**-2.5, rtol=1e-12)
    a = jnp.array([4.0, 16.0, 25.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.hessian(f)))(a), -0.25 * a**-1.5, rtol=1e-12)
    total = jax.jit(jax.hessian(lambda a: jnp.sum(lax.map(root, a))))
    np.testing.assert_allclose(total(a), np.diag(-0.25 * a**-1.5), rtol=1e-12)


def test_implicit_euler():
    """Five steps x <- y with y = x + h f(y): the recurrence differentiated by hand."""
    h = 0.1

    def step(x, a):  # y + h a y^3 = x
        y = x
        for _ in range(30):
            y = y - (y + h * a * y**3 - x) / (1 + 3 * h * a * y**2)
        return y

    def implicit(a):
        def body(x, _):
            y = lax.stop_gradient(step(x, a))
            return idf.implicit_root(lambda y, x, a: y + h * a * y**3 - x, y, x, a), None

        return lax.scan(body, 1.0 + 0 * a, None, length=5)[0]

    def unrolled(a):
        x = 1.0
        for _ in range(5):
            x = step(x, a)
        return x

    for outer, inner in MODES:
        np.testing.assert_allclose(outer(inner(implicit))(1.3), jax.hessian(unrolled)(1.3), rtol=1e-10)


def test_a_stationary_point_of_an_objective_with_solutions_inside():
    """The condition of the outer problem is itself a derivative through lax.map."""

    def objective(x, t):  # sum of sqrt(x + k) + (x - t)^2
        inner = lax.map(lambda k: root(x + k), jnp.arange(1.0, 4.0))
        return jnp.sum(inner) + (x - t) ** 2

    def plain(x, t):
        return jnp.sum(jnp.sqrt(x + jnp.arange(1.0, 4.0))) + (x - t) ** 2

    x = 2.0
    for _ in range(50):
        x = x - jax.grad(plain)(x, 3.0) / jax.hessian(plain)(x, 3.0)
    F = idf.optimality.stationary(objective)
    got = jax.jit(jax.grad(lambda t: idf.implicit_root(F, x, t)))(3.0)
    np.testing.assert_allclose(got, 2 / jax.hessian(plain)(x, 3.0), rtol=1e-10)
