"""Symmetric Krylov methods for A = I - M W with symmetric M and W, as in the conditions of proximal methods.

There W = I - eta H is the Jacobian of the gradient step and M that of the proximal operator. A is not symmetric, but
only what M lets through is unknown: with S = M - M W M, which is symmetric,

    A x = r     is solved by    x = r + M w    with  S w = M W r,
    A' u = r    is solved by    u = r + W M w  with  S w = M r,

and the residual of S w is that of x and, times W, that of u. At a minimum S is positive semidefinite; where M is an
orthogonal projector it is eta M H M, as well conditioned as H on the range of M. S has the null space of M, which the
right-hand sides are orthogonal to.
"""

from collections.abc import Callable

from jaxtyping import Array

from ._cycle import Cycle, Krylov, Product


def on_range(method: Krylov, W: Product, M: Product, transpose: bool = False) -> Callable[..., Cycle]:
    """Cycles that solve with A = I - M W, or with its transpose, by cycles of a symmetric method on S."""

    def S(w: Array) -> Array:
        return M(w - W(M(w)))

    def cycle(product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:
        del product, precondition
        step = method.cycle(S, M(r) if transpose else M(W(r)), goal, budget, None)
        moved = M(step.correction)
        return step._replace(correction=r + (W(moved) if transpose else moved))

    return cycle
