"""What all proximal operators share: they act leaf by leaf, with parameters that fit each leaf and make sense."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..projection._arrays import at_least_single, check, floating, guarded, sound

Axis = int | tuple[int, ...] | None


def leafwise(
    prox: Callable[..., Array], v: PyTree, scaling: PyTree, axis: Axis = (), **weights: PyTree | None
) -> PyTree:
    """Apply `prox(leaf, *weights, scaling)` to each leaf of v.

    Args:
        prox: acts on one array of at least single precision; each weight and scaling come in its dtype and broadcast
            against it.
        v: pytree of real arrays.
        scaling: like a weight.
        axis: the axes that one weight is for; () for a weight an entry, None for a weight a leaf.
        **weights: each a scalar, an array or a pytree whose structure is that of v or a prefix of it; at least 0
            and finite. None is 1.

    Where an entry of v is NaN or infinite, the result is NaN in all entries of its group, and in every derivative.

    Raises:
        ValueError: a weight does not fit v, or is negative, infinite or NaN (traced ones give NaN).
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(v)
    names = [*weights, "scaling"]
    spread = [_spread(name, value, v) for name, value in zip(names, [*weights.values(), scaling], strict=True)]
    result = []
    for i, (path, leaf) in enumerate(leaves):
        leaf = floating(leaf)
        where = jax.tree_util.keystr(path)
        wide = at_least_single(leaf)
        parameters = [_fit(f"{name}{where}", values[i], wide, axis) for name, values in zip(names, spread, strict=True)]
        factor = sound(wide, axes_of(wide, axis))
        for parameter in parameters:
            factor = factor * sound(parameter, ())
        result.append(guarded(prox, factor, wide, *parameters).astype(leaf.dtype))
    return jax.tree.unflatten(tree, result)


def _spread(name: str, value: PyTree | None, v: PyTree) -> list[Any]:
    """One value for each leaf of v."""
    value = 1.0 if value is None else value
    try:
        return jax.tree.leaves(jax.tree.map(lambda b, part: jax.tree.map(lambda _: b, part), value, v))
    except ValueError as error:
        raise ValueError(
            f"{name} has the structure {jax.tree.structure(value)}, v {jax.tree.structure(v)}: expected a scalar or an "
            f"array where v is an array, else a pytree that is v's or a prefix of it. Convert lists with jnp.array."
        ) from error


def _fit(name: str, value: Any, leaf: Array, axis: Axis) -> Array:
    """The parameter in the dtype of leaf, broadcasting against it with size 1 along `axis`; NaN for no weight."""
    factor = check(
        lambda w: (w >= 0) & (w < jnp.inf), f"{name} must be finite and at least 0, found {{}}; mind its sign.", value
    )
    value = jnp.asarray(value, leaf.dtype) * jnp.asarray(factor, leaf.dtype)
    axes = axes_of(leaf, axis)
    kept = tuple(1 if i in axes else n for i, n in enumerate(leaf.shape))
    reduced = tuple(n for i, n in enumerate(leaf.shape) if i not in axes)
    # With as many axes as leaf it has to have size 1 along `axis`, with fewer it is understood to lack them.
    if value.ndim < leaf.ndim and _broadcasts(value.shape, reduced):
        value = jnp.expand_dims(jnp.broadcast_to(value, reduced), axes)
    elif not _broadcasts(value.shape, kept):
        expected = f"{reduced} or {kept}" if axes else f"{kept}"
        raise ValueError(f"{name} has shape {value.shape}: expected a scalar or a shape that broadcasts to {expected}.")
    return value


def axes_of(leaf: Array, axis: Axis) -> tuple[int, ...]:
    """The axes as non-negative numbers; None for all."""
    if axis is None:
        return tuple(range(leaf.ndim))
    axes = (axis,) if isinstance(axis, int) else axis
    if any(not -leaf.ndim <= a < leaf.ndim for a in axes):
        raise ValueError(
            f"axis {axis} does not exist in a leaf of shape {leaf.shape}: give an axis that all leaves of v have."
        )
    return tuple(a % leaf.ndim for a in axes)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
