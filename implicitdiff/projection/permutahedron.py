"""The permutahedron."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._arrays import check, floating, guarded, half_as_single, like, sound
from .isotonic import block_means, blocks, pool


@half_as_single
def permutahedron(v: Float[Array, "... n"], w: Float[Array, "... n"], *, axis: int = -1) -> Float[Array, "... n"]:
    """Project onto the permutahedron of w, the convex hull of all permutations of w.

    With v and w sorted in decreasing order, x = v - isotonic(v - w) in that order (decreasing isotonic regression).
    On each of its blocks B this is x = v - mean_B(v) + mean_B(w), which is what is computed and differentiated. Equal
    entries of v count as ordered by position; neighbours of equal v - w in sorted order count as one block.

    Args:
        v: real array; vectors lie along `axis`.
        w: the vector to permute, finite; or one for each vector of v, along the same axis.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: w is not finite, if concrete; a traced one gives NaN.

    Source: Lim, Wright, "Efficient Bregman projections onto the permutahedron", AISTATS 2016; Blondel, Teboul,
    Berthet, Djolonga, "Fast differentiable sorting and ranking", ICML 2020.

    Example:
        >>> import jax.numpy as jnp
        >>> permutahedron(jnp.array([0.0, 9.0, 5.0]), jnp.array([1.0, 2.0, 3.0])).tolist()
        [1.0, 3.0, 2.0]
    """
    v = jnp.moveaxis(floating(v), axis, -1)
    w = like(v, w)
    w = jnp.moveaxis(w, axis, -1) if w.ndim > 1 else w
    if w.ndim == 0 or w.shape[-1] != v.shape[-1]:
        raise ValueError(
            f"permutahedron: w must have the length {v.shape[-1]} of the vectors of v, found shape {w.shape}."
        )
    factor = check(lambda w: (abs(w) < jnp.inf).all(-1)[..., None], "permutahedron: w must be finite, found {}.", w)
    return jnp.moveaxis(guarded(_permutahedron, sound(v) * factor, v, w), -1, axis)


@jax.jit
def _permutahedron(v: Float[Array, "... n"], w: Float[Array, "... n"]) -> Float[Array, "... n"]:
    w = jnp.broadcast_to(jnp.flip(jnp.sort(w, axis=-1), -1), v.shape)
    order = jnp.argsort(lax.stop_gradient(v), axis=-1, descending=True, stable=True)
    # The set lies in a hyperplane sum(x) = sum(w), so that adding a constant to v changes nothing.
    decreasing = jnp.take_along_axis(v, order, axis=-1)
    decreasing = decreasing - lax.stop_gradient(decreasing[..., :1])
    one = jnp.ones_like(v)
    ids = blocks(pool(w - decreasing, one))
    x = decreasing - block_means(ids, decreasing, one) + block_means(ids, w, one)
    return jnp.take_along_axis(x, jnp.argsort(order, axis=-1), axis=-1)
