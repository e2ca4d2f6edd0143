"""Controllers that solve a quadratic program, and the weights of their cost learned from demonstrations."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf

STATES, INPUTS = 4, 2
WEIGHTS = STATES + INPUTS - 1
BOUND = 1.0


class Plant(NamedTuple):
    """The system z' = F z + B u. Over the horizon, the stacked states (z_1, ..., z_N) are free z_0 + forced u."""

    F: np.ndarray
    B: np.ndarray
    free: np.ndarray
    forced: np.ndarray


def random_plant(random: np.random.Generator, horizon: int) -> Plant:
    """A random system whose F has spectral radius 1, so that states neither die out nor grow by themselves."""
    F = random.standard_normal((STATES, STATES))
    F /= np.max(np.abs(np.linalg.eigvals(F)))
    B = random.standard_normal((STATES, INPUTS)) / np.sqrt(STATES)
    powers = [np.linalg.matrix_power(F, t) for t in range(horizon + 1)]
    none = np.zeros((STATES, INPUTS))
    forced = np.block([[powers[t - s] @ B if s <= t else none for s in range(horizon)] for t in range(horizon)])
    return Plant(F, B, np.vstack(powers[1:]), forced)


def cost(plant: Plant, log_weights, start) -> tuple[Any, Any]:
    """P and q of 1/2 u'Pu + q'u = 1/2 sum_t (sum_i w_i z_ti^2 + sum_j r_j u_tj^2) up to a constant; r_1 is 1."""
    weights = jnp.exp(log_weights)
    W = jnp.tile(weights[:STATES], len(plant.free) // STATES)
    R = jnp.tile(jnp.append(1.0, weights[STATES:]), len(plant.free) // STATES)
    P = plant.forced.T @ (W[:, None] * plant.forced) + jnp.diag(R)
    return P, plant.forced.T @ (W * (plant.free @ start))


Plans = Callable[[Any, Any, Any], jax.Array]  # (plant, log_weights, starts) -> (starts, inputs over the horizon)


@cache
def by_qp(solver: str) -> Plans:
    """The plans by `convex.solve_qp`; inputs are between -1 and 1."""

    def plan(plant, log_weights, start):
        P, q = cost(plant, log_weights, start)
        box = jnp.vstack([jnp.eye(len(q)), -jnp.eye(len(q))])
        limits = jnp.full(2 * len(q), BOUND)
        return idf.convex.solve_qp(P, q, G=box, h=limits, solver=solver, raise_on_failure=False).x

    return jax.jit(jax.vmap(plan, (None, None, 0)))


def cvxpy_problem(size: int):
    """The same problem in CVXPY: problem, parameters (L', q) with P = LL', and variable."""
    import cvxpy as cp

    u, root, q = cp.Variable(size), cp.Parameter((size, size)), cp.Parameter(size)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(root @ u) / 2 + q @ u), [u <= BOUND, u >= -BOUND])
    return problem, [root, q], [u]


def by_layer(size: int) -> Plans:
    """The plans by our `CvxpyLayer`."""
    layer = idf.convex.CvxpyLayer(*cvxpy_problem(size))

    def plan(plant, log_weights, starts):
        P, q = jax.vmap(partial(cost, plant, log_weights))(starts)
        return layer(jnp.swapaxes(jnp.linalg.cholesky(P), 1, 2), q)[0]

    return plan


def by_cvxpylayers(size: int, **solver_args: Any) -> Plans | None:
    """The plans by cvxpylayers, which cannot be compiled; None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from cvxpylayers.jax import CvxpyLayer
    except ImportError:
        return None
    problem, parameters, variables = cvxpy_problem(size)
    layer = CvxpyLayer(problem, parameters=parameters, variables=variables, solver_args=solver_args)

    @jax.jit
    def data(plant, log_weights, starts):
        P, q = jax.vmap(partial(cost, plant, log_weights))(starts)
        return jnp.swapaxes(jnp.linalg.cholesky(P), 1, 2), q

    return lambda plant, log_weights, starts: layer(*data(plant, log_weights, starts))[0]


class Fit(NamedTuple):
    """Learned weights, their standard errors, the mean squared error of the plans, and the number of evaluations."""

    log_weights: np.ndarray
    deviation: np.ndarray
    error: float
    evaluations: int


def learn(residuals: Callable, log_weights: np.ndarray, noise: float, maxiter: int) -> Fit:
    """Least squares over log weights by the method of Levenberg and Marquardt.

    `residuals(log_weights)` returns plans minus demonstrations, and their Jacobian J, which is computed through the
    quadratic programs in forward mode. At the solution, the covariance of the estimate is noise^2 (J'J)^-1 to first
    order.
    """
    damping, (r, J) = 1e-2, residuals(log_weights)
    evaluations = 1
    while evaluations < maxiter and np.any(r):
        H, g = J.T @ J, J.T @ r
        step = -np.linalg.solve(H + damping * np.diag(np.diag(H) + 1e-12), g)
        step = np.clip(step, -1.0, 1.0)  # a step changes a weight by a factor of at most e
        if np.linalg.norm(step) < 1e-9:
            break
        r_new, J_new = residuals(log_weights + step)
        evaluations += 1
        gained = 1 - np.sum(r_new**2) / np.sum(r**2)
        if gained > 0:
            log_weights, r, J, damping = log_weights + step, r_new, J_new, max(damping / 5, 1e-12)
        else:
            damping *= 5
        if 0 < gained < 1e-10 or damping > 1e8:
            break
    deviation = noise * np.sqrt(np.diag(np.linalg.pinv(J.T @ J)))
    return Fit(log_weights, deviation, float(np.mean(r**2)), evaluations)


def drive(plans: Callable, plant: Plant, log_weights, starts: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States (steps + 1, starts, 4) and inputs under the controller, which plans again at every step."""
    states, inputs = [np.asarray(starts)], []
    for _ in range(steps):
        inputs.append(np.asarray(plans(plant, log_weights, states[-1]))[:, :INPUTS])
        states.append(states[-1] @ plant.F.T + inputs[-1] @ plant.B.T)
    return np.array(states), np.array(inputs)


def cost_of(log_weights, states: np.ndarray, inputs: np.ndarray) -> float:
    """The cost of a drive for these weights."""
    weights = np.exp(log_weights)
    return float(np.sum(states[1:] ** 2 @ weights[:STATES]) + np.sum(inputs**2 @ np.append(1.0, weights[STATES:]))) / 2
