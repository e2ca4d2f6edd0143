"""The logarithmic barrier of the non-negative orthant."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from ._leaves import leafwise


def log_barrier(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of g(x) = -sum_i weight_i log x_i.

    x = (v + r) / 2 with r = sqrt(v^2 + 4 t) and t = scaling * weight: the positive root of x^2 - v x = t. It is smooth
    where t > 0, with derivative x / r in v and 1 / r in t. For t = 0 it is max(v, 0); at v = t = 0 the derivative is
    1/2 in v, and 0 in t, where the true one is infinite.

    Args:
        v: pytree of real arrays of any shape.
        weight: at least 0: a scalar, an array that broadcasts to v, or a pytree like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v; traced values give NaN.

    Source: Parikh, Boyd, "Proximal algorithms", 2014, section 6.1.3.

    Example:
        >>> import jax.numpy as jnp
        >>> log_barrier(jnp.array([0.0, 3.0, -3.0]), 4.0).tolist()
        [2.0, 4.0, 1.0]
    """
    return leafwise(lambda v, w, s: _positive_root(v, s * w), v, scaling, weight=weight)


def _positive_root(v: Array, t: Array) -> Array:
    # jnp.abs has derivative 0 at 0, where here both sides need 1.
    size = jnp.where(v >= 0, v, -v)
    # In units of the largest term, a constant to the derivative, nothing overflows.
    unit = lax.stop_gradient(jnp.maximum(size, 2 * jnp.sqrt(t)))
    unit = jnp.where(unit == 0, 1.0, unit)
    squared = (size / unit) ** 2 + 4 * (t / unit) / unit
    zero = squared == 0
    r = jnp.where(zero, 0.0, unit * jnp.sqrt(jnp.where(zero, 1.0, squared)))
    double = r + size
    # The product of the two roots is -t: the small one without cancellation.
    return jnp.where(v >= 0, double / 2, 2 * t / jnp.where(zero, 1.0, double))
