"""What every builder of conditions returns."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree


class Condition:
    """A root condition F or a fixed-point map T, and what it knows of its Jacobian.

    Attributes:
        symmetric: whether dF/dx, or I - dT/dx, is symmetric; None is unknown.
        positive_definite: whether it is symmetric positive definite.
    """

    def __init__(
        self,
        call: Callable[..., PyTree],
        name: str,
        symmetric: bool | None = None,
        positive_definite: bool | None = None,
        like: Callable | None = None,
    ):
        """Wrap `call`; it takes the arguments that `like` takes, where the names of these are to be compared."""
        self.call = call
        self.symmetric = symmetric
        self.positive_definite = positive_definite
        self.__qualname__ = name
        with contextlib.suppress(TypeError, ValueError):
            self.__signature__ = inspect.signature(call if like is None else like)

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """F(x, *args, **kwargs) or T(x, *args, **kwargs)."""
        return self.call(x, *args, **kwargs)


def name_of(function: Callable) -> str:
    """A readable name for a callable."""
    return getattr(function, "__qualname__", type(function).__qualname__)
