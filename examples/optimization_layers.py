r"""
Optimisation layers in an Equinox model
=======================================

A network that decides has to respect constraints: shares that sum to one, capacities, a limit on risk. An
optimisation layer enforces them, since its output is the solution of a convex program whose data the network
computes. Training differentiates through the program.

We imitate an investor. From five observations u she estimates returns r(u) of four assets, and holds

.. math::

   \operatorname*{argmin}_x \; \tfrac{1}{2} x^\top S x - r(u)^\top x
   \quad \text{subject to} \quad \sum_i x_i = 1, \; 0 \le x_i \le 0.6 .

We see her portfolios, not her estimates.
"""

import cvxpy as cp
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

random = np.random.default_rng(0)
S = jnp.array([[1.0, 0.3, 0.1, 0.0], [0.3, 0.8, 0.2, 0.1], [0.1, 0.2, 0.6, 0.1], [0.0, 0.1, 0.1, 0.5]])
G, h = jnp.concatenate([-jnp.eye(4), jnp.eye(4)]), jnp.concatenate([jnp.zeros(4), jnp.full(4, 0.6)])

# %%
# A quadratic program as a layer
# ------------------------------
# :func:`~implicitdiff.convex.solve_qp` minimises ``x'Px / 2 + q'x`` subject to ``Ax = b`` and ``Gx <= h``. With
# ``solver="jax"`` the whole batch is solved on the device; the default calls Clarabel on the host.


def portfolio(returns):
    qp = idf.convex.solve_qp(S, -returns, jnp.ones((1, 4)), jnp.ones(1), G, h, solver="jax")
    return qp.x


returns = jnp.array([1.3, 0.6, 0.3, 0.1])
print("one portfolio", np.round(portfolio(returns), 3))
print("its Jacobian\n", np.round(jax.jacobian(portfolio)(returns), 3) + 0.0)

# %%
# The first asset is at its bound of 0.6: small changes of the estimates do not move it. The rows of the Jacobian sum
# to zero, since the shares always sum to one.
#
# The model
# ---------
# The layer is a function, and is used in an Equinox module like any other. (In Flax it is the same: call the function
# in ``__call__``.)


class Investor(eqx.Module):
    estimate: eqx.nn.MLP

    def __init__(self, key):
        self.estimate = eqx.nn.MLP(5, 4, 16, 1, key=key)

    def __call__(self, u):
        return portfolio(self.estimate(u))


mixing = random.standard_normal((5, 4))
observations = jnp.array(random.standard_normal((160, 5)))
shown = jax.jit(jax.vmap(portfolio))(0.8 * jnp.tanh(observations @ mixing))
print(f"{np.mean((shown < 1e-6) | (shown > 0.6 - 1e-6)):.0%} of the shares are at a bound")


@eqx.filter_jit
def loss(model, u, x):
    return jnp.mean((jax.vmap(model)(u) - x) ** 2)


def train(model, steps=120):
    optimizer, errors = optax.adam(2e-2), []
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state):
        value, gradient = eqx.filter_value_and_grad(loss)(model, observations[:80], shown[:80])
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    for _ in range(steps):
        model, state, value = step(model, state)
        errors.append(float(value))
    return model, errors


with_layer, errors = train(Investor(jax.random.key(0)))
without, errors_without = train(eqx.nn.MLP(5, 4, 16, 1, key=jax.random.key(0)))

new = observations[80:], shown[80:]
print(f"error on new observations: {loss(with_layer, *new):.5f}, without the layer {loss(without, *new):.5f}")
free = jax.vmap(without)(new[0])
outside = jnp.any((free < -1e-3) | (free > 0.601), axis=1) | (jnp.abs(jnp.sum(free, 1) - 1) > 1e-3)
print(f"portfolios that break a constraint: 0 %, without the layer {np.mean(outside):.0%}")

figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
axes.semilogy(errors, label="with the layer")
axes.semilogy(errors_without, label="the same network without")
axes.set(xlabel="step", ylabel="mean squared error in training")
axes.legend()
plt.show()

# %%
# The same with CVXPY
# -------------------
# A program with other cones is easier to write in CVXPY. :class:`~implicitdiff.convex.CvxpyLayer` makes it a function
# of its parameters. Here the risk is limited instead of weighed: ``norm(L'x) <= limit`` is a second-order cone.

x, r, limit = cp.Variable(4), cp.Parameter(4), cp.Parameter(nonneg=True)
L = np.linalg.cholesky(S)
problem = cp.Problem(cp.Maximize(r @ x), [cp.sum(x) == 1, x >= 0, x <= 0.6, cp.norm(L.T @ x) <= limit])
layer = idf.convex.CvxpyLayer(problem, parameters=[r, limit], variables=[x])

returns, limits = jnp.array([0.9, 0.2, 0.1, 0.3]), jnp.linspace(0.52, 0.8, 30)


@jax.jit
@jax.vmap
def with_slope(limit):
    return jax.jvp(lambda limit: layer(returns, limit)[0], (limit,), (1.0,))


held, slopes = with_slope(limits)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(limits, held, label=[f"asset {k}" for k in range(1, 5)])
left.set(xlabel="limit of the risk", ylabel="shares")
left.legend(fontsize=8)
right.plot(limits, slopes)
right.set(xlabel="limit of the risk", ylabel="d shares / d limit")
plt.show()

# %%
# See also: the longer examples ``portfolio.py`` (real returns) and ``inverse_control.py`` (a model predictive
# controller) in the folder ``examples``.
