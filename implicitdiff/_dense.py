"""Direct solves: factorise once, and bound the error of every solution.

The bound is the textbook one (Higham, "Accuracy and Stability of Numerical Algorithms", chapters 7, 14 and 15; LAPACK's
gerfs). A computed solution x of A x = b whose residual is r = b - A x solves a system in which every row is off by no
more than |r| and the rounding of its own terms, so that

    |x - A^-1 b|  <=  |A^-1| (|r| + eps (|A| |x| + |b|)).

It does not change when rows of A are scaled, and sees b and x: a badly scaled system is solved, while a singular one, or
one that is singular up to rounding, is not, whatever b is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg
from jaxtyping import Array, Bool, Float

from ._failure import NOT_AS_DECLARED, NOT_FINITE, OK, SINGULAR, Status, failed_if, first
from ._varying import fori_loop, while_loop

# The largest bound of a relative error that passes.
LARGEST_ERROR = 1e-2
# Up to this size the inverse is formed: the bound is then two products.
INVERSE_SIZE = 128
# Beyond, |A^-1| is estimated by this many steps of Hager's method.
ESTIMATES = 3


class Factors(NamedTuple):
    """A matrix, scaled, with its triangular factors.

    With powers of two as `rows` R and `columns` C, the largest entry of each row and column of R A C is about 1.

    Attributes:
        A: the matrix itself.
        rows: R.
        columns: C.
        triangle: of P (R A C)' = L U both factors, or the L of R A C = L L'.
        permutation: P, or None for a Cholesky factor.
        inverse: (R A C)^-1 for small matrices, else None.
        noise: the backward error in units of the largest entries: rounding, and the part of A that is not symmetric.
        status: what is known before a right-hand side is.
    """

    A: Float[Array, "n n"]
    rows: Float[Array, " n"]
    columns: Float[Array, " n"]
    triangle: Float[Array, "n n"]
    permutation: Array | None
    inverse: Float[Array, "n n"] | None
    noise: Float[Array, ""]
    status: Status

    def solve(self, B: Float[Array, "n k"], transpose: bool = False) -> Float[Array, "n k"]:
        """Solve A X = B, or A' X = B."""
        before, after = (self.columns, self.rows) if transpose else (self.rows, self.columns)
        return after[:, None] * self._apply(before[:, None] * B, transpose)

    def _apply(self, B: Array, transpose: bool) -> Array:
        """(R A C)^-1 B, or its transpose times B."""
        if self.inverse is not None:
            return _times(self.inverse.T if transpose else self.inverse, B)
        if self.permutation is None:
            B = linalg.triangular_solve(self.triangle, B, left_side=True, lower=True)
            return linalg.triangular_solve(self.triangle, B, left_side=True, lower=True, transpose_a=True)
        return _by_lu(self.triangle, self.permutation, B, transpose)

    def error(self, weights: Float[Array, " n"], limits: Float[Array, " n"], transpose: bool) -> Float[Array, ""]:
        """The largest of |A^-1| weights / limits, entry by entry, or of |A'^-1| weights / limits."""
        before, after = (self.columns, self.rows) if transpose else (self.rows, self.columns)
        left, right = after / limits, before * weights
        if self.inverse is not None:
            size = jnp.abs(self.inverse.T if transpose else self.inverse)
            return jnp.max(left * _times(size, right[:, None])[:, 0])
        # The largest row sum of M = diag(left) (R A C)^-1 diag(right) is the 1-norm of its transpose.
        return one_norm(
            lambda v: right * self._apply((left * v)[:, None], not transpose)[:, 0],
            lambda v: left * self._apply((right * v)[:, None], transpose)[:, 0],
            right.size,
            right.dtype,
        )


def solve_columns(
    factors: Factors, B: Float[Array, "n k"], eps: float, transpose: bool = False
) -> tuple[Float[Array, "n k"], Status]:
    """Solve for k right-hand sides; a status for each.

    In float32 on a platform with float64, and for small matrices, the solutions are refined: the residual is that of
    the matrix given, not of its factors.
    """
    A = factors.A.T if transpose else factors.A
    fine = jax.dtypes.canonicalize_dtype(jnp.float64) if A.dtype == jnp.float32 else A.dtype
    X = factors.solve(B, transpose).astype(fine)
    refined = factors.inverse is not None or fine != A.dtype

    def residual(X: Array) -> Array:
        return B - _times(A.astype(fine), X)

    for _ in range(2 if fine != A.dtype else 1 if refined else 0):
        X = X + factors.solve(residual(X).astype(A.dtype), transpose)
    # Half precision has no digits for the usual limit.
    limit = max(LARGEST_ERROR, 16 * eps)
    # Refined, the residual is known beyond the precision of A: what is left is the rounding of the entries of A, of
    # eps / 2 at most, which does not conspire.
    noise = eps / 4 if fine != A.dtype else factors.noise
    units = factors.rows if transpose else factors.columns

    def checked(_: Array | None = None) -> Bool[Array, " k"]:
        """Whether the error of each solution is within the limit, from its own residual."""
        magnitude = _times(jnp.abs(A).astype(fine), jnp.abs(X)) + jnp.abs(B)
        weights = (jnp.abs(residual(X)) + noise * magnitude).astype(A.dtype)

        def one(w: Array, x: Array) -> Array:
            # The error is to be small beside x in the units given, and in those in which A is scaled.
            scale = jnp.max(jnp.abs(x))
            scaled = jnp.max(jnp.abs(x) / units) * units
            # 1 where x is 0, so is b, and nothing is in doubt.
            limits = jnp.where(scale > 0, jnp.minimum(scale, scaled), 1)
            return factors.error(w, jnp.where(limits > 0, limits, 1), transpose) <= limit

        return jax.vmap(one, in_axes=1)(weights, X.astype(A.dtype))

    if factors.inverse is not None:
        trusted = checked()
    else:
        # A bound for all right-hand sides at once; only where it fails is each looked at by itself.
        size = noise * jnp.abs(A)
        sure = (factors.error(size @ jnp.ones_like(units), jnp.ones_like(units), transpose) <= limit) & (
            factors.error(size @ units, units, transpose) <= limit
        )
        every = jnp.broadcast_to(sure, B.shape[1:])
        trusted, _ = while_loop(lambda s: ~s[1], lambda s: (checked(), jnp.array(True)), (every, sure | (factors.status != OK)))
    bad = failed_if(~trusted, SINGULAR)
    finite = failed_if(~jnp.all(jnp.isfinite(B), axis=0), NOT_FINITE)
    return X.astype(B.dtype), first(finite, jnp.broadcast_to(factors.status, bad.shape), bad)


def lu(A: Float[Array, "n n"], eps: float) -> Factors:
    """Factorise any square matrix with partial pivoting."""
    rows = power_of_two(jnp.max(jnp.abs(A), axis=1))
    columns = power_of_two(jnp.max(rows[:, None] * jnp.abs(A), axis=0))
    scaled = rows[:, None] * A * columns
    # The transpose is factorised, because reverse mode solves with it, and there is one scatter less in that direction.
    triangle, _, permutation = linalg.lu(scaled.T)
    inverse = None
    if A.shape[0] <= INVERSE_SIZE:
        inverse = _by_lu(triangle, permutation, jnp.eye(A.shape[0], dtype=A.dtype), False)
    finite = jnp.all(jnp.isfinite(A))
    return Factors(A, rows, columns, triangle, permutation, inverse, jnp.asarray(eps, A.dtype), failed_if(~finite, NOT_FINITE))


def cholesky(A: Float[Array, "n n"], eps: float) -> Factors:
    """Factorise a symmetric positive definite matrix, A = L L'."""
    diagonal = jnp.diagonal(A)
    # |A_ij| <= sqrt(A_ii A_jj): what A - A' is to be small beside, in any units.
    scale = power_of_two(jnp.sqrt(jnp.abs(diagonal)))
    scaled = scale[:, None] * A * scale
    asymmetry = jnp.max(jnp.abs(scaled - scaled.T), initial=0)
    L = linalg.cholesky(scaled, symmetrize_input=False)
    inverse = None
    if A.shape[0] <= INVERSE_SIZE:
        half = linalg.triangular_solve(L, jnp.eye(A.shape[0], dtype=A.dtype), left_side=True, lower=True)
        inverse = _times(half.T, half)
    finite = jnp.all(jnp.isfinite(A))
    definite = jnp.all(jnp.isfinite(L)) & (asymmetry <= eps**0.5)
    status = first(failed_if(~finite, NOT_FINITE), failed_if(~definite, NOT_AS_DECLARED))
    return Factors(A, scale, scale, L, None, inverse, eps + asymmetry, status)


def _by_lu(triangle: Array, permutation: Array, B: Array, transpose: bool) -> Array:
    lower = dict(left_side=True, lower=True, unit_diagonal=True, transpose_a=not transpose)
    upper = dict(left_side=True, lower=False, transpose_a=not transpose)
    if transpose:  # P A' = L U
        B = linalg.triangular_solve(triangle, B[permutation], **lower)
        return linalg.triangular_solve(triangle, B, **upper)
    B = linalg.triangular_solve(triangle, B, **upper)  # A = U' L' P
    B = linalg.triangular_solve(triangle, B, **lower)
    return jnp.zeros_like(B).at[permutation].set(B, unique_indices=True)


def least_squares(
    A: Float[Array, "n n"], B: Float[Array, "n k"], eps: float
) -> tuple[Float[Array, "n k"], Bool[Array, " k"]]:
    """The solutions of least norm of A X = B with a singular A, and for which columns they are solutions.

    They are where the residual is of rounding size once the directions are left out that A maps to rounding noise, and
    where a gap separates these from the others: the singular values of a matrix that is only ill-conditioned fall
    without one.

    Rows are brought to one size first, which changes neither the solutions nor their norms.
    """
    n = len(A)
    rows = power_of_two(jnp.max(jnp.abs(A), axis=1))[:, None]
    scaled, right = rows * A, rows * B
    U, sizes, Vt = jnp.linalg.svd(scaled)
    rounding = 4 * max(n / 16, 1) ** 0.5 * eps
    kept = sizes > rounding * sizes[0]
    clear = jnp.all(~kept | (sizes > rounding * eps**-0.25 * sizes[0]))
    X = _times(Vt.T, jnp.where(kept, 1 / jnp.where(kept, sizes, 1), 0)[:, None] * _times(U.T, right))
    residual = jnp.linalg.norm(right - _times(scaled, X), axis=0)
    size = sizes[0] * jnp.linalg.norm(X, axis=0) + jnp.linalg.norm(right, axis=0)
    return X, clear & (residual <= 100 * rounding * size)


def one_norm(product: Callable, transposed: Callable, n: int, dtype) -> Float[Array, ""]:
    """An estimate, from below and nearly always within a factor of 3, of the 1-norm of a linear map on vectors.

    Hager's method in the form of Higham 1988, algorithm 4.1, with a fixed number of steps.
    """
    alternating = (1 + jnp.arange(n, dtype=dtype) / max(n - 1, 1)) * (1 - 2 * (jnp.arange(n) % 2)).astype(dtype)
    least = 2 * jnp.sum(jnp.abs(product(alternating))) / (3 * n)

    def step(_, state):
        v, best = state
        y = product(v)
        w = transposed(jnp.where(y >= 0, 1, -1).astype(dtype))
        largest = jnp.argmax(jnp.abs(w))
        # NaN stays: an estimate that is not finite passes no limit.
        size = jnp.sum(jnp.abs(y))
        best = jnp.where(size > best, size, best) + 0 * size
        return (jnp.arange(n) == largest).astype(dtype), best

    start = jnp.full(n, 1 / n, dtype) + 0 * alternating
    return fori_loop(0, ESTIMATES, step, (start, least))[1]


def power_of_two(size: Float[Array, "..."]) -> Float[Array, "..."]:
    """About 1 / size, as a power of two, so that a product with it is exact; 1 where size is 0 or not finite."""
    usable = (size > 0) & jnp.isfinite(size)
    # Without a mantissa; 1 / size of the smallest and the largest numbers would not be one.
    bounded = jnp.clip(size, 4 * jnp.finfo(size.dtype).tiny, jnp.finfo(size.dtype).max / 4)
    power = lax.reduce_precision(bounded, jnp.finfo(size.dtype).nexp, 0)
    return jnp.where(usable, 1 / power, 1)


def _times(A: Array, B: Array) -> Array:
    return jnp.matmul(A, B, precision=lax.Precision.HIGHEST)
