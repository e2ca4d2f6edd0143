"""SciPy through `run`: free, boxed and constrained problems, eagerly, under jit and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicitdiff as idf
from implicitdiff import solvers

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((20, 4))
Y = RANDOM.standard_normal(20)


def ridge(x, t):
    return 0.5 * jnp.sum((X @ x - Y) ** 2) + 0.5 * t * jnp.sum(x**2)


def ridge_solution(t):
    return jnp.linalg.solve(X.T @ X + t * jnp.eye(4), X.T @ Y)


FREE = {
    "L-BFGS-B": solvers.scipy_minimize(ridge),
    "BFGS": solvers.scipy_minimize(ridge, "BFGS"),
    "trust-exact": solvers.scipy_minimize(ridge, "trust-exact"),
    "Nelder-Mead": solvers.scipy_minimize(ridge, "Nelder-Mead"),
    "root": solvers.scipy_root(jax.grad(ridge)),
    "least squares": solvers.scipy_least_squares(lambda x, t: jnp.append(X @ x - Y, jnp.sqrt(t) * x)),
}


@pytest.mark.parametrize("name", FREE)
def test_free(name):
    solver = FREE[name]
    run = lambda t: solver.run(jnp.zeros(4), t)[0]
    x, state = solver.run(jnp.zeros(4), 2.0)
    np.testing.assert_allclose(x, ridge_solution(2.0), atol=1e-6)
    assert state.converged
    assert state.iteration > 0
    assert state.error < 1e-5
    slope = jax.jacobian(ridge_solution)(2.0)
    for derivative in (jax.jacfwd, jax.jacrev, lambda f: jax.jit(jax.jacrev(f))):
        np.testing.assert_allclose(derivative(run)(2.0), slope, atol=1e-6)
    many = jax.jit(jax.vmap(jax.jacfwd(run)))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many[1], slope, atol=1e-6)
    hessian = jax.hessian(lambda t: jnp.sum(run(t) ** 2))(2.0)
    np.testing.assert_allclose(hessian, jax.hessian(lambda t: jnp.sum(ridge_solution(t) ** 2))(2.0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["minimize", "least squares"])
def test_in_a_box(kind):
    residuals = lambda x, y: X @ x - y
    if kind == "minimize":
        solver = solvers.scipy_minimize(lambda x, y: 0.5 * jnp.sum(residuals(x, y) ** 2), bounds=True)
    else:
        solver = solvers.scipy_least_squares(residuals, bounds=True)
    run = lambda y, low, high: solver.run(jnp.zeros(4), y, (low, high))[0]
    low, high = -0.1, jnp.array([0.05, 1.0, 1.0, 1.0])
    outside = solver.run(jnp.full(4, 3.0), Y, (low, high))[0]
    assert np.all((low <= outside) & (outside <= high))  # exactly; JAXopt's left the box
    exact = lambda y, low, high: scipy.optimize.lsq_linear(
        X, y, (np.full(4, low), np.asarray(high)), "bvls", tol=1e-15
    ).x  # fmt: skip
    x = run(Y, low, high)
    np.testing.assert_allclose(x, exact(Y, low, high), atol=1e-6)
    assert 0 < np.sum(np.isclose(x, low, atol=1e-6) | np.isclose(x, high, atol=1e-6)) < 4
    d = RANDOM.standard_normal(20), 0.7, np.array([0.3, -0.2, 0.1, 0.5])
    h = 1e-5
    ends = [exact(Y + k * d[0], low + k * d[1], high + k * d[2]) for k in (-h, h)]
    got = jax.jvp(run, (jnp.asarray(Y), low, high), tuple(jnp.asarray(a) for a in d))[1]
    np.testing.assert_allclose(got, (ends[1] - ends[0]) / (2 * h), atol=1e-6)


def hs71():
    """Problem 71 of Hock and Schittkowski, with its right-hand sides as parameters."""
    f = lambda z, t: t * z[0] * z[3] * (z[0] + z[1] + z[2]) + z[2]
    eq = lambda z, s: jnp.sum(z**2)[None] - s
    ineq = lambda z, s: dict(product=s - jnp.prod(z), low=1.0 - z, high=z - 5.0)
    return f, eq, ineq


def test_a_nonlinear_program_with_its_multipliers():
    solver = solvers.scipy_minimize(hs71()[0], eq=hs71()[1], ineq=hs71()[2])
    start = jnp.array([1.0, 5.0, 5.0, 1.0])
    run = lambda t, s_eq, s_ineq: solver.run(start, t, s_eq, s_ineq)[0]
    (z, nu, lam), state = solver.run(start, 1.0, 40.0, 25.0)
    np.testing.assert_allclose(z, [1.0, 4.742999637, 3.821149984, 1.379408293], atol=1e-8)
    assert state.converged
    assert state.error < 1e-8
    # multipliers are what they say: the derivative of the minimum in the right-hand sides
    theta = (1.0, 40.0, 25.0)
    value = lambda *theta: hs71()[0](run(*theta).z, theta[0])
    slopes = jax.grad(value, argnums=(1, 2))(*theta)
    np.testing.assert_allclose(slopes, [-nu[0], lam["product"]], rtol=1e-6)
    # primal and dual derivatives against finite differences of the solver, with one and the same active set
    h = 1e-4
    J = jax.jacobian(run, argnums=(0, 1, 2))(*theta)
    for k in range(3):
        ends = [run(*(v + s * h * (i == k) for i, v in enumerate(theta))) for s in (-1, 1)]
        jax.tree.map(
            lambda a, b, *D, k=k: np.testing.assert_allclose(D[0], (b - a) / (2 * h), atol=1e-5),
            *ends, type(ends[0])(*(jax.tree.map(lambda leaf: leaf[k], part, is_leaf=lambda p: isinstance(p, tuple)) for part in J)),
        )  # fmt: skip


@pytest.mark.parametrize("method", ["trust-constr", "COBYQA"])
def test_other_methods_with_constraints(method):
    solver = solvers.scipy_minimize(hs71()[0], method, eq=hs71()[1], ineq=hs71()[2])
    start = jnp.array([1.0, 5.0, 5.0, 1.0])
    (z, nu, _), state = solver.run(start, 1.0, 40.0, 25.0)
    np.testing.assert_allclose(z, [1.0, 4.742999637, 3.821149984, 1.379408293], atol=1e-8)
    assert state.converged
    assert state.iteration > 0
    slope = jax.grad(lambda s: hs71()[0](solver.run(start, 1.0, s, 25.0)[0].z, 1.0))(40.0)
    np.testing.assert_allclose(slope, -nu[0], rtol=1e-6)


def test_the_simplex_by_an_interior_method():
    """Linear constraints: SciPy warns of their zero curvature unless it is told."""
    f = lambda z, c: jnp.sum((z - c) ** 2)
    solver = solvers.scipy_minimize(f, "trust-constr", eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, _: -z)
    c = jnp.array([0.5, -0.2, 0.9])
    run = lambda c, s: solver.run(jnp.ones(3) / 3, c, s, None)[0].z
    np.testing.assert_allclose(run(c, 1.0), [0.3, 0.0, 0.7], atol=1e-12)
    J = jax.jacobian(run, argnums=(0, 1))(c, 1.0)
    np.testing.assert_allclose(J[0], [[0.5, 0, -0.5], [0, 0, 0], [-0.5, 0, 0.5]], atol=1e-12)
    np.testing.assert_allclose(J[1], [0.5, 0, 0.5], atol=1e-12)


def test_constrained_under_jit_and_vmap():
    f = lambda z, c: jnp.sum((z - c) ** 2)
    solver = solvers.scipy_minimize(f, eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, _: -z)
    run = lambda c, s: solver.run(jnp.ones(3) / 3, c, s, None)[0].z
    c = RANDOM.standard_normal((4, 3))
    got = jax.jit(jax.vmap(jax.jacrev(run), (0, None)))(c, 1.0)
    expected = jax.vmap(jax.jacrev(idf.projection.simplex), (0, None))(c, 1.0)
    np.testing.assert_allclose(got, expected, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(run, (0, None))(c, 1.0), idf.projection.simplex(c, 1.0), atol=1e-8)
