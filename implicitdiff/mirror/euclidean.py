"""The Euclidean mirror map."""

from jaxtyping import PyTree


def identity(x: PyTree) -> PyTree:
    """The mirror map of phi(x) = 1/2 ||x||^2: the identity.

    Dual and primal points are the same, and the Bregman projections are those of `implicitdiff.projection`. Mirror
    descent with them is projected gradient descent.

    Args:
        x: pytree of arrays, returned as it is.

    Returns:
        x.

    Example:
        >>> identity(3.0)
        3.0
    """
    return x
