"""Codes, dictionaries and classifiers of `dictionary`: the mathematics of the experiment."""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

import implicitdiff as idf

ATOMS = 10
L2 = 0.1  # of the elastic net; a code has a standard deviation of about 1
RATE, EPOCH = 3e-3, 10  # steps of Adam between two looks at the parameters

# 1/2 |X_i - x D|^2 up to a constant is 1/2 x G x - c x with G = D D', c = D X_i.
coder = idf.solvers.ProximalGradient(
    lambda x, Gc: 0.5 * x @ Gc[0] @ x - Gc[1] @ x, idf.prox.elastic_net, stepsize=1.0, tol=1e-8, maxiter=2000
)


def codes(D: Array, X: Array, l1: Array | float, init: Array) -> Array:
    """x*(D) of each row of X, from `init`."""
    G = D @ D.T
    # Dividing by the Lipschitz constant makes 1 the right step size, and changes neither x* nor its derivative.
    L = lax.stop_gradient(jnp.linalg.eigvalsh(G)[-1])
    solve = lambda x, c: coder.run(x, (G / L, c / L), (l1 / L, L2 / L))[0]  # noqa: E731
    return jax.vmap(solve)(init, X @ D.T)


def unit_ball(D: Array) -> Array:
    """The atoms, each scaled down to norm 1 if it is longer."""
    return jax.vmap(lambda atom: idf.projection.l2_ball(atom, 1.0))(D)


def unsupervised(X: Array, D: Array, l1: Array, steps: int) -> tuple[Array, Array]:
    """(D, codes), by minimising over codes and atoms in turn (Mairal et al., 2010)."""

    def step(carry, _):
        D, x = carry
        x = codes(D, X, l1, x)
        A, B = x.T @ x, x.T @ X

        def atom(j, D):
            new = D[j] + (B[j] - A[j] @ D) / jnp.where(A[j, j] > 0, A[j, j], 1.0)
            return D.at[j].set(idf.projection.l2_ball(new, 1.0))

        return (lax.fori_loop(0, D.shape[0], atom, D), x), None

    D, x = lax.scan(step, (D, jnp.zeros((X.shape[0], D.shape[0]))), None, length=steps)[0]
    return D, codes(D, X, l1, x)


def loss(w: Array, b: Array, x: Array, y: Array, rho: Array) -> Array:
    """Logistic loss with a ridge, y in {-1, 1}."""
    return jnp.mean(jax.nn.softplus(-y * (x @ w + b))) + 0.5 * rho * jnp.sum(w**2)


def classifier(x: Array, y: Array, rho: Array) -> tuple[Array, Array]:
    """The logistic regression (w, b) on codes x."""
    solver = idf.solvers.GradientDescent(lambda wb, *data: loss(*wb, *data), tol=1e-7, maxiter=3000)
    return solver.run((jnp.zeros(x.shape[1]), jnp.zeros(())), x, y, rho)[0]


def outer(D: Array, w: Array, b: Array, X: Array, y: Array, l1: Array, rho: Array, init: Array) -> tuple[Array, Array]:
    """The loss of the task, and the codes."""
    x = codes(D, X, l1, init)
    return loss(w, b, x, y, rho), lax.stop_gradient(x)


def task_driven(X, y, D, x, w, b, l1, rho, steps: int):
    """Adam on (D, w, b): the parameters after every `EPOCH` steps, stacked."""
    # D is scaled so that its entries are as large as those of w, and one learning rate suits both.
    size = D.shape[1] ** 0.5
    adam = optax.adam(RATE)
    value = lambda params, x: outer(params[0] / size, *params[1:], X, y, l1, rho, x)  # noqa: E731

    def step(carry, _):
        params, state, x = carry
        gradient, x = jax.grad(value, has_aux=True)(params, x)
        updates, state = adam.update(gradient, state)
        D, w, b = optax.apply_updates(params, updates)
        return (((unit_ball(D / size) * size), w, b), state, x), None

    def epoch(carry, _):
        carry, _ = lax.scan(step, carry, None, length=EPOCH)
        D, w, b = carry[0]
        return carry, (D / size, w, b)

    start = (D * size, w, b)
    return lax.scan(epoch, (start, adam.init(start), x), None, length=steps // EPOCH)[1]


def scores(D, w, b, X, l1) -> Array:
    """The classifier's output for the rows of X."""
    return codes(D, X, l1, jnp.zeros((X.shape[0], D.shape[0]))) @ w + b
