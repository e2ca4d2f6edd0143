"""Where the entries of a Jacobian are: `Pattern`."""

import hashlib
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from scipy import sparse

from ._colouring import Colouring, colouring


class Pattern:
    """Where a square matrix may have entries that are not zero, and how few products show them.

    Made by `pattern(F, x, *args)`, or from any SciPy sparse matrix or dense array: `Pattern(matrix)` takes the stored
    entries of the one, and the nonzero ones of the other. Rows are equations and columns unknowns, both in the order in
    which JAX flattens x; a complex unknown counts as two, all real parts of its leaf before the imaginary ones.
    Patterns are equal where their entries are.

    Attributes:
        n: the number of unknowns.
        indptr: where each column starts in `indices`, as in a SciPy matrix of format CSC.
        indices: the rows of the entries, column by column.

    Raises:
        ValueError: the matrix is not square.

    Example:
        >>> import numpy as np, implicitdiff as idf
        >>> tridiagonal = np.eye(6) + np.eye(6, k=1) + np.eye(6, k=-1)
        >>> idf.sparse.Pattern(tridiagonal)
        Pattern(6 x 6, 16 entries, 3 products)
    """

    def __init__(self, matrix: Any):
        """Take the entries of a matrix."""
        if len(np.shape(matrix)) != 2 or np.shape(matrix)[0] != np.shape(matrix)[1]:
            raise ValueError(f"A pattern is square, one equation for each unknown, found shape {np.shape(matrix)}.")
        stored = sparse.coo_array(matrix)
        ones = np.ones(stored.nnz, np.int8)
        # Through a matrix without duplicates, whose rows are sorted in each column.
        csc = sparse.csc_array((ones, (stored.coords[0], stored.coords[1])), shape=stored.shape)
        csc.sum_duplicates()
        csc.sort_indices()
        self.n: int = int(stored.shape[0])
        self.indptr = csc.indptr.astype(np.int32)
        self.indices = csc.indices.astype(np.int32)
        digest = hashlib.blake2b(self.indptr.tobytes(), digest_size=16)
        digest.update(self.indices.tobytes())
        self.digest = digest.digest()

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self.n, self.n

    @cached_property
    def colours(self) -> Colouring:
        """Which products with A and A' show which entries."""
        return colouring(self.matrix(np.ones(self.nnz, np.int8)))

    @cached_property
    def symmetric(self) -> bool:
        """Whether there is an entry (j, i) wherever there is an entry (i, j)."""
        mirrored = self.matrix(np.ones(self.nnz, np.int8)).T.tocsc()
        mirrored.sort_indices()
        return bool(np.array_equal(mirrored.indptr, self.indptr) and np.array_equal(mirrored.indices, self.indices))

    def matrix(self, data: np.ndarray) -> sparse.csc_array:
        """The matrix with these entries, column by column."""
        return sparse.csc_array((data, self.indices, self.indptr), shape=self.shape)

    @cached_property
    def places(self) -> np.ndarray:
        """Where each entry stands in the products, if all of these are put one after the other."""
        colours = self.colours
        column_of = np.repeat(np.arange(self.n), np.diff(self.indptr))
        row_colour = colours.rows[self.indices]
        from_columns = colours.columns[column_of].astype(np.int64) * self.n + self.indices
        from_rows = (row_colour.astype(np.int64) + colours.forward) * self.n + column_of
        return np.where(row_colour >= 0, from_rows, from_columns)

    def save(self, path: str | PathLike) -> None:
        """Write the pattern to a file, which `Pattern.load` reads; `.npz` is appended where it is missing."""
        sparse.save_npz(path, self.matrix(np.ones(self.nnz, np.int8)))

    @classmethod
    def load(cls, path: str | PathLike) -> "Pattern":
        """Read a pattern that `save` has written, or any matrix that `scipy.sparse.save_npz` has."""
        return cls(sparse.load_npz(path))

    def spy(self, ax: Any = None, **options: Any) -> Any:
        """Draw the entries, and return Matplotlib's axes; the options are those of `matplotlib.axes.Axes.spy`."""
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.gca()
        options.setdefault("markersize", max(0.2, min(6, 200 / max(self.n, 1))))
        ax.spy(self.matrix(np.ones(self.nnz, np.int8)), **options)
        ax.set(xlabel="unknown", ylabel="equation", title=f"{self.nnz:,} entries, {self.colours.products} products")
        return ax

    def __repr__(self) -> str:
        products = self.colours.products
        return f"Pattern({self.n} x {self.n}, {self.nnz} entries, {products} product{'s' * (products != 1)})"

    def __hash__(self) -> int:
        return hash((self.n, self.digest))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.n == other.n and self.digest == other.digest
