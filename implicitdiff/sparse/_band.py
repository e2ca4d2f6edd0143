"""Band matrices by their diagonals, on the device.

A matrix with `lower` diagonals below the main one and `upper` above it is held as an array whose entry [d, i] is
A[i, i + d - lower], and zero where that is outside of the matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .._largest import largest, power_of_two
from .._space import RealSpace
from .._varying import axes_of, scan, varying

# A product with so few diagonals is written out, and otherwise is a loop over them.
UNROLLED = 3


def order_of(space: RealSpace) -> np.ndarray | None:
    """Where each unknown stands in the real vector, such that both parts of a complex one are neighbours.

    None where there is no complex one.
    """
    if not any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in space.dtypes):
        return None
    parts, shapes, start = [], iter(space.shapes), 0
    for dtype in space.dtypes:
        size = int(np.prod(next(shapes)))
        count = 1
        if jnp.issubdtype(dtype, jnp.complexfloating):
            next(shapes)
            count = 2
        parts.append((start + np.arange(count * size).reshape(count, size)).T.ravel())
        start += count * size
    return np.concatenate(parts)


def columns(n: int, lower: int, upper: int) -> Array:
    """The column of each entry, [d, i] -> i + d - lower."""
    return jnp.arange(-lower, upper + 1, dtype=jnp.int32)[:, None] + jnp.arange(n, dtype=jnp.int32)


def read(shown: Float[Array, "d n"], lower: int, upper: int) -> Float[Array, "d n"]:
    """The diagonals, from products with the sums of every (lower + upper + 1)-th unit vector, or all if n is less."""
    count, n = shown.shape
    column = columns(n, lower, upper)
    entries = jnp.take_along_axis(shown, column % count, axis=0, mode="promise_in_bounds")
    return jnp.where((column >= 0) & (column < n), entries, 0)


def shifted(rows: Float[Array, "d n"], first: int, step: int) -> Float[Array, "d n"]:
    """Row d moved by first + step d places: [d, i] -> rows[d, i + first + step d], and zero beyond the ends."""
    count, n = rows.shape
    offsets = first + step * np.arange(count)
    margin = int(abs(offsets).max())
    padded = jnp.pad(rows, ((0, 0), (margin, margin)))
    starts = jnp.asarray(margin + offsets, jnp.int32)
    return jax.vmap(lambda row, start: lax.dynamic_slice_in_dim(row, start, n))(padded, starts)


def transposed(entries: Float[Array, "d n"], lower: int) -> Float[Array, "d n"]:
    """The diagonals of the transpose, which has as many below as the matrix has above."""
    upper = len(entries) - 1 - lower
    return shifted(entries[::-1], -upper, 1)


def times(entries: Float[Array, "d n"], lower: int, X: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """A X."""
    count, n = entries.shape
    padded = jnp.pad(X, ((lower, count - 1 - lower), (0, 0)))
    if count <= UNROLLED:
        return sum((entries[d, :, None] * padded[d : d + n] for d in range(1, count)), entries[0, :, None] * padded[:n])

    def add(total: Array, d_and_row: tuple) -> tuple[Array, None]:
        d, row = d_and_row
        return total + row[:, None] * lax.dynamic_slice_in_dim(padded, d, n), None

    start = varying(jnp.zeros_like(X), axes_of((entries, X)))
    return scan(add, start, (jnp.arange(count), entries))[0]


class Scaled(NamedTuple):
    """Diagonals after rows and columns were scaled by powers of two, such that their largest entries are about 1.

    Attributes:
        entries: the diagonals.
        rows: what the rows of the matrix were multiplied by.
        columns: what its columns were multiplied by.
    """

    entries: Float[Array, "d n"]
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]


def scaled(entries: Float[Array, "d n"], lower: int) -> Scaled:
    """Scale a matrix, so that its units do not matter to what is chosen as a pivot; exact, and NaN stays."""
    count, n = entries.shape

    def of_columns(scale: Array) -> Array:
        return shifted(jnp.broadcast_to(scale, (count, n)), -lower, 1)

    rows = columns = jnp.ones(n, entries.dtype)
    for _ in range(2):
        scale = power_of_two(largest(transposed(entries, lower), axis=0))
        entries, columns = entries * of_columns(scale), columns * scale
        scale = power_of_two(largest(entries, axis=0))
        entries, rows = entries * scale, rows * scale
    return Scaled(entries, rows, columns)
