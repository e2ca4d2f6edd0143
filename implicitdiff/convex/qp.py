"""Quadratic programs whose solutions are differentiable."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental.sparse import BCOO, bcoo_concatenate
from jaxtyping import Array, Float, Int

from .._adjoint import Adjoint
from ..projection.cones import NonNegative, Zero
from .conic import Matrix, as_matrix, solve_conic


class QPSolution(NamedTuple):
    """A solution of a quadratic program.

    Attributes:
        x: (n,) primal solution.
        eq_dual: (p,) multipliers of Ax = b, or None.
        ineq_dual: (m,) multipliers >= 0 of Gx <= h, or None.
        slack: (m,) h - Gx >= 0, or None; infinite where h is.
        lb_dual: (n,) multipliers >= 0 of lb <= x, or None.
        ub_dual: (n,) multipliers >= 0 of x <= ub, or None.
        status: () int; see `implicitdiff.convex.STATUS`; 0 means solved. With a status other than 0 and 1, all other
            fields are NaN.
    """

    x: Float[Array, " n"]
    eq_dual: Float[Array, " p"] | None
    ineq_dual: Float[Array, " m"] | None
    slack: Float[Array, " m"] | None
    lb_dual: Float[Array, " n"] | None
    ub_dual: Float[Array, " n"] | None
    status: Int[Array, ""]


def solve_qp(
    P: Matrix | None,
    q: Float[Array, " n"],
    A: Matrix | None = None,
    b: Float[Array, " p"] | None = None,
    G: Matrix | None = None,
    h: Float[Array, " m"] | None = None,
    lb: Float[Array, " n"] | None = None,
    ub: Float[Array, " n"] | None = None,
    solver: str | Callable = "clarabel",
    *,
    adjoint: Adjoint | None = None,
    raise_on_failure: bool = True,
    **settings: Any,
) -> QPSolution:
    """Solve min_x 1/2 x'Px + q'x s.t. Ax = b, Gx <= h, lb <= x <= ub; differentiable in all data.

    The Lagrangian is 1/2 x'Px + q'x + eq_dual'(Ax - b) + ineq_dual'(Gx - h) + lb_dual'(lb - x) + ub_dual'(x - ub). The
    program is solved by `solve_conic`. Units do not matter: objective, unknowns and rows may be of any size.

    Args:
        P: (n, n) symmetric positive semidefinite, dense, BCOO or a SciPy sparse matrix; None for a linear program.
        q: (n,).
        A: (p, n) as P, or None.
        b: (p,) or None.
        G: (m, n) as P, or None.
        h: (m,) or None. Rows with h = inf are no constraints.
        lb: lower bounds of x, (n,) or a number, or None. Minus infinity is no bound.
        ub: upper bounds of x, likewise.
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
    P, A, G = as_matrix(P), as_matrix(A), as_matrix(G)
    n, dtype = q.size, jnp.result_type(q, float)
    sparse = any(isinstance(matrix, BCOO) for matrix in (P, A, G))
    identity = functools.partial(_identity, n, dtype, sparse)
    given: list[tuple[Matrix, Array]] = []
    absent: list[Array] = []

    def constrain(matrix: Matrix, side: Array) -> None:
        """Rows with an infinite side become 0 <= 1."""
        side = jnp.asarray(side)
        none = side == jnp.inf
        absent.append(none)
        given.append((with_rows(matrix, ~none), jnp.where(none, 1.0, side)))

    if A is not None and b is not None:
        given.append((A, jnp.asarray(b)))
    if G is not None and h is not None:
        constrain(G, h)
    if lb is not None:
        constrain(identity(-1.0), -jnp.broadcast_to(jnp.asarray(lb, dtype), (n,)))
    if ub is not None:
        constrain(identity(1.0), jnp.broadcast_to(jnp.asarray(ub, dtype), (n,)))
    p = 0 if b is None else jnp.size(b)
    m = sum(none.size for none in absent)
    if not given:
        rows: Matrix = jnp.zeros((0, n), q.dtype)
    elif any(isinstance(matrix, BCOO) for matrix, _ in given):
        rows = bcoo_concatenate([_stored(matrix) for matrix, _ in given], dimension=0)
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
    starts = iter(itertools.accumulate([none.size for none in absent], initial=p))
    part = lambda size: slice((start := next(starts)), start + size)  # noqa: E731
    ineq = None if h is None else part(jnp.size(h))
    lower, upper = (None if bound is None else part(n) for bound in (lb, ub))
    return QPSolution(
        found.x,
        None if b is None else found.dual[:p],
        None if ineq is None else found.dual[ineq],
        None if ineq is None else jnp.where(absent[0], jnp.inf, found.slack[ineq]),
        None if lower is None else found.dual[lower],
        None if upper is None else found.dual[upper],
        found.status,
    )


def with_rows(matrix: Matrix, kept: Array) -> Matrix:
    """A matrix with zeros in the other rows."""
    if not isinstance(matrix, BCOO):
        return jnp.where(kept[:, None], matrix, 0)
    alive = kept.at[matrix.indices[:, 0]].get(mode="fill", fill_value=False)
    return BCOO((jnp.where(alive, matrix.data, 0), matrix.indices), shape=matrix.shape)


def _identity(n: int, dtype: Any, sparse: bool, factor: float) -> Matrix:
    """A multiple of the identity."""
    if not sparse:
        return factor * jnp.eye(n, dtype=dtype)
    place = jnp.arange(n)
    return BCOO((jnp.full(n, factor, dtype), jnp.stack([place, place], axis=1)), shape=(n, n))


def _stored(matrix: Matrix) -> BCOO:
    """A matrix as BCOO, with indices of one dtype."""
    if not isinstance(matrix, BCOO):
        matrix = BCOO.fromdense(matrix, nse=matrix.size)
    return BCOO((matrix.data, matrix.indices.astype(jnp.int32)), shape=matrix.shape)
