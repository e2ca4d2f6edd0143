"""A hundred hard quadratic programs: are all of them solved, and is every derivative right?

The programs are badly scaled, redundant, degenerate, linear, sparse, or come from model predictive control, and have
5 to 1,000 variables. The solution of each is known, because the data are made for it. The derivative is compared with
that of the equations of the active set. Where these are not independent, it is compared with differences of
solutions, or taken along a direction for which it is known in closed form.
"""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from scipy import sparse

import implicitdiff as idf

from ._report import Claim, Report, Table, largest

NAMES = "PqAbGh"
# Variables, equations, inequalities, and the number of programs of each kind; LARGE adds one to some kinds.
SIZES = [(5, 2, 9, 6), (20, 6, 60, 6), (60, 15, 120, 4), (200, 40, 400, 1)]
LARGE = {"sparse": (1000, 200, 1500, 1), "badly scaled": (1000, 200, 1500, 1)}
# States, inputs, steps, and the number of programs.
HORIZONS = [(1, 1, 3, 4), (3, 1, 5, 4), (4, 2, 10, 3), (6, 2, 25, 1), (6, 2, 125, 1)]
# With at least so many variables, the matrices are sparse.
SPARSE = 200


class Program(NamedTuple):
    """min 1/2 x'Px + q'x s.t. Ax = b, Gx <= h, with its solution.

    Attributes:
        data: P, q, A, b, G, h, dense.
        x: the solution, which is unique.
        multipliers: of equations and inequalities; one choice if they are not unique.
        unit: (n,) the size of each variable: errors are in these units.
        tangents: a direction of the data in which the solution is differentiable.
        judge: how the derivative is checked: "active set" where its equations are independent, "differences", or
            "closed form", in which case it is `moved`.
        moved: (n,) the derivative along the tangents, in closed form.
    """

    data: tuple[np.ndarray, ...]
    x: np.ndarray
    multipliers: tuple[np.ndarray, np.ndarray]
    unit: np.ndarray
    tangents: tuple[np.ndarray, ...]
    judge: str
    moved: np.ndarray | None = None


def measure(quick: bool) -> Report:
    report = Report([], [])
    rows, checked, programs = [], [], list(all_programs(20 if quick else 1000))
    for kind in dict.fromkeys(kind for kind, _ in programs):
        found = [check(program) for other, program in programs if other == kind]
        checked += found
        worst = {name: largest(row[name] for row in found) for name in ("error of x", "forward", "reverse")}
        rows.append(
            {
                "programs": kind,
                "number": len(found),
                "n": f"{min(r['n'] for r in found)}-{max(r['n'] for r in found)}",
                "solved": sum(row["status"] == 0 for row in found),
                "almost": sum(row["status"] == 1 for row in found),
                **worst,
                "judge": found[0]["judge"],
                "slowest, s": max(row["seconds"] for row in found),
            }
        )
    note = (
        "Largest relative errors of the solution, of its derivative along one direction of all data, and of "
        "the gradient along that direction. Seconds are those of solution, forward and reverse mode, compiled."
    )
    report.tables.append(Table("by kind", rows, note))
    total, solved = sum(row["number"] for row in rows), sum(row["solved"] + row["almost"] for row in rows)
    report.claims.append(Claim("programs that are not solved", total - solved, 0))
    errors = [(largest((row["forward"], row["reverse"])), row["error of x"]) for row in checked]
    report.claims.append(Claim("largest error of a derivative", largest(error for error, _ in errors), 1e-3))
    beyond = largest(error / np.maximum(of_x, 1e-8) for error, of_x in errors)
    report.claims.append(Claim("largest ratio of this error to that of x, or to 1e-8", beyond, 100))
    return report


def all_programs(largest: int):
    """Pairs of a kind and a program, for programs of at most so many variables."""
    for kind, make in KINDS.items():
        for n, p, m, count in [*SIZES, *([LARGE[kind]] if kind in LARGE else [])]:
            if n <= largest:
                yield from ((kind, make(n, p, m, np.random.default_rng([n, seed]))) for seed in range(count))
    for states, inputs, steps, count in HORIZONS:
        if (states + inputs) * steps <= largest:
            for seed in range(count):
                yield "control", control(states, inputs, steps, np.random.default_rng([steps, seed]))


def check(program: Program, adjoint: idf.Implicit | None = None) -> dict:
    """Solve and differentiate in both modes, and compare; see `measure`."""
    data, tangents = (to_jax(program, parts) for parts in (program.data, program.tangents))
    cotangent = jnp.asarray(np.resize([1.0, -1.0, 0.5], program.x.size) / program.unit)
    jax.block_until_ready(_products(data, tangents, cotangent, adjoint))  # compiles, for a new shape
    start = time.perf_counter()
    found, forward, gradient = jax.block_until_ready(_products(data, tangents, cotangent, adjoint))
    seconds = time.perf_counter() - start
    exact = {"active set": of_active_set, "differences": by_differences, "closed form": _moved}[program.judge](program)
    size = np.linalg.norm(exact / program.unit)
    product = sum(
        np.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(_values(tangents)), strict=True)
    )
    return {
        "n": program.x.size,
        "status": int(found.status),
        "judge": program.judge,
        "error of x": np.linalg.norm((found.x - program.x) / program.unit) / np.linalg.norm(program.x / program.unit),
        "forward": np.linalg.norm((forward - exact) / program.unit) / size,
        # The product is a sum of many terms: its error is measured against the largest value it could have.
        "reverse": float(abs(product - cotangent @ exact) / (np.linalg.norm(cotangent * program.unit) * size)),
        "seconds": seconds,
    }


@partial(jax.jit, static_argnames="adjoint")
def _products(data, tangents, cotangent, adjoint):
    def solve(values):
        full = [
            BCOO((v, d.indices), shape=d.shape) if isinstance(d, BCOO) else v for v, d in zip(values, data, strict=True)
        ]
        found = idf.convex.solve_qp(*full, adjoint=adjoint)
        return found.x, found

    values = _values(data)
    (_, found), (forward, _) = jax.jvp(solve, (values,), (_values(tangents),))
    _, pull, _ = jax.vjp(solve, values, has_aux=True)
    return found, forward, pull(cotangent)[0]


def _values(data):
    return [part.data if isinstance(part, BCOO) else part for part in data]


def to_jax(program: Program, parts: tuple[np.ndarray, ...]) -> list:
    """The parts as JAX arrays; the matrices of large programs as BCOO, on the pattern of data and tangents together."""
    if program.x.size < SPARSE:
        return [jnp.asarray(part) for part in parts]
    result = []
    for part, value, tangent in zip(parts, program.data, program.tangents, strict=True):
        at = np.argwhere((value != 0) | (tangent != 0))
        result.append(jnp.asarray(part) if part.ndim == 1 else BCOO((part[tuple(at.T)], at), shape=part.shape))
    return result


def of_active_set(program: Program) -> np.ndarray:
    """The derivative of x along the tangents, by the equations of the active set."""
    P, _, A, _, G, _ = program.data
    dP, dq, dA, db, dG, dh = program.tangents
    (nu, lam), x, D = program.multipliers, program.x, sparse.diags(program.unit)
    active = lam > 0
    rows = sparse.csr_matrix(np.vstack([A, G[active]])) @ D
    scale = sparse.diags(1 / np.sqrt(rows.multiply(rows).sum(1).A1))
    K = sparse.bmat([[D @ sparse.csr_matrix(P) @ D, (scale @ rows).T], [scale @ rows, None]], format="csc")
    top = -program.unit * (dP @ x + dq + dA.T @ nu + dG.T @ lam)
    below = scale @ np.concatenate([db - dA @ x, (dh - dG @ x)[active]])
    factors, right = sparse.linalg.splu(K), np.concatenate([top, below])
    found = factors.solve(right)
    found = found + factors.solve(right - K @ found)
    return program.unit * found[: x.size]


def by_differences(program: Program, h: float = 2e-3) -> np.ndarray:
    """Central differences of x; exact, because only vectors move: x is linear in h while the active set stays."""
    ends = []
    for sign in (1, -1):
        moved = [value + sign * h * tangent for value, tangent in zip(program.data, program.tangents, strict=True)]
        ends.append(np.asarray(idf.convex.solve_qp(*moved).x))
    return (ends[0] - ends[1]) / (2 * h)


def _moved(program: Program) -> np.ndarray:
    assert program.moved is not None
    return program.moved


def random_program(n, p, m, random, unit=None, row_unit=None, flat=False, redundant=0, weak=0) -> Program:
    """A sparse program with fixed, free, bounded and doubly bounded variables, and a given solution.

    Args:
        n: variables.
        p: equations, of which `redundant` are combinations of others.
        m: inequalities: bounds of half of the variables from both sides, the rest general rows.
        random: generator.
        unit: (n,) sizes of the variables.
        row_unit: (p + m,) sizes of the rows.
        flat: whether P is zero, so that the solution is a vertex.
        redundant: the number of equations, and of active inequalities, that repeat others.
        weak: the number of weakly active inequalities: satisfied with equality, with multiplier zero.
    """
    unit = np.ones(n) if unit is None else unit

    def rows(k):
        return random.standard_normal((k, n)) * (random.random((k, n)) < min(1, 6 / n)) + _one_each(k, n, random)

    bounded = random.permutation(n)[: min(n, m // 2) // 2]
    eye = np.eye(n)[bounded]
    A, G = rows(p), np.vstack([eye, -eye, rows(m - 2 * len(bounded))])
    A[: p // 3] = _one_each(p // 3, n, random)
    k = len(bounded)
    # Only one of the two bounds of a variable can be active.
    candidates = np.concatenate([np.arange(k) + k * random.integers(0, 2, k), np.arange(2 * k, m)])
    active = random.permutation(candidates)
    rest = n - (p - redundant)
    active = _independent(A[: p - redundant], G, active, rest if flat else rest // 2)
    nu, lam = random.standard_normal(p), np.zeros(m)
    lam[active] = random.uniform(0.5, 2, len(active))
    slack = np.where(lam > 0, 0, random.uniform(0.5, 2, m))
    if redundant:
        mixture = random.integers(-2, 3, (redundant, p - redundant)).astype(float)
        A[p - redundant :] = mixture @ A[: p - redundant]
        free = np.flatnonzero((lam == 0) & (np.arange(m) >= 2 * k))[:redundant]
        twice = active[: len(free)]
        # The sum of an active row and the first one is active as well, and gets a multiplier of its own.
        G[free], slack[free] = G[twice] + G[active[0]], 0
        lam[free] = random.uniform(0.5, 2, len(free))
    free = np.flatnonzero((slack > 0) & (np.arange(m) >= 2 * k))[:weak]
    slack[free] = 0
    L = rows(n // 2) * (not flat)
    P = L.T @ L  # of rank n / 2 at most, so that the solution would not be unique
    if not flat:
        P += 0.1 * np.diag(random.random(n) < 0.7) + 1e-3 * np.eye(n)
    x = random.standard_normal(n)
    data = [P, -P @ x - A.T @ nu - G.T @ lam, A, A @ x, G, G @ x + slack]
    tangents = [random.standard_normal(part.shape) * (part != 0 if part.ndim == 2 else 1) for part in data]
    tangents[0] = tangents[0] + tangents[0].T
    if redundant:  # only vectors move, and redundant rows move like those that they repeat
        tangents[0], tangents[2], tangents[4] = np.zeros_like(P), np.zeros_like(A), np.zeros_like(G)
        dx = random.standard_normal(n)
        tangents[3], tangents[5] = A @ dx, np.where(lam > 0, G @ dx, tangents[5])
    judge, moved = "differences" if redundant else "active set", None
    if weak:  # all constraints that hold with equality move with x, so that no kink is met
        judge, moved = "closed form", random.standard_normal(n)
        free = np.where(slack > 0, tangents[5], G @ moved)
        tangents = [np.zeros_like(P), -P @ moved, np.zeros_like(A), A @ moved, np.zeros_like(G), free]
    scales = np.ones(p + m) if row_unit is None else row_unit
    program = Program(tuple(data), x, (nu, lam), np.ones(n), tuple(tangents), judge, moved)
    return _scaled(program, unit, scales)


def _one_each(k, n, random) -> np.ndarray:
    """(k, n) with one entry in each row, in different columns as far as possible."""
    columns = np.resize(random.permutation(n), k)
    return np.eye(n)[columns] * random.choice([-1.0, 1.0], (k, 1))


def _independent(A, G, order, count) -> np.ndarray:
    """The first `count` rows of G in this order that are well independent of each other and of the rows of A."""
    p, chosen = len(A), []
    basis = np.zeros((p + count, A.shape[1]))
    basis[:p] = np.linalg.qr(A.T)[0].T
    for i in order:
        if len(chosen) == count:
            break
        left = G[i] - basis.T @ (basis @ G[i])
        left = left - basis.T @ (basis @ left)
        if np.linalg.norm(left) > 0.1 * np.linalg.norm(G[i]):
            basis[p + len(chosen)] = left / np.linalg.norm(left)
            chosen.append(i)
    assert len(chosen) == count, "too few rows are independent: another seed, or more rows"
    return np.array(chosen, int)


def _scaled(program: Program, unit: np.ndarray, rows: np.ndarray) -> Program:
    """The same program with variables and rows in other units."""
    left, right = rows[: len(program.data[3])], rows[len(program.data[3]) :]

    def convert(P, q, A, b, G, h):
        return (
            P / unit[:, None] / unit,
            q / unit,
            left[:, None] * A / unit,
            left * b,
            right[:, None] * G / unit,
            right * h,
        )

    nu, lam = program.multipliers
    return program._replace(
        data=convert(*program.data),
        x=program.x * unit,
        multipliers=(nu / left, lam / right),
        unit=unit,
        tangents=convert(*program.tangents),
    )


def scaled(n, p, m, random) -> Program:
    """Variables and rows in units from 1e-3 to 1e3."""
    return random_program(n, p, m, random, *(10.0 ** random.uniform(-3, 3, k) for k in (n, p + m)))


def control(states, inputs, steps, random) -> Program:
    """Model predictive control: z+ = Fz + Bu, weights on states and inputs, both in boxes, some of them active."""
    n = (states + inputs) * steps
    F = np.eye(states) + 0.2 * random.standard_normal((states, states))
    B = random.standard_normal((states, inputs))
    A = np.kron(np.eye(steps), np.hstack([-B, np.eye(states)]))
    for k in range(1, steps):
        A[k * states : (k + 1) * states, k * (states + inputs) - states : k * (states + inputs)] = -F
    P = np.diag(np.tile(np.concatenate([np.full(inputs, 0.1), random.uniform(0.5, 2, states)]), steps))
    G = np.vstack([np.eye(n), -np.eye(n)])
    m, p = 2 * n, states * steps
    of_inputs = np.flatnonzero(np.arange(n) % (states + inputs) < inputs)
    of_states = np.flatnonzero(np.arange(n) % (states + inputs) >= inputs)
    at_bound = np.concatenate(
        [
            random.choice(of_inputs, len(of_inputs) // 3, replace=False),
            random.choice(of_states, len(of_states) // 20, replace=False),
        ]
    )
    active = _independent(A, G, at_bound + n * random.integers(0, 2, len(at_bound)), len(at_bound))
    nu, lam = random.standard_normal(p), np.zeros(m)
    lam[active] = random.uniform(0.5, 2, len(active))
    slack = np.where(lam > 0, 0, random.uniform(0.5, 2, m))
    x = random.standard_normal(n)
    data = (P, -P @ x - A.T @ nu - G.T @ lam, A, A @ x, G, G @ x + slack)
    tangents = [random.standard_normal(part.shape) * (part != 0 if part.ndim == 2 else 1) for part in data]
    tangents[0] = np.diag(np.diagonal(tangents[0]))
    return Program(data, x, (nu, lam), np.ones(n), tuple(tangents), "active set")


KINDS = {
    "sparse": random_program,
    "badly scaled": scaled,
    "linear": lambda *sizes: random_program(*sizes, flat=True),
    "redundant": lambda n, p, m, random: random_program(n, p, m, random, redundant=max(1, p // 4)),
    "weakly active": lambda n, p, m, random: random_program(n, p, m, random, weak=max(1, m // 20)),
}
