"""Projection onto the curved surface of a three-dimensional cone: what the exponential and the power cone share.

The surface is made of the rays through a curve q(u), and d(u) is its outer normal there. A point v off the cone is
v = s q(u) + m d(u) with s, m > 0, and p = s q(u) is its projection. As q'd = 0 and q'd_u = d'q_u = 0 (u as an index is
the derivative along the curve), the vector w = q x d takes the differential of v apart:

    w'dv = w'(s q_u + m d_u) du,      dp = q q'dv / q'q + g w w'dv / w'w,      g = w's q_u / w'(s q_u + m d_u),

g in (0, 1]: a symmetric matrix with the eigenvalues 1, g and 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._varying import while_loop


class Ray(NamedTuple):
    """Where a point projects to, with all that the derivatives need."""

    along: Float[Array, "... 3"]  # q / |q|
    across: Float[Array, "... 3"]  # w / |w|
    s: Float[Array, "..."]
    m: Float[Array, "..."]
    point: Float[Array, "... 3"]  # p
    share: Float[Array, "..."]  # g
    speed: Float[Array, "..."]  # du = speed across'dv


def ray(v: Array, q: Array, q_u: Array, d: Array, d_u: Array) -> Ray:
    """The ray of v = s q + m d. Scaling q and q_u by one factor, d and d_u by another, changes nothing but s and m."""
    length_q, length_d = jnp.sqrt(_dot(q, q)), jnp.sqrt(_dot(d, d))
    along, normal = q / length_q[..., None], d / length_d[..., None]
    across = jnp.cross(along, normal)
    # q and d are orthogonal: coefficients by projection are exact to the rounding error of v.
    length, distance = jnp.maximum(_dot(along, v), 0.0), jnp.maximum(_dot(normal, v), 0.0)
    s, m = length / length_q, distance / length_d
    near, far = s * _dot(across, q_u), m * _dot(across, d_u)
    total = jnp.where(near + far == 0, 1.0, near + far)
    return Ray(along, across, s, m, length[..., None] * along, near / total, 1.0 / total)


def move(ray: Ray, v_dot: Array) -> Array:
    """The derivative of the projection along v_dot."""
    across = (ray.share * _dot(ray.across, v_dot))[..., None] * ray.across
    return _dot(ray.along, v_dot)[..., None] * ray.along + across


def slide(ray: Ray, v_dot: Array) -> Array:
    """The derivative of u along v_dot."""
    return ray.speed * _dot(ray.across, v_dot)


def increasing_root(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array) -> Float[Array, "..."]:
    """The root of an increasing function in [low, high], by Newton's method in a bracket.

    Args:
        function: returns value and slope, each up to one positive factor that may depend on the point.
        low: the function is not positive here; or this is the best there is.
        high: the function is not negative here.

    Returns:
        The root to working precision; an end of the bracket where there is none.
    """
    eps = jnp.finfo(low.dtype).eps

    def unfinished(state):
        *_, iteration, done = state
        return jnp.any(~done) & (iteration < 200)

    def newton(state):
        u, low, high, iteration, done = state
        value, slope = function(u)
        low, high = jnp.where(value < 0, u, low), jnp.where(value > 0, u, high)
        step = u - value / slope
        inside = (low < step) & (step < high)
        # Every third time the middle, so that the bracket shrinks where Newton's steps are short.
        new = jnp.where(inside & (iteration % 3 != 2), step, low / 2 + high / 2)
        tolerance = 2 * eps * jnp.maximum(jnp.abs(u), eps)
        converged = (jnp.abs(step - u) <= tolerance) | (value == 0) | ~(high - low > tolerance)
        new = jnp.where(converged, jnp.clip(step, low, high), new)
        new = jnp.where(value == 0, u, new)
        return jnp.where(done, u, new), low, high, iteration + 1, done | converged

    start = jnp.clip(0.0, low, high)
    u, *_ = while_loop(unfinished, newton, (start, low, high, 0, jnp.zeros(start.shape, bool)))
    return u


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def stack(x: Array, y: Array, z: Array) -> Float[Array, "... 3"]:
    """The points (x, y, z)."""
    return jnp.stack([x, y, z], axis=-1)


def select(condition: Bool[Array, "..."], a: Array, b: Array) -> Array:
    """`where` for vectors."""
    return jnp.where(condition[..., None], a, b)
