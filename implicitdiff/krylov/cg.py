"""Conjugate gradients."""

import jax.numpy as jnp

from .._dense import SMALLEST_PIVOT
from .._varying import while_loop
from ._cycle import Cycle, Krylov, Product, Vector, axpy, dot, norm, stopping


class CG(Krylov):
    """Conjugate gradients, for symmetric positive definite A (Hestenes and Stiefel 1952).

    Minimises the A-norm of the error over the Krylov space; about sqrt(condition) products a digit. Stops, as
    not converged, when it meets a direction of negative curvature, or of one that is only rounding noise.
    """

    def cycle(self, product: Product, r: Vector, target, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        z = M(r)
        one = jnp.ones((), r[0].dtype)
        eps = float(jnp.finfo(r[0].dtype).eps)
        # Below that share of ||A|| a curvature is rounding noise, and what is gained from it as well.
        noise = SMALLEST_PIVOT * eps if self.rtol is None else 0.0
        goal = stopping(self, r, target, precondition)

        def unfinished(state):
            _, _, _, _, residual, norm_A, dd, _, step, definite = state
            # The norm of d without another pass over it: r is orthogonal to d and to p.
            return (residual > goal(norm_A, lambda: jnp.sqrt(dd))) & (step < budget) & definite

        def body(state):
            d, r, p, rz, _, norm_A, dd, dp, step, _ = state
            Ap = product(p)
            curvature, pp = dot(p, Ap), dot(p, p)
            norm_A = jnp.maximum(norm_A, jnp.sqrt(dot(Ap, Ap) / pp))
            definite = curvature > noise * norm_A * pp
            alpha = jnp.where(definite, rz / curvature, 0)
            d, r = axpy(alpha, p, d), axpy(-alpha, Ap, r)
            z = M(r)
            rr = dot(r, r)
            new = rr if precondition is None else dot(r, z)
            beta = new / rz
            dd, dp = dd + alpha * (2 * dp + alpha * pp), beta * (dp + alpha * pp)
            return d, r, axpy(beta, p, z), new, jnp.sqrt(rr), norm_A, dd, dp, step + 1, definite

        zero = [jnp.zeros_like(leaf) for leaf in r]
        start = (zero, r, z, dot(r, z), norm(r), 0 * one, 0 * one, 0 * one, jnp.zeros((), jnp.int32), jnp.array(True))
        d, _, _, _, _, norm_A, _, _, steps, definite = while_loop(unfinished, body, start)
        return Cycle(d, steps, norm_A, definite)
