"""Symmetric Krylov methods for A = I - M W with symmetric M and W, as in the conditions of proximal methods.

There W = I - eta H is the Jacobian of the gradient step and M that of the proximal operator. A is not symmetric, but
only what M lets through is unknown: with S = M - M W M, which is symmetric,

    A x = r     is solved by    x = r + M w    with  S w = M W r,
    A' u = r    is solved by    u = r + W M w  with  S w = M r,

and the residual of S w is that of x and, times W, that of u. At a minimum S is positive semidefinite; where M is an
orthogonal projector it is eta M H M, as well conditioned as H on the range of M. S has the null space of M, which the
right-hand sides are orthogonal to.
"""

from typing import Any

from jaxtyping import Array

from ._cycle import Cycle, Krylov, Product, Vector, axpy


class OnRange(Krylov):
    """A symmetric Krylov method on S instead of A; the tolerances are those of A."""

    method: Krylov
    W: Product
    M: Product
    transpose_of_A: bool  # noqa: N815

    def __init__(self, method: Krylov, W: Product, M: Product, transpose: bool = False):
        """Take the options of `method`."""
        self.rtol, self.atol, self.max_steps = method.rtol, method.atol, method.max_steps
        self.method, self.W, self.M, self.transpose_of_A = method, W, M, transpose

    def cycle(self, product: Product, r: Vector, target: Array, budget: Array, precondition: Any) -> Cycle:
        del product, precondition
        W, M = self.W, self.M

        def S(w: Vector) -> Vector:
            return M([a - b for a, b in zip(w, W(M(w)), strict=True)])

        step = self.method.cycle(S, M(r) if self.transpose_of_A else M(W(r)), target, budget, None)
        moved = M(step.correction)
        correction = axpy(1.0, W(moved) if self.transpose_of_A else moved, r)
        return Cycle(correction, step.steps, step.norm_A)
