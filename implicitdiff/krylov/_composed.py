"""Symmetric Krylov methods for A = I - M W with symmetric M and W, as in the conditions of proximal methods.

There W = I - eta H is the Jacobian of the gradient step and M that of the proximal operator. A is not symmetric, but
only what M lets through is unknown: with S = M - M W M, which is symmetric,

    A x = r     is solved by    x = r + M w    with  S w = M W r,

and the residual of S w is that of x. At a minimum S is positive semidefinite; where M is an orthogonal projector it is
eta M H M, as well conditioned as H on the range of M. The right-hand side is orthogonal to the null space of S, which
is that of M. The transposed system leads to the same one: A' u = r is solved by u = r + W x with A x = M r.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from ._cycle import Cycle, Krylov, Product, row_norms


def on_range(method: Krylov, W: Product, M: Product) -> Callable[..., Cycle]:
    """Cycles that solve with A = I - M W by cycles of a symmetric method on S."""

    def S(w: Array) -> Array:
        return M(w - W(M(w)))

    def cycle(product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:
        del product, precondition
        # The rows of S are about as long as those of M: on the simplex, as x.
        rows = row_norms(M, r, range(4, 12))
        scale = jnp.max(rows) / jnp.where(rows > 0, rows, jnp.max(rows))
        scale = jnp.where(scale < 10, 1, scale)
        step = method.cycle(S, M(W(r)), goal, budget, lambda v: scale * v)
        return step._replace(correction=r + M(step.correction))

    return cycle
