"""Many right-hand sides of one matrix, as the batch that they are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

Solver = Callable[[Any, Any], Any]


def batchable(single: Solver, many: Solver) -> Solver:
    """`single(matrix, b)`, of which vmap makes `many(matrix, bs)` where the whole batch has one matrix.

    A Jacobian is a vmap over right-hand sides: left to itself, JAX would run the method for one right-hand side in
    lockstep, and form and factorise the same matrix once for each. A batch of matrices may still have many right-hand
    sides each: then the same is true of `vmap(single)` and `vmap(many)`.

    Args:
        single: solves for one right-hand side; `matrix` and `b` are pytrees of arrays.
        many: solves for right-hand sides stacked along a first axis, and returns solutions stacked likewise.
    """

    @custom_vmap
    def solver(matrix, b):
        return single(matrix, b)

    @solver.def_vmap
    def _(size, batched, matrix, b):
        of_matrix, of_b = jax.tree.map(lambda yes: 0 if yes else None, batched)
        b = jax.tree.map(
            lambda leaf, axis: jnp.broadcast_to(leaf, (size, *leaf.shape)) if axis is None else leaf,
            b,
            of_b,
            is_leaf=lambda leaf: leaf is None,
        )
        if all(axis is None for axis in jax.tree.leaves(of_matrix, is_leaf=lambda axis: axis is None)):
            found = many(matrix, b)
        else:
            singles = jax.vmap(single, in_axes=(of_matrix, 0))
            # The right-hand sides of `many` stay in front of the matrices.
            manies = jax.vmap(many, in_axes=(of_matrix, 1), out_axes=1)
            found = batchable(singles, manies)(matrix, b)
        return found, jax.tree.map(lambda _: True, found)

    return solver
