"""The second-order cone."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._arrays import floating, guarded, half_as_single, homogeneous, no_parameters, norm_and_direction, sound


@half_as_single
def second_order(v: Float[Array, "... n"], theta: None = None) -> Float[Array, "... n"]:
    """Project onto the second-order cone {(t, z) : ||z|| <= t}, t the first entry; it is its own dual.

    With u = z / ||z||: v inside; 0 where ||z|| <= -t; else (t + ||z||)/2 (1, u). The derivative of the last, by the
    formula, has the eigenvalues 0, 1 and (1 + t/||z||)/2. On the boundary of the cone the constraint counts as
    active, and on that of its polar (also at the origin) the derivative is 0.

    Args:
        v: real array; vectors (t, z) lie along the last axis.
        theta: unused, the set has no parameters.

    Returns:
        An array like v.

    Source: Fukushima, Luo, Tseng, "Smoothing functions for second-order-cone complementarity problems", SIAM J.
    Optim. 2002.

    Example:
        >>> import jax.numpy as jnp
        >>> second_order(jnp.array([0.0, 0.0, 4.0])).tolist()
        [2.0, 0.0, 2.0]
    """
    no_parameters("second_order", theta)
    v = floating(v)
    return guarded(partial(homogeneous, _second_order), sound(v), v)


@jax.jit
def _second_order(v: Float[Array, "... n"]) -> Float[Array, "... n"]:
    t, z = v[..., :1], v[..., 1:]
    norm, direction = norm_and_direction(z)
    boundary = ((t + norm) / 2) * jnp.concatenate([jnp.ones_like(t), direction], axis=-1)
    return jnp.where(norm <= -t, 0.0, jnp.where(norm < t, v, boundary))
