"""The largest absolute value, NaN where there is a NaN."""

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
