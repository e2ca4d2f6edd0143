"""Saddle-point systems of quadratic programs, by two Cholesky factorisations."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.lax import linalg
from jaxtyping import Array, Bool, Float

from .._largest import largest

# Added to the diagonal of a matrix before it is factorised, in units of rounding. It slows down the refinement, whose
# right-hand sides are true residuals, but does not change its limit.
SHIFT = 50


class Saddle(NamedTuple):
    """The factors of H + E'E and of its Schur complement S = E (H + E'E)^-1 E'.

    H has to be definite on the null space of E only; hence the term E'E, for which the right-hand side is corrected.

    Attributes:
        L: (n, n) Cholesky factor of H + E'E.
        E: (p, n); rows of zeros are absent equations.
        V: (n, p) L^-1 E'.
        LS: (p, p) Cholesky factor of S, with ones on the diagonal in rows that are absent.
        margin: the smallest ratio, over both factorisations, of a pivot to the diagonal entry from which it was
            computed; tiny if the matrix is singular, NaN if it is not positive semidefinite.
    """

    L: Float[Array, "n n"]
    E: Float[Array, "p n"]
    V: Float[Array, "n p"]
    LS: Float[Array, "p p"]
    margin: Float[Array, ""]

    def solve(self, f: Float[Array, "k n"], h: Float[Array, "k p"]) -> tuple[Float[Array, "k n"], Float[Array, "k p"]]:
        """Solve Hx + E'y = f, Ex = h for rows x and y; where a row of E is absent, h has to be 0, and y is 0."""
        if not self.E.shape[0]:
            t = _lower(self.L, f.T)
            return _lower(self.L, t, transpose_a=True).T, h
        t = _lower(self.L, (f + h @ self.E).T)
        y = _lower(self.LS, _lower(self.LS, self.V.T @ t - h.T), transpose_a=True)
        x = _lower(self.L, t - self.V @ y, transpose_a=True).T
        # If Ex is not exactly h, the multiplier compensates for the term E'E.
        return x, y.T + x @ self.E.T - h


def saddle(H: Float[Array, "n n"], E: Float[Array, "p n"], unit: Float[Array, " n"]) -> Saddle:
    """Factorise [[H, E'], [E, 0]]; the diagonal `unit` says which size is not negligible in H."""
    eps = float(jnp.finfo(H.dtype).eps)
    if E.shape[0]:
        H = H + E.T @ E
    diagonal = jnp.diagonal(H)
    L = linalg.cholesky(H + jnp.diag(eps * or_one(4 * diagonal + SHIFT * unit)), symmetrize_input=False)
    margin = jnp.min(jnp.diagonal(L) ** 2 / or_one(diagonal), initial=1.0)
    V = _lower(L, E.T)
    S = V.T @ V
    diagonal = or_one(jnp.diagonal(S))
    fill = jnp.where(jnp.diagonal(S) > 0, SHIFT * eps * diagonal, 1)
    LS = linalg.cholesky(S + jnp.diag(fill), symmetrize_input=False) if E.shape[0] else S
    return Saddle(L, E, V, LS, jnp.minimum(margin, jnp.min(jnp.diagonal(LS) ** 2 / diagonal, initial=1.0)))


def active_set(
    P: Float[Array, "n n"], A: Float[Array, "m n"], active: Bool[Array, " m"]
) -> tuple[Callable[[Array, Array], tuple[Array, Array]], Bool[Array, ""]]:
    """Factorise the equations of an active set, Px + A'y = f, Ax = h in the rows that are active, y = 0 elsewhere.

    Args:
        P: (n, n) symmetric positive semidefinite.
        A: (m, n).
        active: (m,).

    Returns:
        A function (f, h) -> (x, y), and whether the system is regular enough for it: at most n rows are active, they
        are independent, and P is definite on their null space.
    """
    n, m = A.shape[1], A.shape[0]
    # At most n rows are independent, so that the system is not larger than that even with many constraints.
    chosen = jnp.argsort(~active, stable=True)[:n] if m > n else jnp.arange(m)
    size = or_one(largest(P)) ** 0.5
    norms = jnp.linalg.norm(A, axis=1)
    scale = jnp.where(active & (norms > 0), size / or_one(norms), 0)[chosen]
    E = A[chosen] * scale[:, None]
    factors = saddle(P, E, jnp.diagonal(P))

    def once(f: Array, h: Array) -> tuple[Array, Array]:
        x, y = factors.solve(f[None], (scale * h[chosen])[None])
        return x[0], jnp.zeros_like(h).at[chosen].set(scale * y[0])

    def solve(f: Array, h: Array) -> tuple[Array, Array]:
        x, y = once(f, h)
        dx, dy = once(f - P @ x - A.T @ y, h - A @ x)
        return x + dx, y + dy

    singular = ~(factors.margin > float(jnp.finfo(A.dtype).eps) ** 0.6)
    empty = jnp.any(active & (norms == 0))
    return solve, ~singular & ~empty & (jnp.sum(active) <= n)


def _lower(L: Array, columns: Array, transpose_a: bool = False) -> Array:
    return linalg.triangular_solve(L, columns, left_side=True, lower=True, transpose_a=transpose_a)


def or_one(size: Array) -> Array:
    """A divisor: the size, or 1 if it is 0."""
    return jnp.where((size > 0) & jnp.isfinite(size), size, jnp.ones_like(size))
