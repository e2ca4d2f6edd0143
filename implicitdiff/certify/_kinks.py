"""How far x is from where F stops being differentiable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._linearised import Linearised
from ._spectrum import noise

# Radii to look at, as powers of ten of the size of x, two to a decade.
EXPONENTS = (-10.0, -1.0)
DIRECTIONS = 8
# A jump of the Jacobian is a change that grows so many times faster than the radius.
SUDDEN = 4.0


def nearest_kink(here: Linearised) -> Float[Array, ""]:
    """The distance, in the largest entry, to the nearest jump of the Jacobian A; inf where none is near.

    The change of A z over a move of x grows in proportion to the move where F is smooth, and jumps at a kink. Moves
    change every entry by plus or minus the same, so that the kinks of single entries are met at their distance. Coarse
    by a factor of 3, and blind beyond a tenth of the size of x.
    """
    n, dtype = here.unknowns.size, here.unknowns.dtype
    x = here.position()
    eps = jnp.finfo(dtype).eps
    size = jnp.maximum(jnp.max(jnp.abs(x)), eps)
    first = jnp.maximum(EXPONENTS[0], jnp.log10(eps) + 2)
    radii = size * 10 ** jnp.linspace(first, EXPONENTS[1], 2 * int(EXPONENTS[1] - EXPONENTS[0]) + 1, dtype=dtype)
    signs = jnp.sign(noise(3, (DIRECTIONS, n), dtype))
    z = noise(4, (n,), dtype)
    Az = here.A(z)

    def change(move):
        return jnp.linalg.norm(here.at(x + move).A(z) - Az)

    changes = jax.lax.map(lambda r: jnp.max(jax.vmap(change)(r * signs)), radii) / jnp.linalg.norm(Az)
    growth = changes[1:] / (changes[:-1] * (radii[1:] / radii[:-1]) + 100 * eps)
    # One entry in n may have jumped; less is curvature or noise.
    jumps = jnp.concatenate([changes[:1] > 1e-3, growth > SUDDEN]) & (changes > 0.03 / n**0.5)
    return jnp.min(jnp.where(jumps, radii, jnp.inf))
