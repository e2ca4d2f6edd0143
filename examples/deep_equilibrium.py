r"""
A deep equilibrium layer
========================

A deep equilibrium model has one layer of infinite depth: its output is the fixed point of

.. math::

   z^\star = \tanh(W z^\star + U u + b).

In the backward pass nothing of the iteration has to be stored, since the derivative needs the fixed point alone. This
tutorial trains such a model on the 8 x 8 digits of scikit-learn, with three ways to compute the derivative.
"""

import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import implicitdiff as idf

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
X, y = (digits.data[order] / 16 - 0.3).astype(np.float32), digits.target[order]
X_train, y_train, X_test, y_test = X[:1280], y[:1280], X[1280:], y[1280:]
UNITS = 48


def layer(z, W, injected):
    return jnp.tanh(z @ W + injected)


def contraction(V):
    """A matrix with singular values below 0.95, so that the layer is a contraction and has one fixed point."""
    return 1.9 * jnp.linalg.solve(jnp.eye(UNITS) + V @ V.T, V)


# %%
# Forward by Anderson acceleration, backward by the adjoint
# ---------------------------------------------------------
# :class:`~implicitdiff.solvers.AndersonAcceleration` finds the fixed point. The argument ``adjoint`` chooses how it
# is differentiated: ``Implicit()`` solves a linear system, ``Neumann(k)`` sums k terms of its series, and
# ``OneStep()`` differentiates one iteration only, which is cheap and biased.


def model(params, u, adjoint):
    solver = idf.solvers.AndersonAcceleration(layer, tol=1e-3, maxiter=60, adjoint=adjoint, on_unconverged="ignore")
    z, _ = solver.run(jnp.zeros((len(u), UNITS)), contraction(params["V"]), u @ params["U"] + params["b"])
    return z @ params["C"] + params["c"]


def loss(params, u, labels, adjoint):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(params, u, adjoint), labels))


def start(seed):
    random = np.random.default_rng(seed)
    V = np.linalg.qr(random.standard_normal((UNITS, UNITS)))[0]
    arrays = {"V": V, "U": random.standard_normal((64, UNITS)) / 8, "b": np.zeros(UNITS)}
    arrays |= {"C": random.standard_normal((UNITS, 10)) / UNITS**0.5, "c": np.zeros(10)}
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


# %%
# How good are the cheap derivatives?
# -----------------------------------
# A linear solver that stops at a relative residual of 1e-4 is precise enough here. Before training, we compare the
# gradients of one batch with that of the implicit function theorem.

adjoints = {
    "implicit": idf.Implicit(linear_solver=idf.krylov.GMRES(rtol=1e-4)),
    "Neumann, 10 terms": idf.Neumann(10),
    "one step": idf.OneStep(),
}
batch = X_train[:128], y_train[:128]
flat = {}
for name, adjoint in adjoints.items():
    gradient = jax.jit(jax.grad(loss), static_argnums=3)(start(0), *batch, adjoint)
    flat[name] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
for name, values in flat.items():
    exact = flat["implicit"]
    cosine = values @ exact / np.linalg.norm(values) / np.linalg.norm(exact)
    print(f"{name:18} cosine with the implicit gradient {cosine:.4f}")

# %%
# Training
# --------


def train(adjoint, epochs=6):
    params, optimizer = start(0), optax.adam(5e-3)
    state, curve = optimizer.init(params), []

    @jax.jit
    def step(params, state, u, labels):
        value, gradient = jax.value_and_grad(loss)(params, u, labels, adjoint)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    for _ in range(epochs):
        for k in range(0, len(X_train), 128):
            params, state, value = step(params, state, X_train[k : k + 128], y_train[k : k + 128])
            curve.append(float(value))
    return params, curve


figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for (name, adjoint), style in zip(adjoints.items(), ["-", "--", ":"], strict=True):
    begin = time.perf_counter()
    params, curve = train(adjoint)
    seconds = time.perf_counter() - begin
    right = np.mean(np.argmax(model(params, X_test, adjoint), 1) == y_test)
    print(f"{name:18} test accuracy {right:.3f}, {seconds:.1f} s with compilation")
    axes.semilogy(curve, style, label=name)
axes.set(xlabel="step", ylabel="training loss")
axes.legend()
plt.show()

# %%
# On this layer all three train. A longer comparison, with a network on which the one-step derivative loses accuracy,
# is among the :doc:`results </results/deep_equilibrium>`.
