"""The type of conditions that all builders return."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree


class Condition:
    """A root condition F or a fixed-point map T, with the known properties of its Jacobian.

    Attributes:
        symmetric: whether dF/dx, or I - dT/dx, is symmetric; None means unknown.
        positive_definite: whether it is symmetric positive definite.
        parts: `(inner, outer)` where T(x, *args) = outer(inner(x, *args), *args) and both have symmetric Jacobians,
            as a gradient step and a proximal operator have; otherwise None. The linear solve makes use of this.
        is_root: True for a root condition F, False for a fixed-point map T.
        margin: `margin(x, *args)`, the distance of x from points where the condition is not regular, or None.
    """

    def __init__(
        self,
        call: Callable[..., PyTree],
        name: str,
        symmetric: bool | None = None,
        positive_definite: bool | None = None,
        like: Callable | None = None,
        parts: tuple[Callable, Callable] | None = None,
        is_root: bool = False,
        margin: Callable | None = None,
    ):
        """Wrap `call`; its arguments are compared by the names in the signature of `like`."""
        self.call = call
        self.symmetric = symmetric
        self.positive_definite = positive_definite
        self.parts = parts
        self.is_root = is_root
        self.margin = margin
        self.__qualname__ = name
        with contextlib.suppress(TypeError, ValueError):
            self.__signature__ = inspect.signature(call if like is None else like)

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """F(x, *args, **kwargs) or T(x, *args, **kwargs)."""
        return self.call(x, *args, **kwargs)

    def after(self, arguments: Callable[[PyTree], tuple[tuple, dict[str, Any]]]) -> "Condition":
        """The condition as a function of (x, theta), called with x and the arguments, (args, kwargs), for theta."""

        def bound(call: Callable) -> Callable:
            def at(x: PyTree, theta: PyTree) -> PyTree:
                args, kwargs = arguments(theta)
                return call(x, *args, **kwargs)

            return at

        parts = None if self.parts is None else (bound(self.parts[0]), bound(self.parts[1]))
        return Condition(
            bound(self.call),
            self.__qualname__,
            self.symmetric,
            self.positive_definite,
            parts=parts,
            is_root=self.is_root,
        )

    @classmethod
    def composed(cls, inner: Callable[..., PyTree], outer: Callable[..., PyTree], name: str) -> "Condition":
        """T(x, theta_f, theta_g) = outer(inner(x, theta_f), theta_g), both with symmetric Jacobians."""

        def T(x: PyTree, theta_f: Any = None, theta_g: Any = None) -> PyTree:
            return outer(inner(x, theta_f), theta_g)

        return cls(
            T,
            name,
            parts=(
                lambda x, theta_f=None, _=None: inner(x, theta_f),
                lambda v, _=None, theta_g=None: outer(v, theta_g),
            ),
        )
