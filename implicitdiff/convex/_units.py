"""Conic programs in units of their own: the tolerances of the compiled solvers are absolute, but units do not matter.

With x = columns * x', A' = rows * A * columns and the objective times `worth`, data and solution are of size one. Rows
of a cone that is not linear have one factor. All factors are powers of two, so that no digit is lost.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..projection.cones import NonNegative, Zero
from ._backends import ALMOST_SOLVED, Backend, Program

# A solution whose size is off by more than this in the units guessed from the data is computed again in its own.
FAR = 100.0
# Each round halves the differences in size between rows and between columns, on a logarithmic scale (Ruiz 2001).
ROUNDS = 8
# Up to so many entries dense arrays are faster.
DENSE = 40_000


class Units(NamedTuple):
    """Attributes: the factors of the columns and rows of A, and of the objective."""

    columns: np.ndarray
    rows: np.ndarray
    worth: float


class Solved(NamedTuple):
    """Attributes: the solution in its own units, a status, and these units."""

    x: np.ndarray
    z: np.ndarray
    s: np.ndarray
    status: int
    units: Units


def solve_in_own_units(program: Program, solve: Backend, named: bool, **settings: Any) -> Solved:
    """Solve a program; one with a name is given the program in units in which it is of size one.

    In the units of the solution a multiplier and its slack can be compared, in those of the user they can not.
    """
    columns, rows = equilibrated(program)
    if not named:
        x, z, s, status = solve(program, **settings)
        units = _units(program, columns, rows, abs(x / columns).max(initial=0.0))
        z, s = complementary(program, z * units.worth / units.rows, s * units.rows)
        return Solved(x / units.columns, z, s, status, units)
    units = _units(program, columns, rows, _size(program, columns, rows))
    x, z, s, status = solve(_scaled(program, units), **settings)
    size = abs(x).max(initial=0.0)
    if status <= ALMOST_SOLVED and size > 0 and not 1 / FAR <= size <= FAR:
        own = _units(program, columns, rows, units.columns.max(initial=0.0) / columns.max(initial=0.0) * size)
        other = solve(_scaled(program, own), **settings)
        if other[3] <= status:
            (x, z, s, status), units = other, own
    return Solved(x, *complementary(program, z, s), status, units)


def complementary(program: Program, z: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a multiplier of a linear constraint and its slack, the smaller one is zero."""
    kinds = [np.full(cone.size, 2 * isinstance(cone, Zero) + isinstance(cone, NonNegative)) for cone in program.cones]
    kind = np.concatenate([np.zeros(0, int), *kinds])
    active = (kind == 2) | ((kind == 1) & (z > s))
    return np.where((kind == 1) & ~active, 0.0, z), np.where(active, 0.0, s)


def equilibrated(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the columns and rows of A with which the rows of [[P, A'], [A, 0]] are of about equal size."""
    n, m = len(program.q), len(program.b)
    P, A = _sizes(program.P), _sizes(program.A)
    columns, rows = np.ones(n), np.ones(m)
    for _ in range(ROUNDS):
        scaled = _product(rows, A, columns)
        of_columns = np.maximum(_largest(_product(columns, P, columns), 0), _largest(scaled, 0))
        of_rows = _largest(scaled, 1)
        start = 0
        for cone in program.cones:
            if not isinstance(cone, Zero | NonNegative):
                of_rows[start : start + cone.size] = of_rows[start : start + cone.size].max(initial=0.0)
            start += cone.size
        by = _power_of_two(np.sqrt(of_columns)), _power_of_two(np.sqrt(of_rows))
        columns, rows = columns * by[0], rows * by[1]
        if np.all(by[0] == 1) and np.all(by[1] == 1):
            break
    return columns, rows


def _sizes(A: Any) -> Any:
    """The absolute values of a SciPy matrix, dense if that is faster."""
    return abs(A.toarray()) if A.shape[0] * A.shape[1] <= DENSE else abs(sparse.csr_array(A))


def _product(rows: Any, A: Any, columns: Any) -> Any:
    if isinstance(A, np.ndarray):
        return rows[:, None] * A * columns
    return sparse.csr_array(sparse.diags_array(rows) @ A @ sparse.diags_array(columns))


def _largest(A: Any, axis: int) -> np.ndarray:
    if isinstance(A, np.ndarray):
        return A.max(axis=axis, initial=0.0)
    return A.max(axis=axis).toarray().ravel() if A.shape[axis] else np.zeros(A.shape[1 - axis])


def _power_of_two(size: Any) -> Any:
    """About 1 / size as a power of two; 1 for 0."""
    size = np.where((size > 0) & np.isfinite(size), size, 1.0)
    return 2.0 ** -np.round(np.log2(size))


def _curvature(program: Program, columns: np.ndarray) -> float:
    """The largest entry of P in these units."""
    if not program.P.nnz:
        return 0.0
    entries = program.P.tocoo()
    return float((abs(entries.data) * columns[entries.row] * columns[entries.col]).max())


def _size(program: Program, columns: np.ndarray, rows: np.ndarray) -> float:
    """The size of x: what equations ask for, or the smaller of what the bounds and the objective suggest."""
    b = abs(program.b * rows)
    equal = np.concatenate([np.zeros(0, bool), *[np.full(cone.size, isinstance(cone, Zero)) for cone in program.cones]])
    by_equations = b[equal].max(initial=0.0)
    # The median: a bound may stand for infinity.
    bounds = b[~equal & (b > 0)]
    others = [float(np.median(bounds))] if bounds.size else []
    steep, curved = abs(program.q * columns).max(initial=0.0), _curvature(program, columns)
    if steep > 0 and curved > 0:
        others.append(float(steep / curved))
    return float(by_equations) if by_equations > 0 else min(others, default=1.0)


def _units(program: Program, columns: np.ndarray, rows: np.ndarray, size: float) -> Units:
    """The units in which x is of size one where, with these factors, it is of this size."""
    unit = 1 / float(_power_of_two(size))
    columns, rows = columns * unit, rows / unit
    steep = abs(program.q * columns).max(initial=0.0)
    return Units(columns, rows, float(_power_of_two(max(_curvature(program, columns), steep))))


def _scaled(program: Program, units: Units) -> Program:
    columns, rows, worth = units
    left, right = sparse.diags_array(rows), sparse.diags_array(columns)
    P = sparse.csc_matrix(sparse.diags_array(worth * columns) @ program.P @ right)
    A = sparse.csc_matrix(left @ program.A @ right)
    return Program(P, worth * columns * program.q, A, rows * program.b, program.cones)
