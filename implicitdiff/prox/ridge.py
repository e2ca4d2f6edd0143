"""The squared l2 norm."""

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._leaves import leafwise


def ridge(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of g(x) = 1/2 sum_i weight_i x_i^2.

    x = v / (1 + scaling * weight), smooth.

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
        >>> ridge(jnp.array([3.0, -1.0]), 1.0).tolist()
        [1.5, -0.5]
    """
    return leafwise(lambda v, w, s: v / (1 + s * w), v, scaling, weight=weight)


def non_negative_ridge(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of g(x) = 1/2 sum_i weight_i x_i^2 with x >= 0.

    x = max(v, 0) / (1 + scaling * weight). At v = 0 the derivative is 0: the bound counts as active.

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
        >>> non_negative_ridge(jnp.array([3.0, -1.0]), 1.0).tolist()
        [1.5, 0.0]
    """

    def prox(v: Array, w: Array, s: Array) -> Array:
        return jnp.where(v <= 0, 0.0, v) / (1 + s * w)

    return leafwise(prox, v, scaling, weight=weight)
