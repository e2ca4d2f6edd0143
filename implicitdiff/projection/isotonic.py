"""Isotonic regression and the order simplex."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._varying import fori_loop, while_loop
from ._arrays import check, floating, guarded, half_as_single, like, per_vector, sound, with_value


@half_as_single
def isotonic(
    v: Float[Array, "... n"], weights: ArrayLike | None = None, *, increasing: bool = True, axis: int = -1
) -> Float[Array, "... n"]:
    """Project onto the monotone cone {x : x_1 <= ... <= x_n}: isotonic regression.

    x is constant on blocks of neighbours, and equals the mean of v on each. The derivative is the averaging over
    these blocks: within a block of size k every entry is 1/k. Neighbours of equal value count as one block. With
    weights x minimises sum_i w_i (x_i - v_i)^2: means and derivative are weighted, and dx_B/dw_i = (v_i - x_B) / w_B
    on a block B of the total weight w_B. Only with equal weights is this the Euclidean projection.

    The blocks are found by halving: the two monotone halves of a vector are joined by pooling the end of the left
    with the beginning of the right one at their common mean, the root of a scalar equation that Newton's method
    solves exactly. All pairs of one level at once: some passes over v for each of log2(n) levels.

    Args:
        v: real array; vectors lie along `axis`.
        weights: finite and positive: one for each entry of a vector, or of v, along the same axis; None for 1.
        increasing: False for {x : x_1 >= ... >= x_n}.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: weights do not fit v, or are not positive and finite, if concrete; traced ones give NaN.

    Source: Barlow, Bartholomew, Bremner, Brunk, "Statistical inference under order restrictions", 1972 (pooling).

    Example:
        >>> import jax.numpy as jnp
        >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0])).tolist()
        [1.0, 2.5, 2.5, 4.0]
    """
    v = jnp.moveaxis(floating(v), axis, -1)
    w, factor = _weights(v, weights, axis)
    sign = 1 if increasing else -1
    return jnp.moveaxis(sign * guarded(_isotonic, sound(v) * factor, sign * v, w), -1, axis)


def _weights(v: Array, weights: ArrayLike | None, axis: int) -> tuple[Array, ArrayLike]:
    """The weights along the last axis, and the factor of their check."""
    if weights is None:
        return jnp.ones_like(v, shape=v.shape[-1:]), 1.0
    w = like(v, weights)
    w = jnp.moveaxis(w, axis, -1) if w.ndim > 1 else w
    if w.ndim == 0 or w.shape[-1] != v.shape[-1] or jnp.broadcast_shapes(w.shape, v.shape) != v.shape:
        raise ValueError(
            f"isotonic: expected a weight for each of the {v.shape[-1]} entries of a vector, found weights of shape "
            f"{jnp.shape(weights)}."
        )
    return w, check(
        lambda w: ((w > 0) & (w < jnp.inf)).all(-1)[..., None],
        "isotonic: weights must be positive and finite, found {}.",
        w,
    )


@half_as_single
def order_simplex(
    v: Float[Array, "... n"],
    bounds: tuple[ArrayLike, ArrayLike] | None = (0.0, 1.0),
    *,
    increasing: bool = False,
    axis: int = -1,
) -> Float[Array, "... n"]:
    """Project onto the order simplex {x : upper >= x_1 >= ... >= x_n >= lower}.

    x = clip(isotonic(v), lower, upper); the derivative is that of `isotonic` on the blocks strictly inside of the
    bounds, 0 on the others. A block at a bound counts as bound.

    Args:
        v: real array; vectors lie along `axis`.
        bounds: `(lower, upper)`, each a scalar or one value for each vector; None for (0, 1).
        increasing: True for {x : lower <= x_1 <= ... <= x_n <= upper}.
        axis: the axis of the vectors.

    Returns:
        An array like v.

    Raises:
        ValueError: lower > upper, or NaN, if concrete; traced ones give NaN.

    Source: Blondel, "Structured prediction with projection oracles", NeurIPS 2019.

    Example:
        >>> import jax.numpy as jnp
        >>> order_simplex(jnp.array([2.0, 0.25, 0.75, -1.0])).tolist()
        [1.0, 0.5, 0.5, 0.0]
    """
    v = floating(v)
    lower, upper = (0.0, 1.0) if bounds is None else bounds
    lower, upper = per_vector(v, lower, "lower", axis), per_vector(v, upper, "upper", axis)
    factor = check(
        lambda a, b: a <= b, "order_simplex: expected lower <= upper, found lower = {}, upper = {}.", lower, upper
    )

    def project(v: Array, lower: Array, upper: Array) -> Array:
        x = isotonic(v, increasing=increasing, axis=axis)
        return jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))

    return guarded(project, sound(v, axis) * factor, v, lower, upper)


@jax.jit
def _isotonic(v: Float[Array, "... n"], w: Float[Array, "... n"]) -> Float[Array, "... n"]:
    x = pool(v, w)
    return with_value(x, block_means(blocks(x), v, w))


def pool(v: Float[Array, "... n"], w: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Increasing isotonic regression of the vectors along the last axis, with weights; no derivative."""
    v, w = lax.stop_gradient((v, jnp.broadcast_to(w, v.shape)))
    *batch, n = v.shape
    levels = max(n - 1, 0).bit_length()
    # Padding with the maximum on the right never pools.
    padding = jnp.broadcast_to(jnp.max(v, axis=-1, keepdims=True, initial=-jnp.inf), (*batch, 2**levels - n))
    padded = jnp.concatenate([v, padding], axis=-1)
    weights = jnp.concatenate([w, jnp.ones_like(padding)], axis=-1)
    # Rows of up to 32 entries: within rows sums over groups of entries are a product with a matrix of zeros and ones,
    # above they are sums over rows. So one loop serves all levels, and compiles once.
    in_row = min(levels, 5)
    x, w = padded.reshape(-1, 2**in_row), weights.reshape(-1, 2**in_row)
    entries, rows = jnp.arange(x.size).reshape(x.shape), jnp.arange(x.shape[0])[:, None]

    def join_within_rows(level, x):
        column = entries[0] >> (level + 1)
        same = (column[:, None] == column[None, :]).astype(x.dtype)
        return _join(x, w, entries, level, lambda e: jnp.matmul(e, same, precision=lax.Precision.HIGHEST))

    def join_rows(level, x):
        group = rows[:, 0] >> (level + 1)

        def total(e):
            of_rows = jnp.sum(e, axis=-1)
            of_groups = jax.ops.segment_sum(of_rows, group, num_segments=group.size, indices_are_sorted=True)
            return of_groups[group][:, None]

        return _join(x, w, rows, level, total)

    x = fori_loop(0, in_row, join_within_rows, x)
    x = fori_loop(0, levels - in_row, join_rows, x)
    return x.reshape(padded.shape)[..., :n]


def _join(
    x: Float[Array, "rows row"],
    w: Float[Array, "rows row"],
    units: Int[Array, "rows #row"],
    level: ArrayLike,
    total: Callable[[Array], Array],
) -> Float[Array, "rows row"]:
    """Join pairs of increasing halves, of 2^level units each, into increasing wholes.

    The entries to pool are those of the left half above and those of the right half below their common mean m, which
    is the root of sum(w max(left - m, 0)) - sum(w max(m - right, 0)), decreasing and piecewise linear in m.

    Args:
        x: the vectors, cut into rows.
        w: their weights.
        units: the number of each unit: of each entry, or of each row.
        level: the size of the halves.
        total: the sum over the pair to which a unit belongs, for each unit.
    """
    size = x.size // units.size
    middle = (((units >> (level + 1)) * 2 + 1) << level) * size
    high, low = x.reshape(-1)[middle - 1], x.reshape(-1)[middle]
    side = jnp.where((units >> level) & 1 == 0, 1.0, -1.0).astype(x.dtype)

    def unfinished(state):
        *_, iteration, done = state
        return jnp.any(~done) & (iteration < 300)

    def newton(state):
        m, low, high, iteration, done = state
        excess = jnp.maximum(side * (x - m), 0.0)
        residual = total(side * w * excess)
        pooled = total(jnp.where(excess > 0, w, 0.0))
        low, high = jnp.where(residual > 0, m, low), jnp.where(residual < 0, m, high)
        step = m + residual / jnp.where(pooled > 0, pooled, 1.0)
        # Where Newton's method leaves the bracket its middle, and every fourth time, so that it shrinks.
        new = jnp.where((low < step) & (step < high) & (iteration % 4 != 3), step, low / 2 + high / 2)
        # Newton's method on pieces ends after finitely many steps: the last one but corrects rounding errors.
        converged = jnp.abs(step - m) <= tolerance
        new = jnp.where(converged, jnp.clip(step, low, high), new)
        done_now = done | converged | (new <= low) | (new >= high)
        return jnp.where(done, m, new), low, high, iteration + 1, done_now

    m = low / 2 + high / 2
    tolerance = 2 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
    m, *_, done = while_loop(unfinished, newton, (m, low, high, 0, ~(low < high)))
    m = jnp.where(done, m, jnp.nan)
    # One number for each pair: sums of the same entries may differ in rounding, and equal entries tell the blocks.
    m = m.reshape(-1)[(units >> (level + 1)) << (level + 1)]
    return jnp.where(low < high, jnp.where(side > 0, jnp.minimum(x, m), jnp.maximum(x, m)), x)


def blocks(x: Float[Array, "... n"]) -> Int[Array, "... n"]:
    """The number of the run of equal entries to which each entry belongs, counted through all vectors."""
    first: Bool[Array, "... n"] = jnp.concatenate([jnp.ones_like(x[..., :1], bool), x[..., 1:] != x[..., :-1]], axis=-1)
    return (jnp.cumsum(first.reshape(-1)) - 1).reshape(x.shape)


def block_means(
    blocks: Int[Array, "... n"], u: Float[Array, "... n"], w: Float[Array, "... n"]
) -> Float[Array, "... n"]:
    """The mean of u over each block, weighted by w, at the place of each entry."""
    ids, w = blocks.reshape(-1), jnp.broadcast_to(w, u.shape)

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values.reshape(-1), ids, num_segments=ids.size, indices_are_sorted=True)

    # Numbers without a block follow the last one.
    size = total(w)
    return (total(w * u) / jnp.where(size == 0, 1.0, size))[ids].reshape(u.shape)
