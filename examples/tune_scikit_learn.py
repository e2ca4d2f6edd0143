r"""
Tune a scikit-learn model by gradient
=====================================

A grid search fits a model for every point of a grid, and the grid grows exponentially with the number of
hyper-parameters. A gradient needs one fit and one linear solve, whatever their number.

Here ridge regression predicts the progression of diabetes from 10 measurements, their squares and their products, 65
features in all. Each of these three groups gets a penalty of its own:

.. math::

   w^\star(\lambda) = \operatorname*{argmin}_w \; \|y - Xw - b\|^2 + \sum_{\text{groups } g} \lambda_g \|w_g\|^2 .

scikit-learn fits the model. We choose the three penalties by the error on other patients.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

X, y = load_diabetes(return_X_y=True)
powers = PolynomialFeatures(2, include_bias=False).fit(X)
X = StandardScaler().fit_transform(powers.transform(X))
group = np.where(powers.powers_.sum(1) == 1, 0, np.where(powers.powers_.max(1) == 2, 1, 2))
names = "measurements", "squares", "products"
X_train, X_rest, y_train, y_rest = train_test_split(X, (y - y.mean()) / y.std(), test_size=0.5, random_state=0)
X_val, X_test, y_val, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)
print({name: int(np.sum(group == k)) for k, name in enumerate(names)})

# %%
# The differentiable fit
# ----------------------
# :func:`~implicitdiff.solvers.sklearn_solver` takes an estimator. ``run(X, y, parameters)`` fits it and returns the
# coefficients and the intercept, which are differentiable in the parameters and in the data. scikit-learn's ``Ridge``
# knows only one penalty, but a feature that is multiplied by :math:`\lambda^{-1/2}` is penalised by :math:`\lambda`:
# the penalties enter through the data.

solver = idf.solvers.sklearn_solver(Ridge(solver="cholesky"))


def scaled(X, log_penalties):
    return X * jnp.exp(-0.5 * log_penalties[group])


def validation_error(log_penalties):
    fit, _ = solver.run(scaled(X_train, log_penalties), y_train, {"alpha": 1.0})
    return jnp.mean((scaled(X_val, log_penalties) @ fit.coef + fit.intercept - y_val) ** 2)


start = jnp.full(3, 3.0)
value, gradient = jax.value_and_grad(validation_error)(start)
print(f"error {value:.4f}, gradient", np.round(gradient, 5))

# %%
# The gradient agrees with finite differences of scikit-learn:

h = 1e-4
differences = [(validation_error(start + h * e) - validation_error(start - h * e)) / (2 * h) for e in np.eye(3)]
print("central differences   ", np.round(differences, 5))
np.testing.assert_allclose(gradient, np.array(differences), rtol=1e-4)

# %%
# One call tunes all three
# ------------------------
# :func:`~implicitdiff.bilevel.minimize` minimises ``outer(theta, x)``, where x is what the solver returns for the
# arguments ``args(theta)``. It chooses its steps itself.


def outer(log_penalties, fit):
    return jnp.mean((scaled(X_val, log_penalties) @ fit.coef + fit.intercept - y_val) ** 2)


def arguments(log_penalties):
    return scaled(X_train, log_penalties), y_train, {"alpha": 1.0}


found = idf.bilevel.minimize(outer, solver, start, args=arguments, tol=1e-4)
fits = np.cumsum(found.history.evaluations)
print(f"{found.message}, after {fits[-1]} fits")
for name, penalty in zip(names, np.exp(found.theta), strict=True):
    print(f"penalty of the {name}: {penalty:.3g}")

# %%
# The rival is the best common penalty, from a grid of 25 values.

grid = np.linspace(-2, 10, 25)
errors = [float(validation_error(jnp.full(3, value))) for value in grid]
common = grid[np.argmin(errors)]
print(f"validation error: {found.loss:.4f}, with one common penalty {min(errors):.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
left.plot(grid, errors, ".-", color="gray", label="grid of common penalties")
left.set(xlabel="log penalty", ylabel="validation error")
left.legend()
right.plot(fits, found.history.loss, "o-", label="three penalties, by gradient")
right.axhline(min(errors), color="gray", ls="--", label="best common penalty (25 fits)")
right.set(xlabel="fits of scikit-learn", xlim=(0, None))
right.legend()
plt.show()

# %%
# The test set was used for neither:


def test_error(log_penalties):
    model = Ridge(alpha=1.0).fit(scaled(X_train, log_penalties), y_train)
    return np.mean((model.predict(scaled(X_test, log_penalties)) - y_test) ** 2)


print(f"test error: {test_error(found.theta):.4f}, with one common penalty {test_error(jnp.full(3, common)):.4f}")

# %%
# Three penalties fit the 110 validation patients better than one, and the 111 test patients a little worse. The
# gradient finds the minimum of the loss that it is given; whether that loss generalises is another question, and with
# many hyper-parameters it takes more validation data or cross-validation.
#
# See also: the :doc:`measured comparison </results/tuning>` of this method with grid search on six models.
