"""Sections of a box by a hyperplane."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._largest import largest
from .._varying import while_loop
from ._arrays import check, floating, guarded, half_as_single, like, magnitude, per_vector, sound

Bounds = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]

# Up to this length the residuals at all kinks are cheaper than the iterations that they save.
AT_ONCE = 16


@half_as_single
def box_section(v: Float[Array, "... n"], section: Bounds) -> Float[Array, "... n"]:
    """Project onto the section {x : lower <= x <= upper, w'x = c} of a box.

    x = clip(v + tau w, lower, upper), tau the root of w'x = c, which increases and is piecewise linear in tau:
    Newton's method in a bracket solves it exactly. With u = w on the coordinates strictly between their bounds (F),
    0 elsewhere, the derivative in v is diag(F) - uu'/u'u; in the parameters it follows from the equation on F. A
    coordinate at a bound counts as fixed there. Where all are at bounds the derivative in v, w and c is 0.

    Args:
        v: real array; vectors lie along the last axis.
        section: `(lower, upper, w, c)`: lower, upper and w are scalars or arrays that broadcast against v (bounds
            may be -inf, inf), c is a scalar or one value for each vector.

    Returns:
        An array like v.

    Raises:
        ValueError: lower > upper, no point of the box satisfies w'x = c, or NaN among the parameters, if these are
            concrete; traced ones give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> box_section(jnp.array([3.0, 0.5, 0.0]), (0.0, 1.0, 1.0, 2.0)).tolist()
        [1.0, 0.75, 0.25]
    """
    v = floating(v)
    lower, upper, w, c = section
    try:
        lower, upper, w = (jnp.broadcast_to(like(v, p), v.shape) for p in (lower, upper, w))
    except ValueError as error:
        shapes = [jnp.shape(p) for p in section[:3]]
        raise ValueError(
            f"box_section: lower, upper and w of shapes {shapes} do not broadcast against v of shape {v.shape}."
        ) from error
    c = per_vector(v, c, "c")
    factor = check(
        lambda a, b: ((a <= b) & (a < jnp.inf) & (b > -jnp.inf)).all(-1)[..., None],
        "box_section: the bounds must satisfy lower <= upper, found lower = {}, upper = {}; the box is empty.",
        lower,
        upper,
    )
    size = magnitude(w)  # w'w neither overflows nor vanishes
    w, c = w / size, c / size
    smallest, largest = _ends(lower, upper, w)
    least, most = _total(smallest), _total(largest)
    sizes = [jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0) for end in (smallest, largest)]
    slack = 8 * jnp.finfo(v.dtype).eps * (_total(jnp.maximum(*sizes)) + jnp.abs(c))
    factor = factor * check(
        lambda least, most, c, slack: (least - slack <= c) & (c <= most + slack) & (abs(c) < jnp.inf),
        "box_section: the section is empty: in the box w'x lies between {} and {}, but c = {} (all over the power of "
        "two below max|w|; rounding error allowed: {}).",
        *map(lax.stop_gradient, (least, most, c, slack)),
    )
    return guarded(_box_section, sound(v) * factor, v, lower, upper, w, c)


@jax.jit
def _box_section(v: Array, lower: Array, upper: Array, w: Array, c: Array) -> Array:
    fixed = [lax.stop_gradient(p) for p in (lower, upper, w, c)]
    y, tau = _near_root(lax.stop_gradient(v), *fixed)
    moved = v + tau * w
    y = y + (moved - lax.stop_gradient(moved))
    # On the free coordinates x is the projection of y onto a hyperplane: this is what is differentiated.
    free = (fixed[0] < y) & (y < fixed[1])
    bound = jnp.where(y <= fixed[0], lower, jnp.where(y >= fixed[1], upper, y))  # NaN stays
    x = jnp.where(free, y + _step(y, bound, free, w, c) * w, bound)
    # Rounding must not carry x over a bound.
    return x + lax.stop_gradient(jnp.clip(x, lower, upper) - x)


def _ends(lower: Array, upper: Array, w: Array) -> tuple[Array, Array]:
    """The terms of w'x where it is least and where it is most; a coordinate with w = 0 has no say."""
    ends = [jnp.where(w == 0, 0.0, jnp.where(w == 0, 1.0, w) * jnp.where(w == 0, 0.0, b)) for b in (lower, upper)]
    return jnp.minimum(*ends), jnp.maximum(*ends)


def _step(y: Array, bound: Array, free: Array, w: Array, c: Array) -> Array:
    """The tau that solves w'x = c, where x is y + tau w on the free coordinates and at the bound elsewhere."""
    slope = jnp.sum(jnp.where(free, w * w, 0.0), axis=-1, keepdims=True)
    residual = c - jnp.sum(w * jnp.where(free, y, bound), axis=-1, keepdims=True)
    return jnp.where(slope > 0, residual / jnp.where(slope > 0, slope, 1.0), 0.0)


def _near_root(v: Array, lower: Array, upper: Array, w: Array, c: Array) -> tuple[Array, Array]:
    """V + tau w near the root, and tau: near enough to tell which coordinates are free.

    The multiplier may be large beside x. Then it is solved again from where it leads to, as often as what its rounding
    leaves is still large: this takes off nearly all digits of the dtype each time.
    """
    steepest = largest(w, axis=-1, keepdims=True)

    def unfinished(state):
        *_, iteration, done = state
        return jnp.any(~done) & (iteration < 50)

    def solve_again(state):
        y, total, previous, iteration, done = state
        tau = jnp.where(done, 0.0, _multiplier(y, lower, upper, w, c))
        y = y + tau * w
        moved = jnp.abs(tau)
        x = largest(jnp.clip(y, lower, upper), axis=-1, keepdims=True)
        near = moved * steepest <= 16 * x  # the rounding of the move is that of x
        return y, total + tau, moved, iteration + 1, done | near | ~(moved < previous / 2)

    start = jnp.zeros_like(v[..., :1] + c)
    y, tau, *_ = while_loop(unfinished, solve_again, (v + start, start, start + jnp.inf, 0, start > 0))
    return y, tau


def _multiplier(v: Array, lower: Array, upper: Array, w: Array, c: Array) -> Array:
    """The root tau of w'clip(v + tau w, lower, upper) = c, an increasing and piecewise linear equation."""
    eps, tiny = jnp.finfo(v.dtype).eps, jnp.finfo(v.dtype).tiny
    movable = (w != 0) & (lower < upper)
    direction = jnp.sign(w).astype(jnp.int32)
    kinks = [jnp.where(movable, (b - v) / jnp.where(movable, w, 1.0), jnp.nan) for b in (lower, upper)]

    def unfinished(state):
        *_, iteration, done = state
        return jnp.any(~done) & (iteration < 1000)

    def beyond_flat(tau, residual):
        # The next kink towards the root starts the piece to take the Newton step on.
        ahead = [jnp.where(jnp.where(residual < 0, k > tau, k < tau), jnp.abs(k - tau), jnp.inf) for k in kinks]
        nearest = jnp.min(jnp.minimum(*ahead), axis=-1, keepdims=True)
        reached = jnp.minimum(*ahead) <= nearest * (1 + 8 * eps)  # not ==: compiled code may round them differently
        entering = _total(jnp.where(reached, w * w, 0.0))
        return tau - residual / entering - jnp.sign(residual) * nearest

    def newton(state):
        tau, left, right, previous, newton_before, iteration, done = state
        y = v + tau * w
        residual = _total(w * jnp.clip(y, lower, upper)) - c
        slope = _total(jnp.where((lower < y) & (y < upper), w * w, 0.0))
        # This number increases with tau whenever a coordinate gets free or fixed: it names the linear piece.
        piece = _total(direction * jnp.where(y <= lower, -1, jnp.where(y >= upper, 1, 0)))
        left, right = jnp.where(residual < 0, tau, left), jnp.where(residual > 0, tau, right)
        flat = slope == 0
        step = tau - residual / jnp.where(flat, 1.0, slope)
        step = jnp.where(flat, lax.cond(jnp.any(flat), beyond_flat, lambda tau, _: tau, tau, residual), step)
        # A step too short to be seen: the root is here, unless the piece ends before it. The next number shall tell.
        short = (step == tau) & (residual != 0)
        step = jnp.where(short, tau - jnp.sign(residual) * jnp.maximum(2 * eps * jnp.abs(tau), tiny), step)
        # The middle of the bracket where Newton's method leaves it, and every fourth time, so that it shrinks.
        middle = left / 2 + right / 2
        inside = (left < step) & (step < right)
        bisect = jnp.isfinite(middle) & (~inside | (iteration % 4 == 3))
        # A Newton step on the same piece as the one before is exact but for rounding, and corrects that.
        exact = (newton_before & (piece == previous)) | (residual == 0) | ~jnp.isfinite(step)
        new = jnp.where(exact, jnp.where(inside, step, tau), jnp.where(bisect, middle, step))
        finished = done | exact | (new == tau)
        new = jnp.where(jnp.isnan(residual), residual, new)
        return jnp.where(done, tau, new), left, right, piece, ~(bisect | flat | short), iteration + 1, finished

    start = jnp.zeros_like(v[..., :1] + c)
    if v.shape[-1] <= AT_ONCE:
        start = start + _between_kinks(v, lower, upper, w, c, jnp.concatenate(kinks, axis=-1))
    no = jnp.zeros(start.shape, bool)
    state = (start, start - jnp.inf, start + jnp.inf, jnp.zeros(start.shape, jnp.int32), no, 0, no)
    tau, *_, done = while_loop(unfinished, newton, state)
    return jnp.where(done, tau, jnp.nan)


def _between_kinks(v: Array, lower: Array, upper: Array, w: Array, c: Array, kinks: Array) -> Array:
    """A tau on the linear piece of the root, from the residuals at all kinks at once."""
    kinks = jnp.where(jnp.isfinite(kinks), kinks, 0.0)
    residuals = jnp.zeros_like(kinks) - c
    for j in range(v.shape[-1]):  # written out: one loop over all kinks, which compilers vectorise
        v_j, w_j, low, high = (p[..., j : j + 1] for p in (v, w, lower, upper))
        residuals = residuals + w_j * jnp.clip(v_j + kinks * w_j, low, high)
    left = jnp.max(jnp.where(residuals <= 0, kinks, -jnp.inf), axis=-1, keepdims=True)
    right = jnp.min(jnp.where(residuals >= 0, kinks, jnp.inf), axis=-1, keepdims=True)
    middle = left / 2 + right / 2
    # Beyond the last kink, that one: Newton's method goes on from there.
    return jnp.where(jnp.isfinite(middle), middle, jnp.where(jnp.isfinite(left), left, jnp.minimum(right, 0.0)))


def _total(terms: Array) -> Array:
    return jnp.sum(terms, axis=-1, keepdims=True, dtype=terms.dtype)
