"""The least-squares solution of a linear system that may be singular."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree


def least_squares(matvec: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
    """The x of least norm among those with the smallest |A x - b|, by a factorisation or, where A is singular, its SVD.

    Args:
        matvec: x -> A x, A square.
        b: right-hand side.

    Returns:
        x, a pytree like b; NaN where A is not finite.
    """
    flat, unravel = ravel_pytree(b)
    A = jax.vmap(lambda e: ravel_pytree(matvec(unravel(e)))[0])(jnp.eye(flat.size, dtype=flat.dtype)).T
    eps = jnp.finfo(flat.dtype).eps
    factors, pivots = jax.scipy.linalg.lu_factor(A)
    diagonal = jnp.abs(jnp.diagonal(factors))
    regular = jnp.min(diagonal) > 1e3 * eps * jnp.max(diagonal)
    direct = jax.scipy.linalg.lu_solve((factors, pivots), flat)

    def by_svd(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, rows = state
        U, sizes, Vt = jnp.linalg.svd(rows)
        kept = sizes > 1e4 * eps * sizes[0]
        x = Vt.T @ jnp.where(kept, (U.T @ flat) / jnp.where(kept, sizes, 1.0), 0.0)
        return x, jnp.full_like(rows, jnp.nan)

    # At most once: unlike lax.cond this does not decompose every matrix of a batch, if none is singular.
    finite = jnp.all(jnp.isfinite(A))
    x, _ = lax.while_loop(lambda state: ~regular & finite & ~jnp.isnan(state[1][0, 0]), by_svd, (direct, A))
    return unravel(jnp.where(finite, x, jnp.nan))
