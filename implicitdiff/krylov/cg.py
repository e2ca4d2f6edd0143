"""Conjugate gradients."""

import jax.numpy as jnp
from jaxtyping import Array

from .._varying import while_loop
from ._cycle import LARGEST_GROWTH, Cycle, Krylov, Product, dot, dots, norm


class CG(Krylov):
    """Conjugate gradients, for symmetric positive definite A (Hestenes and Stiefel 1952).

    Minimises the A-norm of the error over the Krylov space; about sqrt(condition) products a digit. Stops when it
    meets a direction of negative curvature, or of one that is only rounding noise.
    """

    def cycle(self, product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        z = M(r)
        nil = jnp.zeros((), r.dtype)
        eps = float(jnp.finfo(r.dtype).eps)
        # Below that share of ||A|| a curvature is rounding noise, and what is gained from it as well.
        noise = LARGEST_GROWTH * eps if self.rtol is None else 0.0

        def unfinished(state):
            _, _, _, _, residual, norm_A, dd, _, step, definite = state
            # The norm of d without another pass over it: r is orthogonal to d and to p.
            return (residual > goal(norm_A, lambda: jnp.sqrt(dd))) & (step < budget) & definite

        def body(state):
            d, r, p, rz, _, norm_A, dd, dp, step, _ = state
            Ap = product(p)
            curvature, pp, moved = dots((p, Ap), (p, p), (Ap, Ap))
            norm_A = jnp.maximum(norm_A, jnp.sqrt(moved / pp))
            definite = curvature > noise * norm_A * pp
            alpha = jnp.where(definite, rz / curvature, 0)
            d, r = d + alpha * p, r - alpha * Ap
            z = M(r)
            rr, new = 2 * [dot(r, r)] if precondition is None else dots((r, r), (r, z))
            beta = new / rz
            dd, dp = dd + alpha * (2 * dp + alpha * pp), beta * (dp + alpha * pp)
            return d, r, z + beta * p, new, jnp.sqrt(rr), norm_A, dd, dp, step + 1, definite

        step, definite = jnp.zeros((), jnp.int32), jnp.array(True)
        start = (jnp.zeros_like(r), r, z, dot(r, z), norm(r), nil, nil, nil, step, definite)
        d, _, _, _, _, norm_A, _, _, steps, definite = while_loop(unfinished, body, start)
        return Cycle(d, steps, norm_A, definite)
