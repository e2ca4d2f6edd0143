"""The l1 ball and the l1 sphere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import check, floating, guarded, half_as_single, per_vector, sound
from .simplex import _simplex


@half_as_single
def l1_ball(v: Float[Array, "... n"], radius: ArrayLike | None = 1.0, *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the l1 ball {x : sum |x_i| <= radius}.

    x = v inside; elsewhere x = sign(v) p with p the projection of |v| onto the simplex of that scale. The derivative
    is the identity inside; elsewhere diag(s) - uu'/|s| with u = sign(x) and s = |u|, and u/|s| in radius. On the
    boundary of the ball the constraint counts as active, and so does x_i = 0 outside of it.

    Args:
        v: real array; vectors lie along `axis`.
        radius: at least 0 (inf: no constraint): a scalar, or one value for each vector; None for 1.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: radius is negative or NaN, if concrete; a traced one gives NaN.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball", ICML 2008.

    Example:
        >>> import jax.numpy as jnp
        >>> l1_ball(jnp.array([1.0, -0.5, 0.25])).tolist()
        [0.75, -0.25, 0.0]
    """
    v = jnp.moveaxis(floating(v), axis, -1)
    radius = per_vector(v, 1.0 if radius is None else radius, "radius")
    factor = check(lambda r: r >= 0, "l1_ball: radius must be at least 0, found {}.", radius)
    return jnp.moveaxis(guarded(_l1_ball, sound(v) * factor, v, radius), -1, axis)


@half_as_single
def l1_sphere(v: Float[Array, "... n"], radius: ArrayLike | None = 1.0, *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the l1 sphere {x : sum |x_i| = radius}.

    x = sign(v) p with sign(0) = 1 and p the projection of |v| onto the simplex of that scale; derivative as for
    `l1_ball` outside of the ball. The set is not convex: for v inside with zero entries there are several nearest
    points, and the non-negative choice is returned.

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
        >>> l1_sphere(jnp.array([0.0, -0.5])).tolist()
        [0.25, -0.75]
    """
    v = jnp.moveaxis(floating(v), axis, -1)
    radius = per_vector(v, 1.0 if radius is None else radius, "radius")
    factor = check(
        lambda r: (r >= 0) & (r < jnp.inf), "l1_sphere: radius must be finite and at least 0, found {}.", radius
    )
    return jnp.moveaxis(guarded(_l1_sphere, sound(v) * factor, v, radius), -1, axis)


@jax.jit
def _l1_ball(v: Array, radius: Array) -> Array:
    inside = jnp.sum(jnp.abs(v), axis=-1, keepdims=True) < radius
    # Where the projection onto the sphere is not wanted, its radius is replaced by a harmless one.
    return jnp.where(inside, v, _l1_sphere(v, jnp.where(inside, 0.0, radius)))


@jax.jit
def _l1_sphere(v: Array, radius: Array) -> Array:
    sign = jnp.where(v < 0, -1.0, 1.0).astype(v.dtype)
    return sign * _simplex(sign * v, radius)
