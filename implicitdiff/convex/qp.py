"""Quadratic programs whose solutions are differentiable."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental.sparse import BCOO, bcoo_concatenate
from jaxtyping import Array, Float, Int

from .._adjoint import Adjoint
from ..projection.cones import NonNegative, Zero
from .conic import Matrix, solve_conic


class QPSolution(NamedTuple):
    """A solution of a quadratic program.

    Attributes:
        x: (n,) primal solution.
        eq_dual: (p,) multipliers of Ax = b, or None.
        ineq_dual: (m,) multipliers >= 0 of Gx <= h, or None.
        slack: (m,) h - Gx >= 0, or None.
        status: () int; see `implicitdiff.convex.STATUS`; 0 means solved. With a status other than 0 and 1, all other
            fields are NaN.
    """

    x: Float[Array, " n"]
    eq_dual: Float[Array, " p"] | None
    ineq_dual: Float[Array, " m"] | None
    slack: Float[Array, " m"] | None
    status: Int[Array, ""]


def solve_qp(
    P: Matrix | None,
    q: Float[Array, " n"],
    A: Matrix | None = None,
    b: Float[Array, " p"] | None = None,
    G: Matrix | None = None,
    h: Float[Array, " m"] | None = None,
    solver: str | Callable = "clarabel",
    *,
    adjoint: Adjoint | None = None,
    raise_on_failure: bool = True,
    **settings: Any,
) -> QPSolution:
    """Solve min_x 1/2 x'Px + q'x subject to Ax = b and Gx <= h; primal and dual are differentiable in all data.

    The Lagrangian is 1/2 x'Px + q'x + eq_dual'(Ax - b) + ineq_dual'(Gx - h). The program is solved by `solve_conic`.

    Args:
        P: (n, n) symmetric positive semidefinite, dense or BCOO; None for a linear program.
        q: (n,).
        A: (p, n) dense or BCOO, or None.
        b: (p,) or None.
        G: (m, n) dense or BCOO, or None.
        h: (m,) or None.
        solver: see `solve_conic`.
        adjoint: how the derivative is computed.
        raise_on_failure: whether a program without a solution raises an error in an eager call.
        **settings: settings of the solver.

    Returns:
        A `QPSolution`.

    Raises:
        ValueError: shapes do not fit; a matrix is given without its right-hand side; or, in an eager call, there is no
            solution.

    Source: Amos, Kolter, "OptNet", 2017; Blondel et al., NeurIPS 2022, appendix A.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> x = lambda b: idf.convex.solve_qp(jnp.eye(2), jnp.zeros(2), jnp.ones((1, 2)), b).x
        >>> print(jax.jacobian(x)(jnp.ones(1)).round(3).ravel())
        [0.5 0.5]
    """
    q = jnp.asarray(q)
    for name, side, matrix, vector in (("A", "b", A, b), ("G", "h", G, h)):
        if (matrix is None) != (vector is None):
            raise ValueError(f"solve_qp: {name} and {side} must be given both or be None both.")
    given = [
        (matrix, jnp.asarray(side)) for matrix, side in ((A, b), (G, h)) if matrix is not None and side is not None
    ]
    p = 0 if b is None else jnp.size(b)
    m = 0 if h is None else jnp.size(h)
    if not given:
        rows: Matrix = jnp.zeros((0, q.size), q.dtype)
    elif any(isinstance(matrix, BCOO) for matrix, _ in given):
        sparse = [
            matrix if isinstance(matrix, BCOO) else BCOO.fromdense(matrix, nse=matrix.size) for matrix, _ in given
        ]
        rows = bcoo_concatenate(sparse, dimension=0)
    else:
        rows = jnp.concatenate([matrix for matrix, _ in given])
    sides = jnp.concatenate([side for _, side in given]) if given else jnp.zeros(0, q.dtype)
    found = solve_conic(
        P,
        q,
        rows,
        sides,
        [Zero(p), NonNegative(m)],
        solver,
        adjoint=adjoint,
        raise_on_failure=raise_on_failure,
        **settings,
    )
    return QPSolution(
        found.x,
        None if b is None else found.dual[:p],
        None if h is None else found.dual[p:],
        None if h is None else found.slack[p:],
        found.status,
    )
