"""What every solver returns, and when it counts as a solution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
        slope / max(curvature x, 1/2 sqrt(curvature |f|), curvature moved / 100); 0 where the slope is 0.
    """
    known = xp.maximum(
        curvature * x, xp.maximum(0.5 * xp.sqrt(curvature) * xp.sqrt(xp.abs(value)), 1e-2 * curvature * moved)
    )
    # f may be linear, and x and f(x) zero: nothing is known of their units then.
    return xp.where(slope == 0, 0.0, slope / xp.where(known > 0, known, slope + (slope == 0)))
