"""Which of n unknowns the numbers of an array depend on, as sparse matrices with a row for each number."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

# More entries than this are no longer sparse, nor would they fit into memory.
LARGEST = 2**28


class TooDenseError(ValueError):
    """The dependence is not sparse."""


class Known(NamedTuple):
    """What is known of an array.

    Attributes:
        on: its dependence, one row for each number; None where there is none.
        value: the numbers themselves where they are integers or booleans that are known.
    """

    on: sparse.csr_array | None = None
    value: np.ndarray | None = None


def size(aval: Any) -> int:
    """The number of numbers of an array."""
    return math.prod(aval.shape)


def unknowns(inputs: Sequence[Known]) -> int:
    return next(one.on.shape[1] for one in inputs if one.on is not None)


def checked(on: sparse.csr_array, eqn: Any) -> sparse.csr_array:
    if on.nnz > LARGEST:
        raise TooDenseError(f"{on.nnz:,} entries after the primitive {eqn.primitive.name!r}")
    return on


def all_of(eqn: Any, inputs: Sequence[Known], out: Any) -> Known:
    """An output each of whose numbers depends on all numbers of the inputs."""
    columns = np.zeros(unknowns(inputs), bool)
    for one in inputs:
        if one.on is not None:
            columns[one.on.indices] = True
    row = np.flatnonzero(columns).astype(np.int32)
    count = size(out)
    if len(row) * count > LARGEST:
        raise TooDenseError(
            f"every number of an array of shape {out.shape} may depend on {len(row):,} unknowns through the primitive "
            f"{eqn.primitive.name!r}"
        )
    indptr = np.arange(count + 1, dtype=np.int64) * len(row)
    on = sparse.csr_array((np.ones(len(row) * count, bool), np.tile(row, count), indptr), shape=(count, len(columns)))
    return Known(on)


def union(*parts: sparse.csr_array | None) -> sparse.csr_array | None:
    """Numbers that depend on what any of several depend on."""
    given = [part for part in parts if part is not None]
    total = given[0] if given else None
    for part in given[1:]:
        total = total + part
    return total


def picked(places: np.ndarray, parts: Sequence[sparse.csr_array | None], counts: Sequence[int], n: int) -> Known:
    """Numbers that are copies: places count the numbers of all parts from 1 on, and 0 is none of them."""
    rows: list[Any] = [sparse.csr_array((1, n), dtype=bool)]
    for part, count in zip(parts, counts, strict=True):
        rows.append(sparse.csr_array((count, n), dtype=bool) if part is None else part)
    places = np.asarray(places).ravel()
    places = np.where((places < 0) | (places > sum(counts)), 0, places)
    return Known(sparse.csr_array(sparse.vstack(rows, format="csr")[places.astype(np.int64)]))


def gathered(groups: np.ndarray, on: sparse.csr_array, count: int) -> sparse.csr_array:
    """Numbers of an output, each made of those of an input whose group it is."""
    ones = np.ones(groups.size, bool)
    return sparse.csr_array((ones, (groups.ravel(), np.arange(groups.size))), shape=(count, groups.size)) @ on


def places_of(avals: Sequence[Any], dtype: Any = np.int64) -> list[np.ndarray]:
    """The places of the numbers of several arrays, counted from 1 on."""
    start, found = 1, []
    for aval in avals:
        found.append(np.arange(start, start + size(aval), dtype=dtype).reshape(aval.shape))
        start += size(aval)
    return found
