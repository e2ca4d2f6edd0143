r"""
The lasso and the proximal family
=================================

The lasso has no gradient at zero, so its solution satisfies no equation of the form "gradient = 0". It satisfies a
fixed-point equation instead, one step of the proximal-gradient method:

.. math::

   x = \operatorname{prox}_{\eta g}\bigl(x - \eta \nabla_x f(x, \theta_f), \theta_g\bigr)
   \quad\text{for}\quad x = \operatorname*{argmin}_x f(x, \theta_f) + g(x, \theta_g).

With this condition the solution of every problem of this family is differentiable: the lasso and the elastic net,
group lasso, nuclear norm, total variation, and projections onto convex sets.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

X, y = load_diabetes(return_X_y=True, scaled=False)
X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


def squares(x, data):
    return 0.5 * jnp.mean((data[0] @ x - data[1]) ** 2)


# %%
# The path and its slope
# ----------------------
# The solver class :class:`~implicitdiff.solvers.ProximalGradient` takes f and the proximal operator of g. It is
# called with the parameters of f and then those of g.

lasso = idf.solvers.ProximalGradient(squares, idf.prox.lasso, tol=1e-10, maxiter=5000)


def coefficients(weight):
    return lasso.run(jnp.zeros(10), (X, y), weight)[0]


weights = jnp.geomspace(0.8, 0.01, 80)
path = jax.jit(jax.vmap(coefficients))(weights)
slopes = jax.jit(jax.vmap(jax.jacfwd(coefficients)))(weights)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.semilogx(weights, path)
left.set(xlabel="weight of the l1 norm", ylabel="coefficients")
right.semilogx(weights, slopes)
right.set(xlabel="weight of the l1 norm", ylabel="d coefficients / d weight")
plt.show()

# %%
# The coefficients are piecewise linear in the weight, so their derivatives are piecewise constant. They jump where a
# coefficient enters or leaves: there the solution has a kink, and the library returns the derivative of one side. A
# coefficient that is zero stays zero under small changes of the weight, and its derivative is exactly 0.
#
# Any other lasso solver does as well. Here scikit-learn finds x, and we attach the condition:

condition = idf.optimality.proximal_gradient(squares, idf.prox.lasso)


@idf.custom_fixed_point(condition)
def by_scikit_learn(init, data, weight):
    return Lasso(alpha=float(weight), fit_intercept=False, tol=1e-12).fit(*data).coef_


slope = jax.jacfwd(by_scikit_learn, argnums=2)(None, (X, y), 0.05)
np.testing.assert_allclose(slope, jax.jacfwd(coefficients)(0.05), atol=1e-6)
chosen = np.flatnonzero(by_scikit_learn(None, (X, y), 0.05))
print("nonzero coefficients", chosen)
print("their derivatives   ", np.round(slope[chosen], 3))

# %%
# One weight for each feature
# ---------------------------
# The weight may be an array. Which features should have been penalised less? The gradient of the error on held-out
# data in all ten weights costs one linear solve, as many as that in one weight.

train, held_out = np.arange(len(y)) % 2 == 0, np.arange(len(y)) % 2 == 1


def error(log_weights):
    x, _ = lasso.run(jnp.zeros(10), (X[train], y[train]), jnp.exp(log_weights))
    return 0.5 * jnp.mean((X[held_out] @ x - y[held_out]) ** 2)


gradient = jax.grad(error)(jnp.full(10, -3.0))
names = load_diabetes().feature_names
for k in np.argsort(-np.abs(gradient))[:4]:
    print(f"d error / d log weight of {names[k]}: {gradient[k]:+.5f}")

# %%
# Other members of the family
# ---------------------------
# Only the proximal operator or the projection changes. Total variation recovers a piecewise constant signal; the
# derivative in its weight tells how the jumps shrink.

random = np.random.default_rng(0)
signal = np.repeat([0.0, 2.0, 1.0, 3.0], 15)
noisy = jnp.array(signal + 0.4 * random.standard_normal(60))
denoised, slope = jax.jvp(lambda w: idf.prox.total_variation(noisy, w), (jnp.array(1.0),), (jnp.array(1.0),))

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(noisy, ".", color="gray", label="noisy signal")
axes.step(range(60), denoised, where="mid", label="total variation, weight 1")
axes.step(range(60), denoised + slope, where="mid", ls="--", label="the same plus the derivative in the weight")
axes.set(xlabel="position", ylabel="signal")
axes.legend(fontsize=8)
plt.show()

# %%
# See also: :mod:`implicitdiff.prox` and :mod:`implicitdiff.projection` for all operators,
# :func:`~implicitdiff.optimality.block_proximal_gradient` for block coordinate descent, and
# :func:`~implicitdiff.optimality.mirror_descent` for other geometries.
