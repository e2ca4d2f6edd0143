"""What every solver returns, and when it counts as a solution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree


class State(NamedTuple):
    """How a solver ended.

    Attributes:
        iteration: the number of iterations done.
        error: how far x is from satisfying the condition of a solution; each solver says in which sense. It has no
            unit: it is the same whatever units the objective and the unknowns are in.
        converged: whether x counts as a solution.
        value: of the objective, where the solver knows it, else None.
        aux: what the function returned beside its value, with `has_aux=True`.
        memory: what the method itself needs to go on, or None.
    """

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    value: Float[Array, ""] | None = None
    aux: PyTree = None
    memory: Any = None


class Result(NamedTuple):
    """What `run` returns; it unpacks as (x, state)."""

    x: PyTree
    state: State

    @property
    def params(self) -> PyTree:
        """The solution x, under the name that other libraries give it."""
        return self.x


def floating(tree: PyTree) -> PyTree:
    """The pytree with floating-point arrays for leaves."""

    def array(leaf):
        leaf = jnp.asarray(leaf)
        return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(jnp.result_type(float))

    return jax.tree.map(array, tree)


def solved_to(dtype: Any) -> float:
    """The relative error at which another library's result counts as a solution: 5e-7, of float32 1.7e-3."""
    return float(jnp.finfo(dtype).eps) ** 0.4


def relative_gradient(slope: Any, curvature: Any, x: Any, moved: Any, value: Any, xp: Any = jnp) -> Any:
    """The size of a gradient beside the largest that a change of x by its own size would make.

    There is no unit in it, and no constant that has one: times 1e12 or in other units of x, f has the same relative
    gradient. Where x is zero the size of x is what a change of f by its own size takes, or 1/100 of the way from the
    start.

    Args:
        slope: the norm of the gradient of f, generalised where there are constraints.
        curvature: the curvature of f, such as 1 / s for the step size s of a gradient method.
        x: the norm of x.
        moved: the norm of the way from the start to x.
        value: f(x).
        xp: jax.numpy, or numpy on the host.

    Returns:
        slope / max(curvature x, 1/2 sqrt(curvature |f|), curvature moved / 100); 0 where the slope is 0; NaN where one
        of them has overflowed, since any gradient is small beside infinity.
    """
    known = xp.maximum(
        curvature * x, xp.maximum(0.5 * xp.sqrt(curvature) * xp.sqrt(xp.abs(value)), 1e-2 * curvature * moved)
    )
    # f may be linear, and x and f(x) zero: nothing is known of their units then.
    error = xp.where(slope == 0, 0.0, slope / xp.where(known > 0, known, slope + (slope == 0)))
    return xp.where(xp.isfinite(known) & xp.isfinite(slope), error, xp.nan)


class Trace(NamedTuple):
    """What is remembered to judge the size of a residual: where the run started, the last point, the curvature."""

    start: PyTree
    point: PyTree
    residual: PyTree
    curvature: Float[Array, ""]

    @classmethod
    def new(cls, init: PyTree) -> "Trace":
        """Nothing is known yet."""
        return cls(init, init, jax.tree.map(jnp.zeros_like, init), jnp.zeros((), real_dtype(init)))


def judged(trace: Trace, x: PyTree, residual: PyTree, value: Any = 0.0, curvature: Any = None) -> tuple[Array, Trace]:
    """The error of x, see `relative_gradient`, from a residual in the units of a gradient.

    The curvature, unless it is given, is the change of the residual relative to that of x, the largest of the last few
    steps: what was long ago tells nothing about the curvature at the solution.
    """
    x, residual, value = lax.stop_gradient((x, residual, value))
    trace = lax.stop_gradient(trace)
    dtype = trace.curvature.dtype
    if curvature is None:
        moved = size(jax.tree.map(jnp.subtract, x, trace.point))
        changed = size(jax.tree.map(jnp.subtract, residual, trace.residual))
        seen = jnp.where(moved > 0, changed / jnp.where(moved > 0, moved, 1.0), 0.0)
        # At the first point there is no change.
        curvature = jnp.where(size(trace.residual) > 0, jnp.maximum(seen, 0.25 * trace.curvature), 0.0)
    curvature = jnp.asarray(lax.stop_gradient(curvature), dtype)
    way = size(jax.tree.map(jnp.subtract, x, trace.start))
    error = relative_gradient(size(residual), curvature, size(x), way, jnp.asarray(value, dtype))
    return jnp.asarray(error, dtype), Trace(trace.start, x, residual, curvature)


def size(tree: PyTree) -> Array:
    """The Euclidean norm; squares neither overflow nor vanish."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.sqrt(sum((jnp.sum(jnp.abs(leaf / unit) ** 2) for leaf in leaves), 0.0))


def real_dtype(tree: PyTree) -> Any:
    """The real floating-point dtype that holds the leaves."""
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(tree))).dtype
