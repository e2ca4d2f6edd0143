"""The l1 norm: lasso, non-negative lasso and elastic net."""

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._leaves import leafwise


def lasso(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of the l1 norm, g(x) = sum_i weight_i |x_i|: soft thresholding.

    x = sign(v) max(|v| - t, 0) with t = scaling * weight. The derivative where |v| > t is 1 in v and -sign(v) in t,
    elsewhere 0. At the kinks |v| = t > 0 it is 0: the entry counts as not selected. With t = 0 the operator is the
    identity and its derivative in v is 1, also at v = 0.

    Args:
        v: pytree of real arrays of any shape.
        weight: at least 0: a scalar, an array that broadcasts to v, or a pytree like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v; traced values give NaN.

    Source: Donoho, "De-noising by soft-thresholding", 1995.

    Example:
        >>> import jax.numpy as jnp
        >>> lasso(jnp.array([3.0, -0.5, -2.0]), 1.0).tolist()
        [2.0, 0.0, -1.0]
    """
    return leafwise(lambda v, w, s: _soft_threshold(v, s * w), v, scaling, weight=weight)


def non_negative_lasso(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of the l1 norm on the non-negative orthant, g(x) = sum_i weight_i x_i with x >= 0.

    x = max(v - t, 0) with t = scaling * weight. The derivative where v > t is 1 in v and -1 in t, elsewhere 0. At the
    kink v = t it is 0: the entry counts as not selected.

    Args:
        v: pytree of real arrays of any shape.
        weight: at least 0: a scalar, an array that broadcasts to v, or a pytree like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v; traced values give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> non_negative_lasso(jnp.array([3.0, -0.5, -2.0]), 1.0).tolist()
        [2.0, 0.0, 0.0]
    """

    def prox(v: Array, w: Array, s: Array) -> Array:
        t = s * w
        return jnp.where(v <= t, 0.0, v - t)

    return leafwise(prox, v, scaling, weight=weight)


def elastic_net(v: PyTree, weights: tuple[PyTree, PyTree] | None = (1.0, 1.0), scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of the elastic net, g(x) = sum_i l1_i |x_i| + l2_i / 2 x_i^2.

    x = S(v) / (1 + scaling * l2) with S the soft thresholding of `lasso` at t = scaling * l1, and the same at kinks.

    Args:
        v: pytree of real arrays of any shape.
        weights: the pair (l1, l2), each at least 0 and shaped like the weight of `lasso`; None for (1, 1). In terms
            of scikit-learn's ElasticNet, l1 = alpha * l1_ratio and l2 = alpha * (1 - l1_ratio).
        scaling: at least 0, shaped like a weight.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weights is no pair; a weight or scaling is negative, infinite or NaN, or does not fit v; traced
            values give NaN.

    Source: Zou, Hastie, "Regularization and variable selection via the elastic net", 2005.

    Example:
        >>> import jax.numpy as jnp
        >>> elastic_net(jnp.array([3.0, -0.5, -2.0]), (1.0, 3.0)).tolist()
        [0.5, 0.0, -0.25]
    """
    try:
        l1, l2 = (1.0, 1.0) if weights is None else weights
    except (TypeError, ValueError) as error:
        raise ValueError(f"elastic_net: weights must be a pair (l1, l2), found {weights!r}.") from error

    def prox(v: Array, l1: Array, l2: Array, s: Array) -> Array:
        return _soft_threshold(v, s * l1) / (1 + s * l2)

    return leafwise(prox, v, scaling, l1=l1, l2=l2)


def _soft_threshold(v: Array, t: Array) -> Array:
    # Comparisons with NaN are false: NaN takes the branch with arithmetic and shows.
    return jnp.where((jnp.abs(v) <= t) & (t > 0), 0.0, v - jnp.sign(v) * t)
