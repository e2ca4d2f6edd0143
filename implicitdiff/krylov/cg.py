"""Conjugate gradients."""

import jax.numpy as jnp
from jax import lax

from ._cycle import Cycle, Krylov, Product, Vector, axpy, dot, norm


class CG(Krylov):
    """Conjugate gradients, for symmetric positive definite A (Hestenes and Stiefel 1952).

    Minimises the A-norm of the error over the Krylov space; about sqrt(condition) products a digit. Stops, as
    not converged, when it meets a direction of negative curvature.
    """

    def cycle(self, product: Product, r: Vector, target, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        z = M(r)
        one = jnp.ones((), r[0].dtype)

        def unfinished(state):
            _, _, _, _, residual, _, step, definite = state
            return (residual > target) & (step < budget) & definite

        def body(state):
            d, r, p, rz, _, norm_A, step, _ = state
            Ap = product(p)
            curvature = dot(p, Ap)
            definite = curvature > 0
            alpha = jnp.where(definite, rz / curvature, 0)
            d, r = axpy(alpha, p, d), axpy(-alpha, Ap, r)
            z = M(r)
            rr = dot(r, r)
            new = rr if precondition is None else dot(r, z)
            norm_A = jnp.maximum(norm_A, norm(Ap) / norm(p))
            return d, r, axpy(new / rz, p, z), new, jnp.sqrt(rr), norm_A, step + 1, definite

        zero = [jnp.zeros_like(leaf) for leaf in r]
        start = (zero, r, z, dot(r, z), norm(r), 0 * one, jnp.zeros((), jnp.int32), jnp.array(True))
        d, _, _, _, _, norm_A, steps, _ = lax.while_loop(unfinished, body, start)
        return Cycle(d, steps, norm_A)
