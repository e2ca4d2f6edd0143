"""Losses of one example under JAXopt's names, to be batched with `jax.vmap`; elsewhere use `optax.losses`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ...projection import simplex


def huber_loss(target: ArrayLike, pred: ArrayLike, delta: float = 1.0) -> Array:
    """Half of the squared error up to delta, linear beyond."""
    error = jnp.abs(jnp.asarray(target) - pred)
    return jnp.where(error > delta, delta * (error - 0.5 * delta), 0.5 * error**2)


def _margin(label: ArrayLike, score: ArrayLike) -> Array:
    """The score in favour of the label."""
    return jnp.where(jnp.asarray(label) != 0, score, -jnp.asarray(score))


def binary_logistic_loss(label: ArrayLike, logit: ArrayLike) -> Array:
    """log(1 + exp(-logit)) for the label 1, log(1 + exp(logit)) for 0."""
    return jax.nn.softplus(-_margin(label, logit))


def binary_sparsemax_loss(label: ArrayLike, logit: ArrayLike) -> Array:
    """`sparse_plus` in place of the softplus of `binary_logistic_loss`."""
    return sparse_plus(-_margin(label, logit))


def sparse_plus(x: ArrayLike) -> Array:
    """0 up to -1, (x + 1)^2 / 4 up to 1, x beyond."""
    x = jnp.asarray(x)
    return jnp.where(x <= -1, 0.0, jnp.where(x >= 1, x, (x + 1) ** 2 / 4))


def sparse_sigmoid(x: ArrayLike) -> Array:
    """The derivative of `sparse_plus`."""
    return jnp.clip((jnp.asarray(x) + 1) / 2, 0.0, 1.0)


def binary_hinge_loss(label: ArrayLike, score: ArrayLike) -> Array:
    """max(0, 1 - margin)."""
    return jnp.maximum(0, 1 - _margin(label, score))


def binary_perceptron_loss(label: ArrayLike, score: ArrayLike) -> Array:
    """max(0, -margin)."""
    return jnp.maximum(0, -_margin(label, score))


def multiclass_logistic_loss(label: ArrayLike, logits: Array) -> Array:
    """The negative log-likelihood of the label under the softmax of the logits."""
    logits = jnp.asarray(logits)
    # The label's own difference is zero, whatever the logit: infinite ones subtract to NaN.
    return jax.nn.logsumexp((logits - logits[label]).at[label].set(0.0))


def multiclass_sparsemax_loss(label: ArrayLike, scores: Array) -> Array:
    """The loss whose gradient is the projection of the scores onto the simplex minus the label.

    Source: Martins, Astudillo, "From softmax to sparsemax", ICML 2016.
    """
    scores = jnp.asarray(scores)
    p = simplex(scores)
    differences = (scores - scores[label]).at[label].set(0.0)
    return jnp.dot(p, jnp.where(p > 0, differences, 0.0)) + 0.5 * (1 - jnp.dot(p, p))


def multiclass_hinge_loss(label: ArrayLike, scores: Array) -> Array:
    """The largest score, those of the wrong classes raised by one, minus that of the label."""
    scores = jnp.asarray(scores)
    return jnp.max(scores + 1 - jax.nn.one_hot(label, scores.shape[0])) - scores[label]


def multiclass_perceptron_loss(label: ArrayLike, scores: Array) -> Array:
    """The largest score minus that of the label."""
    scores = jnp.asarray(scores)
    return jnp.max(scores) - scores[label]


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., Array]:
    """The loss max_fun(scores) - <scores, y_true>, whose gradient is that of max_fun minus y_true.

    Source: Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 2020.
    """

    def loss(y_true: Array, scores: Array, *args: Any, **kwargs: Any) -> Array:
        return max_fun(scores, *args, **kwargs) - jnp.vdot(y_true, scores)

    return loss
