"""A fixed point of T as a root of F(x, *args) = x - T(x, *args)."""

from collections.abc import Callable
from typing import Any

from jax import tree_util as jtu
from jaxtyping import PyTree

from ._program import check_output, name_of


class FixedPointResidual:
    """F(x, *args) = x - T(x, *args), with the Jacobian I - dT/dx."""

    def __init__(self, T: Callable):
        """Wrap T, and carry over what it says of I - dT/dx."""
        if getattr(T, "is_root", False):
            raise TypeError(
                f"{name_of(T)} is a root condition F, and its roots are no fixed points: use implicit_root or "
                "custom_root."
            )
        self.T = T
        self.symmetric = getattr(T, "symmetric", None)
        self.positive_definite = getattr(T, "positive_definite", None)
        self.parts = getattr(T, "parts", None)
        self.__qualname__ = name_of(T)

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual of the fixed-point equation."""
        leaves, tree = jtu.tree_flatten(x)
        image = check_output(self.T, tree, leaves, self.T(x, *args, **kwargs))
        return jtu.tree_unflatten(tree, [a - b for a, b in zip(leaves, image, strict=True)])


def as_root(condition: Callable) -> Callable:
    """The root condition that a condition of a solver stands for: itself, or x - T(x, *args) where it is a T."""
    return condition if getattr(condition, "is_root", False) else FixedPointResidual(condition)
