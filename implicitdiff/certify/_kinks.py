"""The distance from x to the nearest point at which F is not differentiable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._largest import largest
from .._linearised import Linearised
from ._spectrum import noise

# Radii, as powers of ten relative to the size of x, two for each decade.
EXPONENTS = (-10.0, -1.0)
DIRECTIONS = 8
# The Jacobian jumps if its change grows by this factor more than the radius does.
SUDDEN = 4.0


def nearest_kink(here: Linearised) -> Float[Array, ""]:
    """The distance, in the largest entry, to the nearest jump of the Jacobian A; inf if there is none nearby.

    Where F is smooth, the change of A z grows in proportion to the displacement of x; at a kink it jumps. A
    displacement changes every entry by the same amount, up or down, so that the kink of a single entry is found at its
    distance. The result is accurate to a factor of 3, and no kink is found beyond a tenth of the size of x.
    """
    n, dtype = here.unknowns.size, here.unknowns.dtype
    x = here.position()
    eps = jnp.finfo(dtype).eps
    size = jnp.maximum(largest(x), eps)
    first = jnp.maximum(EXPONENTS[0], jnp.log10(eps) + 2)
    radii = size * 10 ** jnp.linspace(first, EXPONENTS[1], 2 * int(EXPONENTS[1] - EXPONENTS[0]) + 1, dtype=dtype)
    signs = jnp.sign(noise(3, (DIRECTIONS, n), dtype))
    z = noise(4, (n,), dtype)
    Az = here.A(z)

    def change(move):
        return jnp.linalg.norm(here.at(x + move).A(z) - Az)

    changes = jax.lax.map(lambda r: jnp.max(jax.vmap(change)(r * signs)), radii) / jnp.linalg.norm(Az)
    growth = changes[1:] / (changes[:-1] * (radii[1:] / radii[:-1]) + 100 * eps)
    # A single one of the n entries may have jumped; a smaller change is curvature or noise.
    jumps = jnp.concatenate([changes[:1] > 1e-3, growth > SUDDEN]) & (changes > 0.03 / n**0.5)
    return jnp.min(jnp.where(jumps, radii, jnp.inf))
