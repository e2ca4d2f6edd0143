"""Extreme singular values of linear maps: from the matrix if it is small, otherwise by Lanczos steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._precision import full_precision
from .._varying import fori_loop, scattered

# With up to this many columns, the matrix of a map is formed.
FORMED_SIZE = 600
# Otherwise, this number of Golub-Kahan steps gives the extreme singular values to a few digits, from inside.
LANCZOS_STEPS = 40

Map = Callable[[Array], Array]


def noise(seed: int, shape: tuple[int, ...], dtype) -> Array:
    """Pseudo-random numbers in [-1, 1) of which none is 0, the same at each call."""
    numbers = scattered(jnp.zeros(shape, dtype), seed)
    return jnp.where(numbers == 0, 1, numbers)


def matrix(product: Map, columns: int, dtype) -> Float[Array, "m n"]:
    """The matrix of a linear map."""
    return jax.vmap(product, out_axes=1)(jnp.eye(columns, dtype=dtype))


def largest(product: Map, transposed: Map, rows: int, columns: int, dtype) -> Float[Array, ""]:
    """The largest singular value; beyond `FORMED_SIZE`, an estimate from below."""
    if min(rows, columns) == 0:
        return jnp.zeros((), dtype)
    if min(rows, columns) <= FORMED_SIZE:
        formed = matrix(product, columns, dtype) if columns <= rows else matrix(transposed, rows, dtype)
        return jnp.linalg.norm(formed, 2)
    return bidiagonal(product, transposed, columns, dtype)[0]


def frobenius(product: Map, transposed: Map, rows: int, columns: int, dtype) -> Float[Array, ""]:
    """The Frobenius norm; beyond `FORMED_SIZE` an estimate from random vectors."""
    if min(rows, columns) == 0:
        return jnp.zeros((), dtype)
    if min(rows, columns) <= FORMED_SIZE:
        formed = matrix(product, columns, dtype) if columns <= rows else matrix(transposed, rows, dtype)
        return jnp.linalg.norm(formed)
    probes = jnp.sign(noise(0, (LANCZOS_STEPS, columns), dtype))
    return jnp.linalg.norm(jax.vmap(product)(probes)) / jnp.sqrt(LANCZOS_STEPS).astype(dtype)


@full_precision
def bidiagonal(product: Map, transposed: Map, columns: int, dtype, steps: int = LANCZOS_STEPS) -> Array:
    """Approximate singular values, largest first, by Golub-Kahan bidiagonalisation with full orthogonalisation.

    Source: Golub, Kahan, "Calculating the singular values and pseudo-inverse of a matrix", 1965.
    """
    steps = min(steps, columns)
    start = noise(1, (columns,), dtype)
    V = jnp.zeros((steps + 1, columns), dtype).at[0].set(start / jnp.linalg.norm(start))
    first = product(V[0])
    U = jnp.zeros((steps, first.size), dtype)

    def orthogonal(basis, w):
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        size = jnp.linalg.norm(w)
        return w / jnp.where(size > 0, size, 1), size

    def step(k, state):
        U, V, bands = state
        u, alpha = orthogonal(U, product(V[k]))
        U = U.at[k].set(u)
        v, beta = orthogonal(V, transposed(u))
        return U, V.at[k + 1].set(v), bands.at[k].set(jnp.stack([alpha, beta]))

    _, _, bands = fori_loop(0, steps, step, (U, V, jnp.zeros((steps, 2), dtype)))
    B = jnp.diag(bands[:, 0]) + jnp.diag(bands[:-1, 1], 1)
    return jnp.linalg.svd(B, compute_uv=False)
