"""The generalised minimum-residual method."""

from typing import ClassVar

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax
from jaxtyping import Array

from .._varying import fori_loop, while_loop
from ._cycle import Cycle, Krylov, Product, norm

# A second pass of Gram-Schmidt where the first one leaves less than that share of a vector: a digit is lost.
CANCELLATION = 0.1
# Rows of the basis that are worked on at a time.
BLOCK = 7


class GMRES(Krylov):
    """Restarted GMRES, for any square A (Saad and Schultz 1986).

    The Arnoldi process by classical Gram-Schmidt, done again where digits cancel, Givens rotations as the columns come,
    and preconditioning from the right, so that the residual it sees is that of the system.

    Attributes:
        restart: number of basis vectors kept; the memory is that many vectors of the size of x.
    """

    restart: int = 40

    # Restarted GMRES may be slow and still get there.
    stagnation: ClassVar[float] = 0.99

    def cycle(self, product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        dtype = r.dtype
        m = min(self.restart, r.size)
        beta = norm(r)
        # The norm of the correction is known at the end only: aim at the residual of a correction of length 0.
        target = goal(jnp.zeros((), dtype), lambda: jnp.zeros((), dtype))

        def unfinished(state):
            _, _, _, residual, _, step = state
            return (residual > target) & (step < m) & (step < budget)

        def body(state):
            V, Q, R, _, norm_A, j = state
            v = M(V[j])
            w = product(v)
            size = norm(w)
            norm_A = jnp.maximum(norm_A, size / norm(v))
            h, w = orthogonalise(V, w, j + 1)
            h, w = lax.cond(norm(w) < CANCELLATION * size, lambda: again(V, w, j + 1, h), lambda: (h, w))
            length = norm(w)
            V = V.at[j + 1].set(jnp.where(length > 0, w / length, 0))
            # Q holds the rotations so far: it makes the Hessenberg columns upper triangular.
            h = Q @ h[: m + 1].at[j + 1].set(length)
            rho = jnp.hypot(h[j], h[j + 1])
            safe = jnp.where(rho > 0, rho, 1)
            c, s = jnp.where(rho > 0, h[j] / safe, 1), h[j + 1] / safe
            Q = Q.at[j].set(c * Q[j] + s * Q[j + 1]).at[j + 1].set(c * Q[j + 1] - s * Q[j])
            R = R.at[:, j].set(h.at[j].set(rho).at[j + 1].set(0))
            return V, Q, R, jnp.abs(beta * Q[j + 1, 0]), norm_A, j + 1

        rows = -(-(m + 1) // BLOCK) * BLOCK if m >= BLOCK else m + 1
        V = jnp.zeros((rows, *r.shape), dtype).at[0].set(r / jnp.where(beta > 0, beta, 1))
        Q, R, step = jnp.eye(m + 1, dtype=dtype), jnp.zeros((m + 1, m), dtype), jnp.zeros((), jnp.int32)
        start = (V, Q, R, beta, jnp.zeros((), dtype), step)
        V, Q, R, _, norm_A, steps = while_loop(unfinished, body, start)
        used = jnp.arange(m) < steps
        R = R[:m] + jnp.diag(jnp.where(used, 0, 1).astype(dtype))
        y = jsl.solve_triangular(R, jnp.where(used, beta * Q[:m, 0], 0))
        return Cycle(M(jnp.tensordot(y, V[:m], axes=1)), steps, norm_A)


def again(V: Array, w: Array, used: Array, h: Array) -> tuple[Array, Array]:
    """A second pass, where most of w was cancelled in the first one."""
    more, w = orthogonalise(V, w, used)
    return h + more, w


def orthogonalise(V: Array, w: Array, used: Array) -> tuple[Array, Array]:
    """Coefficients of w in the first rows of V, and what is left of w without them.

    By blocks of rows: all rows at once would read those that are still empty, and one after the other would be as many
    small kernels, and as many sums over devices.
    """
    rows = V.shape[0]
    size = min(BLOCK, rows)

    def of_block(i, state):
        h, w = state
        block = lax.dynamic_slice_in_dim(V, i * size, size)
        part = jnp.tensordot(block, w, axes=w.ndim)
        return lax.dynamic_update_slice_in_dim(h, part, i * size, 0), w - jnp.tensordot(part, block, axes=1)

    return fori_loop(0, (used + size - 1) // size, of_block, (jnp.zeros(rows, w.dtype), w))
