"""Isotonic regression under JAXopt's name."""

import jax.numpy as jnp
from jaxtyping import Array

from ... import projection


def isotonic_l2_pav(y: Array, y_min: float = -jnp.inf, y_max: float = jnp.inf, increasing: bool = True) -> Array:
    """The nearest monotone vector, clipped to [y_min, y_max]; on the device, where JAXopt calls numba on the host."""
    return jnp.clip(projection.isotonic(y, increasing=increasing), y_min, y_max)
