"""No function, and functions that are 0 on a set and infinite outside of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..projection._arrays import sound


def none(v: PyTree, theta: Any = None, scaling: Any = 1.0) -> PyTree:
    """The proximal operator of g = 0: x = v.

    Args:
        v: pytree of arrays, returned as it is; what is not finite in it becomes NaN.
        theta: unused, g has no parameters.
        scaling: unused, multiplies 0.

    Returns:
        v.

    Example:
        >>> none(3.0)
        3.0
    """
    del theta, scaling
    return jax.tree.map(_finite, v)


def _finite(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return leaf * sound(leaf, ())


def from_projection(projection: Callable[[PyTree, Any], PyTree]) -> Callable[..., PyTree]:
    """The proximal operator of the indicator of a set C(theta): the projection onto the set.

    The indicator is 0 on C and infinite elsewhere, so that scaling changes nothing: the operator ignores it on
    purpose, and is called like every other one.

    Args:
        projection: callable `projection(v, theta_C)`, such as those in `implicitdiff.projection`.

    Returns:
        A callable `prox(v, theta_C=None, scaling=1.0)`.

    Source: Parikh, Boyd, "Proximal algorithms", 2014, section 1.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from implicitdiff import projection
        >>> prox = from_projection(projection.non_negative)
        >>> prox(jnp.array([-1.0, 2.0]), None, 0.1).tolist()
        [0.0, 2.0]
    """

    def prox(v: PyTree, theta_C: Any = None, scaling: Any = 1.0) -> PyTree:
        del scaling
        return projection(v, theta_C)

    return prox
