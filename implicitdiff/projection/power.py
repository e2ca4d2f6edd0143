"""The power cone and its dual."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._rule import ruled
from ._arrays import check, floating, guarded, half_as_single, homogeneous, like, sound
from ._curved_cone import Ray, increasing_root, move, ray, select, slide, stack
from .duality import dual


@half_as_single
def power(v: Float[Array, "... 3"], alpha: ArrayLike) -> Float[Array, "... 3"]:
    """Project onto the power cone {(x, y, z) : x, y >= 0, x^alpha y^(1 - alpha) >= |z|}.

    The projection is v inside and 0 in the polar cone; elsewhere it lies on the curved surface, on the ray through
    (exp((1 - alpha) u), exp(-alpha u), +-1) with u the root of one increasing equation. The derivative is
    symmetric, there with the eigenvalues 0, 1 and one between, from a formula and not from the iterations. On the
    boundary the constraint counts as active, on that of the polar (also at the origin) the derivative is 0; at z = 0
    off the cone it is the limit for small z.

    Args:
        v: real array; points (x, y, z) lie along the last axis.
        alpha: between 0 and 1: a scalar, or one value for each point.

    Returns:
        An array like v.

    Raises:
        ValueError: alpha does not satisfy 0 < alpha < 1, if concrete; a traced one gives NaN.

    Source: Hien, "Differential properties of Euclidean projection onto power cone", Math. Meth. Oper. Res. 2015 (the
    set and its cases); the parametrisation by u and the derivative are derived in the code.

    Example:
        >>> import jax.numpy as jnp
        >>> power(jnp.array([1.0, 1.0, 4.0]), 0.5).round(5).tolist()
        [2.0, 2.0, 2.0]
    """
    v = floating(v)
    if v.shape[-1:] != (3,):
        raise ValueError(f"power: expected points (x, y, z) in the last axis, found shape {v.shape}.")
    alpha = like(v, alpha)
    factor = check(lambda a: (a > 0) & (a < 1), "power: alpha must be between 0 and 1, found {}.", alpha)
    alpha = jnp.broadcast_to(alpha, v.shape[:-1])
    factor = sound(v) * jnp.asarray(factor)[..., None]
    return guarded(partial(homogeneous, _power), factor, v, alpha[..., None])


power_dual = dual(power)


@jax.jit
def _power(v: Float[Array, "... 3"], alpha: Float[Array, "... 1"]) -> Float[Array, "... 3"]:
    alpha = alpha[..., 0]
    x, y, z = jnp.moveaxis(v, -1, 0)
    height = jnp.abs(z)
    positive = (x > 0) & (y > 0)
    inside = positive & (_mean(x, y, alpha) > height)
    polar = (x <= 0) & (y <= 0) & (_mean(-x / alpha, -y / (1 - alpha), alpha) >= height)
    # The cone is symmetric in z; at z = 0 a very small height stands for it, of which the value shows nothing.
    sign = jnp.where(z < 0, -1.0, 1.0).astype(v.dtype)
    signs = stack(jnp.ones_like(z), jnp.ones_like(z), sign)
    tiny = jnp.finfo(v.dtype).eps ** 2
    upward = stack(x, y, sign * z + lax.stop_gradient(jnp.maximum(height, tiny) - height))
    upward = select(inside | polar, jnp.array([0, 0, 1], v.dtype), upward)
    surface = signs * _surface(upward, alpha)
    return select(inside, v, select(polar, jnp.zeros_like(v), surface))


def _mean(x: Array, y: Array, alpha: Array) -> Array:
    """x^alpha y^(1 - alpha) for x, y >= 0; no matter what for others."""
    return jnp.maximum(x, 0.0) ** alpha * jnp.maximum(y, 0.0) ** (1 - alpha)


def _surface(v: Float[Array, "... 3"], alpha: Float[Array, "..."]) -> Float[Array, "... 3"]:
    (u,) = ruled(_slide, [_parameter(*lax.stop_gradient((v, alpha)))], v, alpha)
    (x,) = ruled(_move, [_ray(u, v, alpha)[0].point], v, alpha, u)
    return x


def _move(x, theta, theta_dot):
    (v, alpha, u), (v_dot, alpha_dot, _) = theta, theta_dot
    ray, q_alpha, d_alpha = _ray(u, v, alpha)
    # v = s q + m d, in which alpha moves q and d as well.
    q_dot, d_dot = alpha_dot[..., None] * q_alpha, alpha_dot[..., None] * d_alpha
    return [move(ray, v_dot - q_dot - d_dot) + q_dot]


def _slide(x, theta, theta_dot):
    (u,), (v, alpha), (v_dot, alpha_dot) = x, theta, theta_dot
    ray, q_alpha, d_alpha = _ray(u, v, alpha)
    return [slide(ray, v_dot - alpha_dot[..., None] * (q_alpha + d_alpha))]


def _parameter(v: Float[Array, "... 3"], alpha: Float[Array, "..."]) -> Float[Array, "..."]:
    """The u of the projection's ray: where m from the first and from the second equation of v = s q + m d agree."""
    x, y, z = jnp.moveaxis(v, -1, 0)
    beta = 1 - alpha

    def bounds(coordinate, exponent):
        """Where 0 < m < z in the equation of one coordinate, for the logarithm of A or of B."""
        size = jnp.where(coordinate == 0, 1.0, jnp.abs(coordinate))
        ratio = jnp.where(coordinate > 0, size / z, exponent * z / size)
        logarithm = jnp.log(ratio)
        return jnp.where(coordinate > 0, logarithm, -jnp.inf), jnp.where(coordinate < 0, logarithm, jnp.inf)

    def multiplier(coordinate, exponent, logarithm):
        """M from the equation of one coordinate and its derivative in log A (log B)."""
        large = logarithm > 0
        E = jnp.exp(-jnp.abs(logarithm))
        bottom = jnp.where(large, 1 + exponent * E * E, E * E + exponent)
        m = jnp.where(large, z - coordinate * E, (z * E - coordinate) * E) / bottom
        top = jnp.where(
            large,
            coordinate + 2 * exponent * z * E - exponent * coordinate * E * E,
            coordinate * E * E + 2 * exponent * z * E - exponent * coordinate,
        )
        return m, E * top / (bottom * bottom)

    def residual(u):
        m_x, slope_x = multiplier(x, alpha, beta * u)
        m_y, slope_y = multiplier(y, beta, -alpha * u)
        return m_x - m_y, beta * slope_x + alpha * slope_y

    low_x, high_x = bounds(x, alpha)
    low_y, high_y = bounds(y, beta)
    low = jnp.maximum(low_x / beta, -high_y / alpha)
    high = jnp.minimum(high_x / beta, -low_y / alpha)
    # Where an end is infinite, the root is near the other one or near zero.
    width = (3 - jnp.log(alpha) - jnp.log(beta)) / jnp.minimum(alpha, beta)
    low = jnp.where(low > -jnp.inf, low, jnp.minimum(high, 0.0) - width)
    high = jnp.where(high < jnp.inf, high, jnp.maximum(low, 0.0) + width)
    return increasing_root(residual, low, high)


def _ray(u: Array, v: Array, alpha: Array) -> tuple[Ray, Array, Array]:
    """Curve (A, B, 1) and normal (-alpha/A, -beta/B, 1), with s q_alpha and m d_alpha.

    A = exp(beta u) and B = exp(-alpha u); the curve is divided by the larger of the two, the normal multiplied by the
    smaller.
    """
    beta, zero = 1 - alpha, jnp.zeros_like(u)
    positive, size = u > 0, jnp.abs(u)
    a, b = jnp.exp(jnp.minimum(u, 0.0)), jnp.exp(-jnp.maximum(u, 0.0))
    small, large = jnp.where(positive, alpha, beta), jnp.where(positive, beta, alpha)
    result = ray(
        v,
        stack(a, b, jnp.exp(-large * size)),
        stack(beta * a, -alpha * b, zero),
        stack(-alpha * b, -beta * a, jnp.exp(-small * size)),
        stack(alpha * beta * b, -alpha * beta * a, zero),
    )
    q_alpha = result.s[..., None] * stack(-u * a, -u * b, zero)
    d_alpha = result.m[..., None] * stack(-(1 + alpha * u) * b, (1 - beta * u) * a, zero)
    return result, q_alpha, d_alpha
