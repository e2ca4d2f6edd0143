"""Factorisations on the host, kept as long as they are used, and the bound of the error of what they solve.

The bound is that of `implicitdiff._dense`: |x - A^-1 b| <= |A^-1| (|r| + eps (|A| |x| + |b|)).
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from .._dense import LARGEST_ERROR, MARGIN
from .._failure import NOT_FINITE, OK, SINGULAR

# Solutions for so many right-hand sides with random signs tell how far x moves (see `_dense.PROBES`): the estimate is
# below the truth by MARGIN or more for one component in a thousand.
PROBES = 3
# The memory that all factorisations that are kept may take, in bytes.
MEMORY = 2**30

Backend = str | Callable[[sparse.csc_array], Any]


class Matrix:
    """A sparse matrix in float64, and its factorisations.

    Attributes:
        A: the matrix.
        noise: the relative error of its entries.
        unit: powers of two for the columns, about 1 over their largest entries.
        finite: whether all entries are.
    """

    def __init__(self, A: sparse.csc_array, symmetric: bool, eps: float, backend: Backend = "superlu"):
        """Hold a matrix whose entries are off by eps; `symmetric` says that its pattern is."""
        self.A = A.astype(np.float64)
        self.backend = backend
        # In float32 it is the rounding of the entries alone, since all else is in float64.
        self.noise = eps if eps < 1e-10 else eps / 4
        self.finite = bool(np.all(np.isfinite(self.A.data)))
        largest = abs(self.A).max(axis=0).toarray().ravel()
        sizes = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        self.unit = 2.0 ** -np.clip(np.floor(np.log2(sizes)), -1000, 1000)
        # A symmetric ordering fills less on grids. Zeros on the diagonal, as in the conditions of constrained problems,
        # force pivots that it has not reckoned with: the fill then grows with the square of n.
        self.ordered = backend == "superlu" and symmetric and bool(np.all(self.A.diagonal() != 0))
        self._lock = threading.Lock()

    @cached_property
    def factors(self) -> Any:
        """Triangular factors, or None of a singular matrix."""
        return self._factorised(careful=False)

    @cached_property
    def careful(self) -> Any:
        """Factors with partial pivoting throughout, for where the others lost too many digits."""
        return self._factorised(careful=True) if self.ordered else None

    def _factorised(self, careful: bool) -> Any:
        if not self.finite:
            return None
        try:
            if callable(self.backend):
                return self.backend(self.A)
            if self.ordered and not careful:
                options = dict(SymmetricMode=True)
                return splu(self.A, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.1, options=options)
            return splu(self.A)
        except RuntimeError:  # SuperLU: a pivot is exactly zero
            return None

    @property
    def bytes(self) -> int:
        """About the memory that this takes."""
        known = [self.__dict__.get(name) for name in ("factors", "careful")]
        entries = sum(getattr(factors, "nnz", 20 * self.A.nnz) for factors in known if factors is not None)
        return 12 * (entries + self.A.nnz)

    def solve(self, B: np.ndarray, transpose: bool, doubt: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Solve A X = B, or A' X = B, for the columns of B; a status for each.

        `doubt` is by how much each row of A is known to be off, relative to its entries, beyond their rounding.
        """
        with self._lock:
            failed = np.full(B.shape[1], OK if self.finite else NOT_FINITE, np.int32)
            X = np.full(B.shape, np.nan)
            if not self.finite:
                return X, failed
            good = np.isfinite(B).all(axis=0)
            failed[~good] = NOT_FINITE
            failed[good] = SINGULAR
            for name in ("factors", "careful"):
                rest = failed == SINGULAR
                factors = getattr(self, name) if rest.any() else None
                if factors is None:
                    continue
                found, trusted = self._solved(factors, B[:, rest], transpose, doubt)
                X[:, rest] = found
                failed[rest] = np.where(trusted, OK, SINGULAR)
            return X, failed

    def _solved(
        self, factors: Any, B: np.ndarray, transpose: bool, doubt: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        A = self.A.T if transpose else self.A
        way = "T" if transpose else "N"
        size = abs(A)
        with np.errstate(all="ignore"):
            X = factors.solve(B, way)
            X = X + factors.solve(B - A @ X, way)
            weights = abs(B - A @ X) + self.noise * (size @ abs(X) + abs(B))
            if doubt is not None:
                weights += size @ (doubt[:, None] * abs(X)) if transpose else doubt[:, None] * (size @ abs(X))
            # The error is to be small beside x in the units given, and in those that make the columns of A equally
            # long.
            lengths = size.max(axis=0).toarray().ravel()
            lengths = np.where(lengths > 0, lengths, 1.0)[:, None]
            top = abs(X).max(axis=0)
            limits = LARGEST_ERROR * np.minimum(top, abs(X * lengths).max(axis=0) / lengths)
            limits = np.where(top > 0, limits, 1.0)
            signs = np.random.default_rng(0).choice([-1.0, 1.0], (len(B), PROBES))
            moved = np.zeros(B.shape)
            for column in range(B.shape[1]):
                relative = factors.solve(weights[:, column, None] * signs, way) / limits[:, column, None]
                moved[:, column] = np.sqrt(np.mean(relative**2, axis=1))
            return X, np.all(MARGIN * moved <= 1, axis=0)


class Kept:
    """The last matrices, by their content: equal entries are equal matrices, whoever asks."""

    def __init__(self):
        """Hold nothing yet."""
        self._kept: OrderedDict[bytes, Matrix] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def key(arrays: Iterable[np.ndarray], *others: Any) -> bytes:
        """What tells matrices apart: arrays that they are made of, and whatever else they depend on."""
        found = hashlib.blake2b(repr(others).encode(), digest_size=16)
        for array in arrays:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.digest()

    def get(self, key: bytes, make: Callable[[], Matrix]) -> Matrix:
        """The matrix of this key, made anew where it is no longer kept."""
        with self._lock:
            found = self._kept.pop(key, None)
            found = make() if found is None else found
            self._kept[key] = found
            while len(self._kept) > 1 and sum(one.bytes for one in self._kept.values()) > MEMORY:
                self._kept.popitem(last=False)
            return found


KEPT = Kept()


def doubts(matrix: Matrix, sent: np.ndarray, image: np.ndarray, eps: float) -> np.ndarray | None:
    """By how much each row is off, relative to its entries, from a product of A; None where entries are missing.

    An entry that the pattern lacks also falsifies those that were read off the same product. What is too small to tell
    from rounding in F counts as an error of the entries, which an ill-conditioned A does not forgive.
    """
    if not matrix.finite or not np.all(np.isfinite(image)):
        return np.zeros(len(matrix.unit))  # there is another cause to name
    sent, image = sent.ravel().astype(np.float64), image.ravel().astype(np.float64)
    size, left = abs(matrix.A) @ abs(sent), abs(matrix.A @ sent - image)
    if np.any(left > 1e4 * eps * size):
        return None
    off = left / np.where(size > 0, size, 1.0)
    return np.where(off > 16 * eps, off, 0.0)
