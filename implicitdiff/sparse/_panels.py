"""LU factorisation of band matrices with partial pivoting, on the device, by panels of several columns.

With panels as wide as the band, the entries below the diagonal of a panel lie in its own rows and in those of the next
one. Each step eliminates the columns of one panel from these two sets of rows, chooses its pivots among all of them,
and hands as many rows on as it used up: Gaussian elimination with partial pivoting, in another order of operations
(Golub and Van Loan, "Matrix Computations", section 4.3). U has up to two panels to the right of its diagonal.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.lax import linalg
from jaxtyping import Array, Float

from .._varying import axes_of, scan, varying

# Narrower panels would spend their time on the overhead of a step.
NARROWEST = 16


class Panels(NamedTuple):
    """The factors of a band matrix, as small matrices to multiply with.

    Attributes:
        forward: what a step makes of the rows handed on and the next ones: rows of U, and rows to hand on.
        backward: the unknowns of a panel, from its right-hand side and from the unknowns of the next two panels.
    """

    forward: Float[Array, "panels 2*w 2*w"]
    backward: Float[Array, "panels w 3*w"]

    def solve(self, B: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """A^-1 B."""
        count, w, _ = self.backward.shape
        n, k = B.shape
        parts = jnp.pad(B, ((0, (count + 1) * w - n), (0, 0))).reshape(count + 1, w, k)
        zeros = varying(jnp.zeros((w, k), B.dtype), axes_of((self, B)))

        def eliminate(handed: Array, step: tuple) -> tuple[Array, Array]:
            matrix, part = step
            rows = matrix @ jnp.concatenate([handed, part])
            return rows[w:], rows[:w]

        def substitute(known: tuple, step: tuple) -> tuple[tuple, Array]:
            matrix, rows = step
            x = matrix @ jnp.concatenate([rows, *known])
            return (x, known[0]), x

        _, rows = scan(eliminate, parts[0], (self.forward, parts[1:]))
        _, X = scan(substitute, (zeros, zeros), (self.backward, rows), reverse=True)
        return X.reshape(count * w, k)[:n]


def panels(entries: Float[Array, "d n"], lower: int) -> Panels:
    """Factorise the matrix of these diagonals; the factors of a singular one are not finite, or huge."""
    count, n = entries.shape
    blocks = _blocks(entries, lower, max(lower, count - 1 - lower, min(NARROWEST, n)))
    w = blocks.shape[1]
    zeros, identity = jnp.zeros((w, w), entries.dtype), jnp.eye(2 * w, dtype=entries.dtype)

    # One triangular solve waits for the other: two batched ones at once, as they would be outside of the scan, may wait
    # for each other for ever in the threads of jaxlib 0.10 on a machine with two cores.
    def eliminate(handed: Array, rows: Array) -> tuple[Array, tuple]:
        rows = jnp.concatenate([jnp.concatenate([handed, zeros], axis=1), rows])
        triangles, _, order = linalg.lu(rows[:, :w])
        right = jnp.concatenate([rows[:, w:], identity], axis=1)[order]
        top = linalg.triangular_solve(triangles[:w], right[:w], left_side=True, lower=True, unit_diagonal=True)
        left = right[w:] - triangles[w:] @ top
        forward = jnp.concatenate([top[:, 2 * w :], left[:, 2 * w :]])
        known = jnp.concatenate([identity[:w, :w], -top[:, : 2 * w]], axis=1)
        backward = linalg.triangular_solve(triangles[:w], known, left_side=True, lower=False)
        return left[:, : 2 * w], (forward, backward)

    # No rows follow the last ones.
    following = jnp.concatenate([blocks[1:], jnp.zeros_like(blocks[:1])])
    return Panels(*scan(eliminate, blocks[0][:, w:], following)[1])


def _blocks(entries: Float[Array, "d n"], lower: int, w: int) -> Float[Array, "panels w 3*w"]:
    """The rows of each panel, in the columns of the panel before, its own and the next; identity after the last row."""
    count, n = entries.shape
    panels = -(-n // w)
    rows = jnp.pad(entries.T, ((0, panels * w - n), (0, 0)))
    rows = rows.at[n:, lower].set(1)
    # A row of the matrix starts one place further to the right than the row above: rows of one place more, read as one
    # after the other, do so.
    skew = jnp.pad(rows, ((0, 0), (w - lower, 3 * w + 1 - count - (w - lower)))).reshape(panels, w * (3 * w + 1))
    return skew[:, : 3 * w * w].reshape(panels, w, 3 * w)
