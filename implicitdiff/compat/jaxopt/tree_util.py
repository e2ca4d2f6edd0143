"""Arithmetic of pytrees under JAXopt's names; elsewhere use `optax.tree` and `jax.tree`."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

tree_map = jax.tree.map
tree_reduce = jax.tree.reduce


def _elementwise(operation: Callable, name: str) -> Callable[..., PyTree]:
    def apply(tree_x: PyTree, tree_y: PyTree) -> PyTree:
        return jax.tree.map(operation, tree_x, tree_y)

    apply.__name__, apply.__doc__ = name, f"Leaf by leaf: {operation.__name__} of two pytrees."
    return apply


tree_add = _elementwise(operator.add, "tree_add")
tree_sub = _elementwise(operator.sub, "tree_sub")
tree_mul = _elementwise(operator.mul, "tree_mul")
tree_div = _elementwise(operator.truediv, "tree_div")


def broadcast_pytrees(*trees: PyTree) -> tuple[PyTree, ...]:
    """The pytrees, those that are single leaves repeated in the structure of the others."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in trees if not jax.tree_util.all_leaves([tree])]
    if not structures:
        return trees
    if any(structure != structures[0] for structure in structures):
        raise ValueError(f"broadcast_pytrees: the structures differ: {structures}.")
    whole = structures[0]
    return tuple(
        jax.tree.unflatten(whole, [tree] * whole.num_leaves) if jax.tree_util.all_leaves([tree]) else tree
        for tree in trees
    )


def tree_scalar_mul(scalar: Any, tree_x: PyTree) -> PyTree:
    """Scalar times the pytree."""
    return jax.tree.map(lambda x: scalar * x, tree_x)


def tree_add_scalar_mul(tree_x: PyTree, scalar: Any, tree_y: PyTree) -> PyTree:
    """X + scalar y."""
    return jax.tree.map(lambda x, y: x + scalar * y, tree_x, tree_y)


def tree_dot(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """`jnp.dot` of each pair of leaves."""
    return jax.tree.map(jnp.dot, tree_x, tree_y)


def tree_vdot(tree_x: PyTree, tree_y: PyTree) -> Array:
    """The inner product of the whole pytrees."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, tree_x, tree_y)), jnp.zeros(()))


def tree_vdot_real(tree_x: PyTree, tree_y: PyTree) -> Array:
    """The real part of `tree_vdot`."""
    return jnp.real(tree_vdot(tree_x, tree_y))


def tree_sum(tree_x: PyTree) -> Array:
    """The sum of all entries."""
    return sum(map(jnp.sum, jax.tree.leaves(tree_x)), jnp.zeros(()))


def tree_l2_norm(tree_x: PyTree, squared: bool = False) -> Array:
    """The Euclidean norm of the whole pytree; its derivative at zero is zero, where JAXopt's is NaN."""
    total = tree_sum(jax.tree.map(lambda x: jnp.real(x) ** 2 + jnp.imag(x) ** 2, tree_x))
    return total if squared else jnp.where(total > 0, jnp.sqrt(jnp.where(total == 0, 1.0, total)), total)


def tree_inf_norm(tree_x: PyTree) -> Array:
    """The largest absolute value."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree_x)]))


def tree_mean(tree_x: PyTree) -> Array:
    """The mean of all entries."""
    return tree_sum(tree_x) / sum(jnp.size(x) for x in jax.tree.leaves(tree_x))


def tree_zeros_like(tree_x: PyTree) -> PyTree:
    """Zeros in the shapes and dtypes of the pytree."""
    return jax.tree.map(jnp.zeros_like, tree_x)


def tree_ones_like(tree_x: PyTree) -> PyTree:
    """Ones in the shapes and dtypes of the pytree."""
    return jax.tree.map(jnp.ones_like, tree_x)


def tree_where(cond: Any, a: PyTree, b: PyTree) -> PyTree:
    """`jnp.where(cond, a, b)` for one condition or one for each leaf."""
    cond, a, b = broadcast_pytrees(cond, a, b)
    return jax.tree.map(jnp.where, cond, a, b)


def tree_negative(tree: PyTree) -> PyTree:
    """Minus the pytree."""
    return jax.tree.map(jnp.negative, tree)


def tree_average(trees: PyTree, weights: Array) -> PyTree:
    """The sum over the first axis of each leaf, weighted."""
    return jax.tree.map(lambda x: jnp.tensordot(weights, x, axes=1), trees)


def tree_conj(tree: PyTree) -> PyTree:
    """The complex conjugate."""
    return jax.tree.map(jnp.conj, tree)


def tree_real(tree: PyTree) -> PyTree:
    """The real part."""
    return jax.tree.map(jnp.real, tree)


def tree_imag(tree: PyTree) -> PyTree:
    """The imaginary part."""
    return jax.tree.map(jnp.imag, tree)
