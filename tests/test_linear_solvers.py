"""Every linear solver gives the same derivative, in both modes and to second order."""

from functools import partial

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from opaque import COTANGENT, TANGENT, THETA, F, hessian, jacobian, newton

import implicitdiff as idf
from implicitdiff.krylov import CG, GMRES, MINRES, BiCGStab

J = jacobian(THETA)


def jax_scipy(matvec, b):
    return jax.scipy.sparse.linalg.bicgstab(matvec, b, tol=1e-13)[0]


def dense_callable(matvec, b):
    return jnp.linalg.solve(jax.jacfwd(matvec)(b), b)


GENERAL = {
    "automatic": None,
    "GMRES": GMRES(),
    "BiCGStab": BiCGStab(),
    "lineax LU": lx.LU(),
    "lineax QR": lx.QR(),
    "lineax SVD": lx.SVD(),
    "lineax GMRES": lx.GMRES(rtol=1e-13, atol=1e-13),
    "lineax BiCGStab": lx.BiCGStab(rtol=1e-13, atol=1e-13),
    "lineax LSMR": lx.LSMR(rtol=1e-14, atol=1e-14),
    "lineax automatic": lx.AutoLinearSolver(well_posed=True),
    "callable": dense_callable,
    "jax.scipy": jax_scipy,
}


@partial(jax.jit, static_argnums=(0,))
def general_products(adjoint, theta):
    def x(theta):
        return idf.implicit_root(F, newton(THETA), theta, adjoint=adjoint)

    second = jax.jvp(jax.grad(lambda t: x(t) @ COTANGENT), (theta,), (TANGENT,))[1]
    return jax.jvp(x, (theta,), (TANGENT,))[1], jax.vjp(x, theta)[1](COTANGENT)[0], second


@pytest.mark.parametrize("solver", GENERAL)
def test_general_systems(solver):
    forward, reverse, second = general_products(idf.Implicit(linear_solver=GENERAL[solver]), jnp.asarray(THETA))
    np.testing.assert_allclose(forward, J @ TANGENT, rtol=1e-9)
    np.testing.assert_allclose(reverse, COTANGENT @ J, rtol=1e-9)
    np.testing.assert_allclose(second, COTANGENT @ (hessian(THETA) @ TANGENT), rtol=1e-7)


rng = np.random.default_rng(3)
SIZE = 12
U = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
RIGHT = rng.standard_normal((SIZE, 2))
SYMMETRIC = {
    "definite": U @ np.diag(np.linspace(1, 10, SIZE)) @ U.T,
    "indefinite": U @ np.diag(np.linspace(-5.3, 6, SIZE)) @ U.T,
}
SYMMETRIC_SOLVERS = {
    "automatic": (None, "both"),
    "CG": (CG(), "definite"),
    "MINRES": (MINRES(), "both"),
    "MINRES in lineax": (MINRES(rtol=1e-13), "lineax"),
    "lineax CG": (lx.CG(rtol=1e-13, atol=1e-13), "definite"),
    "Cholesky": (lx.Cholesky(), "definite"),
}


@pytest.mark.parametrize("kind", SYMMETRIC)
@pytest.mark.parametrize("name", SYMMETRIC_SOLVERS)
def test_symmetric_systems(name, kind):
    solver, suits = SYMMETRIC_SOLVERS[name]
    A = SYMMETRIC[kind]
    expected = np.linalg.solve(A, RIGHT)
    if suits == "lineax":
        operator = lx.MatrixLinearOperator(jnp.asarray(A), lx.symmetric_tag)
        got = lx.linear_solve(operator, jnp.asarray(RIGHT[:, 0]), solver).value
        np.testing.assert_allclose(got, expected[:, 0], rtol=1e-11)
        return
    adjoint = idf.Implicit(
        linear_solver=solver, symmetric=True, positive_definite=suits != "both" or kind == "definite"
    )
    theta = np.array([0.5, -1.0])
    x = lambda t: idf.implicit_root(lambda x, t: A @ x - RIGHT @ t, expected @ theta, t, adjoint=adjoint)
    result = jax.jit(lambda t: (jax.jacfwd(x)(t), jax.jacrev(x)(t)))(theta)
    if suits == "definite" and kind == "indefinite":  # the method does not fit: never a number that is wrong
        for jacobian in result:
            assert np.all(np.isnan(jacobian) | np.isclose(jacobian, expected, rtol=1e-9))
    else:
        for jacobian in result:
            np.testing.assert_allclose(jacobian, expected, rtol=1e-11)


@pytest.mark.parametrize(
    "solver", [None, GMRES(), BiCGStab(), CG(), MINRES(), lx.GMRES(1e-12, 1e-12), lx.CG(1e-12, 1e-12)]
)
def test_preconditioner(solver):
    """An ill-scaled system that only converges, in the steps allowed, with its preconditioner."""
    scale = np.logspace(0, 8, 150)
    A = (
        np.diag(scale)
        + 0.01 * np.diag(np.sqrt(scale[1:] * scale[:-1]), 1)
        + 0.01 * np.diag(np.sqrt(scale[1:] * scale[:-1]), -1)
    )
    expected = np.linalg.solve(A, np.ones(150))
    few = solver
    if isinstance(solver, idf.krylov.Krylov):
        few = type(solver)(max_steps=30)

    def derivative(preconditioner):
        adjoint = idf.Implicit(linear_solver=few, positive_definite=True, preconditioner=preconditioner)
        x = lambda t: idf.implicit_root(lambda x, t: A @ x - t, expected, t, adjoint=adjoint)
        return jax.jit(lambda t: (jax.jvp(x, (t,), (t,))[1], jax.vjp(x, t)[1](t)[0]))(jnp.ones(150))

    for product in derivative(lambda v: v / scale):
        np.testing.assert_allclose(product, expected, rtol=1e-7)
    if few is not None:
        for product in derivative(None):
            assert np.all(np.isnan(product))


@pytest.mark.parametrize("method", [GMRES(max_steps=3), BiCGStab(max_steps=4)])
def test_the_preconditioner_is_transposed_in_reverse_mode(method):
    A = np.triu(np.ones((40, 40))) + 3 * np.eye(40)
    inverse = np.linalg.inv(A)
    adjoint = idf.Implicit(linear_solver=method, preconditioner=lambda v: jnp.asarray(inverse) @ v)
    x = lambda t: idf.implicit_root(lambda x, t: A @ x - t, inverse @ np.ones(40), t, adjoint=adjoint)
    np.testing.assert_allclose(jax.vjp(x, jnp.ones(40))[1](jnp.ones(40))[0], inverse.T @ np.ones(40), rtol=1e-10)


def test_many_right_hand_sides_share_one_factorisation():
    rng = np.random.default_rng(0)
    A, C = np.eye(30) + 0.1 * rng.standard_normal((30, 30)), rng.standard_normal((30, 50))
    x = lambda t: idf.implicit_root(lambda x, t: A @ x - C @ t, np.linalg.solve(A, C @ np.ones(50)), t)
    for mode in (jax.jacfwd, jax.jacrev):
        jacobian = jax.jit(mode(x))
        np.testing.assert_allclose(jacobian(jnp.ones(50)), np.linalg.solve(A, C), rtol=1e-11)
        text = jacobian.lower(jnp.ones(50)).compile().as_text()
        factorisations = [line for line in text.splitlines() if "getrf" in line and "custom-call(" in line]
        assert len(factorisations) == 1
        assert "f64[30,60]" in factorisations[0]  # [A, I], without a batch


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_two_hundred_thousand_unknowns_without_a_matrix(mode):
    """Convection and diffusion with a nonlinear sink, not symmetric; J and its products by a banded solver."""
    import scipy.sparse as sp
    import scipy.sparse.linalg as spl

    n = 200_000

    def conditions(x, theta):
        left, right = jnp.pad(x[:-1], (1, 0)), jnp.pad(x[1:], (0, 1))
        return 4 * x - 1.6 * left - 0.9 * right + theta[0] * x**3 - theta[1]

    theta = np.array([0.1, 1.0])
    x = np.zeros(n)
    for _ in range(20):
        A = sp.diags([-1.6, 4 + 0.3 * x**2, -0.9], [-1, 0, 1], shape=(n, n), format="csc")
        x = x - spl.spsolve(A, np.asarray(conditions(x, theta)))
    A = sp.diags([-1.6, 4 + 0.3 * x**2, -0.9], [-1, 0, 1], shape=(n, n), format="csc")
    right = np.stack([-(x**3), np.ones(n)], 1)
    attached = lambda t: idf.implicit_root(conditions, x, t)
    if mode == "forward":
        got = jax.jit(lambda t: jax.jvp(attached, (t,), (t,))[1])(theta)
        np.testing.assert_allclose(got, spl.spsolve(A, right @ theta), rtol=1e-10)
    else:
        weights = np.cos(np.arange(n))
        got = jax.jit(jax.grad(lambda t: attached(t) @ weights))(theta)
        np.testing.assert_allclose(got, spl.spsolve(A.T.tocsc(), weights) @ right, rtol=1e-9)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_game_of_ten_thousand_unknowns(mode):
    """Players who push each other around: the system is skew, v' A v = 0 for every v."""
    n = 5_000
    strength = np.linspace(1, 2, n)

    def conditions(x, theta):
        return jnp.concatenate([strength * x[n:], -strength * x[:n]]) - theta

    attached = lambda t: idf.implicit_root(conditions, jnp.zeros(2 * n), t)
    for b in (np.random.default_rng(0).standard_normal(2 * n), np.ones(2 * n), np.eye(1, 2 * n, 7)[0]):
        inverse = np.concatenate([-b[n:] / strength, b[:n] / strength])  # of b; of the transposed system -inverse
        got = jax.jvp(attached, (b,), (b,))[1] if mode == "forward" else -jax.vjp(attached, b)[1](b)[0]
        np.testing.assert_allclose(got, inverse, atol=1e-12)


def test_only_the_elements_of_a_batch_that_need_it_are_rescued():
    """Automatic solve of 150 unknowns: CG where it converges, the dense matrix where it does not."""
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((150, 150)))[0]
    spectra = np.stack([np.linspace(1, 2, 150), np.logspace(0, 8, 150)])
    adjoint = idf.Implicit(positive_definite=True)

    def x(t, spectrum):
        A = (U * spectrum) @ U.T
        return idf.implicit_root(lambda x, t: A @ x - t, jnp.ones(150), t, adjoint=adjoint)

    products = jax.jit(jax.vmap(lambda s: jax.vjp(lambda t: x(t, s), jnp.ones(150))[1](jnp.ones(150))[0]))(spectra)
    for spectrum, product in zip(spectra, products, strict=True):
        expected = (U / spectrum) @ (U.T @ np.ones(150))
        np.testing.assert_allclose(product, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


@pytest.mark.parametrize("solver", [lx.CG(1e-8, 1e-8), lx.GMRES(1e-8, 1e-8)], ids=["CG", "GMRES"])
def test_lineax_atol_is_meant_entry_by_entry(solver):
    n = 2_500
    d = jnp.linspace(1.0, 1.1, n)

    def solution(theta):  # d x = theta
        F = lambda x, theta: d * x + 0.49 * jnp.roll(x, 1) + 0.49 * jnp.roll(x, -1) - theta
        return idf.implicit_root(
            F, jnp.zeros(n), theta, adjoint=idf.Implicit(linear_solver=solver, positive_definite=True)
        )

    b = 1e-5 * jnp.asarray(np.random.default_rng(0).standard_normal(n))  # so small that the absolute tolerance decides
    got = jax.jvp(solution, [jnp.zeros(n)], [b])[1]
    residual = d * got + 0.49 * jnp.roll(got, 1) + 0.49 * jnp.roll(got, -1) - b
    assert np.max(np.abs(residual)) < 1e-7


def test_the_matrix_that_is_not_needed_costs_nothing():
    """Nothing of its size is computed before the loop that forms it where the Krylov method fails."""
    n = 500
    solve = lambda t: idf.implicit_root(lambda x, t: 2 * x + t, -t / 2, t)
    text = jax.jit(lambda t: jax.vjp(solve, t)[1](t)).lower(jnp.ones(n)).compile().as_text()
    assert f"[{n},{n}]" in text
    assert f"[{n},{n}]" not in text[text.index("ENTRY") :]
