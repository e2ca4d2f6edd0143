"""Inside of `jax.shard_map`, where JAX tracks over which axes of the devices an array varies.

A loop's state must be of one type throughout: the zeros and flags that it starts with are made to vary like the arrays
beside them. Outside of shard_map these loops are those of `jax.lax`. What the user gave is never changed: the gradient
of f in an x that does not vary is summed over the devices, so that it would become another problem.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree


def axes_of(tree: PyTree) -> frozenset[str]:
    """The axes over which some array of the tree varies."""
    kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer)]
    return frozenset(
        axis for kind in kinds for axis in (kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", ()))
    )


def varying(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """The same arrays, which vary over at least these axes."""

    def cast(leaf: Any) -> Any:
        missing = tuple(sorted(axes - axes_of(leaf)))
        if not missing:
            return leaf
        if hasattr(lax, "pcast"):
            return lax.pcast(leaf, missing, to="varying")
        return lax.pvary(leaf, missing)  # type: ignore[attr-defined, unused-ignore]

    return jax.tree.map(cast, tree) if axes else tree


def check_varies(x: PyTree, theta: PyTree) -> None:
    """Raise TypeError where theta varies over devices and x does not: such conditions mean two things."""
    missing = axes_of(theta) - axes_of(x)
    if missing:
        raise TypeError(
            f"Inside of shard_map the arguments vary over the axes {sorted(missing)}, but x does not. For a problem on "
            "each device start from an x that varies, jax.lax.pcast(x, axes, to='varying'); one problem over all "
            "devices is solved outside of shard_map, under jit with sharded arrays."
        )


def while_loop(cond: Callable, body: Callable, init: PyTree) -> PyTree:
    """`lax.while_loop`."""
    if not (axes := axes_of(init)):
        return lax.while_loop(cond, body, init)
    return lax.while_loop(cond, lambda carry: varying(body(carry), axes), varying(init, axes))


def fori_loop(lower: int, upper: int | Array, body: Callable, init: PyTree) -> PyTree:
    """`lax.fori_loop`."""
    if not (axes := axes_of(init)):
        return lax.fori_loop(lower, upper, body, init)
    return lax.fori_loop(lower, upper, lambda i, carry: varying(body(i, carry), axes), varying(init, axes))


def scan(body: Callable, init: PyTree, xs: PyTree, **options: Any) -> tuple[PyTree, PyTree]:
    """`lax.scan`."""
    if not (axes := axes_of(init)):
        return lax.scan(body, init, xs, **options)

    def step(carry, x):
        carry, y = body(carry, x)
        return varying(carry, axes), y

    return lax.scan(step, varying(init, axes), xs, **options)


def scattered(like: Array, seed: int = 0) -> Array:
    """Numbers in [-1, 1) without a pattern, the same at each call: their places in the array, hashed.

    Not `jax.random`, whose keys would make equal programs look different. Needed wherever structure in a vector would
    hide something: as a probe of the size of A, and as the shadow vector of BiCGStab.
    """
    place = jnp.arange(like.size, dtype=jnp.uint32) + jnp.uint32(0x9E3779B9 * (seed + 1) % 2**32)
    for _ in range(2):
        place = (place ^ (place >> 16)) * jnp.uint32(0x45D9F3B)
    place = (place ^ (place >> 16)).reshape(like.shape)
    numbers = varying(place.astype(like.dtype) * 2.0**-31 - 1, axes_of(like))
    sharding = jax.typeof(like).sharding
    return jax.sharding.reshard(numbers, sharding) if any(axis is not None for axis in sharding.spec) else numbers
