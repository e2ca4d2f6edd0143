"""Whether a solution of A x = b is to be trusted, where A is known by products alone."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._failure import NOT_CONVERGED, Status, failed_if
from ._largest import largest, safe_norm
from .krylov._cycle import LARGEST_GROWTH, Product, rounding_unit, row_norms


def check(product: Product, x: Array, b: Array, eps: float, rtol: float | None, atol: Array | float) -> Status:
    """The status of a solution, from its true residual r = b - A x.

    With a tolerance, that is what was asked for. Without one, the solution is as good as that of a direct solver:
    either r is far below b, or the normwise backward error ||r|| / (||A|| ||x|| + ||b||) is of rounding size. And each
    row is satisfied in its own scale, |r_i| <= sqrt(eps) (||A_i|| ||x|| + |b_i|): equations in small units count.
    """
    r = b - product(x)
    if rtol is not None:
        return failed_if(~(safe_norm(r) <= jnp.maximum(rtol * safe_norm(b), atol)), NOT_CONVERGED)
    rows = row_norms(product, b)
    backward = 5 * rounding_unit(eps) * (least_norm(rows) * safe_norm(x) + safe_norm(b))
    grown = LARGEST_GROWTH * eps * least_norm(rows) * safe_norm(x) > safe_norm(b)
    small = (safe_norm(r) <= eps**0.5 * safe_norm(b)) | ((safe_norm(r) <= backward) & ~grown) | (safe_norm(r) <= atol)
    return failed_if(~(small & by_row(r, rows, x, b, eps)), NOT_CONVERGED)


def by_row(r: Array, rows: Array, x: Array, b: Array, eps: float) -> Array:
    """Whether each row of A x = b holds in its own scale."""
    return jnp.all(jnp.abs(r) <= eps**0.5 * (rows * safe_norm(x) + jnp.abs(b)))


def least_norm(rows: Array) -> Float[Array, ""]:
    """A lower bound of ||A||, from the norms of its rows.

    It is the root mean square of the singular values, or the longest row, whose estimate may be three times too long.
    """
    return jnp.maximum(safe_norm(rows) / rows.size**0.5, largest(rows) / 3)
