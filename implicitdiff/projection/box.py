"""Sets that bound each coordinate: the non-negative orthant, boxes, hypercubes and l-infinity balls."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._arrays import check, floating, guarded, like, no_parameters, per_vector, sound


def non_negative(v: PyTree, theta: None = None) -> PyTree:
    """Project onto the non-negative orthant {x : x >= 0}.

    x = max(v, 0); derivative diag(v > 0). At v_i = 0 the derivative is 0 (the bound counts as active).

    Args:
        v: pytree of real arrays of any shape.
        theta: unused, the set has no parameters.

    Returns:
        A pytree like v.

    Example:
        >>> import jax.numpy as jnp
        >>> non_negative(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    no_parameters("non_negative", theta)
    leaves = jax.tree.map(floating, v)
    return jax.tree.map(lambda leaf: guarded(_positive, sound(leaf, ()), leaf), leaves)


def box(v: PyTree, bounds: tuple[PyTree, PyTree]) -> PyTree:
    """Project onto the box {x : lower <= x <= upper}.

    x = min(max(v, lower), upper); derivative in v: 1 where lower < v < upper, else 0; in a bound: 1 where the bound
    is active, else 0. At v_i = lower_i or upper_i the bound counts as active (the lower one, where both are equal).

    Args:
        v: pytree of real arrays of any shape.
        bounds: `(lower, upper)`, each a pytree like v or a prefix of it (one scalar for all), broadcasting against
            the leaves of v; -inf and inf, or None for a whole side, where there is no bound.

    Returns:
        A pytree like v.

    Raises:
        ValueError: lower > upper, or NaN, in concrete bounds; traced bounds give NaN there.

    Example:
        >>> import jax.numpy as jnp
        >>> box(jnp.array([-3.0, 0.5, 3.0]), (-1.0, jnp.array([1.0, 1.0, 2.0]))).tolist()
        [-1.0, 0.5, 2.0]
    """
    lower, upper = bounds
    lower = -jnp.inf if lower is None else lower
    upper = jnp.inf if upper is None else upper
    leaves, tree = jax.tree_util.tree_flatten_with_path(v)
    projected = [
        _box(leaf, a, b, jax.tree_util.keystr(path))
        for (path, leaf), a, b in zip(leaves, _leaves_of(lower, v), _leaves_of(upper, v), strict=True)
    ]
    return jax.tree.unflatten(tree, projected)


def hypercube(v: PyTree, scale: PyTree = 1.0) -> PyTree:
    """Project onto the hypercube {x : 0 <= x <= scale}.

    The same as `box` with bounds (0, scale), and the same at kinks.

    Args:
        v: pytree of real arrays of any shape.
        scale: length of the edges, at least 0: a scalar, a pytree like v, or None for 1.

    Returns:
        A pytree like v.

    Raises:
        ValueError: scale is negative or NaN, if concrete; a traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> hypercube(jnp.array([-3.0, 0.5, 3.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    return box(v, (0.0, 1.0 if scale is None else scale))


def linf_ball(v: PyTree, radius: ArrayLike | None = 1.0, *, axis: int = -1) -> PyTree:
    """Project onto the l-infinity ball {x : max |x_i| <= radius}.

    The same as `box` with bounds (-radius, radius), and the same at kinks.

    Args:
        v: pytree of real arrays; the ball of a pytree is the product of the balls of its leaves.
        radius: at least 0 (inf: no constraint): a scalar, or one value for each vector along `axis`; None for 1.
        axis: the axis of the vectors; matters only where each has its own radius.

    Returns:
        A pytree like v.

    Raises:
        ValueError: radius is negative or NaN, if concrete; a traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> linf_ball(jnp.array([-3.0, 0.5, 3.0]), 2.0).tolist()
        [-2.0, 0.5, 2.0]
    """

    def project(leaf: ArrayLike) -> Array:
        leaf = floating(leaf)
        bound = per_vector(leaf, 1.0 if radius is None else radius, "radius", axis)
        factor = check(lambda r: r >= 0, "linf_ball: radius must be at least 0, found {}.", bound)
        return guarded(lambda v, r: _clip(v, -r, r), sound(leaf, ()) * factor, leaf, bound)

    return jax.tree.map(project, v)


def _box(v: ArrayLike, lower: ArrayLike, upper: ArrayLike, path: str) -> Float[Array, "..."]:
    v = floating(v)
    lower, upper = like(v, lower), like(v, upper)
    where = f" in leaf v{path}" if path else ""
    factor = check(
        lambda a, b: a <= b,
        f"box: the bounds must satisfy lower <= upper{where}, found lower = {{}}, upper = {{}}; the box is empty.",
        lower,
        upper,
    )
    try:
        jnp.broadcast_shapes(v.shape, lower.shape, upper.shape)
    except ValueError as error:
        raise ValueError(
            f"box: bounds of shapes {lower.shape} and {upper.shape} do not broadcast against "
            f"v{path} of shape {v.shape}."
        ) from error
    return guarded(_clip, sound(v, ()) * factor, v, lower, upper)


def _positive(v: Array) -> Array:
    return jnp.where(v <= 0, 0.0, v)


def _clip(v: Array, lower: ArrayLike, upper: ArrayLike) -> Array:
    # Unlike jnp.clip, which splits the derivative in halves at a tie, `where` gives it to the active bound.
    return jnp.where(v <= lower, lower, jnp.where(v >= upper, upper, v))


def _leaves_of(bound: PyTree, v: PyTree) -> list[Any]:
    """One bound for each leaf of v, from a prefix of v's tree."""
    spread = jax.tree.map(lambda b, subtree: jax.tree.map(lambda _: b, subtree), bound, v)
    return jax.tree.leaves(spread)
