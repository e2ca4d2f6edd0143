"""The entries of A, from products with A and A'."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .._varying import axes_of, scattered, varying
from ._detection import REMEDY

if TYPE_CHECKING:
    from .._linear import System
    from ._pattern import Pattern

# Beyond so many numbers the products are made one after the other, in the memory of one.
AT_ONCE = 2**25
# More products than this, in numbers, would not fit into memory.
LARGEST = 2**29


def products(system: "System", pattern: "Pattern") -> Array:
    """The products that show all entries, (products, n): first those with A, then those with A'.

    Raises:
        ValueError: the pattern is of another size, or has no colouring with few colours.
    """
    n, colours = system.space.size, pattern.colours
    if pattern.n != n:
        raise ValueError(f"The pattern is of {pattern.n} unknowns, but x has {n} (a complex one counts as two).")
    if colours.products * n > LARGEST or (n > 2000 and colours.products > n // 4):
        raise ValueError(
            f"The Jacobian, {pattern}, is not sparse enough: to read its entries takes {colours.products} products "
            f"with it. {REMEDY}"
        )
    like = system.right
    parts = []
    if colours.forward:
        parts.append(coloured(system.product, like, colours.columns, colours.forward))
    if colours.reverse:

        def transposed(v: Array) -> Array:
            return jax.linear_transpose(system.product, like)(v)[0]

        parts.append(coloured(transposed, like, colours.rows, colours.reverse))
    shown = jnp.concatenate(parts) if parts else jnp.zeros((0, n), like.dtype)
    return lax.stop_gradient(shown)


def coloured(product: Callable[[Array], Array], like: Array, colours: np.ndarray | Array, count: int) -> Array:
    """The products of a matrix with the sums of all unit vectors of one colour, (colours, n).

    Args:
        product: v -> A v on arrays like `like`.
        like: an array with one entry for each unknown.
        colours: that of each unknown, an integer below `count`.
        count: the number of colours.
    """
    # Behind a barrier, or XLA would compute these vectors when it compiles.
    colour = lax.optimization_barrier(jnp.asarray(colours))

    def one(c: Array) -> Array:
        seed = (colour == c).astype(like.dtype).reshape(like.shape)
        return product(varying(seed, axes_of(like))).ravel()

    each = jnp.arange(count, dtype=jnp.int32)
    return jax.vmap(one)(each) if count * like.size <= AT_ONCE else lax.map(one, each)


def probe(like: Array, sizes: Array) -> Array:
    """A vector without a pattern, scaled by `sizes` so that each column of A counts in the product with it."""
    return (scattered(like) * sizes.reshape(like.shape)).astype(like.dtype)
