"""The distance from x to the nearest point at which F is not differentiable."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._largest import largest
from .._linearised import Linearised
from ._spectrum import noise

# Radii, as powers of ten relative to the size of x, two for each decade.
SMALLEST, LARGEST = -10.0, -1.0
DIRECTIONS = 8
# The Jacobian jumps if its change grows by this factor more than the radius does.
SUDDEN = 4.0


def scale_of(x: Float[Array, " n"]) -> Float[Array, ""]:
    """The size of x that distances to kinks are relative to; at the origin, which has none, a rounding unit."""
    size = largest(x)
    return jnp.where(size == 0, jnp.finfo(x.dtype).eps, size)


def at_once(eps: float) -> float:
    """The distance, relative to the size of x, below which a kink is at x: the smallest that can be told from 0."""
    return max(1e-6, 2 * _smallest(eps))


def _smallest(eps: float) -> float:
    return max(10**SMALLEST, 100 * eps)


def nearest_kink(here: Linearised) -> Float[Array, ""]:
    """The distance, in the largest entry, to the nearest jump of the Jacobian A; inf if there is none nearby.

    Where F is smooth, the change of A z grows in proportion to the displacement of x; at a kink it jumps. A
    displacement changes every entry by the same amount, up or down, so that the kink of a single entry is found at its
    distance. The result is accurate to a factor of 3, and no kink is found beyond a tenth of the size of x.
    """
    n, dtype = here.unknowns.size, here.unknowns.dtype
    x = here.position()
    eps = float(jnp.finfo(dtype).eps)
    first = math.log10(_smallest(eps))
    radii = scale_of(x) * 10 ** jnp.linspace(first, LARGEST, 2 * int(LARGEST - SMALLEST) + 1, dtype=dtype)
    signs = jnp.sign(noise(3, (DIRECTIONS, n), dtype))
    z = noise(4, (n,), dtype)
    Az = here.A(z)

    def change(move):
        return jnp.linalg.norm(here.at(x + move).A(z) - Az)

    changes = jax.lax.map(lambda r: jnp.max(jax.vmap(change)(r * signs)), radii)
    # Where A z is zero, what it becomes nearby tells what counts as a change: more than rounding noise.
    reference = jnp.maximum(jnp.linalg.norm(Az), eps**0.25 * jnp.max(changes))
    changes = changes / jnp.where(reference == 0, 1, reference)
    growth = changes[1:] / (changes[:-1] * (radii[1:] / radii[:-1]) + 100 * eps)
    # A single one of the n entries may have jumped; a smaller change is curvature or noise.
    jumps = jnp.concatenate([changes[:1] > 1e-3, growth > SUDDEN]) & (changes > 0.03 / n**0.5)
    return jnp.min(jnp.where(jumps, radii, jnp.inf))


def vanishes(here: Linearised) -> Bool[Array, ""]:
    """Whether A is rounding noise beside what it is at a tenth of the size of x from here."""
    n, dtype = here.unknowns.size, here.unknowns.dtype
    x, z = here.position(), noise(4, (n,), dtype)
    nearby = here.at(x + 10**LARGEST * scale_of(x) * jnp.sign(noise(3, (n,), dtype)))
    return largest(here.A(z)) <= 1e3 * jnp.finfo(dtype).eps * largest(nearby.A(z))
