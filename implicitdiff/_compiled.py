"""Eager calls, compiled once for all calls that compute the same."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util as jtu
from jaxtyping import Array, PyTree

from ._adjoint import Adjoint, explained
from ._program import FirstOrder, Program, as_operand, is_array


def compiled_call(fn: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fn(*args), compiled; calls that compute the same are compiled once, also when fn is a new function each time."""
    leaves, tree = jtu.tree_flatten(args)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return fn(*args)
    arrays_at = [is_array(leaf) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, yes in zip(leaves, arrays_at, strict=True) if yes]

    def of_arrays(*arrays):
        supply = iter(arrays)
        merged = [next(supply) if yes else leaf for leaf, yes in zip(leaves, arrays_at, strict=True)]
        return fn(*jtu.tree_unflatten(tree, merged))

    return compiled(of_arrays, *arrays)(*arrays)


def compiled(fn: Callable[..., PyTree], *like: PyTree) -> Callable[..., PyTree]:
    """Make fn a compiled function of pytrees of arrays like these, traced now and once.

    What fn closes over are arguments of the program: it is not built into it, may lie on devices of other processes,
    and another fn that computes the same with other arrays is not compiled anew.
    """
    shapes, tree = jtu.tree_flatten(like)
    out_tree: Any = None

    def flat(*arrays):
        nonlocal out_tree
        result, out_tree = jtu.tree_flatten(fn(*jtu.tree_unflatten(tree, arrays)))
        return result

    closed = jax.make_jaxpr(flat)(*shapes)
    program, constants = Program(closed.jaxpr, out_tree, derivatives=False), list(map(as_operand, closed.consts))
    # Without a key it is never met again: the cache of a function of its own goes with it.
    run = partial(_run, program) if program.reusable else jax.jit(lambda theta: program([], theta))
    return lambda *args: jtu.tree_unflatten(out_tree, run(constants + jtu.tree_leaves(args)))


@partial(jax.jit, static_argnums=0)
def _run(program: Program, theta: list[Array]) -> list[Array]:
    return program([], theta)


def tangent(
    program: Program,
    adjoint: Adjoint,
    x: Sequence[Array],
    theta: Sequence[Array],
    read: Sequence[Array],
    theta_dot: Sequence[Array | None],
) -> list[Array]:
    """`adjoint.bound(read).tangent(...)`, compiled once for all eager calls that compute the same.

    The key is a program and an adjoint that are equal by value, and F is all that had to be traced. Where F holds
    custom derivative rules, Python functions that may read what has changed since, they are traced with the products
    of F. What cannot be told apart from other computations even then, such as an F with a callback, is not kept.
    """
    moving = [i for i, dot in enumerate(theta_dot) if dot is not None]
    concrete = all(map(is_concrete, (*x, *theta)))
    if adjoint.reusable and not program.reusable and concrete:
        with explained():
            first = FirstOrder(program, x, theta, moving)
        if first.reusable:
            return _tangent(first, adjoint, x, [*theta, *first.constants], read, theta_dot)
    if adjoint.reusable and program.reusable:
        return _tangent(program, adjoint, x, theta, read, theta_dot)
    return adjoint.bound(read).tangent(program, x, theta, theta_dot)


@partial(jax.jit, static_argnums=(0, 1))
def _tangent(program, adjoint, x, theta, read, theta_dot):
    return adjoint.bound(read).tangent(program, x, theta, theta_dot)


def is_concrete(leaf: Array) -> bool:
    """Whether a value is known, be it that of a batch: it is neither being differentiated nor staged out."""
    while isinstance(leaf, jax.core.Tracer):
        if not hasattr(leaf, "batch_dim"):
            return False
        leaf = leaf.val
    return True
