"""The compiled solvers behind `solve_conic`: from NumPy data to (x, z, s, status), with batches in threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ..projection.cones import Cone, Exponential, NonNegative, PositiveSemidefinite, Power, SecondOrder, Zero

SOLVED, ALMOST_SOLVED, INFEASIBLE, UNBOUNDED, FAILED = range(5)
MEANING = {
    SOLVED: "solved",
    ALMOST_SOLVED: "almost solved: to a looser tolerance",
    INFEASIBLE: "primal infeasible: no x satisfies the constraints",
    UNBOUNDED: "dual infeasible: the objective is unbounded below",
    FAILED: "the solver failed: NaN in the data, a P that is not positive semidefinite, or numerical trouble",
}


class Program(NamedTuple):
    """min 1/2 x'Px + q'x subject to Ax + s = b, s in the cones; P and A as scipy.sparse CSC matrices."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: Sequence[Cone]


Backend = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray, int]]


def clarabel(program: Program, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Clarabel, an interior-point method for all cones; as precise as float64 allows by default."""
    import clarabel as native
    from scipy import sparse

    make = {
        Zero: lambda cone: native.ZeroConeT(cone.size),
        NonNegative: lambda cone: native.NonnegativeConeT(cone.size),
        SecondOrder: lambda cone: native.SecondOrderConeT(cone.size),
        PositiveSemidefinite: lambda cone: native.PSDTriangleConeT(int(cone.n)),
        Exponential: lambda cone: native.ExponentialConeT(),
        Power: lambda cone: native.PowerConeT(cone.alpha),
    }
    options = native.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = 1e-12
    # Residuals are then far below this. With 1e-12, Clarabel fails on one program in a hundred because of rounding
    # errors.
    options.tol_feas = 1e-9
    options.tol_ktratio = 1e-9
    options.max_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    found = native.DefaultSolver(
        sparse.triu(program.P, format="csc"),
        program.q,
        program.A,
        program.b,
        [make[type(cone)](cone) for cone in program.cones if cone.size],
        options,
    ).solve()
    status = {
        "Solved": SOLVED,
        "AlmostSolved": ALMOST_SOLVED,
        "PrimalInfeasible": INFEASIBLE,
        "AlmostPrimalInfeasible": INFEASIBLE,
        "DualInfeasible": UNBOUNDED,
        "AlmostDualInfeasible": UNBOUNDED,
    }.get(str(found.status), FAILED)
    x, z, s = (np.asarray(part, float) for part in (found.x, found.z, found.s))
    if status == FAILED and str(found.status) in ("InsufficientProgress", "MaxIterations", "NumericalError"):
        # The tolerance is at the limit of the precision, and the result may be good even if it was not reached.
        scale = 1 + np.linalg.norm(program.q) + np.linalg.norm(program.b)
        error = np.linalg.norm(program.P @ x + program.A.T @ z + program.q) + np.linalg.norm(
            program.A @ x + s - program.b
        )
        if error + abs(s @ z) <= 1e-7 * scale:
            status = ALMOST_SOLVED
    return x, z, s, status


def scs(program: Program, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """SCS, an operator-splitting method for large programs; cones other than the power cone."""
    import scs as native
    from scipy import sparse

    order = (Zero, NonNegative, SecondOrder, PositiveSemidefinite, Exponential)
    starts = np.cumsum([0] + [cone.size for cone in program.cones])
    blocks: list[tuple[Cone, np.ndarray]] = []
    for kind in order:
        for cone, start in zip(program.cones, starts, strict=False):
            if isinstance(cone, kind):
                blocks.append((cone, start + _to_scs(cone)))
    if len(blocks) != len(program.cones):
        raise ValueError("solver='scs' knows no power cones here; use 'clarabel'.")
    permutation = np.concatenate([rows for _, rows in blocks]) if blocks else np.zeros(0, int)
    sizes = lambda kind: [int(cone.n) for cone, _ in blocks if isinstance(cone, kind)]  # noqa: E731
    native_cone = dict(
        z=sum(sizes(Zero)),
        l=sum(sizes(NonNegative)),
        q=sizes(SecondOrder),
        s=sizes(PositiveSemidefinite),
        ep=sum(isinstance(c, Exponential) for c, _ in blocks),
    )
    data = dict(
        P=sparse.triu(program.P, format="csc"),
        c=program.q,
        A=sparse.csc_matrix(program.A[permutation]),
        b=program.b[permutation],
    )
    found = native.solve(
        data, native_cone, **(dict(verbose=False, eps_abs=1e-9, eps_rel=1e-9, max_iters=100_000) | settings)
    )
    status = {1: SOLVED, 2: ALMOST_SOLVED, -2: INFEASIBLE, -7: INFEASIBLE, -1: UNBOUNDED, -6: UNBOUNDED}.get(
        found["info"]["status_val"], FAILED
    )
    z, s = np.zeros_like(program.b), np.zeros_like(program.b)
    z[permutation], s[permutation] = found["y"], found["s"]
    return np.asarray(found["x"]), z, s, status


def _to_scs(cone: Cone) -> np.ndarray:
    """The rows of a cone in the order of SCS: the lower triangle of a matrix, column by column."""
    if not isinstance(cone, PositiveSemidefinite):
        return np.arange(cone.size)
    n = int(cone.n)
    position = np.zeros((n, n), int)
    columns, rows = np.tril_indices(n)
    position[rows, columns] = position[columns, rows] = np.arange(cone.size)
    return np.concatenate([position[j:, j] for j in range(n)])


# The default tolerances of these solvers are loose (1e-3 in OSQP), and the error of x enters the derivative.
PRECISE = {
    "osqp": dict(eps_abs=1e-9, eps_rel=1e-9, max_iter=200_000, raise_error=False),
    "proxqp": dict(eps_abs=1e-10, eps_rel=0.0),
    "piqp": dict(eps_abs=1e-10, eps_rel=1e-10, eps_duality_gap_abs=1e-10, eps_duality_gap_rel=1e-10),
    "highs": dict(primal_feasibility_tolerance=1e-10, dual_feasibility_tolerance=1e-10),
}


def quadratic(name: str) -> Backend:
    """OSQP, ProxQP, PIQP and others through qpsolvers; they take equations and inequalities only."""

    def solve(program: Program, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        import qpsolvers

        if any(not isinstance(cone, Zero | NonNegative) for cone in program.cones):
            raise ValueError(f"solver={name!r} is for quadratic programs: cones Zero and NonNegative.")
        equal = np.concatenate([np.full(cone.size, isinstance(cone, Zero)) for cone in program.cones])
        form = (lambda M: M) if name in qpsolvers.sparse_solvers else (lambda M: M.toarray())
        part = lambda rows: (form(program.A[rows]), program.b[rows]) if rows.any() else (None, None)  # noqa: E731
        (A, b), (G, h) = part(equal), part(~equal)
        q = program.q.copy()  # a copy, because arrays of JAX are read-only and DAQP needs a writable one
        problem = qpsolvers.Problem(form(program.P), q, G, h, A, b)
        found = qpsolvers.solve_problem(problem, solver=name, **(PRECISE.get(name, {}) | settings))
        z = np.zeros_like(program.b)
        if not found.found:
            return np.full_like(program.q, np.nan), z, z, _why_not(found)
        if A is not None:
            z[equal] = found.y
        if G is not None:
            z[~equal] = found.z
        s = np.where(equal, 0.0, program.b - program.A @ found.x)
        return np.asarray(found.x), z, np.where(equal, 0.0, np.maximum(s, 0.0)), SOLVED

    return solve


def _why_not(found: Any) -> int:
    """The status of a qpsolvers.Solution without a solution, if the solver reported one."""
    words = str(getattr(found.extras.get("info"), "status", "")).lower().replace("_", " ")
    return INFEASIBLE if "primal infeasible" in words else UNBOUNDED if "dual infeasible" in words else FAILED


def backend(solver: str | Callable) -> Backend:
    """The backend with this name, or one that calls a function `(P, q, A, b, cones) -> (x, z, s)`."""
    if callable(solver):

        def own(program: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
            x, z, s = solver(*program)
            return np.asarray(x), np.asarray(z), np.asarray(s), SOLVED

        return own
    known: dict[str, Backend] = {"clarabel": clarabel, "scs": scs}
    known |= {name: quadratic(name) for name in ("osqp", "proxqp", "piqp", "highs", "quadprog", "daqp")}
    if solver not in known:
        raise ValueError(f"solver must be a callable or one of jax, {', '.join(known)}; found {solver!r}.")
    return known[solver]


def in_threads(solve: Callable[[int], None], count: int) -> None:
    """Call solve(0), ..., solve(count - 1) in threads; compiled solvers release the global interpreter lock."""
    if count == 1:
        solve(0)
        return
    with ThreadPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
        list(pool.map(solve, range(count)))
