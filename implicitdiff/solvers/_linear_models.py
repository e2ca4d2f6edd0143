"""What scikit-learn's linear models minimise, as conditions in coordinates in which no digits are lost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import prox
from ..optimality._condition import Condition
from ..optimality.stationary import gradient


class LinearModel(NamedTuple):
    """Coefficients (p,) and intercept () of a fit, or (k, p) and (k,) for k outputs or classes; None: no intercept."""

    coef: Any
    intercept: Any


class Coordinates(NamedTuple):
    """Standardised coordinates, in which a linear model is differentiated: samples (x - mean) / scale.

    For constants `mean` and `scale` this is a mere change of the unknowns, so that the derivative does not depend on
    them. Features far from zero, or in units of their own, would cost the digits that they have in common.
    """

    mean: Float[Array, " p"]
    scale: Float[Array, " p"]

    @staticmethod
    def of(X: Float[Array, "n p"], centred: bool) -> "Coordinates":
        X = jax.lax.stop_gradient(X)
        mean = jnp.mean(X, axis=0) if centred else jnp.zeros_like(X[0])
        largest = jnp.max(jnp.abs(X - mean), axis=0)
        # A power of two: the division is then exact.
        scale = jnp.where(largest > 0, jnp.exp2(jnp.round(jnp.log2(jnp.where(largest > 0, largest, 1.0)))), 1.0)
        return Coordinates(mean, scale)

    def samples(self, X: Float[Array, "n p"]) -> Float[Array, "n p"]:
        return (X - self.mean) / self.scale

    def enter(self, model: LinearModel) -> LinearModel:
        intercept = None if model.intercept is None else model.intercept + model.coef @ self.mean
        return LinearModel(model.coef * self.scale, intercept)

    def leave(self, model: LinearModel) -> LinearModel:
        coef = model.coef / self.scale
        return LinearModel(coef, None if model.intercept is None else model.intercept - coef @ self.mean)


def predict(model: LinearModel, X: Array) -> Array:
    prediction = X @ model.coef.T
    return prediction if model.intercept is None else prediction + model.intercept


def _weights(given: dict, X: Array) -> Array:
    return given.get("sample_weight", jnp.ones(X.shape[0], X.dtype))


def in_coordinates(condition: Condition, coordinates: Callable[[Array], Any]) -> Condition:
    """The condition of (model, X, y, given) from that of (model, X, y, given, scale) with standardised samples."""

    def standardised(call: Callable) -> Callable:
        def of_samples(model, X, y, given):
            at = coordinates(X)
            return call(model, at.samples(X), y, given, at.scale)

        return of_samples

    parts = None if condition.parts is None else (standardised(condition.parts[0]), standardised(condition.parts[1]))
    call, symmetric, is_root = standardised(condition.call), condition.symmetric, condition.is_root
    return Condition(call, "sklearn", symmetric=symmetric, parts=parts, is_root=is_root)


# Below, X are standardised samples and model.coef the coefficients times `scale`.


def _smooth(objective: Callable) -> Condition:
    return Condition(
        lambda model, *args: gradient(objective, model, *args), "sklearn", symmetric=True, is_root=True
    )  # fmt: skip


def ridge(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given, scale):
        penalty = 0.5 * parameter(given, "alpha") * jnp.sum((model.coef / scale) ** 2)
        return 0.5 * _squares(model, X, y, given) + penalty

    return _smooth(objective)


def _squares(model: LinearModel, X: Array, y: Array, given: dict) -> Array:
    return jnp.sum(_weights(given, X).reshape(-1, *[1] * (y.ndim - 1)) * (predict(model, X) - y) ** 2)


def elastic_net(parameter: Callable, settings: dict, lasso: bool = False) -> Condition:
    def inner(model, X, y, given, scale):
        loss = lambda model: 0.5 * _squares(model, X, y, given) / jnp.sum(_weights(given, X))  # noqa: E731
        step = _stepsize(X)
        return jax.tree.map(lambda a, g: a - step * g, model, gradient(loss, model))

    def outer(model, X, y, given, scale):
        alpha, share = parameter(given, "alpha"), 1.0 if lasso else parameter(given, "l1_ratio")
        weights = (alpha * share / scale, alpha * (1 - share) / scale**2)
        of_row = lambda row: prox.elastic_net(row, weights, _stepsize(X))  # noqa: E731
        coef = of_row(model.coef) if model.coef.ndim == 1 else jax.vmap(of_row)(model.coef)
        return LinearModel(coef, model.intercept)

    def T(model, *args):
        return outer(inner(model, *args), *args)

    return Condition(T, "sklearn", parts=(inner, outer))


def _stepsize(X: Array) -> Array:
    # About 1 / L. It cancels in the derivative, and so does what it depends on.
    curvature = jnp.maximum(jnp.sum(X**2) / X.shape[0], 1.0)  # that of the intercept is 1
    return jax.lax.stop_gradient(1 / curvature)


def logistic(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given, scale):
        score = predict(model, X)
        if score.ndim == 1:
            losses = jax.nn.softplus(jnp.where(y == 1, -score, score))
        else:
            losses = jax.nn.logsumexp(score, axis=-1) - jnp.take_along_axis(score, y[:, None], axis=-1)[:, 0]
        penalty = 0.5 * jnp.sum((model.coef / scale) ** 2)
        if score.ndim > 1 and model.intercept is not None:
            # A constant added to all intercepts changes nothing; scikit-learn starts from zero and keeps their mean.
            penalty = penalty + 0.5 * jnp.mean(model.intercept) ** 2
        return parameter(given, "C") * jnp.sum(_weights(given, X) * losses) + penalty

    return _smooth(objective)


def linear_svc(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given, scale):
        margin = 1 - jnp.where(y == 1, 1.0, -1.0) * predict(model, X)
        losses = jnp.where(margin > 0, margin, 0.0) ** 2
        penalty = 0.5 * jnp.sum((model.coef / scale) ** 2)
        if model.intercept is not None:
            penalty = penalty + 0.5 * model.intercept**2 / settings["intercept_scaling"] ** 2
        return parameter(given, "C") * jnp.sum(_weights(given, X) * losses) + penalty

    return _smooth(objective)
