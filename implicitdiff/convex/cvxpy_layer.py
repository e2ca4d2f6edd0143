"""CVXPY problems as differentiable functions of their parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array

from .._adjoint import Adjoint
from ..projection.cones import Cone, Exponential, NonNegative, PositiveSemidefinite, Power, SecondOrder, Zero
from .conic import solve_conic

# Up to this many entries a matrix of the program is dense.
DENSE_ENTRIES = 250_000


class CvxpyLayer:
    """The solution of a parametrised CVXPY problem as a function of its parameters.

    CVXPY reduces the problem to a conic program whose data are affine in the parameters; these affine maps are taken
    from it once, and every call is then JAX code around `solve_conic`: forward and reverse mode, jit, vmap.

    Args:
        problem: a `cvxpy.Problem` that satisfies CVXPY's rules for disciplined parametrised programming (DPP).
        parameters: its parameters, in the order in which a call takes their values.
        variables: the variables that a call returns, in this order.
        solver: see `solve_conic`.
        adjoint: how the derivative is computed.

    Raises:
        ValueError: the problem is not DPP, a parameter is missing from the list, or a variable does not occur in the
            problem CVXPY hands to the solver.

    Source: Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, "Differentiable convex optimization layers", NeurIPS 2019.

    Example:
        >>> import cvxpy as cp, jax, jax.numpy as jnp, implicitdiff as idf
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0])
        >>> layer = idf.convex.CvxpyLayer(problem, [b], [x])
        >>> print(jax.jacobian(lambda b: layer(b)[0])(jnp.array([1.0, -1.0])).round(3) + 0.0)
        [[1. 0.]
         [0. 0.]]
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: str | Callable = "clarabel",
        adjoint: Adjoint | None = None,
    ):
        """Reduce the problem; see the class."""
        import cvxpy as cp

        if not problem.is_dcp(dpp=True):
            raise ValueError(
                "CvxpyLayer needs a problem that is DPP (disciplined parametrised programming): convex, and affine in "
                "the parameters where these multiply variables."
            )
        missing = {p.name() for p in problem.parameters()} - {p.name() for p in parameters}
        if missing:
            raise ValueError(f"CvxpyLayer: the problem has parameters that are not in the list: {sorted(missing)}.")
        for parameter in problem.parameters():
            if parameter.value is None:  # CVXPY asks for values before it reduces; they do not matter
                parameter.value = parameter.project(np.ones(parameter.shape))
        data = problem.get_problem_data(cp.CLARABEL, solver_opts={"use_quad_obj": True})[0]
        program = data[cp.settings.PARAM_PROB]
        self.solver, self.adjoint = solver, adjoint
        self.parameters = [(p.shape, program.param_id_to_col.get(p.id), p.size) for p in parameters]
        self.width = program.total_param_size + 1
        self.cones = _cones(data["dims"])
        self.q_map = _operator(program.q)
        self.A_map, self.A_at, self.A_shape = _pattern(program.reduced_A)
        self.P = None if program.P is None else _pattern(program.reduced_P)
        self.variables = []
        for variable in variables:
            if variable.id not in program.var_id_to_col:
                raise ValueError(
                    f"CvxpyLayer: {variable.name()} is not among the variables of the reduced problem; write its "
                    "attributes (symmetric, PSD, nonneg, ...) as constraints."
                )
            self.variables.append((variable.shape, program.var_id_to_col[variable.id], variable.size))

    def __call__(self, *values: Array, **settings: Any) -> tuple[Array, ...]:
        """Solve for values of the parameters.

        Args:
            *values: one array for each parameter, in the shape of the parameter, or with one more leading axis: then
                the problem is solved for each entry, and values without that axis are shared.
            **settings: handed to the solver, and `raise_on_failure`.

        Returns:
            A tuple of arrays, one for each variable.
        """
        if len(values) != len(self.parameters):
            raise ValueError(f"CvxpyLayer: expected {len(self.parameters)} values, found {len(values)}.")
        arrays = [jnp.asarray(value, jnp.result_type(float)) for value in values]
        axes = []
        for k, (array, (shape, _, _)) in enumerate(zip(arrays, self.parameters, strict=True)):
            if array.shape != shape and array.shape[1:] != shape:
                raise ValueError(f"CvxpyLayer: value {k} has shape {array.shape}, its parameter {shape}.")
            axes.append(None if array.shape == shape else 0)
        solve = lambda *arrays: self._solve(arrays, settings)  # noqa: E731
        if all(axis is None for axis in axes):
            return solve(*arrays)
        return jax.vmap(solve, in_axes=tuple(axes))(*arrays)

    def _solve(self, arrays: Sequence[Array], settings: dict) -> tuple[Array, ...]:
        flat = jnp.zeros(self.width, arrays[0].dtype if arrays else jnp.result_type(float)).at[-1].set(1.0)
        for array, (_, column, size) in zip(arrays, self.parameters, strict=True):
            if column is not None:  # else CVXPY found that it does not matter
                flat = flat.at[column : column + size].set(array.ravel(order="F"))
        q = (self.q_map @ flat)[:-1]
        rows, columns = self.A_at
        entries = self.A_map @ flat
        m, n = self.A_shape[0], q.size
        is_b = columns == n
        b = jnp.zeros(m, q.dtype).at[rows[is_b]].add(entries[is_b])
        A = _matrix(-entries[~is_b], rows[~is_b], columns[~is_b], (m, n))
        P = None if self.P is None else _matrix(self.P[0] @ flat, *self.P[1], (n, n))
        x = solve_conic(P, q, A, b, self.cones, self.solver, adjoint=self.adjoint, **settings).x
        return tuple(x[start : start + size].reshape(shape, order="F") for shape, start, size in self.variables)


def _cones(dims: Any) -> list[Cone]:
    cones: list[Cone] = [Zero(dims.zero), NonNegative(dims.nonneg)]
    cones += [SecondOrder(size) for size in dims.soc]
    cones += [PositiveSemidefinite(size) for size in dims.psd]
    cones += [Exponential() for _ in range(dims.exp)]
    return cones + [Power(float(alpha)) for alpha in dims.p3d]


def _operator(matrix: Any) -> BCOO:
    return BCOO.from_scipy_sparse(matrix.tocsr())


def _pattern(reduced: Any) -> tuple[BCOO, tuple[np.ndarray, np.ndarray], tuple[int, int]]:
    """The map from parameters to a matrix's entries, where these are, and its shape."""
    reduced.cache()
    indices, pointers, shape = reduced.problem_data_index
    of_columns = np.repeat(np.arange(shape[1]), np.diff(pointers))
    return _operator(reduced.reduced_mat), (np.asarray(indices), of_columns), tuple(shape)


def _matrix(entries: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Array | BCOO:
    if shape[0] * shape[1] <= DENSE_ENTRIES:
        return jnp.zeros(shape, entries.dtype).at[rows, columns].add(entries)
    return BCOO((entries, jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], axis=1)), shape=shape)
