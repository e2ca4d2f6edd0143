r"""
Second derivatives and a Laplace approximation
==============================================

JAX differentiates the derivative rule again, so ``jax.hessian`` works through any solver. This tutorial uses it twice
on a logistic regression that SciPy fits: for Newton's method on hyper-parameters, and for the evidence of a Bayesian
model in Laplace's approximation.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy
from sklearn.datasets import load_breast_cancer

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

X, y = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
X, y = jnp.array((X - X.mean(0)) / X.std(0))[order], jnp.array(2.0 * y - 1)[order]
GROUP = np.repeat(np.arange(3), 10)  # ten means, ten standard errors and ten worst values
train, validation = slice(300), slice(300, None)


def logistic(w, rows):
    return jnp.mean(jnp.logaddexp(0.0, -y[rows] * (X[rows] @ w)))


def objective(w, log_weights):
    """Three regularisation weights, one for each group of features."""
    return logistic(w, train) + 0.5 * jnp.sum(jnp.exp(log_weights)[GROUP] * w**2)


Z = -np.asarray(y[train, None] * X[train])


def by_scipy(init, log_weights):
    """The same in NumPy, with SciPy's Newton method in a trust region."""
    penalty = np.exp(log_weights)[GROUP]

    def value_and_gradient(w):
        s = Z @ w
        gradient = Z.T @ scipy.special.expit(s) / len(Z) + penalty * w
        return np.mean(np.logaddexp(0.0, s)) + 0.5 * penalty @ w**2, gradient

    def hessian(w):
        p = scipy.special.expit(Z @ w)
        return (Z.T * (p * (1 - p))) @ Z / len(Z) + np.diag(penalty)

    options = {"jac": True, "hess": hessian, "method": "trust-exact", "options": {"gtol": 1e-11}}
    return scipy.optimize.minimize(value_and_gradient, init, **options).x


condition = idf.optimality.stationary(objective, positive_definite=True)
fit = idf.custom_root(condition)(idf.host_solver(by_scipy, lambda init, log_weights: init))


# %%
# The Hessian of a validation loss
# --------------------------------


def validation_loss(log_weights):
    return logistic(fit(jnp.zeros(30), log_weights), validation)


@jax.jit
def to_second_order(log_weights):
    return *jax.value_and_grad(validation_loss)(log_weights), jax.hessian(validation_loss)(log_weights)


log_weights = jnp.full(3, -5.0)
_, _, second = to_second_order(log_weights)
h = 1e-4
differences = [
    (to_second_order(log_weights + h * e)[1] - to_second_order(log_weights - h * e)[1]) / (2 * h) for e in np.eye(3)
]
error = np.max(np.abs(second - np.array(differences))) / np.max(np.abs(second))
print(f"Hessian: relative difference {error:.0e} from central differences of the gradient")
assert error < 1e-5

# %%
# Newton's method on the three weights converges quadratically:

print("step   validation loss   gradient norm")
for step in range(6):
    value, slope, second = to_second_order(log_weights)
    print(f"{step:4d}   {value:15.10f}   {jnp.linalg.norm(slope):13.1e}")
    log_weights -= jnp.linalg.solve(second, slope)
assert jnp.linalg.norm(slope) < 1e-10
print("log weights of mean, standard error, worst value:", np.round(log_weights, 3))

# %%
# A Laplace approximation
# -----------------------
# Read the penalty as a Gaussian prior. The probability of the labels given the weights, the evidence, needs no
# validation set. Laplace's method approximates the integral over w by a Gaussian at the best fit:
#
# .. math::
#
#    \log p(y \mid \lambda) \approx -m f(w^\star, \lambda) + \tfrac{1}{2} \sum_i \log \lambda_i
#    - \tfrac{1}{2} \log \det \nabla^2_w f(w^\star, \lambda) .
#
# Its gradient differentiates a Hessian at the solution, that is, third derivatives of f, and the solution itself.
# Both are only a ``jax.grad`` away. For the picture all groups have the same weight.


def negative_log_evidence(log_weight):
    log_weights = jnp.full(3, log_weight)
    w = fit(jnp.zeros(30), log_weights)
    _, log_determinant = jnp.linalg.slogdet(jax.hessian(objective)(w, log_weights))
    return 300 * objective(w, log_weights) - 0.5 * 30 * log_weight + 0.5 * log_determinant


@jax.jit
def along(log_weight):
    slope = jax.grad(negative_log_evidence)
    loss = validation_loss(jnp.full(3, log_weight))
    return negative_log_evidence(log_weight), slope(log_weight), jax.grad(slope)(log_weight), loss


grid = np.linspace(-9.0, -2.0, 22)
evidence, _, _, losses = np.transpose([along(value) for value in grid])

best = grid[np.argmin(evidence)]
for _ in range(3):  # Newton's method in one unknown
    _, slope, curvature, _ = along(best)
    best = best - slope / curvature
print(f"largest evidence at log weight {best:.4f}, derivative one step before {slope:.0e}")
h = 1e-4
_, slope, _, _ = along(-5.0)
difference = (along(-5.0 + h)[0] - along(-5.0 - h)[0]) / (2 * h)
print(f"derivative at -5: {slope:.5f}, central difference {difference:.5f}")
np.testing.assert_allclose(slope, difference, rtol=1e-5)

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.plot(grid, evidence, "o-", color="tab:blue")
axes.axvline(best, color="tab:blue", ls=":")
axes.set_xlabel("log weight of all features")
axes.set_ylabel("- log evidence", color="tab:blue")
other = axes.twinx()
other.plot(grid, losses, "s-", color="tab:orange")
other.set_ylabel("validation loss", color="tab:orange")
plt.show()
