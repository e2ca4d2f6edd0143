"""The stabilised biconjugate-gradient method."""

import jax.numpy as jnp
from jaxtyping import Array

from .._varying import scattered, while_loop
from ._cycle import Cycle, Krylov, Product, dot, dots, norm


class BiCGStab(Krylov):
    """BiCGStab(l), for any square A (van der Vorst 1992; Sleijpen and Fokkema 1993, algorithm 3.1).

    `length` steps of biconjugate gradients, then the polynomial of that degree in A that makes the residual least, and
    again. It keeps a few vectors only, where GMRES keeps all since its last restart, so that a step costs little more
    than its two products with A. The residual need not fall in every step. Where the eigenvalues of A surround the
    origin it may stay where it is, as that of GMRES may between its restarts.

    Preconditioning is from the right, so that the residual it sees is that of the system.

    Attributes:
        length: the degree of the polynomials. With 1, which is van der Vorst's method, eigenvalues near the imaginary
            axis stop it.
    """

    length: int = 2

    def cycle(self, product: Product, r: Array, goal, budget, precondition: Product | None) -> Cycle:  # noqa: D102
        M = precondition or (lambda v: v)
        one, products = jnp.ones((), r.dtype), 2 * self.length
        # The directions are made orthogonal to the Krylov space of A' that begins here. The usual choice, the first
        # residual r, breaks down at once where r' A r = 0, as for every r in a game of two players, whose A is skew;
        # numbers without a pattern may be nearly orthogonal to r itself where unknowns are few.
        scatter, size = scattered(r), norm(r)
        shadow = scatter / norm(scatter) + r / jnp.where(size > 0, size, 1)

        def unfinished(state):
            d, _, _, _, residual, norm_A, step, alive = state
            return (residual > goal(norm_A, lambda: norm(d))) & (step + products <= budget) & alive

        def body(state):
            d, r, u, (rho, alpha, omega), _, norm_A, step, _ = state
            # rs[j] is A^j r, and us[j] is A^j u with the direction u.
            rs, us, rho = [r], [u], -omega * rho
            sizes = []
            for j in range(self.length):
                new = dot(rs[j], shadow)
                beta, rho = divided(alpha * new, rho), new
                us = [r - beta * u for u, r in zip(us, rs, strict=True)]
                us.append(product(M(us[j])))
                alpha = divided(rho, dot(us[j + 1], shadow))
                d = d + alpha * us[0]
                rs = [r - alpha * u for u, r in zip(us[1:], rs, strict=True)]
                moved = M(rs[j])
                rs.append(product(moved))
                if precondition is not None:
                    after, before = dots((rs[j + 1], rs[j + 1]), (moved, moved))
                    sizes.append((after, before))
            below = [(i, j) for i in range(self.length + 1) for j in range(i + 1)]
            products_of = dict(zip(below, dots(*((rs[i], rs[j]) for i, j in below)), strict=True))
            gram = [[products_of[i, j] for j in range(i + 1)] for i in range(self.length + 1)]
            coefficients = least(gram)
            r, u = rs[0], us[0]
            for j, c in enumerate(coefficients):
                d, r, u = d + c * rs[j], r - c * rs[j + 1], u - c * us[j + 1]
            for after, before in sizes or [(gram[j + 1][j + 1], gram[j][j]) for j in range(self.length)]:
                norm_A = jnp.maximum(norm_A, jnp.sqrt(divided(after, before)))
            omega = coefficients[-1]
            return d, r, u, (rho, alpha, omega), norm(r), norm_A, step + products, omega != 0

        zero = jnp.zeros_like(r)
        start = (zero, r, zero, (one, 0 * one, one), norm(r), 0 * one, jnp.zeros((), jnp.int32), jnp.array(True))
        d, _, _, _, _, norm_A, steps, _ = while_loop(unfinished, body, start)
        return Cycle(M(d), steps, norm_A)


def divided(a: Array, b: Array) -> Array:
    """The quotient, and 0 where b is 0: a step that is not defined is not taken."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def least(gram: list[list[Array]]) -> list[Array]:
    """Coefficients c that minimise ||r_0 - c_1 r_1 - ... - c_n r_n||, from the inner products of the vectors.

    By elimination; a vector that depends on those before it up to rounding gets 0.
    """
    n = len(gram) - 1
    eps = float(jnp.finfo(gram[0][0].dtype).eps)
    L = [[gram[i + 1][j + 1] for j in range(i + 1)] for i in range(n)]
    y = [gram[i + 1][0] for i in range(n)]
    pivots: list[Array] = []
    for i in range(n):
        pivot = L[i][i]
        for k in range(i):
            pivot = pivot - L[i][k] ** 2 * pivots[k]
            y[i] = y[i] - L[i][k] * y[k]
        pivot = jnp.where(pivot > 100 * eps * L[i][i], pivot, 0)
        pivots.append(pivot)
        for m in range(i + 1, n):
            inner = L[m][i] - sum(L[m][k] * pivots[k] * L[i][k] for k in range(i))
            L[m][i] = divided(inner, pivot)
    c = [divided(y[i], pivots[i]) for i in range(n)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            c[i] = c[i] - L[k][i] * c[k]
    return c
