"""One iteration of the proximal-gradient method: accelerated, with a line search that shortens and lengthens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from .._varying import axes_of
from ._iterative import nothing_known, search_loop
from ._state import State, Trace, judged, real_dtype, size

# More than that, and there is no descent: f is unbounded below, or its gradient is not.
HALVINGS = 60
# A longer step is tried after one that was long enough at once, and now and then.
EVERY = 5

Stepsize = float | Callable[[Array], Array] | None


class Memory(NamedTuple):
    """Attributes: the step size, the point of the next step, its momentum; whether the last step was taken at once."""

    stepsize: Float[Array, ""]
    y: PyTree
    t: Float[Array, ""]
    at_once: Bool[Array, ""]
    trace: Trace


def begin(both: Callable, stepsize: Stepsize, init: PyTree) -> State:
    """The state before the first step; `both(x)` is the value of f and its gradient."""
    one = jnp.ones((), real_dtype(init))
    s = 4 / _curvature(both, init) if stepsize is None else _given(stepsize, jnp.int32(0))
    memory = Memory(jnp.asarray(s, one.dtype), init, one, jnp.array(False), Trace.new(init))
    return nothing_known(init, memory)


def advance(
    solver: Any, both: Callable, value_of: Callable, prox: Callable, x: PyTree, state: State
) -> tuple[PyTree, State]:
    """One step from y of a solver with a step size, and the next y; `prox(v, s)` may be the identity."""
    stepsize: Stepsize = solver.stepsize
    memory = state.memory
    y, dtype = memory.y, memory.stepsize.dtype
    value, gradient = both(y)
    value = jnp.asarray(value, jnp.result_type(value, dtype))

    def moved(s):
        return _like(y, prox(add(y, -s, gradient), s))

    if stepsize is None:
        eps = jnp.finfo(dtype).eps
        noise = 10 * eps * jnp.abs(value)

        def too_long(carry):
            s, new, halvings = carry
            d = jax.tree.map(jnp.subtract, new, y)
            squared = inner(d, d)
            model = value + inner(gradient, d) + squared / (2 * s)

            def by_gradient():
                change = inner(jax.tree.map(jnp.subtract, both(new)[1], gradient), d)
                return change <= squared / s + 10 * eps * size(y) * jnp.sqrt(squared) / s

            # Where the difference of two values of f is rounding error of f or of x, that of gradients still is none.
            by_value = lambda: value_of(new) <= model + noise  # noqa: E731
            known = squared / s > 100 * noise
            # JAX cannot batch a cond inside of shard_map whose branches read arrays that do not vary.
            short = (
                jnp.where(known, by_value(), by_gradient()) if axes_of(y) else lax.cond(known, by_value, by_gradient)
            )
            return ~short & (halvings < HALVINGS)

        def halved(carry):
            s, _, halvings = carry
            return s / 2, moved(s / 2), halvings + 1

        longer = memory.at_once | (state.iteration % EVERY == EVERY - 1)
        s = jnp.where(longer & (state.iteration > 0), 2.0, 1.0).astype(dtype) * memory.stepsize
        s, new, halvings = search_loop(too_long, halved, (s, moved(s), jnp.int32(0)), HALVINGS, solver.unrolled)
        at_once = halvings == 0
    else:
        s = jnp.asarray(_given(stepsize, state.iteration), dtype)
        new, halvings, at_once = moved(s), 0, memory.at_once
    unproximal = add(y, -s, gradient)
    step = jax.tree.map(jnp.subtract, new, y)

    # A step that is lost in the rounding of y says nothing about the gradient.
    def slope(d, g, v, a):
        return jnp.where(v == a, g.astype(d.dtype), -d / s.astype(real_dtype(d)))

    residual = jax.tree.map(slope, step, gradient, unproximal, y)
    error, trace = judged(memory.trace, y, residual, value, 1 / s if stepsize is None else None)
    error = jnp.where(halvings < HALVINGS, error, jnp.nan)
    if solver.accelerated:
        progress = jax.tree.map(jnp.subtract, new, x)
        uphill = inner(step, progress) < 0
        # With a step that became longer the momentum grows less (Scheinberg, Goldfarb, Bai 2014).
        t = (1 + jnp.sqrt(1 + 4 * memory.stepsize / s * memory.t**2)) / 2
        momentum = jnp.where(uphill, 0.0, (memory.t - 1) / t)
        t = jnp.where(uphill, 1.0, t).astype(dtype)
        y = add(new, momentum, progress)
    else:
        y, t = new, memory.t
    return new, State(state.iteration + 1, error, error <= solver.tol, memory=Memory(s, y, t, at_once, trace))


def add(x: PyTree, factor: Any, d: PyTree) -> PyTree:
    """X + factor d, in the dtypes of x."""
    return jax.tree.map(lambda a, b: a + (factor * b).astype(a.dtype), x, d)


def inner(a: PyTree, b: PyTree) -> Array:
    """The real inner product."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.asarray(sum((jnp.sum(jnp.real(jnp.conj(u) * v)) for u, v in pairs), 0.0))


def _like(x: PyTree, new: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), x, new)


def _given(stepsize: Stepsize, iteration: Array) -> Any:
    return stepsize(iteration) if callable(stepsize) else stepsize


def _curvature(both: Callable, x: PyTree) -> Array:
    """|grad f(x + d) - grad f(x)| / |d| for a short d downhill: at most the Lipschitz constant."""
    # Differentiable, for unrolled iterations: their step size depends on theta as well.
    value, g = both(x)
    slope = norm(g)
    sizes = [jnp.abs(value) / jnp.where(slope > 0, slope, 1.0), size(lax.stop_gradient(x))]
    least, most = jnp.minimum(*sizes), jnp.maximum(*sizes)
    length = lax.stop_gradient(1e-3 * jnp.where(least > 0, least, jnp.where(most > 0, most, 1.0)))
    scale = length / jnp.where(slope > 0, slope, 1.0)
    moved = add(x, -scale, g)
    change = norm(jax.tree.map(jnp.subtract, both(moved)[1], g)) / length
    return jnp.where((change > 0) & jnp.isfinite(change), change, 1.0)  # at a stationary point, and where it is NaN


def norm(tree: PyTree) -> Array:
    # Its derivative at 0 is 0, so that unrolled iterations have one.
    squared = inner(tree, tree)
    return jnp.where(squared == 0, 0.0, jnp.sqrt(jnp.where(squared == 0, 1.0, squared)))
