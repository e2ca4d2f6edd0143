"""The least-squares solution of a linear system that may be singular."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .._largest import power_of_two
from .._precision import full_precision
from .._varying import fori_loop, while_loop

# Each round halves the differences in size between rows and between columns, on a logarithmic scale.
ROUNDS = 10


@full_precision
def least_squares(matvec: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
    """The x of least norm that minimises |A x - b|, by a factorisation, or by an SVD where A is singular.

    The norms are those of the scaled system R A C, in which the largest entry of every row and column is about 1. In
    the original units, one variable in millimetres and another in kilometres would make A look singular.

    Args:
        matvec: x -> A x, A square.
        b: right-hand side.

    Returns:
        x, a pytree like b; NaN if A is not finite.
    """
    flat, unravel = ravel_pytree(b)
    A = jax.vmap(lambda e: ravel_pytree(matvec(unravel(e)))[0])(jnp.eye(flat.size, dtype=flat.dtype)).T
    eps = jnp.finfo(flat.dtype).eps
    finite = jnp.all(jnp.isfinite(A))
    rows, columns = equilibrate(A)
    A, flat = rows[:, None] * A * columns, rows * flat
    factors, pivots = jax.scipy.linalg.lu_factor(A)
    diagonal = jnp.abs(jnp.diagonal(factors))
    regular = jnp.min(diagonal) > 1e3 * eps * jnp.max(diagonal)
    direct = jax.scipy.linalg.lu_solve((factors, pivots), flat)

    def by_svd(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, matrix = state
        U, sizes, Vt = jnp.linalg.svd(matrix)
        kept = sizes > 1e4 * eps * sizes[0]
        x = Vt.T @ jnp.where(kept, (U.T @ flat) / jnp.where(kept, sizes, 1.0), 0.0)
        return x, jnp.full_like(matrix, jnp.nan)

    # A loop that runs at most once: lax.cond would decompose every matrix of a batch even if none is singular.
    x, _ = while_loop(lambda state: ~regular & finite & ~jnp.isnan(state[1][0, 0]), by_svd, (direct, A))
    return unravel(jnp.where(finite, columns * x, jnp.nan))


def equilibrate(A: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Powers of two R and C such that the largest entry of each row and column of R A C is about 1 (Ruiz 2001).

    Rows and columns are scaled at the same time, so that the transpose of A is scaled by C and R.
    """

    def halve(_: int, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, columns = scales
        sizes = jnp.abs(A) * rows[:, None] * columns

        def root(size: Array) -> Array:
            usable = (size > 0) & jnp.isfinite(size)
            return power_of_two(jnp.sqrt(jnp.where(usable, size, 1.0)))

        return rows * root(jnp.max(sizes, 1)), columns * root(jnp.max(sizes, 0))

    ones = jnp.ones(A.shape[0], A.dtype)
    return fori_loop(0, ROUNDS, halve, (ones, ones))
