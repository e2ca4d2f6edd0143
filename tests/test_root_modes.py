"""Every mode of differentiation, over every way to attach the derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opaque import COTANGENT, FORMS, TANGENT, THETA, TRACEABLE, F, differences, hessian, jacobian, newton

import implicitdiff as idf

J, H = jacobian(THETA), hessian(THETA)


def jvp(x):
    return lambda theta: jax.jvp(x, (theta,), (TANGENT,))[1]


def vjp(x):
    return lambda theta: jax.vjp(x, theta)[1](COTANGENT)[0]


FIRST = {
    "jvp": (jvp, J @ TANGENT),
    "vjp": (vjp, COTANGENT @ J),
    "jacfwd": (jax.jacfwd, J),
    "jacrev": (jax.jacrev, J),
    "linearize": (lambda x: lambda theta: jax.linearize(x, theta)[1](TANGENT), J @ TANGENT),
}
SECOND = {
    "fwd-fwd": lambda x: jax.jacfwd(jax.jacfwd(x)),
    "fwd-rev": lambda x: jax.jacfwd(jax.jacrev(x)),
    "rev-fwd": lambda x: jax.jacrev(jax.jacfwd(x)),
    "rev-rev": lambda x: jax.jacrev(jax.jacrev(x)),
}


@pytest.mark.parametrize("form", FORMS)
def test_value_is_that_of_the_solver(form):
    np.testing.assert_array_equal(FORMS[form](THETA), FORMS[form](jnp.asarray(THETA)))
    np.testing.assert_allclose(FORMS[form](THETA), newton(THETA), rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", FIRST)
@pytest.mark.parametrize("form", FORMS)
def test_first_order_eagerly(form, mode):
    transform, expected = FIRST[mode]
    np.testing.assert_allclose(transform(FORMS[form])(jnp.asarray(THETA)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("form", TRACEABLE)
def test_first_order_inside_jit(form, mode):
    transform, expected = FIRST[mode]
    np.testing.assert_allclose(jax.jit(transform(FORMS[form]))(THETA), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["jacfwd", "jacrev"])
@pytest.mark.parametrize("form", TRACEABLE)
def test_first_order_around_jit(form, mode):
    transform, expected = FIRST[mode]
    np.testing.assert_allclose(transform(jax.jit(FORMS[form]))(THETA), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["jvp", "vjp"])
@pytest.mark.parametrize("form", TRACEABLE)
def test_first_order_under_vmap(form, mode):
    thetas = THETA + np.arange(3)[:, None] * 0.1
    result = jax.jit(jax.vmap(FIRST[mode][0](FORMS[form])))(thetas)
    for theta, got in zip(thetas, result, strict=True):
        expected = jacobian(theta) @ TANGENT if mode == "jvp" else COTANGENT @ jacobian(theta)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", SECOND)
@pytest.mark.parametrize("form", ["decorated numpy", "function", "function, closure", "decorated fixed point"])
def test_second_order(form, mode):
    transform = SECOND[mode](FORMS[form])
    compiled = transform if form == "decorated numpy" else jax.jit(transform)
    np.testing.assert_allclose(compiled(jnp.asarray(THETA)), H, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", ["fwd-fwd-rev", "rev-fwd-rev"])
def test_third_order(order):
    def x0(theta):
        return FORMS["decorated host"](theta)[0]

    outer = jax.jacfwd if order == "fwd-fwd-rev" else jax.jacrev
    third = jax.jit(outer(jax.jacfwd(jax.jacrev(x0))))(THETA)
    expected = differences(lambda theta: hessian(theta)[0], THETA, step=1e-4)
    np.testing.assert_allclose(third, expected, rtol=1e-5, atol=1e-5)


def test_grad_of_vmap_of_jit():
    solver = jax.jit(FORMS["decorated host"])

    def loss(thetas):
        return jnp.sum(jax.vmap(solver)(thetas) @ COTANGENT)

    thetas = THETA + np.arange(3)[:, None] * 0.1
    expected = np.stack([COTANGENT @ jacobian(theta) for theta in thetas])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(thetas), expected, rtol=1e-12)


def test_inside_scan_and_cond():
    def loss(theta):
        def body(carry, _):
            x = jax.lax.cond(carry < 1e9, FORMS["decorated jax"], lambda t: jnp.zeros(5), theta)
            return carry + x @ COTANGENT, None

        return jax.lax.scan(body, 0.0, None, length=2)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(THETA), 2 * COTANGENT @ J, rtol=1e-12)


def test_products_without_a_solver():
    x = newton(THETA)
    np.testing.assert_allclose(idf.root_jvp(F, x, (THETA,), (TANGENT,)), J @ TANGENT, rtol=1e-12)
    np.testing.assert_allclose(idf.root_vjp(F, x, (THETA,), COTANGENT)[0], COTANGENT @ J, rtol=1e-12)
    assert idf.root_jvp(F, x, (THETA,), (None,)).shape == x.shape
    jitted = jax.jit(lambda x, theta, v: idf.root_vjp(F, x, (theta,), v)[0])
    np.testing.assert_allclose(jitted(x, THETA, COTANGENT), COTANGENT @ J, rtol=1e-12)


def test_without_the_rule_there_is_no_derivative():
    """The solvers are opaque: what the other tests measure is the rule."""
    from opaque import jax_solver

    np.testing.assert_array_equal(jax.jacfwd(lambda theta: jax_solver(None, theta))(THETA), 0)


def test_a_solution_that_is_the_same_in_a_batch_whose_derivative_is_not():
    F = lambda x, a, b: jnp.sum(a) * x - b  # at b = 0 the solution is 0 for each a

    def total(a, b):
        return jnp.sum((1 + idf.implicit_root(F, jnp.zeros(3), a, b)) ** 2 * jnp.sum(a))

    inner = jax.vmap(total, (0, None))
    a, b = jnp.arange(1.0, 11.0).reshape(5, 2), jnp.zeros(3)
    for f in (inner, jax.jit(inner), jax.vmap(jax.jit(total), (0, None))):
        got = jax.vmap(jax.grad(lambda a, b, f=f: f(a[None], b).sum(), argnums=1), (0, None))(a, b)
        np.testing.assert_allclose(got, np.full((5, 3), 2.0))
        got = jax.jacrev(f, argnums=1)(a, b)
        np.testing.assert_allclose(got, np.full((5, 3), 2.0))
