"""How few products with A and A' show all entries of a sparse A.

Columns that share no row have one colour: the product of A with the sum of their unit vectors shows the entries of all
of them at once (Curtis, Powell and Reid, 1974). A dense row would give each column a colour of its own, and so such
rows are left to products with A', one for each colour of rows.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

# At most so many rows, or columns, are taken for dense ones and read by themselves.
DENSE_LINES = 64


class Colouring(NamedTuple):
    """Which products show which entries.

    Attributes:
        columns: the colour of each column; -1 where the rows show all that the column has.
        rows: the colour of each row that products with A' show; -1 for the others.
    """

    columns: np.ndarray
    rows: np.ndarray

    @property
    def forward(self) -> int:
        """The number of products with A."""
        return int(self.columns.max(initial=-1)) + 1

    @property
    def reverse(self) -> int:
        """The number of products with A'."""
        return int(self.rows.max(initial=-1)) + 1

    @property
    def products(self) -> int:
        """The number of products in all."""
        return self.forward + self.reverse


def colouring(matrix: sparse.csc_array) -> Colouring:
    """Colour the columns, or the rows, or the columns but for the dense rows, or the rows but for the dense columns."""
    by_columns = _mixed(matrix)
    by_rows = _mixed(matrix.T.tocsc())
    if by_rows.products < by_columns.products:
        return Colouring(by_rows.rows, by_rows.columns)
    return by_columns


def _mixed(matrix: sparse.csc_array) -> Colouring:
    """Colour the columns of all rows but the densest, which get a colour each."""
    n = matrix.shape[0]
    counts = np.diff(matrix.tocsr().indptr)
    # The number of colours is at least the number of entries of the longest row that is left.
    order = np.argsort(-counts, kind="stable")[: DENSE_LINES + 1]
    left_out = int(np.argmin(np.arange(len(order)) + counts[order])) if n else 0
    dense = np.zeros(n, bool)
    dense[order[:left_out]] = True
    rows = np.full(n, -1, np.int32)
    rows[dense] = np.arange(left_out)
    if left_out:
        # What is left of the matrix; a column without any other entry needs no colour.
        coo = matrix.tocoo()
        keep = ~dense[coo.row]
        matrix = sparse.csc_array((coo.data[keep], (coo.row[keep], coo.col[keep])), shape=matrix.shape)
    return Colouring(greedy(matrix), rows)


def greedy(matrix: sparse.csc_array) -> np.ndarray:
    """A colour for each column, such that columns of one colour share no row; -1 for columns without entries.

    Each column in turn gets the first colour that no column which shares a row with it has: in the order of the
    columns, and by their length where that needs more colours than the longest row has entries.
    """
    least = int(np.diff(matrix.tocsr().indptr).max(initial=0))
    found = _greedy(matrix, range(matrix.shape[1]))
    if found.max(initial=-1) + 1 > least:
        lengths = np.diff(matrix.indptr)
        other = _greedy(matrix, np.argsort(-lengths, kind="stable").tolist())
        if other.max() < found.max():
            return other
    return found


def _greedy(matrix: sparse.csc_array, order) -> np.ndarray:
    indptr, indices = matrix.indptr.tolist(), matrix.indices.tolist()
    taken = [0] * matrix.shape[0]  # for each row, the colours of its columns as the bits of an integer
    colours = np.full(matrix.shape[1], -1, np.int32)
    for column in order:
        rows = indices[indptr[column] : indptr[column + 1]]
        if not rows:
            continue
        mask = 0
        for row in rows:
            mask |= taken[row]
        free = ~mask & (mask + 1)  # the lowest bit that is not set
        colours[column] = free.bit_length() - 1
        for row in rows:
            taken[row] |= free
    return colours
