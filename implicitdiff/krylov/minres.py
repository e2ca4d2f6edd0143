"""The minimum-residual method for symmetric systems."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._varying import while_loop
from ._cycle import Cycle, Krylov, Product, dot, norm


class _State(NamedTuple):
    d: Array  # the correction
    p: Array  # its last two directions
    p_old: Array
    u: Array  # the last two Lanczos vectors, before they are normalised
    u_old: Array
    y: Array  # M u
    beta: Array  # subdiagonal entries of the tridiagonal matrix
    beta_old: Array
    cs: Array  # the last Givens rotation
    sn: Array
    delta: Array  # entries above the diagonal of the triangle
    epsilon: Array
    phi: Array  # the right-hand side, rotated: its size is the residual
    norm_A: Array  # noqa: N815
    step: Array


class MINRES(Krylov):
    """The minimum-residual method, for symmetric A, definite or not (Paige and Saunders 1975).

    The Lanczos process builds an orthonormal basis with a tridiagonal matrix, Givens rotations turn that into an
    upper triangle of bandwidth three, and x is updated along directions with a three-term recurrence. A
    preconditioner must be symmetric positive definite. Where A is singular and b in its range, the solution is that of
    least norm.
    """

    def cycle(self, product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        zero, nil = jnp.zeros_like(r), jnp.zeros((), r.dtype)
        y = M(r)
        beta = jnp.sqrt(dot(r, y))
        # With a preconditioner the method sees the residual in the norm of its inverse: compare with the goal alike.
        unit = jnp.ones((), r.dtype) if precondition is None else norm(r) / jnp.where(beta > 0, beta, 1)

        def unfinished(s: _State):
            # beta == 0: the Krylov space is exhausted, and the solution lies in it if there is one.
            met = jnp.abs(s.phi) * unit <= goal(s.norm_A, lambda: norm(s.d))
            return ~met & (s.step < budget) & (s.beta > 0)

        def body(s: _State):
            started = s.step > 0
            # One step of the Lanczos process.
            v = s.y / s.beta
            w = product(v) - s.beta / jnp.where(started, s.beta_old, 1) * s.u_old
            alpha = dot(v, w)
            w = w - alpha / s.beta * s.u
            y = M(w)
            beta = jnp.sqrt(jnp.maximum(dot(w, y), 0))
            # Rotate the new column of the tridiagonal matrix.
            delta = s.cs * s.delta + s.sn * alpha
            gamma_bar = s.sn * s.delta - s.cs * alpha
            gamma = jnp.hypot(gamma_bar, beta)
            safe = jnp.where(gamma > 0, gamma, 1)
            cs, sn = jnp.where(gamma > 0, gamma_bar / safe, 1), beta / safe
            p = (v - s.epsilon * s.p_old - delta * s.p) / safe
            norm_A = jnp.sqrt(alpha**2 + beta**2 + jnp.where(started, s.beta, 0) ** 2)
            return _State(
                d=s.d + cs * s.phi * p,
                p=p,
                p_old=s.p,
                u=w,
                u_old=s.u,
                y=y,
                beta=beta,
                beta_old=s.beta,
                cs=cs,
                sn=sn,
                delta=-s.cs * beta,
                epsilon=s.sn * beta,
                phi=sn * s.phi,
                norm_A=jnp.maximum(s.norm_A, norm_A),
                step=s.step + 1,
            )

        step = jnp.zeros((), jnp.int32)
        start = _State(zero, zero, zero, r, zero, y, beta, nil, nil - 1, nil, nil, nil, beta, nil, step)
        end = while_loop(unfinished, body, start)
        return Cycle(end.d, end.step, end.norm_A)
