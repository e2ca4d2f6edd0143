"""Direct solves of small systems: factorise once, and know when the matrix is singular."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg
from jaxtyping import Array, Float

from ._failure import NOT_AS_DECLARED, NOT_FINITE, OK, SINGULAR, Status, failed_if, first

# Smallest pivot, relative to the terms it is the difference of, in units of rounding. A pivot of k units has a
# relative error of about 4 / k, and so have solutions: below 400 they may be wrong by 1 % and more.
SMALLEST_PIVOT = 400
# Each takes the error of a solution in float32 down by the condition number times 1e-7, or more.
REFINEMENTS = 2


def smallest_pivot(eps: float) -> float:
    """The relative size below which a pivot is noise; lenient in half precision, where nothing is certain to 1 %."""
    return min(SMALLEST_PIVOT * eps, 0.05)


class Factors(NamedTuple):
    """LU factors of the transpose of a matrix, or its Cholesky factor, and whether they are to be trusted.

    The transpose, because reverse mode solves with it, and there is one scatter less in that direction.
    """

    triangle: Float[Array, "n n"]
    permutation: Array | None
    status: Status
    # A itself, in float32 on a platform with float64.
    refinable: Float[Array, "n n"] | None = None

    def solve(self, b: Float[Array, " n"], transpose: bool = False) -> Float[Array, " n"]:
        """Solve A x = b, or A' x = b."""
        x = self.solve_columns(b[:, None], transpose)[:, 0]
        if self.refinable is None:
            return x
        # Iterative refinement with residuals in float64: the error is then that of A and of b, no longer the condition
        # number times the rounding unit of float32 (Higham, "Accuracy and Stability of Numerical Algorithms", 12).
        A = self.refinable.T if transpose else self.refinable
        fine = x.astype(jnp.float64)
        for _ in range(REFINEMENTS):
            residual = b - jnp.matmul(A.astype(jnp.float64), fine, precision=lax.Precision.HIGHEST)
            fine = fine + self.solve_columns(residual.astype(x.dtype)[:, None], transpose)[:, 0]
        return fine.astype(x.dtype)

    def solve_columns(self, column: Float[Array, "n k"], transpose: bool = False) -> Float[Array, "n k"]:
        """Solve for several right-hand sides at once."""
        if self.permutation is None:
            column = linalg.triangular_solve(self.triangle, column, left_side=True, lower=True)
            return linalg.triangular_solve(self.triangle, column, left_side=True, lower=True, transpose_a=True)
        lower = dict(left_side=True, lower=True, unit_diagonal=True, transpose_a=not transpose)
        upper = dict(left_side=True, lower=False, transpose_a=not transpose)
        if transpose:  # P A' = L U
            column = linalg.triangular_solve(self.triangle, column[self.permutation], **lower)
            return linalg.triangular_solve(self.triangle, column, **upper)
        column = linalg.triangular_solve(self.triangle, column, **upper)  # A = U' L' P
        column = linalg.triangular_solve(self.triangle, column, **lower)
        return jnp.zeros_like(column).at[self.permutation].set(column, unique_indices=True)


# The checks below are one or two reductions each and read no diagonal, because every kernel costs compile time.


def cholesky(A: Float[Array, "n n"], eps: float) -> Factors:
    """Factorise a symmetric positive definite matrix, A = L L'."""
    L = linalg.cholesky(A, symmetrize_input=False)
    row, column = _indices(A)
    # |A_ij| <= sqrt(A_ii A_jj): what A - A' is to be small beside, in any scaling.
    diagonal = jnp.sum(jnp.where(row == column, jnp.abs(A), 0), axis=1)
    asymmetric = jnp.abs(A - A.T) > eps**0.5 * jnp.sqrt(diagonal[:, None] * diagonal)
    # L_ii^2 = A_ii - sum_k L_ik^2: what is left of A_ii. NaN where A is not definite.
    pivot = L * L
    codes = jnp.where(
        row == column,
        jnp.where(jnp.isnan(pivot), NOT_AS_DECLARED, jnp.where(pivot > smallest_pivot(eps) * A, OK, SINGULAR)),
        jnp.where(asymmetric, NOT_AS_DECLARED, OK),
    )
    status = jnp.max(jnp.where(jnp.isfinite(A), codes, NOT_FINITE).astype(jnp.int32))
    return probed(Factors(L, None, status), A, eps)


def lu(A: Float[Array, "n n"], eps: float, shift: Array | int = 0) -> Factors:
    """Factorise the transpose of any square matrix with partial pivoting, P A' = L U.

    `shift` is 0. In a loop that may not run at all it is made from the loop's state: XLA would otherwise compute the
    comparisons of indices below before the loop, for nothing and in the time of many products.
    """
    triangle, _, permutation = linalg.lu(A.T)
    row, column = (index + shift for index in _indices(A))
    # U_ii = (P A')_ii - sum_{k<i} L_ik U_ki: a pivot that is only rounding noise is small beside the terms of that
    # sum. The comparison does not change when rows or columns of A are scaled.
    least = smallest_pivot(eps)
    terms = jnp.where(row > column, -least * jnp.abs(triangle * triangle.T), 0)
    margins = jnp.sum(jnp.where(row == column, (1 - least) * jnp.abs(triangle), terms), axis=1)
    codes = jnp.where(margins > 0, OK, jnp.where(jnp.isnan(margins), NOT_FINITE, SINGULAR))
    return probed(Factors(triangle, permutation, jnp.max(codes.astype(jnp.int32))), A, eps)


def _indices(A: Array) -> tuple[Array, Array]:
    """Row and column of each entry."""
    return lax.broadcasted_iota(jnp.int32, A.shape, 0), lax.broadcasted_iota(jnp.int32, A.shape, 1)


def probed(factors: Factors, A: Float[Array, "n n"], eps: float) -> Factors:
    """Solve for vectors that are known, and refuse factors that do not bring them back.

    In float32 a condition number of 1e5 is enough for errors of a percent, and the pivots need not show it. The error
    may lie along one direction only and be small by luck: hence several vectors. In float64 the pivots do show it, and
    the solve is saved; in half precision nothing would pass.
    """
    if not 1e-12 < eps < 1e-3:
        return factors
    number = jnp.arange(1, A.shape[0] + 1, dtype=A.dtype)
    known = jnp.cos(jnp.outer(number**2, jnp.arange(1, 5, dtype=A.dtype) ** 0.5))
    error = factors.solve_columns(A @ known) - known
    # Four columns of length sqrt(n / 2) each.
    relative = jnp.sqrt(jnp.max(jnp.sum(error**2, axis=0)) / (A.shape[0] / 2))
    status = first(factors.status, failed_if(~(relative < 3e-3), SINGULAR))
    refinable = A.dtype == jnp.float32 and jax.dtypes.canonicalize_dtype(float) == jnp.float64
    return factors._replace(status=status, refinable=A if refinable else None)
