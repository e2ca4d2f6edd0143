"""Band matrices: a direct solver that stays on the device."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg
from jaxtyping import Array, Float, Int

from .._batching import batchable
from .._dense import LARGEST_ERROR, MARGIN
from .._failure import NOT_FINITE, OUTSIDE, SINGULAR, Status, failed_if, first
from .._largest import largest
from .._structured import StructuredSolver
from .._varying import axes_of, scattered, varying, while_loop
from ._band import Scaled, order_of, read, scaled, times, transposed
from ._entries import coloured
from ._factors import PROBES
from ._panels import Panels, panels

if TYPE_CHECKING:
    from .._linear import Solution, System


@dataclasses.dataclass(frozen=True)
class Banded(StructuredSolver):
    """A direct linear solver for band matrices: `Implicit(linear_solver=Banded(1, 1))`.

    A = dF/dx has entries A_ij only where i - lower <= j <= i + upper, as in boundary-value problems, splines, chains
    and trajectories. Its diagonals come from lower + upper + 1 products with A, and are eliminated with partial
    pivoting: by LAPACK's or cuSPARSE's tridiagonal solver where there is at most one diagonal on either side, and by
    panels otherwise. Everything stays on the device, under `vmap` too, where each element of a batch has its own
    verdict. Where x64 is on, float32 is factorised in float64. Every solution is refined and its error bounded; where
    the bound exceeds 1 %, as for a singular A, the derivative fails as `on_failure` says. It does so, too, where two
    products of A with vectors that have no pattern show that there are entries outside of the band.

    The cost is that of lower + upper + 3 products and of O(n max(lower, upper)^2) operations, panel after panel.

    Attributes:
        lower: the number of diagonals below the main one.
        upper: the number of diagonals above the main one. Unknowns are in the order in which JAX flattens x, and
            equations like them; a complex unknown counts as one.

    Raises:
        ValueError: `lower` or `upper` is not an integer >= 0.

    Source: Golub and Van Loan, "Matrix Computations", 4th edition, section 4.3; the error bound is that of Higham,
    "Accuracy and Stability of Numerical Algorithms", chapter 7.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> def F(u, source):  # -u'' + u^3 = source
        ...     return jnp.diff(u, n=2, prepend=0.0, append=0.0) * -1e4 + u**3 - source
        >>> banded = idf.Implicit(linear_solver=idf.sparse.Banded(1, 1))
        >>> mean = lambda source: jnp.mean(idf.implicit_root(F, jnp.zeros(100), source, adjoint=banded))
        >>> print(f"{jax.grad(mean)(jnp.zeros(100))[50]:.6f}")
        0.001275
    """

    lower: int
    upper: int

    def __post_init__(self):
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be a number of diagonals, an integer >= 0, found {value!r}.")

    def strategy(self, system: "System", transpose: bool) -> Callable[[Array, Array], "Solution"]:
        """Factors are made outside of the solve, so that the transpose shares them."""
        from .._linear import Solution

        like, eps = system.right, system.space.eps
        order = order_of(system.space)
        lower, upper = self._widths(like.size, order is not None)
        matrix = system.shared(self, lambda: _matrix(system, lower, upper))

        def many(matrix: Matrix, bs: Array) -> Solution:
            B = bs.reshape(len(bs), -1).T
            B = B if order is None else B[order]
            X, status = _solved(matrix, lower, B, eps, transpose)
            X = X if order is None else jnp.zeros_like(X).at[order].set(X, unique_indices=True)
            steps = jnp.full(status.shape, lower + upper + 1, jnp.int32)
            return Solution(X.T.reshape(bs.shape), status, steps)

        def single(matrix: Matrix, b: Array) -> Solution:
            return jax.tree.map(lambda leaf: leaf[0], many(matrix, b[None]))

        solver = batchable(single, many)
        return lambda b, atol: solver(matrix, b.reshape(like.shape))

    def _widths(self, n: int, is_complex: bool) -> tuple[int, int]:
        """The diagonals below and above the main one of the matrix on n real unknowns."""
        widths = [2 * width + 1 if is_complex else width for width in (self.lower, self.upper)]
        return min(widths[0], n - 1), min(widths[1], n - 1)


class Tridiagonal(NamedTuple):
    """A matrix with one diagonal on either side, at least three rows long: libraries eliminate it at each solve."""

    below: Float[Array, " m"]
    main: Float[Array, " m"]
    above: Float[Array, " m"]

    def solve(self, B: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """A^-1 B."""
        padded = jnp.pad(B, ((0, len(self.main) - len(B)), (0, 0)))
        return linalg.tridiagonal_solve(*self, padded)[: len(B)]


def tridiagonal(entries: Float[Array, "d n"], lower: int) -> Tridiagonal:
    """The matrix of these diagonals, of which there are at most one on either side."""
    count, n = entries.shape
    below, main, above = jnp.pad(entries, ((1 - lower, 1 - (count - 1 - lower)), (0, max(0, 3 - n))))
    return Tridiagonal(below, main.at[n:].set(1), above)


class Matrix(NamedTuple):
    """A band matrix with its factors.

    Attributes:
        scaled: the matrix, after rows and columns were scaled.
        factors: those of the scaled matrix.
        status: what is known before a right-hand side is.
    """

    scaled: Scaled
    factors: Tridiagonal | Panels
    status: Int[Array, ""]


def _matrix(system: "System", lower: int, upper: int) -> Matrix:
    """Read the diagonals off products with A, make sure that they are all of A, and factorise."""
    like, eps = system.right, system.space.eps
    order = order_of(system.space)
    n = like.size

    def product(v: Array) -> Array:
        """A v for vectors in the order of the band."""
        if order is None:
            return system.product(v.reshape(like.shape)).ravel()
        return system.product(jnp.zeros_like(v).at[order].set(v, unique_indices=True)).ravel()[order]

    vector = varying(jnp.zeros(n, like.dtype), axes_of(like))
    count = min(lower + upper + 1, n)
    shown = coloured(product, vector, jnp.arange(n, dtype=jnp.int32) % count, count)
    entries = read(shown, lower, upper).astype(jax.dtypes.canonicalize_dtype(jnp.float64))
    matrix = scaled(entries, lower)
    finite = jnp.isfinite(largest(entries))
    # One vector in which each column counts alike, and one in the units given, since an entry outside of the band may
    # be in a column whose other entries are huge.
    probes = [scattered(vector, 0) * matrix.columns.astype(like.dtype), scattered(vector, 1)]
    images = jnp.stack([product(v) for v in probes], axis=1)
    sent = jnp.stack(probes, axis=1).astype(entries.dtype)
    off = jnp.abs(times(entries, lower, sent) - images)
    outside = ~jnp.all(off <= 1e4 * eps * times(jnp.abs(entries), lower, jnp.abs(sent)))
    status = first(
        failed_if(~finite | ~jnp.isfinite(largest(images)), NOT_FINITE),
        failed_if(outside, OUTSIDE),
    )
    factorise = tridiagonal if max(lower, upper) <= 1 else panels
    return jax.tree.map(lax.stop_gradient, Matrix(matrix, factorise(matrix.entries, lower), status))


def _solved(
    matrix: Matrix, lower: int, B: Float[Array, "n k"], eps: float, transpose: bool
) -> tuple[Float[Array, "n k"], Status]:
    """Solve A X = B, or A' X = B, for k right-hand sides; a status for each. The bound is that of `_dense`."""
    (entries, rows, columns), factors = matrix.scaled, matrix.factors
    if transpose:
        lower, rows, columns, entries = len(entries) - 1 - lower, columns, rows, transposed(entries, lower)
    fine = entries.dtype
    # Of the rounding of entries in a coarser dtype, see `_dense.solve_columns`.
    noise = eps / 4 if float(jnp.finfo(fine).eps) < eps else eps
    limit = max(LARGEST_ERROR, 16 * eps)
    right = B.astype(fine) * rows[:, None]

    def solve(right: Array) -> Array:
        if transpose:
            return jax.linear_transpose(factors.solve, right)(right)[0]
        return factors.solve(right)

    X = solve(right)
    for _ in range(1 if isinstance(factors, Tridiagonal) else 2):
        X = X + solve(right - times(entries, lower, X))
    # The error is to be small beside x in the units given, and in those that make the columns of A equally long.
    found = X * columns[:, None]
    top = largest(found, axis=0, keepdims=True)
    limits = limit * jnp.where(top > 0, jnp.minimum(top / columns[:, None], largest(X, axis=0, keepdims=True)), 1)

    def bounded(weights: Array, limits: Array) -> Array:
        """Whether |A^-1| weights <= limits, from solutions for weights with signs that follow no pattern."""
        signs = jnp.sign(scattered(jnp.broadcast_to(weights[:, None], (len(weights), PROBES))))
        moved = solve(weights[:, None] * signs) / limits[:, None]
        return jnp.all(MARGIN**2 * jnp.mean(moved**2, axis=1) <= 1)

    def weights() -> Array:
        size = times(jnp.abs(entries), lower, jnp.abs(X))
        return jnp.abs(right - times(entries, lower, X)) + noise * (size + jnp.abs(right))

    if B.shape[1] == 1:
        trusted = bounded(weights()[:, 0], limits[:, 0])[None]
    else:
        # One bound for all, since |b| <= |A| |x|; only where it fails each is looked at by itself.
        least = jnp.min(limits / jnp.where(top > 0, largest(X, axis=0, keepdims=True), 1), axis=1)
        sure = bounded(2 * noise * jnp.sum(jnp.abs(entries), axis=0), least)

        def each(_: tuple) -> tuple[Array, Array]:
            return lax.map(lambda pair: bounded(*pair), (weights().T, limits.T)), jnp.array(True)

        trusted, _ = while_loop(lambda state: ~state[1], each, (jnp.broadcast_to(sure, B.shape[1]), sure))
    status = first(jnp.broadcast_to(matrix.status, B.shape[1]), failed_if(~trusted, SINGULAR))
    return found.astype(B.dtype), status
