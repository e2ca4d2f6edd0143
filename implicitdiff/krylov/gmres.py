"""The generalised minimum-residual method."""

from typing import ClassVar

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax
from jaxtyping import Array

from .._varying import fori_loop, while_loop
from ._cycle import Cycle, Krylov, Product, Vector, norm, times

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

    def cycle(self, product: Product, r: Vector, target, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        dtype = r[0].dtype
        m = min(self.restart, sum(leaf.size for leaf in r))
        beta = norm(r)

        def unfinished(state):
            _, _, _, residual, _, step = state
            return (residual > target) & (step < m) & (step < budget)

        def body(state):
            V, Q, R, _, norm_A, j = state
            v = M([leaf[j] for leaf in V])
            w = product(v)
            size = norm(w)
            norm_A = jnp.maximum(norm_A, size / norm(v))
            h, w = orthogonalise(V, w, j + 1)
            h, w = lax.cond(norm(w) < CANCELLATION * size, lambda: again(V, w, j + 1, h), lambda: (h, w))
            length = norm(w)
            V = [leaf.at[j + 1].set(jnp.where(length > 0, x / length, 0)) for leaf, x in zip(V, w, strict=True)]
            # Q holds the rotations so far: it makes the Hessenberg columns upper triangular.
            h = Q @ h[: m + 1].at[j + 1].set(length)
            rho = jnp.hypot(h[j], h[j + 1])
            safe = jnp.where(rho > 0, rho, 1)
            c, s = jnp.where(rho > 0, h[j] / safe, 1), h[j + 1] / safe
            Q = Q.at[j].set(c * Q[j] + s * Q[j + 1]).at[j + 1].set(c * Q[j + 1] - s * Q[j])
            R = R.at[:, j].set(h.at[j].set(rho).at[j + 1].set(0))
            return V, Q, R, jnp.abs(beta * Q[j + 1, 0]), norm_A, j + 1

        first = times(1 / jnp.where(beta > 0, beta, 1), r)
        rows = -(-(m + 1) // BLOCK) * BLOCK if m >= BLOCK else m + 1
        basis = [jnp.zeros((rows, *leaf.shape), dtype).at[0].set(leaf) for leaf in first]
        start = (basis, jnp.eye(m + 1, dtype=dtype), jnp.zeros((m + 1, m), dtype), beta,
                 jnp.zeros((), dtype), jnp.zeros((), jnp.int32))  # fmt: skip
        V, Q, R, _, norm_A, steps = while_loop(unfinished, body, start)
        used = jnp.arange(m) < steps
        R = R[:m] + jnp.diag(jnp.where(used, 0, 1).astype(dtype))
        y = jsl.solve_triangular(R, jnp.where(used, beta * Q[:m, 0], 0))
        return Cycle(M([jnp.tensordot(y, leaf[:m], axes=1) for leaf in V]), steps, norm_A)


def again(V: Vector, w: Vector, used: Array, h: Array) -> tuple[Array, Vector]:
    """A second pass, where most of w was cancelled in the first one."""
    more, w = orthogonalise(V, w, used)
    return h + more, w


def orthogonalise(V: Vector, w: Vector, used: Array) -> tuple[Array, Vector]:
    """Coefficients of w in the first rows of V, and what is left of w without them.

    By blocks of rows: all rows at once would read those that are still empty, and one after the other would be as many
    small kernels, and as many sums over devices.
    """
    rows = V[0].shape[0]
    size = min(BLOCK, rows)

    def of_block(i, state):
        h, w = state
        block = [lax.dynamic_slice_in_dim(leaf, i * size, size) for leaf in V]
        part = sum(jnp.tensordot(leaf, x, axes=x.ndim) for leaf, x in zip(block, w, strict=True))
        w = [x - jnp.tensordot(part, leaf, axes=1) for leaf, x in zip(block, w, strict=True)]
        return lax.dynamic_update_slice_in_dim(h, part, i * size, 0), w

    return fori_loop(0, (used + size - 1) // size, of_block, (jnp.zeros(rows, w[0].dtype), w))
