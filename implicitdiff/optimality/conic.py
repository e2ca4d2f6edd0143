"""Conic programs."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..projection.cones import Cone, product_dual
from ._condition import Condition


def conic_normal_map(cones: Sequence[Cone]) -> Condition:
    """The normal map of min_x 1/2 x'Px + q'x subject to Ax + s = b, s in the cone K.

    With z the multiplier in the dual cone K* and v = z - s one has z = proj_K*(v), s = z - v, and

        F((x, v), P, q, A, b) = (Px + A'z + q,  Ax + z - v - b).

    The Jacobian is regular where the solution is unique, strictly complementary and non-degenerate.

    Args:
        cones: the factors of K in the order of the rows of A, as in `implicitdiff.projection.cones`.

    Returns:
        A root condition F((x, v), P, q, A, b): x of shape (n,), v (m,), P (n, n) symmetric or None for a linear
        objective, q (n,), A (m, n), b (m,).

    Source: Robinson, "Normal maps induced by linear transformations", Math. Oper. Res. 1992; Blondel et al., NeurIPS
    2022, appendix A, for the linear objective (see `conic_residual`).

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> from implicitdiff.projection.cones import NonNegative
        >>> F = idf.optimality.conic_normal_map([NonNegative(1)])  # min 1/2 x^2 - 3x subject to x <= b = 1
        >>> args = jnp.eye(1), -3 * jnp.ones(1), jnp.eye(1), jnp.ones(1)
        >>> solution = jnp.array([1.0]), jnp.array([2.0])  # z = 2, s = 0
        >>> print(*idf.root_jvp(F, solution, args, (None, None, None, jnp.ones(1))))
        [1.] [-1.]
    """

    def F(
        unknown: tuple[Float[Array, " n"], Float[Array, " m"]],
        P: Float[Array, "n n"] | None,
        q: Float[Array, " n"],
        A: Float[Array, "m n"],
        b: Float[Array, " m"],
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        x, v = unknown
        z = product_dual(v, cones)
        gradient = A.T @ z + q if P is None else P @ x + A.T @ z + q
        return gradient, A @ x + (z - v) - b

    return Condition(F, "conic_normal_map", is_root=True)


def conic_residual(cones: Sequence[Cone]) -> Condition:
    """The residual map of the homogeneous self-dual embedding of min_x q'x subject to Ax + s = b, s in the cone K.

    The unknown is (u, v, w) with u = x, v = z - s (z the multiplier in the dual cone K*) and w = 1; Pi projects onto
    R^n x K* x R_+, and

        F = (Theta - I) Pi(u, v, w) + (u, v, w),    Theta = [[0, A', q], [-A, 0, b], [-q', -b', 0]].

    All multiples of a root of this map are roots, so that its Jacobian would be singular. The last row is therefore
    that of the paper plus w - 1, which selects the root with w = 1. No information is lost, because that row of the
    paper's map is a combination of the others.

    Args:
        cones: the factors of K in the order of the rows of A, as in `implicitdiff.projection.cones`.

    Returns:
        A root condition F((u, v, w), q, A, b): u of shape (n,), v (m,), w () or (1,), q (n,), A (m, n), b (m,).

    Source: Blondel et al., NeurIPS 2022, equation 18 and appendix A; Busseti, Moursi, Boyd, "Solution refinement at
    regular points of conic problems", 2019.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> from implicitdiff.projection.cones import NonNegative
        >>> F = idf.optimality.conic_residual([NonNegative(1)])  # min -x subject to x <= b = 1
        >>> args = -jnp.ones(1), jnp.eye(1), jnp.ones(1)
        >>> solution = jnp.array([1.0]), jnp.array([1.0]), jnp.array(1.0)  # z = 1, s = 0
        >>> print(idf.root_jvp(F, solution, args, (None, None, jnp.ones(1)))[0])
        [1.]
    """

    def F(
        unknown: tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, "..."]],
        q: Float[Array, " n"],
        A: Float[Array, "m n"],
        b: Float[Array, " m"],
    ) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, "..."]]:
        u, v, w = unknown
        z, one = product_dual(v, cones), jnp.maximum(w, 0)
        gap = -(q @ u) - b @ z - one + w + (w - 1)
        return A.T @ z + q * one, -(A @ u) + b * one - z + v, gap

    return Condition(F, "conic_residual", is_root=True)
