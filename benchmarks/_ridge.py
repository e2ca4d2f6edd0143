"""The ridge problem that most topics share, and every competitor's derivative of its solution.

Each competitor is a function `solver(x, theta, A, b)` that returns the solution x it is given and has the derivative
of argmin_x 1/2 |A x - b|^2 + 1/2 sum(theta x^2) in theta. The forward solve costs nothing, so that only the derivative
is measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jaxopt
import lineax as lx
import numpy as np
import optimistix as optx

import implicitdiff as idf


class Ridge(NamedTuple):
    """A problem, its solution x, a cotangent v, and the exact product of v with the Jacobian in theta."""

    x: np.ndarray
    theta: np.ndarray
    A: np.ndarray
    b: np.ndarray
    v: np.ndarray
    gradient: np.ndarray

    @property
    def args(self) -> tuple:
        return tuple(jnp.asarray(value) for value in self[:5])


def ridge(n: int, batch: tuple[int, ...] = ()) -> Ridge:
    """Gaussian data with 2 n rows; the condition number of the Hessian is about 30."""
    random = np.random.default_rng(n)
    A = random.standard_normal((*batch, 2 * n, n))
    b, v = random.standard_normal((*batch, 2 * n)), random.standard_normal((*batch, n))
    theta = random.uniform(0.5, 1.5, (*batch, n))
    hessian = np.swapaxes(A, -1, -2) @ A + theta[..., None] * np.eye(n)
    right = np.stack([(np.swapaxes(A, -1, -2) @ b[..., None])[..., 0], v], -1)
    x, u = np.moveaxis(np.linalg.solve(hessian, right), -1, 0)
    return Ridge(x, theta, A, b, v, -x * u)


def vjp_in_theta(solver: Callable) -> Callable:
    """(x, theta, A, b, v) -> the product of v with the Jacobian of the solution in theta."""
    return lambda x, theta, A, b, v: jax.vjp(lambda t: solver(x, t, A, b), theta)[1](v)[0]


def objective() -> Callable:
    """The objective, a new function at each call, so that nothing is cached for it."""
    return lambda x, theta, A, b: 0.5 * jnp.sum((A @ x - b) ** 2) + 0.5 * jnp.sum(theta * x**2)


def ours(linear_solver: Any = None, positive_definite: bool | None = True) -> Callable:
    condition = idf.optimality.stationary(objective(), positive_definite=positive_definite)
    adjoint = idf.Implicit(linear_solver=linear_solver)
    return idf.custom_root(condition, adjoint=adjoint)(lambda x, theta, A, b: x)


def with_jaxopt(linear_solver: Callable | None = None, **options: Any) -> Callable:
    """`custom_root`; its default is CG on the normal equations at a tolerance of 1e-5."""
    solve = linear_solver and (lambda matvec, b: linear_solver(matvec, b, **options))
    optimality = jax.grad(objective())
    return jaxopt.implicit_diff.custom_root(optimality, solve=solve)(lambda x, theta, A, b: x)


def by_hand() -> Callable:
    """A rule written by hand for this problem: a custom_vjp with a Cholesky factorisation."""

    @jax.custom_vjp
    def solver(x, theta, A, b):
        return x

    def forward(x, theta, A, b):
        return x, (x, theta, A, b)

    def backward(saved, v):
        x, theta, A, b = saved
        u = jsl.cho_solve(jsl.cho_factor(A.T @ A + jnp.diag(theta)), v)
        residual, Au = A @ x - b, A @ u
        return jnp.zeros_like(x), -x * u, -jnp.outer(residual, u) - jnp.outer(Au, x), Au

    solver.defvjp(forward, backward)
    return solver


class _Given(optx.AbstractRootFinder):
    """A root finder that accepts its starting point."""

    rtol: float = 1.0
    atol: float = 1.0
    norm: Callable = eqx.field(static=True, default=optx.max_norm)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return None

    def step(self, fn, y, args, options, state, tags):
        return y, state, fn(y, args)[1]

    def terminate(self, fn, y, args, options, state, tags):
        return jnp.array(True), optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def with_optimistix(linear_solver: lx.AbstractLinearSolver | None = None, positive_definite: bool = False) -> Callable:
    """`root_find` with a solver that returns its starting point; the default is a dense LU factorisation."""
    gradient = jax.grad(objective())
    adjoint = optx.ImplicitAdjoint(linear_solver) if linear_solver else optx.ImplicitAdjoint()
    tags = frozenset({lx.positive_semidefinite_tag}) if positive_definite else frozenset()

    def solver(x, theta, A, b):
        condition = lambda y, args: gradient(y, *args)  # noqa: E731
        return optx.root_find(condition, _Given(), x, (theta, A, b), adjoint=adjoint, tags=tags, throw=False).value

    return solver
