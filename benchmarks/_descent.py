"""Gradient descent with a fixed number of steps, as each library runs it, on two problems; for `iterations`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import lineax as lx
import numpy as np
import optimistix as optx

import implicitdiff as idf

IMPLICIT, UNROLLED, PLAIN = "ours, implicit", "ours, unrolled", "plain scan"
CLASS_IMPLICIT, CLASS_UNROLLED = "ours, implicit by CG, GradientDescent", "ours, unrolled, GradientDescent"


class Problem(NamedTuple):
    """min over x of energy(x, theta, *data), from zero; and the exact gradient of |x|^2 / 2 in theta."""

    energy: Callable
    theta: np.ndarray
    data: tuple[np.ndarray, ...]
    n: int
    stepsize: float
    exact: np.ndarray

    @property
    def args(self) -> tuple:
        return jnp.asarray(self.theta), tuple(jnp.asarray(part) for part in self.data)


def smoothing(n: int = 2048, weight: float = 100.0) -> Problem:
    """Smooth a signal b; theta weighs its squared differences. An iteration takes microseconds; condition 401."""

    def energy(x, theta, b):
        return 0.5 * jnp.sum((x - b) ** 2) + 0.5 * jnp.sum(theta * jnp.diff(x) ** 2)

    b, difference = np.random.default_rng(0).standard_normal(n), np.diff(np.eye(n), axis=0)
    hessian = np.eye(n) + weight * difference.T @ difference
    x = np.linalg.solve(hessian, b)
    exact = -(difference @ np.linalg.solve(hessian, x)) * (difference @ x)
    return Problem(energy, np.full(n - 1, weight), (b,), n, 1 / (1 + 4 * weight), exact)


def ridge(m: int = 300, n: int = 150) -> Problem:
    """Dense data of 360 kB, which a derivative should not copy in each iteration; condition about 400."""

    def energy(x, theta, A, b):
        return 0.5 * jnp.mean((A @ x - b) ** 2) + 0.5 * jnp.sum(theta * x**2)

    random = np.random.default_rng(0)
    A, b, theta = random.standard_normal((m, n)) * np.logspace(0, -2, n), random.standard_normal(m), np.full(n, 3e-3)
    hessian = A.T @ A / m + np.diag(theta)
    x = np.linalg.solve(hessian, A.T @ b / m)
    return Problem(energy, theta, (A, b), n, float(1 / np.linalg.norm(hessian, 2)), -x * np.linalg.solve(hessian, x))


PROBLEMS = {"smoothing": smoothing, "ridge": ridge}


def competitors(problem: Problem, iterations: int) -> dict[str, Callable]:
    """(theta, data) -> x after this many steps, differentiable in theta."""
    energy, stepsize, init = problem.energy, problem.stepsize, jnp.zeros(problem.n)
    gradient = jax.grad(energy)

    def step(x, theta, *data):
        return x - stepsize * gradient(x, theta, *data)

    def scan(wrap: Callable = lambda f: f) -> Callable:
        def descent(x, theta, *data):
            body = wrap(lambda x, _: (step(x, theta, *data), None))
            return jax.lax.scan(body, x, length=iterations)[0]

        return descent

    stationary = idf.optimality.stationary(energy, positive_definite=True)
    options: dict[str, Any] = dict(stepsize=stepsize, maxiter=iterations, tol=-1.0)  # never reached: all steps are made

    def decorated(adjoint):
        return idf.custom_root(stationary, adjoint=adjoint)(scan())

    def gradient_descent(adjoint):
        rest = options | dict(adjoint=adjoint, on_unconverged="ignore")
        solver = idf.solvers.GradientDescent(energy, accelerated=False, **rest)
        return lambda *args: solver.run(*args)[0]

    def with_jaxopt(implicit):
        solver = jaxopt.GradientDescent(energy, acceleration=False, implicit_diff=implicit, **options)
        return lambda *args: solver.run(*args).params

    def with_optimistix(adjoint):
        def run(x, theta, *data):
            # It stops when a step changes no digit at all, which does not happen on these problems.
            solver: Any = optx.FixedPointIteration(rtol=0.0, atol=1e-100)
            return optx.fixed_point(
                lambda x, args: step(x, *args),
                solver,
                x,
                (theta, *data),
                max_steps=iterations,
                throw=False,
                adjoint=adjoint,
                tags=frozenset({lx.negative_semidefinite_tag}),
            ).value

        return run

    found = {
        IMPLICIT: decorated(idf.Implicit()),
        CLASS_IMPLICIT: gradient_descent(idf.Implicit(idf.krylov.CG(), positive_definite=True)),
        "jaxopt, implicit": with_jaxopt(True),
        "optimistix, implicit": with_optimistix(optx.ImplicitAdjoint(lx.CG(rtol=1e-12, atol=1e-12))),
        UNROLLED: decorated(idf.Unrolled()),
        CLASS_UNROLLED: gradient_descent(idf.Unrolled()),
        PLAIN: scan(),
        "plain scan, checkpoint": scan(jax.checkpoint),
        "jaxopt, unrolled": with_jaxopt(False),
        "optimistix, checkpoints": with_optimistix(optx.RecursiveCheckpointAdjoint()),
    }
    return {name: (lambda theta, data, run=run: run(init, theta, *data)) for name, run in found.items()}
