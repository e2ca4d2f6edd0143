"""The exponential cone and its dual."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._rule import ruled
from ._arrays import floating, guarded, half_as_single, homogeneous, no_parameters, sound
from ._curved_cone import Ray, increasing_root, move, ray, select, slide, stack
from .duality import dual


@half_as_single
def exponential(v: Float[Array, "... 3"], theta: None = None) -> Float[Array, "... 3"]:
    """Project onto the exponential cone, the closure of {(x, y, z) : y > 0, y exp(x/y) <= z}.

    The projection is v inside, 0 in the polar cone, (x, 0, max(z, 0)) where x, y <= 0; elsewhere it lies on the
    curved surface: it is s (u, 1, exp(u)) with u the root of one increasing equation. The derivative is symmetric,
    there with the eigenvalues 0, 1 and one between, from a formula and not from the iterations. On the boundary the
    constraint counts as active, on that of the polar (also at the origin) the derivative is 0.

    Args:
        v: real array; points (x, y, z) lie along the last axis.
        theta: unused, the set has no parameters.

    Returns:
        An array like v.

    Source: Friberg, "Projection onto the exponential cone: a univariate root-finding problem", Optimization Methods
    and Software 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> exponential(jnp.array([0.0, 1.0, 1.0])).round(5).tolist()
        [0.0, 1.0, 1.0]
    """
    no_parameters("exponential", theta)
    v = floating(v)
    if v.shape[-1:] != (3,):
        raise ValueError(f"exponential: expected points (x, y, z) in the last axis, found shape {v.shape}.")
    return guarded(partial(homogeneous, _exponential), sound(v), v)


exponential_dual = dual(exponential)


@jax.jit
def _exponential(v: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    x, y, z = jnp.moveaxis(v, -1, 0)
    above, right = y > 0, x > 0
    inside = above & (y * jnp.exp(x / jnp.where(above, y, 1.0)) < z)
    polar = right & (x * jnp.exp(y / jnp.where(right, x, 1.0)) <= -jnp.e * z)
    flat = ~above & ~right
    face = stack(jnp.where(x < 0, x, 0.0), jnp.zeros_like(y), jnp.where(z > 0, z, 0.0))
    # A point that projects onto the surface stands in where the surface is not wanted.
    surface = _surface(select(inside | polar | flat, jnp.array([1, 1, 0], v.dtype), v))
    return select(inside, v, select(polar, jnp.zeros_like(v), select(flat, face, surface)))


def _surface(v: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    (u,) = ruled(_slide, [_parameter(lax.stop_gradient(v))], v)
    (x,) = ruled(_move, [_ray(u, v).point], v, u)
    return x


def _move(x, theta, theta_dot):
    v, u = theta
    return [move(_ray(u, v), theta_dot[0])]


def _slide(x, theta, theta_dot):
    (u,), (v,), (v_dot,) = x, theta, theta_dot
    return [slide(_ray(u, v), v_dot)]


def _parameter(v: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """The u of the projection's ray: the root of s exp(u) - m exp(-u) - z."""
    x, y, z = jnp.moveaxis(v, -1, 0)
    # s > 0 and m > 0 where:
    of_s = 1 - y / jnp.where(x == 0, 1.0, x)
    of_m = x / jnp.where(y == 0, 1.0, y)
    low = jnp.maximum(jnp.where(x > 0, of_s, -jnp.inf), jnp.where(y < 0, of_m, -jnp.inf))
    high = jnp.minimum(jnp.where(x < 0, of_s, jnp.inf), jnp.where(y > 0, of_m, jnp.inf))

    def residual(u):
        # Times exp(-|u|), so that nothing overflows.
        c = u * u - u + 1
        s, m = ((u - 1) * x + y) / c, (x - u * y) / c
        s_u, m_u = (x - (2 * u - 1) * s) / c, (-y - (2 * u - 1) * m) / c
        E = jnp.exp(-jnp.abs(u))
        grown, shrunk = jnp.where(u < 0, E * E, 1.0), jnp.where(u < 0, 1.0, E * E)
        return s * grown - m * shrunk - z * E, (s + s_u) * grown + (m - m_u) * shrunk

    # The root is within the range of exp, or at an end of the bracket beyond it, where s or m vanishes.
    exponents, largest = math.log(jnp.finfo(v.dtype).max), float(jnp.finfo(v.dtype).max) ** 0.4
    low = jnp.clip(jnp.maximum(low, jnp.minimum(-exponents, high - 1)), -largest, largest)
    high = jnp.clip(jnp.minimum(high, jnp.maximum(exponents, low + 1)), -largest, largest)
    return increasing_root(residual, low, high)


def _ray(u: Float[Array, "..."], v: Float[Array, "... 3"]) -> Ray:
    """Curve (u, 1, exp(u)) and normal (1, 1 - u, -exp(-u)), the longer of the two times exp(-|u|)."""
    negative = u < 0
    E, one, zero = jnp.exp(-jnp.abs(u)), jnp.ones_like(u), jnp.zeros_like(u)
    q = select(negative, stack(u, one, E), stack(u * E, E, one))
    q_u = select(negative, stack(one, zero, E), stack(E, zero, one))
    d = select(negative, stack(E, (1 - u) * E, -one), stack(one, 1 - u, -E))
    d_u = select(negative, stack(zero, -E, one), stack(zero, -one, E))
    return ray(v, q, q_u, d, d_u)
