"""The l2 ball and the l2 sphere."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import check, floating, guarded, half_as_single, magnitude, norm_and_direction, per_vector, sound


@half_as_single
def l2_ball(v: Float[Array, "... n"], radius: ArrayLike | None = 1.0, *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the l2 ball {x : ||x|| <= radius}.

    x = v inside, radius u outside, with u = v / ||v||. The derivative is the identity inside; outside it is
    radius / ||v|| (I - uu') in v and u in radius. On the boundary the constraint counts as active.

    Args:
        v: real array; vectors lie along `axis`.
        radius: at least 0 (inf: no constraint): a scalar, or one value for each vector; None for 1.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: radius is negative or NaN, if concrete; a traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> l2_ball(jnp.array([0.0, 4.0]), 2.5).tolist()
        [0.0, 2.5]
    """
    v = floating(v)
    radius = per_vector(v, 1.0 if radius is None else radius, "radius", axis)
    factor = check(lambda r: r >= 0, "l2_ball: radius must be at least 0, found {}.", radius)
    return guarded(partial(_l2_ball, axis), sound(v, axis) * factor, v, radius)


@half_as_single
def l2_sphere(v: Float[Array, "... n"], radius: ArrayLike | None = 1.0, *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the l2 sphere {x : ||x|| = radius}.

    x = radius u with u = v / ||v||; derivative radius / ||v|| (I - uu') in v and u in radius. At v = 0 every point
    of the sphere is nearest: the one with equal entries is returned, with derivative 0 in v.

    Args:
        v: real array; vectors lie along `axis`.
        radius: finite and at least 0: a scalar, or one value for each vector; None for 1.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: radius is negative, infinite or NaN, if concrete; a traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> l2_sphere(jnp.array([0.0, 4.0]), 10.0).tolist()
        [0.0, 10.0]
    """
    v = floating(v)
    radius = per_vector(v, 1.0 if radius is None else radius, "radius", axis)
    factor = check(
        lambda r: (r >= 0) & (r < jnp.inf), "l2_sphere: radius must be finite and at least 0, found {}.", radius
    )
    return guarded(partial(_l2_sphere, axis), sound(v, axis) * factor, v, radius)


@partial(jax.jit, static_argnums=0)
def _l2_ball(axis: int, v: Array, radius: Array) -> Array:
    size = magnitude(v, axis)
    norm, direction = norm_and_direction(v / size, axis)
    inside = norm < radius / size
    # An infinite radius has no sphere: 0 instead, where the sphere is not wanted anyway.
    return jnp.where(inside, v, jnp.where(inside, 0.0, radius) * direction)


@partial(jax.jit, static_argnums=0)
def _l2_sphere(axis: int, v: Array, radius: Array) -> Array:
    norm, direction = norm_and_direction(v / magnitude(v, axis), axis)
    direction = jnp.where(norm == 0, v.shape[axis] ** -0.5, direction)
    return radius * direction
