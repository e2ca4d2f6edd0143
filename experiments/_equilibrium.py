"""A deep equilibrium model: network, fixed point in several ways, training, and the gradient by dense algebra."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import implicitdiff as idf

KAPPA = 0.95
BATCH = 128
RATE = 5e-3
TOLERANCE = 1e-3  # of |T(x) - x| over the whole batch
MAXITER = 100
FIRST = "implicit, GMRES"  # the derivative with which the others are compared


class Digits(NamedTuple):
    """Images in rows, labels, for training and test."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def digits(seed: int) -> Digits:
    """1,297 and 500 of the 8 x 8 digits of scikit-learn, drawn again for each seed."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    X, y = (data.data[order] / 16 - 0.3).astype(np.float32), data.target[order]
    return Digits(X[:-500], y[:-500], X[-500:], y[-500:])


def start(seed: int, units: int, network: str) -> dict[str, jax.Array]:
    """Parameters before training; `enter` and `read` are the masks of the network and are not learned."""
    random = np.random.default_rng(seed)
    normal = lambda rows, columns: random.standard_normal((rows, columns)) / rows**0.5  # noqa: E731
    # Orthogonal, so that all singular values of W are kappa and the layer contracts slowly.
    V, U, C = np.linalg.qr(normal(units, units))[0], normal(64, units), normal(units, 10)
    first, apart = np.arange(units) < units // 2, network == "apart"
    arrays = {
        "V": V,
        "U": U,
        "b": np.zeros(units),
        "C": C,
        "c": np.zeros(10),
        "enter": first | (not apart),
        "read": ~first | (not apart),
    }
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def layer(x, W, injected):
    """T, with a row for each image; W is therefore the transpose of the one in the formula."""
    return jnp.tanh(x @ W + injected)


def weights(params, X):
    """W, and U u + b for each image."""
    V = params["V"]
    W = 2 * KAPPA * jnp.linalg.solve(jnp.eye(len(V), dtype=V.dtype) + V @ V.T, V)
    return W, (X @ params["U"] + params["b"]) * params["enter"]


def head(x, params, y):
    """Mean logistic loss of the classes, and their scores."""
    scores = (x * params["read"]) @ params["C"] + params["c"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y)), scores


def anderson(adjoint, **options) -> Callable:
    """Anderson acceleration on the whole batch."""
    solver = idf.solvers.AndersonAcceleration(
        layer, adjoint=adjoint, **(dict(maxiter=MAXITER, tol=TOLERANCE) | options)
    )
    return lambda W, injected: solver.run(jnp.zeros_like(injected), W, injected)


def plain(adjoint, **options) -> Callable:
    """Plain iterations."""
    solver = idf.solvers.FixedPointIteration(layer, adjoint=adjoint, **(dict(maxiter=MAXITER, tol=TOLERANCE) | options))
    return lambda W, injected: solver.run(jnp.zeros_like(injected), W, injected)


def each_image(**options) -> Callable:
    """Anderson acceleration on the whole batch, then one small linear system for each image."""
    forward = anderson(idf.OneStep(), **options)

    def solve(W, injected):
        x, state = jax.lax.stop_gradient(forward(W, injected))
        attach = lambda x, injected: idf.implicit_fixed_point(layer, x, W, injected)  # noqa: E731
        return jax.vmap(attach)(x, injected), state

    return solve


def ways(**options) -> dict[str, Callable]:
    """The ways to find and differentiate the fixed point, each a function `solve(W, injected)` to (x, state)."""
    rtol = options.pop("rtol", 1e-5)
    return {
        FIRST: anderson(idf.Implicit(linear_solver=idf.krylov.GMRES(rtol=rtol)), **options),
        "implicit, LU for each image": each_image(**options),
        "Neumann, 20 terms": anderson(idf.Neumann(20), **options),
        "Neumann, 5 terms": anderson(idf.Neumann(5), **options),
        "one step": anderson(idf.OneStep(), **options),
        "unrolled Anderson": anderson(idf.Unrolled(), **options),
        "unrolled plain": plain(idf.Unrolled(), **options),
    }


def loss_of(solve: Callable) -> Callable:
    """The loss as a function of the parameters, with (scores, iterations)."""

    def loss(params, X, y):
        x, state = solve(*weights(params, X))
        value, scores = head(x, params, y)
        return value, (scores, state.iteration)

    return loss


def gradient_of(solve: Callable) -> Callable:
    """Gradient in the parameters; the masks stay as they are."""

    def gradient(params, X, y):
        (value, aux), found = jax.value_and_grad(loss_of(solve), has_aux=True)(params, X, y)
        fixed = {name: jnp.zeros_like(found[name]) for name in ("enter", "read")}
        return found | fixed, value, aux[1]

    return gradient


optimizer = optax.adam(RATE)


def training_step(solve: Callable) -> Callable:
    """One step of Adam; the gradient is the last result."""

    def step(params, state, X, y):
        gradient, value, iterations = gradient_of(solve)(params, X, y)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value, iterations, gradient

    return step


def train(step: Callable, scores: Callable, data: Digits, params, epochs: int, seed: int) -> dict[str, Any]:
    """Train on batches in an order that depends on the seed only; `step` and `scores` are compiled."""
    state, random = optimizer.init(params), np.random.default_rng(seed)
    iterations, finite = [], True
    for _ in range(epochs):
        order = random.permutation(len(data.y))
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            params, state, value, taken, _ = step(params, state, data.X[batch], data.y[batch])
            iterations.append(taken)
        finite = finite and bool(jnp.isfinite(value))
    loss, test = (scores(params, X, y) for X, y in ((data.X, data.y), (data.X_test, data.y_test)))
    return {
        "params": params,
        "finite": finite,
        "training loss": float(loss[0]),
        "iterations": float(np.mean(iterations)),
        "test accuracy": float(np.mean(np.argmax(test[1][0], axis=1) == data.y_test)),
    }


def exact_gradient(params, X, y) -> dict[str, np.ndarray]:
    """The gradient by a dense linear system for each image, in float64 and without this library; the spectral radius.

    With D = diag(1 - x*^2) the Jacobian of the layer is J = D W, and the cotangent g of x* becomes
    (I - J)^-T g, which the layer pulls back to W and to what is injected.
    """
    params = {name: jnp.asarray(value, jnp.float64) for name, value in params.items()}
    (W, injected), back = jax.vjp(lambda params: weights(params, jnp.asarray(X, jnp.float64)), params)
    W, injected = np.asarray(W), np.asarray(injected)
    x = np.zeros_like(injected)
    for _ in range(100_000):
        x, old = np.tanh(x @ W + injected), x
        if np.abs(x - old).max() < 1e-15:
            break
    g, direct = jax.grad(lambda x, params: head(x, params, y)[0], (0, 1))(jnp.asarray(x), params)
    slope = 1 - x**2
    J = slope[:, :, None] * W.T
    u = np.linalg.solve(np.swapaxes(np.eye(len(W)) - J, 1, 2), np.asarray(g)[:, :, None])[:, :, 0]
    pulled = back((jnp.asarray(x.T @ (slope * u)), jnp.asarray(slope * u)))[0]
    radius = float(np.abs(np.linalg.eigvals(J)).max())
    learned = ("V", "U", "b", "C", "c")
    return {name: np.asarray(pulled[name] + direct[name]) for name in learned} | {"radius": np.array(radius)}


def relative_error(gradient, exact) -> float:
    """The relative error over all parameters together."""
    learned = [name for name in exact if name != "radius"]
    off = sum(float(np.sum((np.asarray(gradient[name], float) - exact[name]) ** 2)) for name in learned)
    return (off / sum(float(np.sum(exact[name] ** 2)) for name in learned)) ** 0.5
