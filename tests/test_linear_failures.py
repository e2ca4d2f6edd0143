"""A derivative that cannot be trusted is NaN, an exception or a warning: never a plausible number."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicitdiff as idf
from implicitdiff.krylov import CG, GMRES, MINRES, BiCGStab

# In the range of none of the singular matrices below, so that no adjoint system has a solution.
COTANGENT = jnp.linspace(1.0, 1.7, 400)


def derivatives(F, x, theta, adjoint=None):
    """Forward and reverse products of the solution of F."""
    attached = lambda t: idf.implicit_root(F, x, t, adjoint=adjoint)
    forward = jax.jvp(attached, (theta,), (jnp.ones_like(theta),))[1]
    return forward, jax.vjp(attached, theta)[1](COTANGENT[: len(x)])[0]


rng = np.random.default_rng(0)
SINGULAR = {
    "exactly": np.array([[1.0, 2.0], [2.0, 4.0]]),
    "zero": np.zeros((3, 3)),
    "to rounding": np.array([[0.1, 0.3], [0.1 * 3, 0.9]]),
    "rank deficient": (lambda Q: Q @ np.diag([3.0, 2, 1, 1, 0]) @ Q.T)(np.linalg.qr(rng.standard_normal((5, 5)))[0]),
    "low rank": rng.standard_normal((40, 39)) @ rng.standard_normal((39, 40)),
    "laplacian": 2 * np.eye(6) - np.roll(np.eye(6), 1, 0) - np.roll(np.eye(6), -1, 0),
    "condition 1e15": np.diag([1.0, 1e-15]) @ np.array([[1.0, 1], [0, 1]]) + np.array([[0.0, 0], [1, 1]]),
    "not finite": np.array([[1.0, np.nan], [0.0, 1.0]]),
}


@pytest.mark.parametrize("settings", [{}, {"symmetric": True}, {"positive_definite": True}])
@pytest.mark.parametrize("kind", SINGULAR)
def test_a_singular_jacobian_gives_nan(kind, settings):
    A = SINGULAR[kind]
    for product in jax.jit(
        lambda t: derivatives(lambda x, t: A @ x - t, jnp.zeros(len(A)), t, idf.Implicit(**settings))
    )(jnp.arange(1.0, len(A) + 1)):
        assert np.all(np.isnan(product)), product


@pytest.mark.parametrize(
    "solver",
    [
        lx.LU(),
        lx.QR(),
        GMRES(),
        BiCGStab(),
        lx.GMRES(1e-10, 1e-10),
        lambda mv, b: jnp.linalg.solve(jax.jacfwd(mv)(b), b),
    ],
)
def test_a_singular_jacobian_with_chosen_solvers(solver):
    A = SINGULAR["rank deficient"]
    for product in derivatives(
        lambda x, t: A @ x - t, jnp.zeros(5), jnp.arange(1.0, 6), idf.Implicit(linear_solver=solver)
    ):
        assert np.all(np.isnan(product)), product


@pytest.mark.parametrize("n", [2, 20, 300])
def test_bad_scaling_is_not_singular(n):
    """Rows and columns in any units: the solution is exact, and must not be refused."""
    rows, columns = np.logspace(-8, 8, n), np.logspace(10, -10, n)
    A = rows[:, None] * (np.eye(n) + 0.1 * np.cos(np.add.outer(np.arange(n), 2.0 * np.arange(n))) / n) * columns
    expected = np.linalg.solve(A / rows[:, None] / columns, np.ones(n) / rows) / columns
    forward, _ = derivatives(lambda x, t: A @ x - t, jnp.zeros(n), jnp.ones(n))
    np.testing.assert_allclose(forward, expected, rtol=1e-6)


def test_x_that_is_singular_where_the_derivative_is_infinite():
    gradient = jax.grad(lambda t: idf.implicit_root(lambda x, t: x**3 - t, 0.0, t))(0.0)
    assert np.isnan(gradient)


HARD = np.diag(np.logspace(0, 6, 60))


@pytest.mark.parametrize(
    "solver",
    [
        CG(max_steps=5),
        MINRES(max_steps=5),
        GMRES(max_steps=5),
        BiCGStab(max_steps=5),
        lx.CG(1e-8, 0.0, max_steps=5),
        lambda mv, b: jax.scipy.sparse.linalg.cg(mv, b, maxiter=5)[0],
    ],
)
def test_a_solve_that_does_not_converge_gives_nan(solver):
    adjoint = idf.Implicit(linear_solver=solver, positive_definite=True)
    for product in derivatives(lambda x, t: HARD @ x - t, jnp.zeros(60), jnp.ones(60), adjoint):
        assert np.all(np.isnan(product))


def test_ignore_gives_the_number():
    adjoint = idf.Implicit(linear_solver=CG(max_steps=5), positive_definite=True, on_failure="ignore")
    for product in derivatives(lambda x, t: HARD @ x - t, jnp.zeros(60), jnp.ones(60), adjoint):
        assert np.all(np.isfinite(product))


CAUSES = {
    "singular": (lambda x, t: SINGULAR["laplacian"] @ x - t, {}, "singular"),
    "not converged": (
        lambda x, t: jnp.vander(jnp.arange(1.0, 7)) @ x - t,
        {"linear_solver": GMRES(max_steps=2)},
        "converge",
    ),
    "not finite": (lambda x, t: x * jnp.nan - t, {}, "finite"),
    "not symmetric": (
        lambda x, t: jnp.triu(jnp.ones((6, 6))) @ x - t,
        {"positive_definite": True},
        "declared",
    ),
    "indefinite": (lambda x, t: -x - t, {"positive_definite": True}, "declared"),
    "not a root": (lambda x, t: x - t, {"residual_tol": 1e-3}, "residual_tol"),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("cause", CAUSES)
def test_raise_names_the_cause(cause, jit):
    F, settings, words = CAUSES[cause]
    adjoint = idf.Implicit(on_failure="raise", **settings)
    for mode in (jax.jacfwd, jax.jacrev):
        f = mode(lambda t: idf.implicit_root(F, jnp.zeros(6), t, adjoint=adjoint))
        with pytest.raises(Exception, match=words):
            jax.block_until_ready((jax.jit(f) if jit else f)(jnp.arange(1.0, 7)))


@pytest.mark.parametrize("cause", CAUSES)
def test_warn_prints_the_cause_and_gives_nan(cause, capfd):
    F, settings, words = CAUSES[cause]
    adjoint = idf.Implicit(on_failure="warn", **settings)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(idf.implicit_root(F, jnp.zeros(6), t, adjoint=adjoint))))(
        jnp.arange(1.0, 7)
    )
    jax.effects_barrier()
    assert np.all(np.isnan(gradient))
    assert words in capfd.readouterr().err


def test_nothing_is_said_when_all_is_well(capfd):
    for on_failure in ("raise", "warn"):
        adjoint = idf.Implicit(on_failure=on_failure, residual_tol=1e-6)
        x = lambda t: idf.implicit_root(lambda x, t: x**2 - t, jnp.sqrt(t), t, adjoint=adjoint)
        np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(x)))(jnp.array([1.0, 4.0])), [0.5, 0.25])
        np.testing.assert_allclose(jax.jit(jax.hessian(x))(4.0), -1 / 32)
    jax.effects_barrier()
    assert capfd.readouterr().err == ""


def test_one_bad_element_of_a_batch_does_not_spoil_the_others():
    A = np.stack([np.eye(2), SINGULAR["exactly"], 2 * np.eye(2)])
    for size_adjoint in (
        idf.Implicit(),
        idf.Implicit(linear_solver=GMRES()),
        idf.Implicit(linear_solver=BiCGStab()),
        idf.Implicit(on_failure="warn"),
    ):
        x = lambda A, t: idf.implicit_root(lambda x, t: A @ x - t, jnp.zeros(2), t, adjoint=size_adjoint)
        products = jax.vmap(lambda A: jax.vjp(lambda t: x(A, t), jnp.ones(2))[1](jnp.array([1.0, 0]))[0])(A)
        np.testing.assert_allclose(products[0], [1, 0])
        np.testing.assert_allclose(products[2], [0.5, 0])
        assert np.all(np.isnan(products[1]))


class TestResidualTol:
    """F that does not belong to the solver, or a solver that stopped early."""

    def test_a_wrong_condition(self):
        solver = idf.custom_root(lambda x, t: x - 2 * t, adjoint=idf.Implicit(residual_tol=1e-6))(lambda init, t: t)
        assert np.isnan(jax.grad(solver, argnums=1)(None, 1.0))
        assert np.isnan(jax.jvp(lambda t: solver(None, t), (1.0,), (1.0,))[1])
        assert float(solver(None, 1.0)) == 1.0  # the value is the solver's

    def test_without_it_an_approximate_solution_is_legitimate(self):
        gradient = jax.grad(lambda t: idf.implicit_root(lambda x, t: x**2 - t, 2.01, t))(4.0)
        np.testing.assert_allclose(gradient, 1 / 4.02)

    def test_a_nan_solution(self):
        for adjoint in (None, idf.Implicit(residual_tol=1.0)):
            gradient = jax.grad(lambda t: idf.implicit_root(lambda x, t: x**2 - t, jnp.nan, t, adjoint=adjoint))(4.0)
            assert np.isnan(gradient)


@pytest.mark.parametrize("n", [6, 150])
def test_a_wrong_declaration_is_noticed(n):
    """Declared symmetric or positive definite, and it is not: right or NaN, never the derivative of another matrix."""
    A = np.triu(np.ones((n, n))) + n * np.eye(n)
    for settings in ({"positive_definite": True}, {"symmetric": True}):
        adjoint = idf.Implicit(**settings)
        forward, reverse = derivatives(lambda x, t: A @ x - t, jnp.zeros(n), jnp.ones(n), adjoint)
        for product, expected in (
            (forward, np.linalg.solve(A, np.ones(n))),
            (reverse, np.linalg.solve(A.T, COTANGENT[:n])),
        ):
            assert np.all(np.isnan(product)) or np.allclose(product, expected, rtol=1e-9)
        # The declaration alone makes nothing NaN: the same of a matrix of which it is true.
        S = (A + A.T) / 2
        products = derivatives(lambda x, t: S @ x - t, jnp.zeros(n), jnp.ones(n), adjoint)
        for product, right in zip(products, (np.ones(n), COTANGENT[:n]), strict=True):
            np.testing.assert_allclose(product, np.linalg.solve(S, right), rtol=1e-7)


@pytest.mark.parametrize("adjoint", [idf.Implicit(), idf.Neumann(3)])
def test_nan_in_the_solution_shows_though_the_conditions_hide_it(adjoint):
    T = lambda x, t: jnp.where(x > 5, 0.5 * x, 0.0) + t  # the comparison is false for NaN, and the Jacobian finite
    solution = lambda t: idf.implicit_fixed_point(T, jnp.full(2, jnp.nan), t, adjoint=adjoint)
    t = jnp.ones(2)
    assert np.isnan(jax.jacfwd(solution)(t)).any()
    assert np.isnan(jax.grad(lambda t: jnp.sum(solution(t)))(t)).all()
    assert np.isnan(jax.jvp(solution, [t], [t])[1]).all()
