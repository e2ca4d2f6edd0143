"""The largest absolute value, NaN where there is a NaN, and norms in any units."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def largest(
    x: Float[Array, "..."], axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Float[Array, "..."]:
    """Max |x|, NaN where there is a NaN, 0 of no numbers; not to be differentiated.

    XLA's maximum over an axis loses a NaN on the CPU from about a thousand numbers on, and a check of what is left then
    passes. As integers the bits of positive numbers are in the order of the numbers, with NaN above infinity.
    """
    sizes = lax.stop_gradient(jnp.abs(x))
    integer = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[sizes.dtype.itemsize]
    bits = lax.bitcast_convert_type(sizes, integer)
    return lax.bitcast_convert_type(jnp.max(bits, axis=axis, keepdims=keepdims, initial=0), sizes.dtype)


def power_of_two(size: Float[Array, "..."]) -> Float[Array, "..."]:
    """About 1 / size, as a power of two, so that a product with it is exact; 1 for 0, NaN where size is not finite."""
    # Without a mantissa; 1 / size of the smallest and the largest numbers would not be one.
    bounded = jnp.clip(size, 4 * jnp.finfo(size.dtype).tiny, jnp.finfo(size.dtype).max / 4)
    power = lax.reduce_precision(bounded, jnp.finfo(size.dtype).nexp, 0)
    return jnp.where(size == 0, 1, 1 / power + 0 * size)


def safe_norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The Euclidean norm; the squares of tiny and of huge numbers are not numbers."""
    unit = power_of_two(largest(x))
    return jnp.sqrt(jnp.sum((x * unit) ** 2)) / unit
