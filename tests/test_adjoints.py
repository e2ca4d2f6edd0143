"""Neumann, one-step, unrolled and polished derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf

rng = np.random.default_rng(0)
N = 4
C = 0.4 * rng.standard_normal((N, N)) / np.sqrt(N)
D = rng.standard_normal((N, 2))


def T(x, theta):
    return jnp.tanh(C @ x + D @ theta)


THETA = jnp.array([0.3, -0.5])


@jax.jit
def iterate(theta, steps=200):
    return jax.lax.fori_loop(0, steps, lambda _, x: T(x, theta), jnp.zeros(N))


X = iterate(THETA)
A1, B1 = jax.jacfwd(T)(X, THETA), jax.jacfwd(T, argnums=1)(X, THETA)
EXACT = np.linalg.solve(np.eye(N) - A1, B1)


def solver(adjoint):
    return idf.custom_fixed_point(T, adjoint=adjoint)(lambda init, theta: jax.lax.stop_gradient(iterate(theta)))


@pytest.mark.parametrize("terms", [1, 2, 5, 60])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_neumann_is_the_partial_sum(terms, mode):
    expected = sum(np.linalg.matrix_power(A1, k) @ B1 for k in range(terms))
    got = jax.jit(mode(solver(idf.Neumann(terms)), argnums=1))(None, THETA)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
    if terms == 60:
        np.testing.assert_allclose(got, EXACT, rtol=1e-9)


def test_one_step_is_the_derivative_of_one_step():
    assert idf.OneStep() == idf.Neumann(1)
    np.testing.assert_allclose(jax.jacrev(solver(idf.OneStep()), argnums=1)(None, THETA), B1, rtol=1e-12)


def test_one_step_is_exact_for_newton():
    heron = lambda x, a: 0.5 * (x + a / x)
    root = lambda a: idf.implicit_fixed_point(heron, jnp.sqrt(jax.lax.stop_gradient(a)), a, adjoint=idf.OneStep())
    np.testing.assert_allclose(jax.grad(root)(4.0), 0.25)
    np.testing.assert_allclose(jax.grad(jax.grad(root))(4.0), -1 / 32)


def test_neumann_converges_in_second_order():
    exact = jax.hessian(lambda t: jnp.sum(solver(None)(None, t)))(THETA)
    got = jax.jit(jax.hessian(lambda t: jnp.sum(solver(idf.Neumann(60))(None, t))))(THETA)
    np.testing.assert_allclose(got, exact, rtol=1e-8)


class TestUnrolled:
    """One word changes implicit to unrolled."""

    @staticmethod
    def gradient_descent(steps):
        def run(init, theta):
            return jax.lax.scan(lambda x, _: (T(x, theta), None), init, None, length=steps)[0]

        return run

    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_it_differentiates_the_iterations(self, mode):
        init = jnp.zeros(N)
        plain = mode(lambda theta: self.gradient_descent(3)(init, theta))(THETA)
        decorate = idf.custom_fixed_point(T, adjoint=idf.Unrolled())
        unrolled = mode(decorate(self.gradient_descent(3)), argnums=1)(init, THETA)
        np.testing.assert_allclose(unrolled, plain, rtol=1e-13)
        implicit = mode(idf.custom_fixed_point(T)(self.gradient_descent(3)), argnums=1)(init, THETA)
        assert np.max(np.abs(implicit - unrolled)) > 1e-3

    def test_both_agree_at_convergence(self):
        decorate = idf.custom_fixed_point(T, adjoint=idf.Unrolled())
        unrolled = jax.jacrev(decorate(self.gradient_descent(100)), argnums=1)(jnp.zeros(N), THETA)
        np.testing.assert_allclose(unrolled, EXACT, rtol=1e-10)

    def test_the_derivative_in_init_is_zero_here_too(self):
        decorate = idf.custom_fixed_point(T, adjoint=idf.Unrolled())
        np.testing.assert_array_equal(jax.jacrev(decorate(self.gradient_descent(2)))(jnp.zeros(N), THETA), 0)


class TestPolish:
    """Newton steps before differentiating: second-order accurate, and x stays as it is."""

    @staticmethod
    def root(theta, error, polish):
        F = lambda x, theta: x - T(x, theta)
        return idf.implicit_root(F, X + error, theta, adjoint=idf.Implicit(polish=polish))

    def test_the_value_is_untouched(self):
        np.testing.assert_array_equal(self.root(THETA, 0.1, 2), X + 0.1)

    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_the_order_of_the_error(self, mode):
        jacobian = jax.jit(mode(self.root), static_argnums=2)
        errors = np.array([[np.linalg.norm(jacobian(THETA, e, k) - EXACT) for e in (1e-2, 1e-3)] for k in (0, 1, 2)])
        slopes = np.log10(errors[:, 0] / errors[:, 1])
        np.testing.assert_allclose(slopes[:2], [1, 2], atol=0.1)
        assert errors[2, 0] < 1e-6

    def test_second_order(self):
        hessian = jax.jit(jax.hessian(lambda t: jnp.sum(self.root(t, 1e-4, 1))))(THETA)
        np.testing.assert_allclose(hessian, jax.hessian(lambda t: jnp.sum(self.root(t, 0.0, 0)))(THETA), rtol=1e-5)


def test_many_conditions_of_one_problem_agree():
    def f(x, theta):
        return 0.5 * jnp.sum((D.T @ x - theta) ** 2) + 0.5 * jnp.sum(x**2)

    x = lambda theta: np.linalg.solve(D @ D.T + np.eye(N), D @ np.asarray(theta))
    expected = np.linalg.solve(D @ D.T + np.eye(N), D)
    gradient = jax.grad(f)
    host = idf.host_solver(lambda init, theta: x(theta), jax.ShapeDtypeStruct((N,), jnp.float64))
    for attach in (
        idf.custom_root(idf.optimality.stationary(f)),
        idf.custom_root(idf.optimality.stationary(f, positive_definite=True)),
        idf.custom_root(gradient),
        idf.custom_fixed_point(lambda x, theta: x - 0.1 * gradient(x, theta)),
    ):
        for mode in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(mode(attach(host), argnums=1)(None, THETA), expected, rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class Phantom(idf.Adjoint):
    """Some damped steps of the iteration for the derivative (Geng et al. 2021)."""

    steps: int
    damping: float = 0.5

    def tangent(self, program, x, theta, theta_dot):
        """From zero, u <- u - damping (A u + B theta_dot)."""
        _, b = program.along(x, theta, theta_dot)
        A = program.product(x, theta)
        u = [0 * leaf for leaf in b]
        for _ in range(self.steps):
            u = [value - self.damping * (a + c) for value, a, c in zip(u, A(u), b, strict=True)]
        return u


def test_an_adjoint_of_ones_own_in_every_mode():
    """Forward and reverse mode are transposes of each other, and many steps are the exact derivative."""

    def solution(theta, steps):
        return idf.implicit_fixed_point(T, X, theta, adjoint=Phantom(steps))

    M = np.eye(N) - 0.5 * (np.eye(N) - A1)
    few = 0.5 * sum(np.linalg.matrix_power(M, k) for k in range(5)) @ B1
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(lambda theta: solution(theta, 5)))(THETA), few, atol=1e-13)
        np.testing.assert_allclose(mode(lambda theta: solution(theta, 120))(THETA), EXACT, atol=1e-10)
    batch = jax.vmap(jax.grad(lambda theta: jnp.sum(solution(theta, 5))))(jnp.stack([THETA, THETA]))
    np.testing.assert_allclose(batch, np.stack([few.sum(0)] * 2), atol=1e-13)
