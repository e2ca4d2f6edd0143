"""Symmetric Krylov methods for A = I - M W with symmetric M and W, as in the conditions of proximal methods.

There W = I - eta H is the Jacobian of the gradient step and M that of the proximal operator. A is not symmetric, but
only what M lets through is unknown: with S = M - M W M, which is symmetric,

    A x = r     is solved by    x = r + M w    with  S w = M W r,

and the residual of S w is that of x. At a minimum S is positive semidefinite; where M is an orthogonal projector it is
eta M H M, as well conditioned as H on the range of M. The right-hand side is orthogonal to the null space of S, which
is that of M. The transposed system leads to the same one: A' u = r is solved by u = r + W x with A x = M r.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._largest import largest
from .._varying import scattered
from ._cycle import Cycle, Krylov, Product


def on_range(method: Krylov, W: Product, M: Product) -> Callable[..., Cycle]:
    """Cycles that solve with A = I - M W by cycles of a symmetric method on S."""

    def S(w: Array) -> Array:
        return M(w - W(M(w)))

    def cycle(product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:
        del product, precondition
        # Rows of S are about as long as those of M. On the simplex, where x is tiny, so are they, and rows of W, which
        # holds the second derivative 1 / x of the mirror map, are as long as those are short: then W tells better,
        # since a short row of M may be all that rounding leaves of an entry near 1.
        of_W, of_M = largest_in_rows(W, r), largest_in_rows(M, r)
        longest = largest(of_M)
        by_W = of_W * longest
        lengths = jnp.where(largest(by_W) > 100, by_W, longest / jnp.where(of_M > 0, of_M, longest))
        d = jnp.sqrt(jnp.where(lengths > 10, lengths, 1))
        step = method.cycle(lambda v: d * S(d * v), d * M(W(r)), goal, budget, None)
        return step._replace(correction=r + M(d * step.correction))

    return cycle


def largest_in_rows(product: Product, like: Array) -> Array:
    """About the size of the rows of a matrix, without squares: these leave the range of float32."""
    probes = jnp.stack([scattered(like, seed) for seed in range(4, 12)])
    return largest(jax.vmap(product)(probes), axis=0)
