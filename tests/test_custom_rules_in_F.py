"""F that contains code with derivative rules of its own: custom_vjp, custom_jvp, loops, nested implicit functions."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint
from opaque import COTANGENT, TANGENT, THETA, B, M, hessian, jacobian, newton

import implicitdiff as idf
from implicitdiff import _program

J, H = jacobian(THETA), hessian(THETA)


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))


@jax.custom_vjp
def sine(theta):
    return jnp.sin(theta)


sine.defvjp(lambda t: (jnp.sin(t), t), lambda t, g: (jnp.cos(t) * g,))


@jax.custom_jvp
def cube_jvp(x):
    return x**3


cube_jvp.defjvp(lambda p, t: (p[0] ** 3, 3 * p[0] ** 2 * t[0]))


def cube_by_loop(x):
    return jax.lax.while_loop(lambda s: s[1] < 2, lambda s: (s[0] * x, s[1] + 1), (x, 0))[0]


CONDITIONS = {
    "custom_vjp": lambda x, theta: M @ x + 0.1 * cube(x) - B @ sine(theta),
    "custom_vjp inside jit": lambda x, theta: M @ x + 0.1 * jax.jit(cube)(x) - B @ jnp.sin(theta),
    "custom_vjp inside scan": lambda x, theta: (
        M @ x + jax.lax.scan(lambda c, _: (c + 0.05 * cube(x), None), 0 * x, None, 2)[0] - B @ sine(theta)
    ),
    "custom_jvp": lambda x, theta: M @ x + 0.1 * cube_jvp(x) - B @ jnp.sin(theta),
}


SOLVERS = [None, pytest.param(idf.krylov.BiCGStab(), marks=pytest.mark.slow)]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", CONDITIONS)
def test_both_modes(case, solver):
    adjoint = idf.Implicit(linear_solver=solver)
    x = lambda theta: idf.implicit_root(CONDITIONS[case], newton(THETA), theta, adjoint=adjoint)
    forward, reverse = jax.jit(lambda t: (jax.jvp(x, (t,), (TANGENT,))[1], jax.vjp(x, t)[1](COTANGENT)[0]))(THETA)
    np.testing.assert_allclose(forward, J @ TANGENT, rtol=1e-11)
    np.testing.assert_allclose(reverse, COTANGENT @ J, rtol=1e-11)
    np.testing.assert_allclose(jax.grad(lambda t: x(t) @ COTANGENT)(jnp.asarray(THETA)), COTANGENT @ J, rtol=1e-11)


@pytest.mark.parametrize("solver", [*SOLVERS, lambda A, b: jnp.linalg.solve(jax.jacfwd(A)(b), b)])
def test_a_loop_that_jax_cannot_reverse(solver):
    # The same function as in `x` alone: theta goes through a loop as well, which changes nothing.
    F = lambda x, theta: M @ x + 0.1 * cube_by_loop(x) - B @ jnp.sin(cube_by_loop(theta) / theta**2)
    x = lambda theta: idf.implicit_root(F, newton(THETA), theta, adjoint=idf.Implicit(linear_solver=solver))
    theta = jnp.asarray(THETA)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(x))(theta), J, rtol=1e-11)
    np.testing.assert_allclose(jax.jit(jax.jacrev(x))(theta), J, rtol=1e-11)
    np.testing.assert_allclose(jax.jacfwd(jax.jacfwd(x))(theta), H, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(jax.jacrev(x))(theta), H, rtol=1e-7, atol=1e-8)


def test_a_large_loop_that_jax_cannot_reverse_leaves_forward_mode():
    x = lambda theta: idf.implicit_root(lambda x, theta: cube_by_loop(x) - theta, jnp.cbrt(theta), theta)
    theta = jnp.linspace(1.0, 2.0, 1001)
    np.testing.assert_allclose(jax.jvp(x, (theta,), (theta,))[1], jnp.cbrt(theta) / 3, rtol=1e-11)
    with pytest.raises(NotImplementedError, match=r"while_loop.*1,000 real unknowns.*lax\.scan"):
        jax.grad(lambda theta: jnp.sum(x(theta)))(theta)


def test_custom_vjp_in_a_minimised_function():
    @jax.custom_vjp
    def half_square(x):
        return 0.5 * jnp.sum(x**2)

    half_square.defvjp(lambda x: (0.5 * jnp.sum(x**2), x), lambda x, g: (g * x,))
    F = idf.optimality.stationary(lambda x, t: half_square(x - t) + 0.5 * jnp.sum(x**2), positive_definite=True)
    x = lambda t: idf.implicit_root(F, 0.5 * jax.lax.stop_gradient(t), t)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(x)(jnp.ones(3)), 0.5 * np.eye(3), rtol=1e-12)


class TestNested:
    """An implicit derivative inside F."""

    @staticmethod
    def inner(theta):
        """y = sqrt(theta), whose own derivative is opaque."""
        return idf.implicit_root(lambda y, t: y**2 - t, jnp.sqrt(jax.lax.stop_gradient(theta)), theta)

    def outer(self, theta, F):
        # x^3 = sqrt(x) sqrt(theta)  =>  x = theta^(1/5)
        return idf.implicit_root(F, jax.lax.stop_gradient(theta) ** 0.2, theta)

    @pytest.mark.parametrize("jit", [False, True])
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_against_the_closed_form(self, order, jit):
        F = lambda x, theta: x**3 - self.inner(x) * self.inner(theta)
        f = lambda theta: self.outer(theta, F)
        exact = lambda theta: theta**0.2
        for k in range(order):
            f, exact = (jax.grad if k % 2 == 0 else jax.jacfwd)(f), jax.grad(exact)
        np.testing.assert_allclose((jax.jit(f) if jit else f)(2.0), exact(2.0), rtol=1e-10)

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_a_decorated_solver_inside_F(self, solver):
        @idf.custom_root(lambda y, x: y + 0.1 * y**3 - x, adjoint=idf.Implicit(linear_solver=solver))
        def inner(init, x):
            step = lambda _, y: y - (y + 0.1 * y**3 - x) / (1 + 0.3 * y**2)
            return jax.lax.stop_gradient(jax.lax.fori_loop(0, 20, step, init))

        def F(x, theta):
            return M @ inner(jnp.zeros(5), x) - B @ theta

        y = np.linalg.solve(M, B @ THETA)
        dy = np.linalg.solve(M, B)
        first = (1 + 0.3 * y**2)[:, None] * dy
        second = (0.6 * y)[:, None, None] * dy[:, :, None] * dy[:, None, :]
        x = lambda theta: idf.implicit_root(F, y + 0.1 * y**3, theta, adjoint=idf.Implicit(linear_solver=solver))
        for mode in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(jax.jit(mode(x))(THETA), first, rtol=1e-10)
        np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacrev(x)))(THETA), second, rtol=1e-8, atol=1e-11)


def test_hessian_with_custom_vjp_in_reverse_over_reverse():
    """A custom_vjp can be differentiated again in reverse mode only if its rule can: this one's can."""
    x = lambda theta: idf.implicit_root(CONDITIONS["custom_vjp"], newton(THETA), theta)
    got = jax.jit(jax.jacrev(jax.jacrev(lambda t: x(t) @ COTANGENT)))(THETA)
    np.testing.assert_allclose(got, np.tensordot(COTANGENT, H, 1), rtol=1e-7, atol=1e-8)
    with pytest.raises(TypeError) as info:
        jax.hessian(lambda t: x(t) @ COTANGENT)(jnp.asarray(THETA))
    assert "jax.jacrev(jax.jacrev(f))" in "".join(info.value.__notes__)


# Solvers whose derivative is another solve, which JAX cannot transpose.


def by_odeint(x, theta):
    """The state at time 1 of y' = -theta y from x: exp(-theta) x."""
    rates = jnp.stack([theta[0], theta[1]])
    return odeint(lambda y, t, rates: -rates * y, x, jnp.array([0.0, 1.0]), rates, rtol=1e-10, atol=1e-10)[-1]


def by_odeint_on_a_tree(x, theta):
    end = by_odeint(jnp.stack([x["a"][0], x["b"]]), theta)
    return {"a": end[:1] - 1, "b": end[1] - theta[2]}


def by_jaxopt(x, theta):
    """The minimum of |y|^2 / 2 + sum(y^4) / 4 - x'y: y + y^3 = x."""
    jaxopt = pytest.importorskip("jaxopt")
    f = lambda y, x: jnp.sum(y**2 / 2 + y**4 / 4 - x * y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it uses of JAX is deprecated
        return jaxopt.GradientDescent(f, tol=1e-12, maxiter=2000).run(jnp.zeros_like(x), x).params


def test_odeint_in_F():
    """A shooting method: x with exp(-theta) x = (1, theta_2)."""
    s = lambda t: idf.implicit_root(by_odeint_on_a_tree, {"a": jnp.exp(t[:1]), "b": jnp.exp(t[1]) * t[2]}, t)
    a, b, c = THETA
    expected = {"a": np.array([[np.exp(a), 0, 0]]), "b": np.array([0, np.exp(b) * c, np.exp(b)])}
    for mode in (jax.jacfwd, jax.jacrev):
        got = jax.jit(mode(s))(jnp.asarray(THETA))
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-7, atol=1e-8), got, expected)


def test_a_jaxopt_solver_in_F():
    """x with y(x) = theta where y + y^3 = x, so that x = theta + theta^3."""
    theta = jnp.asarray(THETA)
    s = lambda t: idf.implicit_root(lambda x, t: by_jaxopt(x, t) - t, theta + theta**3, t)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(s))(theta), np.diag(1 + 3 * THETA**2), rtol=1e-6, atol=1e-9)


def test_a_solver_in_F_that_is_too_large_for_rows(monkeypatch):
    monkeypatch.setattr(_program, "ROWS", 1)
    with pytest.raises(NotImplementedError) as info:
        jax.grad(lambda t: jnp.sum(idf.implicit_root(lambda x, t: by_odeint(x, t) - 1, jnp.exp(THETA[:2]), t)))(THETA)
    assert "up to 1,000 real unknowns" in "".join(info.value.__notes__)
