"""Problems solved by solvers of independent make, with the conditions that their solutions satisfy.

Each function returns a `Case`: `solve(theta)` is NumPy in and out and runs the foreign solver to high precision;
`attach(x, theta)` gives its result the derivative of the conditions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from sklearn.linear_model import ElasticNet, Lasso

import implicitdiff as idf
from implicitdiff import optimality, projection, prox

RANDOM = np.random.default_rng(7)
M, N = 30, 8
X = RANDOM.standard_normal((M, N))
Y = X @ np.array([2.0, -1.0, 0, 0, 1.5, 0, 0.3, 0]) + 0.3 * RANDOM.standard_normal(M)


class Case(NamedTuple):
    solve: Callable[[np.ndarray], Any]
    attach: Callable[[Any, Any], Any]
    theta: np.ndarray
    closed_form: Callable[[jax.Array], jax.Array] | None = None
    h: float = 1e-4  # step of the finite differences: larger where the solver is less precise
    rtol: float = 2e-6


def least_squares(x, theta_f):
    """theta_f: the targets y, perhaps with weights of the samples."""
    return 0.5 * jnp.sum((X @ x - theta_f) ** 2)


def fixed_point(T, of_theta):
    """Attach T with the arguments (theta_f, theta_g) = of_theta(theta)."""
    return lambda x, theta: idf.implicit_fixed_point(T, x, *of_theta(theta))


def solved(problem, *variables, tol=1e-13):
    problem.solve("CLARABEL", tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol, tol_ktratio=10 * tol)
    assert problem.status == "optimal"
    return [variable.value for variable in variables]


def lasso():
    """theta: weight, then the targets; scikit-learn."""
    T = optimality.proximal_gradient(least_squares, prox.lasso, 0.02)

    def solve(theta):
        model = Lasso(theta[0] / M, fit_intercept=False, tol=1e-15, max_iter=1_000_000)
        return model.fit(X, theta[1:]).coef_

    return Case(solve, fixed_point(T, lambda t: (t[1:], t[0])), np.append(3.0, Y))


def elastic_net():
    T = optimality.proximal_gradient(least_squares, prox.elastic_net, 0.02)

    def solve(theta):
        l1, l2 = theta
        model = ElasticNet((l1 + l2) / M, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-15, max_iter=1_000_000)
        return model.fit(X, Y).coef_

    return Case(solve, fixed_point(T, lambda t: (Y, (t[0], t[1]))), np.array([2.0, 5.0]))


def group_lasso():
    """Groups are the rows of a 4 x 2 matrix."""
    f = lambda x, y: least_squares(x.reshape(-1), y)
    T = optimality.proximal_gradient(f, prox.group_lasso, 0.02)

    def solve(theta):
        x = cp.Variable((4, 2))
        rows = cp.sum(cp.norm(x, axis=1))
        loss = cp.sum_squares(X @ cp.vec(x, order="C") - theta[1:]) / 2
        return solved(cp.Problem(cp.Minimize(loss + theta[0] * rows)), x, tol=1e-11)[0]

    return Case(solve, fixed_point(T, lambda t: (t[1:], t[0])), np.append(12.0, Y), h=3e-3, rtol=1e-5)


def non_negative_least_squares():
    T = optimality.projected_gradient(least_squares, projection.non_negative, 0.02)
    return Case(lambda y: scipy.optimize.nnls(X, y)[0], fixed_point(T, lambda y: (y, None)), Y)


def box_least_squares():
    """theta: the bounds of all coordinates, then the targets; SciPy's BVLS."""
    T = optimality.projected_gradient(least_squares, projection.box, 0.02)

    def solve(theta):
        return scipy.optimize.lsq_linear(X, theta[2:], (theta[0], theta[1]), "bvls", tol=1e-15).x

    return Case(solve, fixed_point(T, lambda t: (t[2:], (t[0], t[1]))), np.concatenate([[-0.5, 1.2], Y]))


def simplex_problem(theta):
    """min 1/2 |Xx - y|^2 on the simplex of size theta[0], y = theta[1:]; Clarabel. Returns x, nu, lam."""
    x = cp.Variable(N)
    eq, ineq = cp.sum(x) == theta[0], x >= 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ x - theta[1:]) / 2), [eq, ineq])
    x, nu, lam = solved(problem, x, eq.dual_variables[0], ineq.dual_variables[0])
    return np.where(lam > 1e-6, 0.0, x), np.array([float(nu)]), np.where(lam > 1e-6, lam, 0.0)


SIMPLEX_THETA = np.append(2.0, Y)
ETA = 0.02


def on_simplex(name):
    """The same problem with each condition that applies to it."""
    first = lambda theta: simplex_problem(theta)[0]
    split = lambda t: (t[1:], t[0])
    f = least_squares
    if name == "projected_gradient":
        return Case(first, fixed_point(optimality.projected_gradient(f, projection.simplex, ETA), split), SIMPLEX_THETA)
    if name == "mirror_descent":
        T = optimality.mirror_descent(f, idf.mirror.simplex, idf.mirror.log, ETA)
        return Case(first, fixed_point(T, split), SIMPLEX_THETA)
    if name == "block":
        T = optimality.block_proximal_gradient(
            lambda x, y: f(x[0], y), [prox.from_projection(projection.simplex)], np.array([[ETA]])
        )
        attach = lambda x, t: idf.implicit_fixed_point(T, x[None], t[1:], [t[0]])[0]
        return Case(first, attach, SIMPLEX_THETA)
    if name == "frank_wolfe":
        T = optimality.frank_wolfe(f, 0.01)
        attach = lambda x, t: t[0] * idf.implicit_fixed_point(T, x / SIMPLEX_THETA[0], t[1:], t[0] * jnp.eye(N))
        return Case(first, attach, SIMPLEX_THETA)
    if name == "conic_normal_map":
        F = optimality.conic_normal_map([projection.cones.Zero(1), projection.cones.NonNegative(N)])

        def solve(theta):
            x, nu, lam = simplex_problem(theta)
            return x, np.concatenate([nu, lam - x])

        def attach(x, t):
            A = jnp.concatenate([jnp.ones((1, N)), -jnp.eye(N)])
            return idf.implicit_root(F, x, X.T @ X, -X.T @ t[1:], A, jnp.append(t[0], jnp.zeros(N)))[0]

        return Case(solve, attach, SIMPLEX_THETA)
    if name.startswith("quadratic_program"):
        F = optimality.quadratic_program(name.split()[1])
        arguments = lambda t: ((X.T @ X, -X.T @ t[1:]), (jnp.ones((1, N)), t[:1]), (-jnp.eye(N), jnp.zeros(N)))
    else:
        F = optimality.kkt(f, lambda x, s: jnp.sum(x)[None] - s, lambda x, _: -x, name.split()[1])
        arguments = lambda t: (t[1:], t[0], None)
    return Case(simplex_problem, lambda x, t: idf.implicit_root(F, x, *arguments(t))[0], SIMPLEX_THETA)


ON_SIMPLEX = [
    "projected_gradient",
    "mirror_descent",
    "block",
    "frank_wolfe",
    "conic_normal_map",
    "quadratic_program product",
    "quadratic_program natural",
    "kkt product",
    "kkt natural",
]


def ridge(name):
    """min 1/2 |Xx - y|^2 + theta/2 |x|^2 with every condition of a smooth problem; the closed form is the solver."""
    f = lambda x, t: least_squares(x, Y) + 0.5 * t[0] * jnp.sum(x**2)
    T = {
        "stationary": optimality.stationary(f, positive_definite=True),
        "kkt": optimality.kkt(f),
        "gradient_descent": optimality.gradient_descent(f, ETA),
        "newton_minimum": optimality.newton_minimum(f),
        "newton": optimality.newton(jax.grad(f), 0.7),
        "proximal_gradient": optimality.proximal_gradient(lambda x, _: least_squares(x, Y), prox.ridge, ETA),
        "no_prox": optimality.proximal_gradient(f, prox.none, ETA),
        "block": optimality.block_proximal_gradient(f, prox.none, np.linspace(0.01, 0.03, N)),
        "mirror_identity": optimality.mirror_descent(f, lambda y, _: y, idf.mirror.identity, ETA),
    }[name]
    if name == "stationary":
        attach = lambda x, t: idf.implicit_root(T, x, t)
    elif name == "kkt":
        attach = lambda x, t: idf.implicit_root(T, (x, None, None), t)[0]
    elif name == "proximal_gradient":
        attach = lambda x, t: idf.implicit_fixed_point(T, x, None, t[0])
    else:
        attach = lambda x, t: idf.implicit_fixed_point(T, x, t)
    closed = lambda t: jnp.linalg.solve(X.T @ X + t[0] * jnp.eye(N), X.T @ Y)
    solve = lambda t: np.linalg.solve(X.T @ X + t[0] * np.eye(N), X.T @ Y)
    return Case(solve, attach, np.array([2.0]), closed)


RIDGE = [
    "stationary",
    "kkt",
    "gradient_descent",
    "newton_minimum",
    "newton",
    "proximal_gradient",
    "no_prox",
    "block",
    "mirror_identity",
]


def nonlinear_program(complementarity):
    """A smooth, non-convex program with an active and an inactive inequality (and a pytree of them); SciPy's SLSQP."""

    def f(z, t):
        return (z[0] - t[0]) ** 2 + z[0] * z[1] + jnp.exp(z[1]) + (z[2] - 1) ** 4 + z[2] ** 2

    eq = lambda z, t: z[0] ** 2 + z[1] + z[2] - t
    ineq = lambda z, t: dict(ball=jnp.sum(z**2) - t, plane=z[0] - z[1] - 10.0)
    F = optimality.kkt(f, eq, ineq, complementarity)

    def solve(theta):
        """SLSQP finds which inequality is active; MINPACK then solves the equations of that to full precision."""
        value = lambda z: (z[0] - theta[0]) ** 2 + z[0] * z[1] + np.exp(z[1]) + (z[2] - 1) ** 4 + z[2] ** 2
        gradient = lambda z: np.array(
            [2 * (z[0] - theta[0]) + z[1], z[0] + np.exp(z[1]), 4 * (z[2] - 1) ** 3 + 2 * z[2]]
        )
        constraints = [
            dict(type="eq", fun=lambda z: z[0] ** 2 + z[1] + z[2] - theta[1]),
            dict(type="ineq", fun=lambda z: theta[2] - z @ z),
            dict(type="ineq", fun=lambda z: 10.0 - z[0] + z[1]),
        ]
        start = np.array([0.3, -0.2, 0.5])
        z = scipy.optimize.minimize(value, start, jac=gradient, constraints=constraints, method="SLSQP").x
        rows = lambda z: np.array([[2 * z[0], 1, 1], 2 * z])
        multipliers = np.linalg.lstsq(rows(z).T, -gradient(z), rcond=None)[0]
        assert abs(z @ z - theta[2]) < 1e-6 < multipliers[1]
        equations = lambda u: np.concatenate(
            [gradient(u[:3]) + rows(u[:3]).T @ u[3:], [u[0] ** 2 + u[1] + u[2] - theta[1], u[:3] @ u[:3] - theta[2]]]
        )
        u = scipy.optimize.fsolve(equations, np.concatenate([z, multipliers]), xtol=1e-12)
        assert np.linalg.norm(u[:3] - z) < 1e-5
        return u[:3], u[3], dict(ball=u[4], plane=np.array(0.0))

    attach = lambda x, t: idf.implicit_root(F, x, t[:1], t[1], t[2])[0]
    return Case(solve, attach, np.array([2.0, 0.8, 1.0]))
