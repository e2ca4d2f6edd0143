"""The total variation of signals in one dimension."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .._largest import largest
from .._varying import while_loop
from ._leaves import leafwise


def total_variation(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0, *, axis: int = -1) -> PyTree:
    """The proximal operator of the total variation, g(x) = weight * sum_i |x_{i+1} - x_i| (the fused lasso).

    x is constant on blocks; on a block B, |B| x_B = sum_B v + t (d_right - d_left) with t = scaling * weight, and d the
    sign of the jump x takes at an end of the block going right (0 at the ends of the signal). So the derivative in v
    averages over blocks, that in t is (d_right - d_left) / |B|. Two blocks of the same value count as one: this is the
    choice at kinks. With t = 0 the operator is the identity, also in its derivative in v.

    Exact, not iterative: dynamic programming in time O(n). Signals of a batch are treated one after the other.

    Args:
        v: pytree of real arrays; signals lie along `axis`.
        weight: at least 0: a scalar, one value for each signal (v's shape without `axis`, or with size 1 there; or a
            shape that broadcasts to it), or a pytree of such like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.
        axis: the axis of the signals.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v (traced values give NaN); a
            leaf has no such axis.

    Source: Johnson, "A dynamic programming algorithm for the fused lasso and L0-segmentation", 2013.

    Example:
        >>> import jax.numpy as jnp
        >>> total_variation(jnp.array([1.0, 2.0, 6.0, 8.0]), 1.0).tolist()
        [2.0, 2.0, 6.0, 7.0]
    """

    def prox(v: Array, w: Array, s: Array) -> Array:
        n = v.shape[axis]
        if v.size == 0:
            return v
        signals = jnp.moveaxis(v, axis, -1)
        t = jnp.moveaxis(jnp.broadcast_to(s * w, v.shape), axis, -1).reshape(-1, n)[:, 0]
        x = _on_blocks(signals.reshape(-1, n), t)
        return jnp.moveaxis(x.reshape(signals.shape), -1, axis)

    return leafwise(prox, v, scaling, axis, weight=weight)


@jax.custom_batching.sequential_vmap
def _solution(v: Float[Array, " n"], t: Float[Array, ""]) -> tuple[Float[Array, " n"], Float[Array, " n-1"]]:
    """The solution for one signal, and the sign of each of its jumps.

    The signs come from the comparisons that make the jumps. To compare the values would be to compare numbers that the
    compiler may have rounded differently in two places.

    With m_k(b) = min over x_1..x_{k-1} of the terms of the first k entries, given x_k = b,
        m_{k+1}(b) = (b - v_{k+1})^2 / 2 + min_a m_k(a) + t |b - a|,
    and the derivative of the minimum is m_k'(b) clipped to [-t, t]: a piecewise linear function, kept as a sorted list
    of knots, where slope and intercept change. The minimiser a is b clipped to [low_k, high_k], where m_k' crosses
    -t and t. For each entry we walk inwards from the left end (side 1) until m_k' crosses -t, dropping the knots
    that we pass, and put a knot there; the same from the right end (side -1). So all steps together take O(n).
    """
    n = v.shape[0]
    one = jnp.ones_like(t)

    def step(state):
        k, side, ends, (slope, intercept), knots, (place, knot), bounds = state
        # Writing the knot of the step before, and only then reading, lets XLA work in one buffer without copies.
        knots = lax.dynamic_update_slice(knots, knot[None], (place, 0))
        position, slope_change, intercept_change = knots[jnp.where(side > 0, *ends)]
        sign = side.astype(v.dtype)
        level = jnp.where(k == n - 1, 0.0, -sign * t)
        # From the right the last knot to pass is the one just put by the walk from the left, which rounding may want.
        left = ends[0] + jnp.where(side > 0, 0, 1) <= ends[1]
        passes = left & (sign * (slope * position + intercept - level) < 0)
        crossing = (level - intercept) / slope
        bounds = lax.dynamic_update_slice(bounds, crossing[None, None], (k, jnp.where(side > 0, 0, 1)))

        inwards = jnp.where(passes, 1, -1)
        ends = ends[0] + jnp.where(side > 0, inwards, 0), ends[1] - jnp.where(side > 0, 0, inwards)
        place = jnp.where(passes, 2 * n + 2, jnp.where(side > 0, *ends))
        knot = jnp.stack([crossing, sign * slope, sign * (intercept - level)])
        # The next entry's turn comes after both walks; after the walk from the left at the last one we are done.
        turned = jnp.where(passes, side, -side)
        k = jnp.where(passes | ((side > 0) & (k < n - 1)), k, k + 1)
        fresh = -turned.astype(v.dtype) * jnp.where(k == 0, 0.0, t) - v[k]
        line = (
            jnp.where(passes, slope + sign * slope_change, one),
            jnp.where(passes, intercept + sign * intercept_change, fresh),
        )
        return k, turned, ends, line, knots, (place, knot), bounds

    # Knots grow from the middle to both sides; the last place is a dump.
    knots = jnp.zeros((2 * n + 3, 3), v.dtype)
    ends, line, put = (n + 1, n), (one, -v[0]), (2 * n + 2, knots[0])
    start = (0, 1, ends, line, knots, put, jnp.zeros((n, 2), v.dtype))
    bounds = while_loop(lambda state: state[0] < n, step, jax.tree.map(jnp.asarray, start))[-1]

    def back(b, bound):
        low, high = bound
        # Rounding may leave low a little above high.
        falls, rises = b < low, b > high
        a = jnp.where(falls, low, jnp.where(rises, high, b))
        return a, (a, jnp.where(falls, -one, jnp.where(rises, one, 0.0)))

    last = bounds[-1, 0]
    _, (x, jumps) = lax.scan(back, last, bounds[:-1], reverse=True)
    return jnp.append(x, last), jumps


@jax.jit
@jax.vmap
def _on_blocks(v: Float[Array, " n"], t: Float[Array, ""]) -> Float[Array, " n"]:
    """The solution as a function of v and t for its blocks, which are constant nearby."""
    fixed, level = lax.stop_gradient((v, t))
    middle = jnp.mean(fixed)
    centred = fixed - middle
    x, jumps = _solution(centred, level)
    # Two blocks of the same value count as one, also where rounding sets them apart.
    rounding = 8 * jnp.finfo(v.dtype).eps * largest(centred)
    jumps = jnp.where(jnp.abs(jnp.diff(x)) <= rounding, 0.0, jumps)
    x = x + middle
    jumps = jnp.where(level == 0, jnp.sign(jnp.diff(fixed)), jumps)
    block = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum((jumps != 0) | (level == 0))])
    forces = jnp.pad(jumps, (0, 1)) - jnp.pad(jumps, (1, 0))

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, block, num_segments=v.size, indices_are_sorted=True)

    # As a correction of x, which is zero but for rounding, the sum has small terms. One number for each block.
    near = jax.ops.segment_max(x, block, num_segments=v.size, indices_are_sorted=True)
    mean = near + total(v - near[block] + t * forces) / jnp.maximum(total(jnp.ones_like(v)), 1.0)
    return jnp.where(level == 0, v + t * forces, mean[block])
