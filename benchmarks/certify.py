"""The cost of knowing the error of a derivative: `error_estimate` and `polish=1` beside the plain VJP."""

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf

from ._harness import compiled, interleave
from ._report import Claim, Report, Table, timing_rows


def measure(quick: bool) -> Report:
    report = Report([], [])
    for n in (10,) if quick else (10, 200, 1000):
        random = np.random.default_rng(n)
        A, b = random.standard_normal((2 * n, n)), random.standard_normal(2 * n)
        theta, v = random.uniform(0.5, 1.5, n), random.standard_normal(n)
        x = jax.jit(lambda theta, A=A, b=b: solution(theta, A, b))(theta)
        x = x + 1e-4 * random.standard_normal(n)
        args = theta, x, v, A, b
        runs = {name: compiled(run, *args) for name, run in COMPETITORS.items()}
        # Norms of the errors. x is perturbed by 1e-4, so that the plain derivative is wrong by about as much.
        truth = compiled(plain, theta, jax.jit(solution)(theta, A, b), v, A, b)()
        errors = {name: float(np.linalg.norm(run() - truth)) for name, run in runs.items() if name != ESTIMATE}
        known = float(jax.jit(lambda *a: estimate(*a)[1])(*args))
        errors[ESTIMATE] = abs(known - errors[PLAIN])
        times = interleave(runs, budget=1 if quick else 10, least=5 if quick else 15)
        report.tables.append(
            Table(
                f"n = {n}", timing_rows(times, errors, PLAIN), "The error of `error_estimate` is that of the estimate."
            )
        )
        report.claims.append(Claim.of_times(f"n = {n}: error_estimate / plain VJP", times, ESTIMATE, PLAIN, 3.0))
        report.claims.append(Claim.of_times(f"n = {n}: polish=1 / plain VJP", times, POLISHED, PLAIN, 2.5))
    return report


def objective(x, theta, A, b):
    z = A @ x - b
    # Smooth, and so close to a quadratic that Newton's method converges from anywhere.
    return 0.5 * jnp.sum(z**2 + jnp.sqrt(1 + z**2)) + 0.5 * jnp.sum(theta * x**2)


def condition(A, b):
    return idf.optimality.stationary(lambda x, theta: objective(x, theta, A, b), positive_definite=True)


def solution(theta, A, b):
    gradient = lambda x: jax.grad(objective)(x, theta, A, b)  # noqa: E731
    step = lambda _, x: x - jnp.linalg.solve(jax.hessian(objective)(x, theta, A, b), gradient(x))  # noqa: E731
    return jax.lax.fori_loop(0, 20, step, jnp.zeros(A.shape[1]))


def plain(theta, x, v, A, b, polish=0):
    attached = lambda t: idf.implicit_root(condition(A, b), x, t, adjoint=idf.Implicit(polish=polish))  # noqa: E731
    return jax.vjp(attached, theta)[1](v)[0]


def polished(theta, x, v, A, b):
    return plain(theta, x, v, A, b, polish=1)


def estimate(theta, x, v, A, b):
    found = idf.certify.error_estimate(condition(A, b), x, theta, cotangent=v)
    return found.derivative[0], found.error


PLAIN, POLISHED, ESTIMATE = "plain VJP", "polish=1", "error_estimate"
COMPETITORS = {PLAIN: plain, POLISHED: polished, ESTIMATE: lambda *args: estimate(*args)}
