"""CVXPY problems as differentiable functions of their parameters."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO
from jaxtyping import Array

from .._adjoint import Adjoint
from ..projection.cones import Cone, Exponential, NonNegative, PositiveSemidefinite, Power, SecondOrder, Zero
from .conic import solve_conic

# With up to this many entries, a matrix of the program is dense.
DENSE_ENTRIES = 250_000


class CvxpyLayer:
    """The solution of a parametrised CVXPY problem as a function of its parameters.

    CVXPY reduces the problem to a conic program whose data are affine in the parameters. These affine maps are taken
    from CVXPY once, and every call is then JAX code around `solve_conic`, with forward and reverse mode, jit and vmap.

    Args:
        problem: a `cvxpy.Problem` that satisfies CVXPY's rules for disciplined parametrised programming (DPP).
        parameters: its parameters, in the order in which a call takes their values.
        variables: what a call returns, in this order: variables of the problem, and constraints, for which dual values
            are returned with the sign and the shape of `constraint.dual_value`.
        solver: see `solve_conic`; the name may be in upper case.
        adjoint: how the derivative is computed.
        solver_args: settings of the solver for every call; see `__call__`.

    Raises:
        ValueError: the problem is not DPP; a parameter is missing from the list; or one in it, a variable or a
            constraint cannot be found in the program that CVXPY hands to the solver.

    Source: Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, "Differentiable convex optimization layers", NeurIPS 2019.

    Example:
        >>> import cvxpy as cp, jax, jax.numpy as jnp, implicitdiff as idf
        >>> x, b = cp.Variable(2), cp.Parameter(2)
        >>> sign = x >= 0
        >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [sign])
        >>> layer = idf.convex.CvxpyLayer(problem, parameters=[b], variables=[x, sign])
        >>> of_x, of_dual = jax.jacobian(layer)(jnp.array([1.0, -1.0]))
        >>> print(of_x.round(3) + 0.0)
        [[1. 0.]
         [0. 0.]]
        >>> print(of_dual.round(3) + 0.0)
        [[ 0.  0.]
         [ 0. -2.]]
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: str | Callable = "clarabel",
        adjoint: Adjoint | None = None,
        solver_args: dict[str, Any] | None = None,
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
            if parameter.value is None:  # CVXPY needs values to reduce the problem; which ones does not matter
                parameter.value = parameter.project(np.ones(parameter.shape))
        data, chain, inverse_data = problem.get_problem_data(cp.CLARABEL, solver_opts={"use_quad_obj": True})
        program = data[cp.settings.PARAM_PROB]
        self.solver, self.adjoint, self.solver_args = solver, adjoint, solver_args or {}
        self.width = program.total_param_size + 1
        self.cones = _cones(data["dims"])
        self.q_map = _operator(program.q)
        self.A_map, self.A_at, self.A_shape = _pattern(program.reduced_A)
        self.P = None if program.P is None else _pattern(program.reduced_P)

        new_ids: dict[int, int] = {}  # for parameters and variables with attributes, which CVXPY replaces
        for reduction in chain.reductions:
            for name in ("param_id_map", "var_id_map"):
                new_ids |= {old: new[0] for old, new in getattr(reduction, name, {}).items()}
        occurring = {parameter.id for parameter in problem.parameters()}
        self.parameters = []
        for parameter in parameters:
            kept = new_ids.get(parameter.id, parameter.id)
            column = program.param_id_to_col.get(kept)
            if column is None and parameter.id in occurring:
                raise ValueError(f"CvxpyLayer: CVXPY's reduced problem has lost parameter {parameter.name()}.")
            entries = _entries(parameter, program.param_id_to_size.get(kept, parameter.size))
            self.parameters.append((parameter.shape, column, entries))
        self.outputs: list[Callable[[Array, Array], Any]] = []
        for wanted in variables:
            if isinstance(wanted, cp.constraints.constraint.Constraint):
                self.outputs.append(_dual_value(problem, wanted, chain, inverse_data, program.x.size, self.A_shape[0]))
                continue
            kept = new_ids.get(wanted.id, wanted.id)
            if kept not in program.var_id_to_col:
                raise ValueError(f"CvxpyLayer: {wanted.name()} is not among the variables of the reduced problem.")
            entries = _entries(wanted, program.id_to_var[kept].size)
            start = program.var_id_to_col[kept]
            self.outputs.append(partial(_value, start=start, shape=wanted.shape, entries=entries))

    def __call__(self, *values: Array, solver_args: dict[str, Any] | None = None, **settings: Any) -> tuple[Any, ...]:
        """Solve for values of the parameters.

        Args:
            *values: one array for each parameter, with the shape of the parameter or with one more leading axis. In
            that
                case the problem is solved for each entry, and values without that axis are shared. Only the symmetric
                part of a symmetric parameter counts, and the diagonal of a diagonal one; other attributes are not
                checked.
            solver_args: settings of the solver, as in the package cvxpylayers: those under the solver's own names,
                `solve_method`, a solver for this call, and `eps`, the tolerance of Clarabel or SCS.
            **settings: the same, and `raise_on_failure`.

        Returns:
            A tuple with an array for each variable and each constraint; for a constraint with several dual variables,
            such as second-order and exponential cones, a list of arrays.

        Raises:
            ValueError: the number or the shape of values is wrong, or solver_args are those of another way to
                differentiate.
        """
        if len(values) != len(self.parameters):
            raise ValueError(f"CvxpyLayer: expected {len(self.parameters)} values, found {len(values)}.")
        solver, settings = _settings(self.solver, self.solver_args | (solver_args or {}) | settings)
        arrays = [jnp.asarray(value, jnp.result_type(float)) for value in values]
        axes = []
        for k, (array, (shape, _, _)) in enumerate(zip(arrays, self.parameters, strict=True)):
            if array.shape != shape and array.shape[1:] != shape:
                raise ValueError(f"CvxpyLayer: value {k} has shape {array.shape}, its parameter {shape}.")
            axes.append(None if array.shape == shape else 0)
        solve = lambda *arrays: self._solve(arrays, solver, settings)  # noqa: E731
        if all(axis is None for axis in axes):
            return solve(*arrays)
        return jax.vmap(solve, in_axes=tuple(axes))(*arrays)

    def _solve(self, arrays: Sequence[Array], solver: str | Callable, settings: dict) -> tuple[Any, ...]:
        flat = jnp.zeros(self.width, arrays[0].dtype if arrays else jnp.result_type(float)).at[-1].set(1.0)
        for array, (_, column, (at, mirror)) in zip(arrays, self.parameters, strict=True):
            if column is not None:  # otherwise the parameter does not occur in the problem
                value = array.ravel(order="F")
                flat = flat.at[column : column + at.size].set((value[at] + value[mirror]) / 2)
        q = (self.q_map @ flat)[:-1]
        rows, columns = self.A_at
        entries = self.A_map @ flat
        m, n = self.A_shape[0], q.size
        is_b = columns == n
        b = jnp.zeros(m, q.dtype).at[rows[is_b]].add(entries[is_b])
        A = _matrix(-entries[~is_b], rows[~is_b], columns[~is_b], (m, n))
        P = None if self.P is None else _matrix(self.P[0] @ flat, *self.P[1], (n, n))
        found = solve_conic(P, q, A, b, self.cones, solver, adjoint=self.adjoint, **settings)
        return tuple(output(found.x, found.dual) for output in self.outputs)


def _entries(leaf: Any, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions, column by column, of the entries of a variable or parameter that CVXPY stores, and their mirrors.

    From version 1.9 on, CVXPY stores half of a symmetric parameter and the diagonal of a diagonal one, before that all.
    """
    place = np.arange(leaf.size).reshape(leaf.shape, order="F")
    has = lambda *names: any(leaf.attributes.get(name) for name in names)  # noqa: E731
    if has("complex", "imag", "hermitian"):
        raise ValueError(f"CvxpyLayer: {leaf.name()} is complex.")
    at = mirror = place.ravel(order="F")
    if kept != leaf.size and place.ndim == 2:
        if has("symmetric", "PSD", "NSD"):
            upper = np.triu_indices(len(place))
            at, mirror = place[upper], place.T[upper]
        elif has("diag"):
            at = mirror = np.diagonal(place)
        elif has("sparsity"):
            at = mirror = place[tuple(leaf.sparse_idx)]
    if at.size != kept:
        raise ValueError(f"CvxpyLayer: of the {leaf.size} entries of {leaf.name()}, CVXPY keeps {kept}: unknown which.")
    return at, mirror


def _value(x: Array, _: Array, start: int, shape: tuple[int, ...], entries: tuple[np.ndarray, np.ndarray]) -> Array:
    """A variable, from the solution of the program."""
    at, mirror = entries
    kept = x[start : start + at.size]
    return jnp.zeros(math.prod(shape), x.dtype).at[at].set(kept).at[mirror].set(kept).reshape(shape, order="F")


def _dual_value(problem: Any, constraint: Any, chain: Any, inverse_data: Any, n: int, m: int) -> Callable:
    """The map from the solution of the program to the dual value of a constraint.

    CVXPY has code that inverts its reductions. It is called here with three known vectors of multipliers. Two of them
    show which multiplier each entry of the dual value is, and the factor; the third has to agree.
    """
    if all(constraint is not other for other in problem.constraints):
        raise ValueError(f"CvxpyLayer: {constraint} is not a constraint of the problem.")
    kept = [variable.value for variable in constraint.dual_variables]

    def recover(z: np.ndarray) -> list[np.ndarray]:
        found = SimpleNamespace(
            status="Solved", x=np.zeros(n), z=z, s=np.zeros(m), obj_val=0.0, solve_time=0.0, iterations=0
        )
        duals = chain.invert(found, inverse_data).dual_vars
        if constraint.id not in duals:
            raise ValueError(f"CvxpyLayer: CVXPY reports no dual value of {constraint}.")
        constraint.save_dual_value(duals[constraint.id])
        return [np.asarray(variable.value, float) for variable in constraint.dual_variables]

    random = np.random.default_rng(0).standard_normal(m)
    probes = [recover(z) for z in (np.ones(m), np.arange(m) + 1.0, random)]
    for variable, value in zip(constraint.dual_variables, kept, strict=True):
        variable.save_value(value)
    parts = []
    for ones, counted, tried in zip(*probes, strict=True):
        rows = np.rint(counted / np.where(ones == 0, np.inf, ones)).astype(int) - (ones != 0)
        if not np.allclose(ones * random[np.clip(rows, 0, m - 1)], tried):
            raise ValueError(f"CvxpyLayer: the dual value of {constraint} mixes several multipliers.")
        parts.append((ones, rows))
    several = len(parts) > 1

    def read(_: Array, z: Array) -> Any:
        values = [lax.convert_element_type(factors, z.dtype) * z[rows] for factors, rows in parts]
        return values if several else values[0]

    return read


def _settings(solver: str | Callable, settings: dict[str, Any]) -> tuple[str | Callable, dict[str, Any]]:
    """The solver and its settings, from the arguments that the package cvxpylayers takes."""
    settings = dict(settings)
    solver = settings.pop("solve_method", solver)
    solver = solver.lower() if isinstance(solver, str) else solver
    foreign = {"mode", "derivative_kwargs", "n_jobs_forward", "n_jobs_backward"} & set(settings)
    if foreign:
        raise ValueError(
            f"CvxpyLayer: solver_args has {sorted(foreign)}, which tell diffcp how to differentiate; here "
            "CvxpyLayer(..., adjoint=...) does, and by default the derivative is exact."
        )
    if "eps" in settings:
        names = {"clarabel": ("tol_gap_abs", "tol_gap_rel", "tol_feas"), "scs": ("eps_abs", "eps_rel")}
        if solver not in names:
            raise ValueError(f"CvxpyLayer: eps is the tolerance of Clarabel and SCS, not of {solver!r}.")
        settings = dict.fromkeys(names[solver], settings.pop("eps")) | settings
    return solver, settings


def _cones(dims: Any) -> list[Cone]:
    if getattr(dims, "pnd", None):
        raise ValueError("CvxpyLayer: power cones of more than three dimensions are not supported.")
    cones: list[Cone] = [Zero(dims.zero), NonNegative(dims.nonneg)]
    cones += [SecondOrder(size) for size in dims.soc]
    cones += [PositiveSemidefinite(size) for size in dims.psd]
    cones += [Exponential() for _ in range(dims.exp)]
    return cones + [Power(float(alpha)) for alpha in dims.p3d]


def _operator(matrix: Any) -> BCOO:
    return BCOO.from_scipy_sparse(matrix.tocsr())


def _pattern(reduced: Any) -> tuple[BCOO, tuple[np.ndarray, np.ndarray], tuple[int, int]]:
    """The map from parameters to the entries of a matrix, their positions, and the shape."""
    reduced.cache()
    indices, pointers, shape = reduced.problem_data_index
    of_columns = np.repeat(np.arange(shape[1]), np.diff(pointers))
    return _operator(reduced.reduced_mat), (np.asarray(indices), of_columns), tuple(shape)


def _matrix(entries: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Array | BCOO:
    if shape[0] * shape[1] <= DENSE_ENTRIES:
        return jnp.zeros(shape, entries.dtype).at[rows, columns].add(entries)
    return BCOO((entries, jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], axis=1)), shape=shape)
