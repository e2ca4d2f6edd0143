"""The simplex and the sparse simplex."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._varying import axes_of, varying, while_loop
from ._arrays import check, floating, guarded, half_as_single, per_vector, sound, with_value


@half_as_single
def simplex(v: Float[Array, "... n"], scale: ArrayLike | None = 1.0, *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the simplex {x : x >= 0, sum(x) = scale}.

    x = max(v - tau, 0), tau the root of sum(max(v - tau, 0)) = scale. With s the indicator of the support {x > 0},
    the derivative is diag(s) - ss'/|s| in v and s/|s| in scale. A coordinate at the threshold (x_i = 0) counts as
    outside of the support.

    The threshold is found by Newton's method on this convex, piecewise linear equation, which is exact after finitely
    many steps (about ten passes over v instead of a sort). It works on v - max(v): adding a constant to v changes
    nothing, not even in float32.

    Args:
        v: real array; vectors lie along `axis`.
        scale: finite and at least 0: a scalar, or one value for each vector; None for 1.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: scale is negative, infinite or NaN, if concrete; a traced one gives NaN.

    Source: Held, Wolfe, Crowder, "Validation of subgradient optimization", 1974; Michelot, "A finite algorithm for
    finding the projection of a point onto the canonical simplex", 1986.

    Example:
        >>> import jax.numpy as jnp
        >>> simplex(jnp.array([1.0, 0.5, -2.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    v = floating(v)
    if v.ndim == 0 or v.shape[axis] == 0:
        raise ValueError(
            f"simplex: v must have vectors of at least one entry along axis {axis}, found shape {v.shape}."
        )
    v = jnp.moveaxis(v, axis, -1)
    scale = per_vector(v, 1.0 if scale is None else scale, "scale")
    return jnp.moveaxis(guarded(_simplex, sound(v) * _usable(scale), v, scale), -1, axis)


@half_as_single
def sparse_simplex(
    v: Float[Array, "... n"], scale: ArrayLike | None = 1.0, *, max_nonzeros: int, axis: int = -1
) -> Float[Array, "... n"]:
    """Project onto the sparse simplex {x : x >= 0, sum(x) = scale, at most k entries are not 0}.

    A nearest point is the projection of the k largest entries of v onto the simplex, with zeros elsewhere. The set is
    not convex: where the k-th and the (k+1)-th largest entries are equal, there are several nearest points, and the
    one that prefers the first of equal entries is returned, with its derivative (see `simplex`).

    Args:
        v: real array; vectors lie along `axis`.
        scale: finite and at least 0: a scalar, or one value for each vector; None for 1.
        max_nonzeros: k, an int; larger than the length of the vectors means no constraint.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: max_nonzeros < 1; or a scale that `simplex` refuses.

    Source: Kyrillidis, Becker, Cevher, Koch, "Sparse projections onto the simplex", ICML 2013.

    Example:
        >>> import jax.numpy as jnp
        >>> sparse_simplex(jnp.array([1.0, 0.5, 0.25]), max_nonzeros=2).tolist()
        [0.75, 0.25, 0.0]
    """
    if max_nonzeros < 1:
        raise ValueError(f"sparse_simplex: max_nonzeros must be at least 1, found {max_nonzeros}.")
    v = jnp.moveaxis(floating(v), axis, -1)
    if max_nonzeros >= v.shape[-1]:
        return simplex(jnp.moveaxis(v, -1, axis), scale, axis=axis)
    scale = per_vector(v, 1.0 if scale is None else scale, "scale")
    sparse = partial(_sparse_simplex, max_nonzeros=max_nonzeros)
    return jnp.moveaxis(guarded(sparse, sound(v) * _usable(scale), v, scale), -1, axis)


def _usable(scale: Array) -> ArrayLike:
    return check(lambda s: (s >= 0) & (s < jnp.inf), "simplex: scale must be finite and at least 0, found {}.", scale)


@partial(jax.jit, static_argnames="max_nonzeros")
def _sparse_simplex(v: Float[Array, "... n"], scale: Float[Array, "... #1"], *, max_nonzeros: int) -> Array:
    _, largest = lax.top_k(lax.stop_gradient(v), max_nonzeros)
    x = _simplex(jnp.take_along_axis(v, largest, axis=-1), scale)
    return jnp.put_along_axis(jnp.zeros_like(v), largest, x, axis=-1, inplace=False)


@jax.jit
def _simplex(v: Float[Array, "... n"], scale: Float[Array, "... #1"]) -> Float[Array, "... n"]:
    """The projection: its value from the threshold, its derivative from the mean over the support, which stays."""
    u = v - lax.stop_gradient(jnp.max(v, axis=-1, keepdims=True))
    fixed = lax.stop_gradient(u)
    tau = _threshold(fixed, lax.stop_gradient(scale))
    support = ~(fixed <= tau)
    count = jnp.maximum(jnp.sum(support, axis=-1, keepdims=True), 1)
    mean = (jnp.sum(jnp.where(support, u, 0.0), axis=-1, keepdims=True) - scale) / count
    return with_value(jnp.maximum(fixed - tau, 0.0), jnp.where(support, u - mean, 0.0))


def _threshold(u: Float[Array, "... n"], scale: Float[Array, "... #1"]) -> Float[Array, "... 1"]:
    """The root tau of sum(max(u - tau, 0)) = scale, for entries of u of at most 0."""
    # Entries further than scale below the largest are zero in the projection: cutting them off there changes nothing
    # and bounds the number of Newton steps (residual times size of the support falls at least fourfold a step).
    u = jnp.maximum(u, -scale)

    def support_shrank(state):
        _, count, previous = state
        return jnp.any(count < previous)

    def newton(state):
        tau, previous, _ = state
        excess = jnp.maximum(u - tau, 0.0)
        count = jnp.sum(excess > 0, axis=-1, keepdims=True)
        residual = jnp.sum(excess, axis=-1, keepdims=True) - scale
        # From below the iterates increase and the support shrinks; rounding must not make it grow again.
        return tau + residual / jnp.maximum(count, 1), jnp.minimum(count, previous), previous

    tau = varying(jnp.broadcast_to(-scale, u[..., :1].shape), axes_of(u))
    count = jnp.full(tau.shape, u.shape[-1] + 1)
    tau, _, _ = while_loop(support_shrank, newton, (tau, count, count + 1))
    return tau
