"""Dual cones, and the zero cone with its dual."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._arrays import at_least_single, floating, guarded, no_parameters, sound


def dual(projection: Callable) -> Callable:
    """The projection onto the dual cone K* = {y : y'x >= 0 for all x in K}, from that onto K.

    Moreau's decomposition: proj_K*(v) = v + proj_K(-v); so the derivative is I - J(-v), J that of the projection
    onto K. The orthant, the second-order and the semidefinite cone are their own duals.

    Args:
        projection: `projection(v, *parameters)` onto a closed convex cone.

    Returns:
        A function with the same arguments.

    Source: Moreau, "Décomposition orthogonale d'un espace hilbertien selon deux cônes mutuellement polaires", 1962.

    Example:
        >>> import jax.numpy as jnp
        >>> dual(zero)(jnp.array([1.0, -2.0])).tolist()
        [1.0, -2.0]
    """

    def project(v, *parameters, **options):
        v = jax.tree.map(floating, v)
        wide = jax.tree.map(at_least_single, v)
        polar = projection(jax.tree.map(jnp.negative, wide), *parameters, **options)
        return jax.tree.map(lambda v, wide, polar: (wide + polar).astype(v.dtype), v, wide, polar)

    project.__name__ = project.__qualname__ = f"{projection.__name__}_dual"
    project.__doc__ = f"Project onto the dual of the cone that `{projection.__name__}` projects onto; see `dual`."
    return project


def zero(v: PyTree, theta: None = None) -> PyTree:
    """Project onto the zero cone {0}: zeros like v, with derivative 0. Its dual is the whole space, `free`.

    Args:
        v: pytree of real arrays of any shape.
        theta: unused, the set has no parameters.

    Returns:
        A pytree like v.

    Example:
        >>> import jax.numpy as jnp
        >>> zero(jnp.array([1.0, -2.0])).tolist()
        [0.0, 0.0]
    """
    no_parameters("zero", theta)
    leaves = jax.tree.map(floating, v)
    return jax.tree.map(lambda leaf: guarded(lambda v: 0 * v + 0, sound(leaf, ()), leaf), leaves)


def free(v: PyTree, theta: None = None) -> PyTree:
    """Project onto the whole space, the dual of the zero cone: v itself.

    Args:
        v: pytree of real arrays of any shape.
        theta: unused, the set has no parameters.

    Returns:
        v, as floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> free(jnp.array([1.0, -2.0])).tolist()
        [1.0, -2.0]
    """
    no_parameters("free", theta)
    leaves = jax.tree.map(floating, v)
    return jax.tree.map(lambda leaf: guarded(lambda v: v, sound(leaf, ()), leaf), leaves)
