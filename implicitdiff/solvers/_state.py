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
