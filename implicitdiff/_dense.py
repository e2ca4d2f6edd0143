"""Direct solves: factorise once, and bound the error of every solution.

The bound is the textbook one (Higham, "Accuracy and Stability of Numerical Algorithms", chapters 7, 14 and 15; LAPACK's
gerfs). A computed solution x of A x = b whose residual is r = b - A x solves a system in which every row is off by no
more than |r| and the rounding of its own terms, so that

    |x - A^-1 b|  <=  |A^-1| (|r| + eps (|A| |x| + |b|)).

It does not change when rows of A are scaled, and sees b and x: a badly scaled system is solved, while one that is
singular, or singular up to rounding, is not, whatever b is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg
from jaxtyping import Array, Bool, Float

from ._failure import NOT_AS_DECLARED, NOT_FINITE, OK, SINGULAR, Status, failed_if, first
from ._largest import largest
from ._varying import scattered, while_loop

# The largest bound of a relative error that passes.
LARGEST_ERROR = 1e-2
# Up to this size the matrix is inverted, and the bound is one.
INVERSE_SIZE = 128
# Beyond, so many solutions tell how far x moves when rows are off by their bounds with any signs (Kenney and Laub,
# "Small-sample statistical condition estimates", 1994). Rounding errors of one sign in all rows could move it farther,
# by less than the margin.
PROBES = 8
MARGIN = 10


class Inverse(NamedTuple):
    """A small matrix with its inverse, of which the columns are as good as solutions with the unit vectors.

    Attributes:
        A: the matrix itself.
        inverse: that of A, up to rounding; solutions made with it are refined.
        noise: the relative error of the entries: rounding, and the part of A that is not symmetric.
        status: what is known before a right-hand side is.
    """

    A: Float[Array, "n n"]
    inverse: Float[Array, "n n"]
    noise: Float[Array, ""] | float
    status: Status | int

    def solve(self, B: Float[Array, "n k"], transpose: bool = False) -> Float[Array, "n k"]:
        """Solve A X = B, or A' X = B."""
        return times(self.inverse.T if transpose else self.inverse, B)


class Factors(NamedTuple):
    """A matrix with its triangular factors.

    Attributes:
        A: the matrix itself.
        triangle: of P A' = L U both factors, or the L of A = L L'.
        permutation: P, or None for a Cholesky factor.
        noise: the relative error of the entries: rounding, and the part of A that is not symmetric.
        status: what is known before a right-hand side is.
    """

    A: Float[Array, "n n"]
    triangle: Float[Array, "n n"]
    permutation: Array | None
    noise: Float[Array, ""] | float
    status: Status | int

    def solve(self, B: Float[Array, "n k"], transpose: bool = False) -> Float[Array, "n k"]:
        """Solve A X = B, or A' X = B."""
        if self.permutation is None:
            return _by_cholesky(self.triangle, B)
        lower = dict(left_side=True, lower=True, unit_diagonal=True, transpose_a=not transpose)
        upper = dict(left_side=True, lower=False, transpose_a=not transpose)
        if transpose:  # P A' = L U
            B = linalg.triangular_solve(self.triangle, B[self.permutation], **lower)
            return linalg.triangular_solve(self.triangle, B, **upper)
        B = linalg.triangular_solve(self.triangle, B, **upper)  # A = U' L' P
        B = linalg.triangular_solve(self.triangle, B, **lower)
        return jnp.zeros_like(B).at[self.permutation].set(B, unique_indices=True)


def lu(A: Float[Array, "n n"], eps: float) -> Inverse | Factors:
    """Factorise any square matrix with partial pivoting; up to `INVERSE_SIZE`, invert it."""
    if len(A) <= INVERSE_SIZE:
        return Inverse(A, lax.platform_dependent(A, cpu=_inverse, default=_inverse_of_batches), eps, OK)
    # The transpose is factorised, because reverse mode solves with it, and there is one scatter less in that direction.
    return Factors(A, *_triangles(A), eps, OK)


def _triangles(A: Float[Array, "n n"]) -> tuple[Array, Array]:
    triangle, _, permutation = linalg.lu(A.T)
    return triangle, permutation


def _inverse(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse, by Gaussian elimination of [A, I].

    Thus nobody asks for the permutation, of which XLA makes a loop with half a dozen kernels to compile.
    """
    n = len(A)
    eliminated, _, _ = linalg.lu(jnp.concatenate([A, jnp.eye(n, dtype=A.dtype)], axis=1))
    return linalg.triangular_solve(eliminated[:, :n], eliminated[:, n:], left_side=True, lower=False)


def _inverse_of_batches(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The same where it may be one matrix of a batch: accelerators factorise them at once only if they are square."""
    return Factors(A, *_triangles(A), 0, OK).solve(jnp.eye(len(A), dtype=A.dtype))


def cholesky(A: Float[Array, "n n"], eps: float) -> Inverse | Factors:
    """Factorise a symmetric positive definite matrix, A = L L'; up to `INVERSE_SIZE`, invert it."""
    # |A_ij| <= sqrt(A_ii A_jj): what A - A' is to be small beside, in any units.
    diagonal = jnp.sqrt(jnp.abs(jnp.diagonal(A)))
    asymmetry = largest((A - A.T) / (diagonal[:, None] * diagonal[None] + jnp.finfo(A.dtype).tiny))
    L = linalg.cholesky(A, symmetrize_input=False)
    definite = jnp.isfinite(L[-1, -1]) & (asymmetry <= eps**0.5)  # a failed factorisation is NaN throughout
    noise, status = eps + asymmetry, failed_if(~definite, NOT_AS_DECLARED)
    if len(A) <= INVERSE_SIZE:
        return Inverse(A, _by_cholesky(L, jnp.eye(len(A), dtype=A.dtype)), noise, status)
    return Factors(A, L, None, noise, status)


def _by_cholesky(L: Float[Array, "n n"], B: Float[Array, "n k"]) -> Float[Array, "n k"]:
    B = linalg.triangular_solve(L, B, left_side=True, lower=True)
    return linalg.triangular_solve(L, B, left_side=True, lower=True, transpose_a=True)


# The checks below are few and wide reductions: every kernel costs compile time, which users feel before anything else.


def solve_columns(
    factors: Inverse | Factors, B: Float[Array, "n k"], eps: float, transpose: bool = False
) -> tuple[Float[Array, "n k"], Status]:
    """Solve A X = B, or A' X = B, for k right-hand sides; a status for each.

    In float32 on a platform with float64 the solutions are refined with residuals in float64: the error is then that of
    A and of B, no longer the condition number times the rounding unit of float32 (Higham, chapter 12).
    """
    n, k = B.shape
    A = factors.A.T if transpose else factors.A
    fine = jax.dtypes.canonicalize_dtype(jnp.float64) if A.dtype == jnp.float32 else A.dtype
    X = factors.solve(B, transpose).astype(fine)
    # A product with the inverse is to be refined as well: it is not backward stable.
    for _ in range(2 if fine != A.dtype else int(isinstance(factors, Inverse))):
        X = X + factors.solve((B - times(A.astype(fine), X)).astype(A.dtype), transpose)
    # Refined, the residual is known beyond the precision of A: what is left is the rounding of the entries of A, of
    # eps / 2 at most, which does not conspire.
    noise = eps / 4 if fine != A.dtype else factors.noise
    # The error is to be small beside x in the units given, and in those that make the columns of A equally long. Half
    # precision has no digits for the usual limit.
    lengths = largest(A, axis=0)
    limit = max(LARGEST_ERROR, 16 * eps)

    def weights() -> Array:
        """What each row may be off by."""
        if isinstance(factors, Inverse):
            terms = A.astype(fine)[:, :, None] * X[None]
            total, size = jnp.sum(jnp.stack([terms, jnp.abs(terms)]), axis=2)
        else:
            total, size = times(A.astype(fine), X), times(jnp.abs(A).astype(fine), jnp.abs(X))
        return (jnp.abs(B - total) + noise * (size + jnp.abs(B))).astype(A.dtype)

    def small(error: Array) -> Array:
        """Whether the errors of the columns of X are within the limit."""
        scales = jnp.stack([jnp.ones_like(lengths), lengths])
        sizes = largest(jnp.stack([error, X])[None] * scales[:, None, :, None], axis=2)
        return jnp.all(sizes[:, 0] <= limit * sizes[:, 1], axis=0)

    def bounded(w: Array, limits: Array) -> Array:
        """Whether |A^-1| w <= limits, from solutions for w with signs that follow no pattern."""
        signs = jnp.sign(scattered(jnp.broadcast_to(w[:, None], (n, PROBES))))
        moved = factors.solve(w[:, None] * signs, transpose)
        # Relative to the limits, or the squares would leave the range of float32 where A is in small units.
        return jnp.all(MARGIN**2 * jnp.mean((moved / limits[:, None]) ** 2, axis=1) <= 1)

    if isinstance(factors, Inverse):
        inverse = factors.inverse.T if transpose else factors.inverse
        trusted = small(jnp.sum(jnp.abs(inverse)[:, :, None] * weights()[None], axis=1))
    else:
        size = largest(X, axis=0, keepdims=True)
        scaled = largest(X * lengths[:, None], axis=0, keepdims=True) / lengths[:, None]
        limits = (limit * jnp.where(size > 0, jnp.minimum(size, scaled), 1)).astype(A.dtype)
        if k == 1:
            trusted = bounded(weights()[:, 0], limits[:, 0])[None]
        else:
            # One bound for all, since |b| <= |A| |x|; only where it fails each is looked at by itself.
            least = jnp.min(limits / jnp.where(size > 0, size, 1), axis=1).astype(A.dtype)
            sure = bounded((2 * noise * jnp.sum(jnp.abs(A), axis=1)).astype(A.dtype), least)

            def each(_):
                return jax.vmap(bounded, in_axes=1)(weights(), limits), jnp.array(True)

            trusted, _ = while_loop(lambda state: ~state[1], each, (jnp.broadcast_to(sure, k), sure))
    finite = failed_if(~jnp.all(jnp.isfinite(lengths)), NOT_FINITE)
    status = first(finite, jnp.asarray(factors.status, jnp.int32))
    return X.astype(B.dtype), first(jnp.broadcast_to(status, k), failed_if(~trusted, SINGULAR))


def least_squares(
    A: Float[Array, "n n"], B: Float[Array, "n k"], eps: float
) -> tuple[Float[Array, "n k"], Bool[Array, " k"]]:
    """The solutions of least norm of A X = B with a singular A, and for which columns they are solutions.

    They are where b has only rounding noise along the directions that A maps nothing to, and where a gap separates
    these directions from the others: the singular values of a matrix that is only ill-conditioned fall without one.
    """
    U, sizes, Vt = linalg.svd(A)
    rounding = 4 * max(len(A) / 16, 1) ** 0.5 * eps * sizes[0]
    kept = (sizes > rounding)[:, None]
    coordinates = times(U.T, B)
    Y = jnp.where(kept, coordinates / jnp.where(kept, sizes[:, None], 1), 0)
    blurred = kept & (sizes <= rounding * eps**-0.25)[:, None]
    left = jnp.where(kept, jnp.where(blurred, jnp.inf, 0), coordinates)
    size, total, rest = largest(jnp.stack([Y, coordinates, left]), axis=1)
    # What A makes of noise in B and in A itself, beside what of B is left.
    return times(Vt.T, Y), rest <= 100 * (rounding * size + rounding / sizes[0] * total)


def times(A: Float[Array, "n m"], B: Float[Array, "m k"]) -> Float[Array, "n k"]:
    """A B, in full precision."""
    if B.shape[1] == 1 and A.size <= INVERSE_SIZE**2:
        return jnp.sum(A * B.T, axis=1, keepdims=True)  # half as long to compile as a product
    return jnp.matmul(A, B, precision=lax.Precision.HIGHEST)
