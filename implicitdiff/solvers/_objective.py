"""A smooth objective, in the forms in which users have it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import optimality


@dataclasses.dataclass(frozen=True)
class Objective:
    """f(x, *args, **kwargs) and its gradient.

    Attributes:
        f: returns the value, or (value, aux), or with its gradient ((value, aux), gradient) or (value, gradient).
        has_aux: whether f returns aux.
        value_and_grad: whether f returns its gradient.
    """

    f: Callable[..., Any]
    has_aux: bool = False
    value_and_grad: bool = False

    def parts(self, x: PyTree, *args: Any, **kwargs: Any) -> tuple[Array, Any]:
        """The value and aux."""
        result = self.f(x, *args, **kwargs)
        result = result[0] if self.value_and_grad else result
        return result if self.has_aux else (result, None)

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The value."""
        return self.parts(x, *args, **kwargs)[0]

    def both(self, x: PyTree, *args: Any, **kwargs: Any) -> tuple[Array, PyTree]:
        """The value and the direction of steepest ascent, which for complex x is the conjugate of JAX's gradient."""
        if self.value_and_grad:
            value, gradient = self.f(x, *args, **kwargs)
            value = value[0] if self.has_aux else value
        else:
            value, gradient = jax.value_and_grad(self.__call__)(x, *args, **kwargs)
        return value, jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, gradient)

    def stationary(self) -> Callable:
        """The condition of a free minimum."""
        if self.value_and_grad:
            return optimality.root(lambda x, *args, **kwargs: self.both(x, *args, **kwargs)[1], symmetric=True)
        return optimality.stationary(self.f if not self.has_aux else self.__call__)
