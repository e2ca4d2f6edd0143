"""Products of cones, as conic programs have them: one class a cone, and the projection onto a list of them."""

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ._arrays import floating
from .box import non_negative
from .duality import dual, free, zero
from .exponential import exponential
from .power import power
from .second_order import second_order
from .semidefinite import semidefinite


@dataclasses.dataclass(frozen=True)
class Cone(ABC):
    """A closed convex cone of vectors of length `size`."""

    projection: ClassVar[Callable[..., Array]]
    dual_projection: ClassVar[Callable[..., Array]]

    @property
    @abstractmethod
    def size(self) -> int:
        """The length of its vectors."""


@dataclasses.dataclass(frozen=True)
class _OfSize(Cone):
    n: int

    def __post_init__(self):
        if not isinstance(self.n, int | np.integer) or self.n < 0:
            raise ValueError(f"{type(self).__name__}: n must be an int, at least 0, found {self.n!r}.")

    @property
    def size(self) -> int:
        """The length of its vectors."""
        return int(self.n)


class Zero(_OfSize):
    """The zero cone {0} of n entries: equations."""

    projection, dual_projection = staticmethod(zero), staticmethod(free)


class NonNegative(_OfSize):
    """The non-negative orthant of n entries."""

    projection = dual_projection = staticmethod(non_negative)


class SecondOrder(_OfSize):
    """The second-order cone {(t, z) : ||z|| <= t} of n entries, t the first."""

    projection = dual_projection = staticmethod(second_order)


class PositiveSemidefinite(_OfSize):
    """The cone of positive semidefinite n x n matrices.

    As vectors of length n (n + 1) / 2: the upper triangle column by column, entries off the diagonal times sqrt 2.
    """

    @property
    def size(self) -> int:
        """The length of its vectors."""
        return int(self.n) * (int(self.n) + 1) // 2

    @staticmethod
    def projection(v: Float[Array, "... k"]) -> Float[Array, "... k"]:
        """Project vectors of this layout."""
        return to_vector(semidefinite(to_matrix(v)))

    dual_projection = projection


@dataclasses.dataclass(frozen=True)
class Exponential(Cone):
    """The exponential cone, the closure of {(x, y, z) : y > 0, y exp(x/y) <= z}."""

    projection, dual_projection = staticmethod(exponential), staticmethod(dual(exponential))

    @property
    def size(self) -> int:
        """The length of its vectors."""
        return 3


@dataclasses.dataclass(frozen=True)
class Power(Cone):
    """The power cone {(x, y, z) : x, y >= 0, x^alpha y^(1 - alpha) >= |z|}."""

    alpha: float
    projection, dual_projection = staticmethod(power), staticmethod(dual(power))

    def __post_init__(self):
        if not 0 < self.alpha < 1:
            raise ValueError(f"Power: alpha must be between 0 and 1, found {self.alpha!r}.")

    @property
    def size(self) -> int:
        """The length of its vectors."""
        return 3


def product(v: Float[Array, " m"], cones: Sequence[Cone]) -> Float[Array, " m"]:
    """Project onto the product of cones, one after the other in v.

    Args:
        v: vector whose length is the sum of the cones' sizes.
        cones: list of cones.

    Returns:
        An array like v.

    Raises:
        ValueError: v does not have this length.

    Example:
        >>> import jax.numpy as jnp
        >>> product(jnp.array([1.0, -1.0, 0.0, 2.0]), [NonNegative(2), SecondOrder(2)]).tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    return _project(v, cones, "projection")


def product_dual(v: Float[Array, " m"], cones: Sequence[Cone]) -> Float[Array, " m"]:
    """Project onto the dual of the product of cones; see `product`.

    Args:
        v: vector whose length is the sum of the cones' sizes.
        cones: list of cones.

    Returns:
        An array like v.

    Raises:
        ValueError: v does not have this length.

    Example:
        >>> import jax.numpy as jnp
        >>> product_dual(jnp.array([1.0, -1.0, -1.0]), [Zero(2), NonNegative(1)]).tolist()
        [1.0, -1.0, 0.0]
    """
    return _project(v, cones, "dual_projection")


def _project(v: Array, cones: Sequence[Cone], which: str) -> Array:
    v = floating(v)
    total = sum(cone.size for cone in cones)
    if v.shape != (total,):
        raise ValueError(f"expected a vector of length {total}, the sizes of the cones together, found {v.shape}.")
    parts, start = [], 0
    for kind, count, size, parameters in _alike(cones):
        part = v[start : start + count * size].reshape(count, size)
        parts.append(getattr(kind, which)(part, *parameters).reshape(-1))
        start += count * size
    return jnp.concatenate(parts) if parts else v


def _alike(cones: Sequence[Cone]) -> Iterator[tuple[type[Cone], int, int, tuple[Any, ...]]]:
    """Neighbours of one kind and size, to be projected at once: a thousand small cones are one operation."""
    for (kind, size), group in itertools.groupby(cones, lambda cone: (type(cone), cone.size)):
        members = list(group)
        alphas = [cone.alpha for cone in members if isinstance(cone, Power)]
        yield kind, len(members), size, ((np.array(alphas),) if alphas else ())


def to_matrix(v: Float[Array, "... k"]) -> Float[Array, "... n n"]:
    """The symmetric matrix of a vector in the layout of `PositiveSemidefinite`.

    Example:
        >>> import jax.numpy as jnp
        >>> to_matrix(jnp.array([1.0, 0.0, 3.0])).tolist()
        [[1.0, 0.0], [0.0, 3.0]]
    """
    n = int((8 * v.shape[-1] + 1) ** 0.5 - 1) // 2
    rows, columns = _upper(n)
    position = np.zeros((n, n), int)
    position[rows, columns] = position[columns, rows] = np.arange(rows.size)
    scale = np.where(np.eye(n, dtype=bool), 1.0, 0.5**0.5)
    return v[..., position] * lax.convert_element_type(scale, v.dtype)


def to_vector(X: Float[Array, "... n n"]) -> Float[Array, "... k"]:
    """The vector of a symmetric matrix in the layout of `PositiveSemidefinite`.

    Example:
        >>> import jax.numpy as jnp
        >>> to_vector(jnp.eye(2)).tolist()
        [1.0, 0.0, 1.0]
    """
    rows, columns = _upper(X.shape[-1])
    return X[..., rows, columns] * lax.convert_element_type(np.where(rows == columns, 1.0, 2**0.5), X.dtype)


def _upper(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the entries of the upper triangle, column by column."""
    columns, rows = np.tril_indices(n)
    return rows, columns
