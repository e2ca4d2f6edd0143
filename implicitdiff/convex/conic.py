"""Conic programs whose solutions are differentiable."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Float, Int

from .._adjoint import Adjoint
from .._decorators import stop
from .._implicit import Implicit
from .._root import implicit_root
from ..optimality import conic_normal_map
from ..projection.cones import Cone, product_dual
from . import _backends as backends
from ._interior_point import interior_point
from ._least_squares import least_squares
from ._sparse_system import SparseSystem
from ._units import solve_in_own_units

Matrix = Any  # an array or a BCOO

# Up to this many unknowns and constraints the derivative of a program with sparse data is that of a dense system.
DENSE_SIZE = 400
# With up to this many unknowns, a Cholesky factorisation checks that P is positive semidefinite.
CHECKED_SIZE = 2000


class ConicSolution(NamedTuple):
    """A solution of a conic program.

    Attributes:
        x: (n,) primal solution.
        dual: (m,) the multiplier z in the dual cone.
        slack: (m,) s = b - Ax in the cone.
        status: () int; see `implicitdiff.convex.STATUS`; 0 means solved. With a status other than 0 and 1, all other
            fields are NaN.
    """

    x: Float[Array, " n"]
    dual: Float[Array, " m"]
    slack: Float[Array, " m"]
    status: Int[Array, ""]


def solve_conic(
    P: Matrix | None,
    q: Float[Array, " n"],
    A: Matrix,
    b: Float[Array, " m"],
    cones: Sequence[Cone],
    solver: str | Callable = "clarabel",
    *,
    adjoint: Adjoint | None = None,
    raise_on_failure: bool = True,
    **settings: Any,
) -> ConicSolution:
    """Solve min_x 1/2 x'Px + q'x subject to Ax + s = b, s in K; differentiable in P, q, A and b.

    It works in forward and reverse mode, to every order, under jit and vmap (a batch is solved in threads, or at once
    by "jax"). The derivative is that of the normal map (`optimality.conic_normal_map`) and does not depend on the
    solver. Where the solution is degenerate (a multiplier and its slack are both zero, constraints are redundant, there
    are several solutions), the derivative is the least-squares solution of the linear system.
    `certify.diagnose(conic_normal_map(cones), (x, dual - slack), P, q, A, b)` says whether it is degenerate, and why.

    Args:
        P: (n, n) symmetric positive semidefinite, dense, BCOO or a SciPy sparse matrix; None for a linear objective.
        q: (n,).
        A: (m, n), likewise.
        b: (m,).
        cones: the factors of K, in the order of the rows of A: `Zero`, `NonNegative`, `SecondOrder`,
            `PositiveSemidefinite`, `Exponential`, `Power`.
        solver: "clarabel" or "scs"; for quadratic programs also "jax", "osqp", "proxqp", "piqp" (the last three by the
            package qpsolvers); or a callable `(P, q, A, b, cones) -> (x, z, s)` in NumPy, with P and A as scipy.sparse
            CSC matrices. "jax" is our own interior-point method, which stays on the device, computes in the dtype of
            the data, and solves a batch at once. It is the best choice for small dense programs; sparse data are made
            dense.
        adjoint: how the derivative is computed; None for a dense least-squares solve, or for a sparse LU factorisation
            where P or A is BCOO and there are more than 400 unknowns and constraints. The latter takes time and memory
            by the entries, and gives NaN where the program is degenerate.
        raise_on_failure: whether a program without a solution raises an error in an eager call.
        **settings: settings of the solver, under its own names; for "jax" these are `maxiter` and `tol`.

    Returns:
        A `ConicSolution`. If there is no solution, everything but the status is NaN, also under jit; other programs of
        the same batch are not affected.

    Raises:
        ValueError: shapes do not fit; P is not symmetric; or, in an eager call, there is no solution (the message says
            why).

    Source: Blondel et al., NeurIPS 2022, appendix A; Agrawal et al., "Differentiating through a cone program", 2019.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> from implicitdiff.convex import NonNegative, solve_conic
        >>> x = lambda b: solve_conic(jnp.eye(2), -jnp.ones(2), jnp.eye(2), b, [NonNegative(2)]).x
        >>> print(jax.jacobian(x)(jnp.array([0.5, 2.0])).round(3) + 0.0)
        [[1. 0.]
         [0. 0.]]
    """
    q, b = jnp.asarray(q), jnp.asarray(b)
    n, m = q.size, b.size
    cones = tuple(cones)
    total = sum(cone.size for cone in cones)
    shapes = dict(P=(P, (n, n)), A=(A, (m, n)), q=(q, (n,)), b=(b, (total,)))
    for name, (value, expected) in shapes.items():
        if value is not None and jnp.shape(value) != expected:
            raise ValueError(
                f"solve_conic: {name} has shape {jnp.shape(value)}, expected {expected}: q has {n} entries, b {m}, and "
                f"the cones are of size {total} together."
            )
    P, A = as_matrix(P), as_matrix(A)
    dtype = jnp.result_type(q, b, float)
    q, b = q.astype(dtype), b.astype(dtype)
    x, z, s, status, units = _solve(P, q, A, b, cones, solver, settings)
    if raise_on_failure and not isinstance(status, jax.core.Tracer) and int(status) > backends.ALMOST_SOLVED:
        raise ValueError(f"solve_conic: {backends.MEANING[int(status)]}.")
    if isinstance(P, jax.Array):
        P = (P + P.T) / 2
    if adjoint is None:
        adjoint = _adjoint(P, q, A, b, cones)
    # In units in which multipliers and slacks can be compared; what is differentiated is the user's data.
    columns, rows, worth = (lax.stop_gradient(unit.astype(dtype)) for unit in units)
    data = _scaled(P, worth * columns, columns), worth * columns * q, _scaled(A, rows, columns), rows * b
    x, v = implicit_root(conic_normal_map(cones), (x, z - s), *data, adjoint=adjoint)
    z = product_dual(v, cones)
    return ConicSolution(columns * x, rows * z / worth, (z - v) / rows, status)


def _scaled(matrix: Matrix | None, rows: Array, columns: Array) -> Matrix | None:
    """A matrix in other units."""
    if not isinstance(matrix, BCOO):
        return None if matrix is None else rows[:, None] * matrix * columns
    factors = [side.at[matrix.indices[:, k]].get(mode="fill", fill_value=0) for k, side in enumerate((rows, columns))]
    return BCOO((matrix.data * factors[0] * factors[1], matrix.indices), shape=matrix.shape)


def _adjoint(P: Matrix | None, q: Array, A: Matrix, b: Array, cones: tuple[Cone, ...]) -> Adjoint:
    """Least squares for small systems; sparse LU for large ones with sparse data."""
    if q.size + b.size > DENSE_SIZE and (isinstance(P, BCOO) or isinstance(A, BCOO)):
        return Implicit(linear_solver=SparseSystem(cones, jax.tree.structure((P, q, A, b))))
    return Implicit(linear_solver=least_squares, on_failure="ignore")


def _solve(P, q, A, b, cones, solver, settings):
    """The solution, without a derivative, and the units that it is in."""
    dtype = q.dtype
    if solver == "jax":
        P, q, A, b = stop([_dense(P), q, _dense(A), b])
        # Its multipliers and slacks are complementary: one of the two is exactly zero.
        units = jnp.ones(q.size, dtype), jnp.ones(b.size, dtype), jnp.ones((), dtype)
        return *interior_point(P, q, A, b, cones, **settings), units
    values = stop([_values(P), _pattern(P), q, _values(A), _pattern(A), b])
    n, m = q.size, b.size
    solve_one = backends.backend(solver)

    def on_host(*values):
        from scipy import sparse

        batch = values[2].shape[:-1]
        count = int(np.prod(batch))
        # Convert to NumPy first: JAX would reshape a JAX array, and may wait for the very thread that runs this
        # callback.
        P, P_pattern, q, A, A_pattern, b = (
            [None] * count if part is None else np.asarray(part).reshape(count, *part.shape[len(batch) :])
            for part in values
        )
        xs, zs, ss = np.full((count, n), np.nan), np.full((count, m), np.nan), np.full((count, m), np.nan)
        status = np.full(count, backends.FAILED, np.int32)
        columns, rows, worth = np.ones((count, n)), np.ones((count, m)), np.ones(count)

        def matrix(values, pattern, shape):
            if values is None:
                return sparse.csc_matrix(shape)
            values = np.asarray(values, float)
            if pattern is None:
                return sparse.csc_matrix(values)
            inside = np.all(pattern < np.array(shape), axis=1)  # a BCOO is padded with entries that lie outside
            return sparse.csc_matrix((values[inside], pattern[inside].T), shape)

        def one(i):
            program = backends.Program(
                matrix(P[i], P_pattern[i], (n, n)),
                np.asarray(q[i], float),
                matrix(A[i], A_pattern[i], (m, n)),
                np.asarray(b[i], float),
                cones,
            )
            if not all(np.isfinite(part).all() for part in (program.P.data, q[i], program.A.data, b[i])):
                return
            if not _convex(program.P):
                return
            found = solve_in_own_units(program, solve_one, not callable(solver), **settings)
            status[i] = found.status
            if found.status <= backends.ALMOST_SOLVED:
                xs[i], zs[i], ss[i] = found.x, found.z, found.s
                columns[i], rows[i], worth[i] = found.units

        backends.in_threads(one, count)
        x, z, s, of_columns, of_rows = (a.reshape(*batch, -1).astype(dtype) for a in (xs, zs, ss, columns, rows))
        return x, z, s, status.reshape(batch), (of_columns, of_rows, worth.reshape(batch).astype(dtype))

    of = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    shapes = of(n), of(m), of(m), jax.ShapeDtypeStruct((), jnp.int32), (of(n), of(m), of())
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        return jax.tree.map(jnp.asarray, on_host(*jax.tree.map(np.asarray, values)))
    return jax.pure_callback(on_host, shapes, *values, vmap_method="broadcast_all")


def _convex(P: Any) -> bool:
    """Whether P is symmetric and, if that is cheap to check, positive semidefinite; not all solvers notice."""
    size = abs(P).max() if P.nnz else 0.0
    if abs(P - P.T).max() > 1e-8 * size:
        return False
    if size > 0 and P.shape[0] <= CHECKED_SIZE:
        try:
            np.linalg.cholesky(P.toarray() + 1e-8 * size * np.eye(P.shape[0]))
        except np.linalg.LinAlgError:
            return False
    return True


def as_matrix(matrix: Any) -> Matrix | None:
    """A SciPy sparse matrix as BCOO, and what is not a matrix yet as an array."""
    if matrix is None or isinstance(matrix, BCOO):
        return matrix
    if hasattr(matrix, "tocoo"):
        return BCOO.from_scipy_sparse(matrix.tocoo().astype(float))
    return jnp.asarray(matrix)


def _dense(matrix: Matrix | None) -> Array | None:
    return matrix.todense() if isinstance(matrix, BCOO) else matrix


def _values(matrix: Matrix | None) -> Array | None:
    return matrix.data if isinstance(matrix, BCOO) else matrix


def _pattern(matrix: Matrix | None) -> Array | None:
    return matrix.indices if isinstance(matrix, BCOO) else None
