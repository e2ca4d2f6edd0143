"""Lasso with one weight a feature: solved by scikit-learn, differentiated through the proximal-gradient condition."""

import warnings

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

import implicitdiff as idf

TOL = 1e-6


def fit(x: np.ndarray, X: np.ndarray, y: np.ndarray, weights: np.ndarray, tol: float = TOL) -> np.ndarray:
    """argmin_x 1/2m |X x - y|^2 + sum_j weights_j |x_j|, by coordinate descent from x.

    In z_j = weights_j x_j it is the ordinary lasso with the features X_j / weights_j. The tol of scikit-learn applies
    to the duality gap, which is quadratic in the error of x.
    """
    gap = min(max(float(tol) ** 2, 1e-13), 1e-4)
    model = Lasso(alpha=1.0, fit_intercept=False, warm_start=True, tol=gap, max_iter=20_000)
    model.coef_ = np.asarray(weights * x)
    with warnings.catch_warnings():
        # The residual of the condition decides whether the fit is good enough, not scikit-learn.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(np.asfortranarray(X / weights), y).coef_ / weights


# The signature that `bilevel.minimize` expects of a solver with a tolerance.
solve = idf.host_solver(
    lambda x, data, weights, tol=TOL: fit(x, *data, weights, tol), lambda x, data, weights, tol=None: x
)


def squares(x: Array, data: tuple[Array, Array]) -> Array:
    X, y = data
    return 0.5 * jnp.mean((X @ x - y) ** 2)


def condition(stepsize: Array | float):
    """T(x, (X, y), weights) of the proximal-gradient method."""
    return idf.optimality.proximal_gradient(squares, idf.prox.lasso, stepsize)


def restricted(x: Array, data: tuple[Array, Array], weights: Array, stepsize: Array | float, capacity: int) -> Array:
    """The solution x, whose derivative in the weights comes from the equations of its support alone.

    Off the support x stays 0 under small changes of the weights, and on the support x solves the lasso with these
    features alone. This needs `capacity` unknowns instead of p, at least as many as the support has; the rest is filled
    up with other features.
    """
    x, (X, y) = lax.stop_gradient(x), data
    support = lax.top_k(jnp.abs(x), capacity)[1]
    on = idf.implicit_fixed_point(condition(stepsize), x[support], (X[:, support], y), weights[support])
    return jnp.zeros_like(x).at[support].set(on)
