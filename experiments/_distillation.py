"""Dataset distillation: the bilevel problem, one outer step, the path of the images."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from tqdm import tqdm

import implicitdiff as idf

from ._mnist import Images

RIDGE = 0.05
INNER_STEPS = 500
TOLERANCE = 1e-3
MOMENTUM = 0.9
# Conjugate gradients are named, because up to 8,192 unknowns the automatic choice also reserves memory for a dense
# factorisation: 1.3 GB here. In float32 the relative residual cannot become much smaller than this tolerance. The
# condition number is below a hundred.
LINEAR_SOLVER = idf.krylov.CG(rtol=1e-6)


def loss(x, X, y):
    """Mean of the multiclass logistic loss; x is (pixels, classes)."""
    scores = X @ x
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0])


def inner(x, theta, ridge):
    """The inner objective: row c of theta is an image of class c."""
    return loss(x, theta, jnp.arange(len(theta))) + ridge * jnp.sum(x**2)


def solver(unrolled: bool = False, **options) -> idf.solvers.GradientDescent:
    """Gradient descent, differentiated implicitly by conjugate gradients, or through its own iterations."""
    options = dict(accelerated=False, maxiter=INNER_STEPS, tol=TOLERANCE) | options
    if unrolled:
        return idf.solvers.GradientDescent(inner, adjoint=idf.Unrolled(), **options)
    condition = idf.optimality.stationary(inner, positive_definite=True)
    adjoint = idf.Implicit(linear_solver=LINEAR_SOLVER)
    return idf.solvers.GradientDescent(inner, adjoint=adjoint, condition=condition, **options)


def by(solver: idf.solvers.GradientDescent) -> Callable:
    """The solver from zero as a function of (theta, ridge), which returns (x, number of steps)."""

    def solve(theta, ridge):
        x, state = solver.run(jnp.zeros(theta.T.shape, theta.dtype), theta, ridge)
        return x, state.iteration

    return solve


def by_asking_loop(method: idf.solvers.GradientDescent) -> Callable:
    """The solver's steps in a loop that asks before each one whether it is still needed, as JAXopt's loop does.

    For the reverse pass JAX then stores, for each step, everything that the step reads.
    """

    def solve(theta, ridge):
        x0 = jnp.zeros(theta.T.shape, theta.dtype)

        def step(carry, _):
            update = lambda carry: method.update(*carry, theta, ridge)  # noqa: E731
            return lax.cond(carry[1].error > method.tol, update, lambda carry: carry, carry), None

        x, state = lax.scan(step, (x0, method.init_state(x0, theta, ridge)), None, length=method.maxiter)[0]
        return x, state.iteration

    return solve


def lipschitz(theta, ridge: float) -> float:
    """A bound of the largest eigenvalue of the inner Hessian, sum_i (diag p_i - p_i p_i') x theta_i theta_i' / k."""
    return float(jnp.linalg.norm(theta, 2) ** 2 / (2 * len(theta)) + 2 * ridge)


class Outer(NamedTuple):
    """The result of an outer step: the new theta and its velocity, and x*, loss and |gradient| at the old theta."""

    theta: jax.Array
    velocity: Any
    x: jax.Array
    loss: jax.Array
    gradient: jax.Array
    inner_steps: jax.Array


momentum = optax.trace(MOMENTUM)


def outer_step(solve: Callable) -> Callable:
    """One step of the outer problem."""

    def step(theta, velocity, X, y, ridge, rate) -> Outer:
        def value(theta):
            x, steps = solve(theta, ridge)
            return loss(x, X, y), (x, steps)

        (found, (x, steps)), gradient = jax.value_and_grad(value, has_aux=True)(theta)
        direction, velocity = momentum.update(gradient, velocity)
        return Outer(theta - rate * direction, velocity, x, found, jnp.linalg.norm(gradient), steps)

    return step


def accuracy(x, images: Images) -> float:
    """Accuracy on the test set."""
    return float(np.mean(np.argmax(images.X_test @ np.asarray(x), axis=1) == images.y_test))


class Path(NamedTuple):
    """Images kept along the way, the last images, a row for each step, and the largest L."""

    kept: dict[int, np.ndarray]
    theta: jax.Array
    rows: list[dict[str, Any]]
    lipschitz: float


def distill(images: Images, step: Callable, steps: int, keep=(), rate=1.0, ridge=RIDGE, dtype=jnp.float32) -> Path:
    """Take outer steps from images that are zero, until the gradient is not finite; row i belongs to i steps."""
    theta = jnp.zeros((int(images.y.max()) + 1, images.X.shape[1]), dtype)
    X, y, velocity = jnp.asarray(images.X, dtype), jnp.asarray(images.y), momentum.init(theta)
    rate, ridge = (jnp.asarray(value, dtype) for value in (rate, ridge))
    kept: dict[int, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    largest = 0.0
    jax.block_until_ready(step(theta, velocity, X, y, ridge, rate))  # compiled here, so that compilation is not timed
    seconds = 0.0
    for i in tqdm(range(steps + 1), "outer steps", disable=None, leave=False):
        largest = max(largest, lipschitz(theta, float(ridge)))
        if i in keep:
            kept[i] = np.asarray(theta)
        start = time.perf_counter()
        at, found = theta, jax.block_until_ready(step(theta, velocity, X, y, ridge, rate))
        seconds += time.perf_counter() - start
        theta, velocity = found.theta, found.velocity
        rows.append(
            {
                "step": i,
                "loss": float(found.loss),
                "test accuracy": accuracy(found.x, images),
                "inner steps": int(found.inner_steps),
                "gradient norm": float(found.gradient),
                "seconds": seconds,
            }
        )
        if not np.isfinite(rows[-1]["gradient norm"]):
            break
    return Path(kept, at, rows, largest)
