"""The minimum-residual method for symmetric systems."""

from typing import Any

import jax.numpy as jnp

from .._varying import while_loop
from ._cycle import Cycle, Krylov, Product, Vector, axpy, dot, norm, stopping, times


class MINRES(Krylov):
    """The minimum-residual method, for symmetric A, definite or not (Paige and Saunders 1975).

    The Lanczos process builds an orthonormal basis with a tridiagonal matrix, Givens rotations turn that into an
    upper triangle of bandwidth three, and x is updated along directions with a three-term recurrence. A
    preconditioner must be symmetric positive definite.
    """

    def cycle(self, product: Product, r: Vector, target, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        zero = [jnp.zeros_like(leaf) for leaf in r]
        nil = jnp.zeros((), r[0].dtype)
        y = M(r)
        beta = jnp.sqrt(dot(r, y))
        # With a preconditioner the method sees the residual in the norm of its inverse: scale the target alike.
        target = target if precondition is None else target * beta / jnp.sqrt(dot(r, r))

        goal = stopping(self, r, target, precondition)

        def unfinished(s):
            # beta == 0: the Krylov space is exhausted, and the solution lies in it if there is one.
            return (s["residual"] > goal(s["norm_A"], lambda: norm(s["d"]))) & (s["step"] < budget) & (s["beta"] > 0)

        def body(s):
            v = times(1 / s["beta"], s["y"])
            w = product(v)
            w = axpy(-s["beta"] / jnp.where(s["step"] > 0, s["beta_old"], 1), s["u_old"], w)
            alpha = dot(v, w)
            w = axpy(-alpha / s["beta"], s["u"], w)
            y = M(w)
            beta = jnp.sqrt(jnp.maximum(dot(w, y), 0))
            # Rotate the new column of the tridiagonal matrix.
            epsilon = s["epsilon"]
            delta = s["cs"] * s["delta"] + s["sn"] * alpha
            gamma_bar = s["sn"] * s["delta"] - s["cs"] * alpha
            gamma = jnp.sqrt(gamma_bar**2 + beta**2)
            safe = jnp.where(gamma > 0, gamma, 1)
            cs, sn = jnp.where(gamma > 0, gamma_bar / safe, 1), beta / safe
            direction = times(1 / safe, axpy(-delta, s["p"], axpy(-epsilon, s["p_old"], v)))
            norm_A = jnp.sqrt(alpha**2 + beta**2 + jnp.where(s["step"] > 0, s["beta"], 0) ** 2)
            return dict(
                d=axpy(cs * s["phi"], direction, s["d"]), p=direction, p_old=s["p"],
                u=w, u_old=s["u"], y=y, beta=beta, beta_old=s["beta"],
                cs=cs, sn=sn, delta=-s["cs"] * beta, epsilon=s["sn"] * beta, phi=sn * s["phi"],
                residual=jnp.abs(sn * s["phi"]), norm_A=jnp.maximum(s["norm_A"], norm_A), step=s["step"] + 1,
            )  # fmt: skip

        start: dict[str, Any] = dict(
            d=zero, p=zero, p_old=zero, u=r, u_old=zero, y=y, beta=beta, beta_old=nil,
            cs=nil - 1, sn=nil, delta=nil, epsilon=nil, phi=beta,
            residual=beta, norm_A=nil, step=jnp.zeros((), jnp.int32),
        )  # fmt: skip
        end = while_loop(unfinished, body, start)
        return Cycle(end["d"], end["step"], end["norm_A"])
