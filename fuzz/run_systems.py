"""Random linear systems A x = b through the library, beside their exact solutions.

A finite result is right if it is within 1 % of the exact solution. In reverse mode a singular A is answered as well, if
the system is consistent ("gauge" in the table): a finite result u is right if A, up to rounding of its entries, has a
null space that a gap sets apart, and u solves the system where these directions are left out. A factorisation gives the
solution of least norm, and a Krylov method any.
"""

import collections
import functools
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf
from implicitdiff import krylov

from . import exact, families

LIMIT = 0.01
# Beyond this size elimination with integers takes too long.
EXACT_SIZE = 60


class Method(NamedTuple):
    """A way to solve, the families that it is for, and sizes of systems; what is repeated is drawn more often."""

    adjoint: idf.Implicit
    families: dict
    sizes: tuple[int, ...]
    direct: bool = True


def _named(solver, names):
    return Method(idf.Implicit(linear_solver=solver), names, (12, 30), direct=False)


SYMMETRIC = {**families.SYMMETRIC, **families.DEFINITE}
METHODS = {
    "default": Method(idf.Implicit(), families.ALL, (2, 3, 5, 8, *[12] * 7, *[20] * 4, *[30] * 3, 60, 150)),
    "definite": Method(
        idf.Implicit(positive_definite=True), families.DEFINITE, (2, 5, *[12] * 6, *[20] * 4, *[30] * 3, 60, 150)
    ),
    "symmetric": Method(idf.Implicit(symmetric=True), SYMMETRIC, (12,)),
    "GMRES": _named(krylov.GMRES(), families.ALL),
    "BiCGStab": _named(krylov.BiCGStab(), families.ALL),
    "CG": _named(krylov.CG(), families.DEFINITE),
    "MINRES": _named(krylov.MINRES(), SYMMETRIC),
}


@functools.cache
def compiled(method: str):
    """A batch of A, b, c -> A^-1 b by forward mode, A'^-1 c by reverse mode."""

    def both(A, b, c):
        def solution(t):
            return idf.implicit_root(lambda x, t: A @ x - t, jnp.zeros_like(t), t, adjoint=METHODS[method].adjoint)

        return jax.jvp(solution, (b,), (b,))[1], jax.vjp(solution, b)[1](c)[0]

    return jax.jit(jax.vmap(both))


def draw(rng: np.random.Generator, method: str, n: int, dtype: str) -> tuple[list[str], list[np.ndarray]]:
    """Names, and one system of each family: A, b and c stacked."""
    names, systems = [], []
    double = dtype == "float64"
    for name, make in METHODS[method].families.items():
        c = 10.0 ** rng.uniform(0, 17 if double else 9)
        A = make(rng, n, c).astype(dtype)
        if name in SYMMETRIC and method != "default":
            A = (A + A.T) / 2
        kinds = rng.integers(4, size=2)
        b, c = (
            families.right_side(rng, B.astype(float), k).astype(dtype) for B, k in zip((A, A.T), kinds, strict=True)
        )
        names.append(f"{name}, right-hand sides {kinds[0]} and {kinds[1]}")
        systems.append((A, b, c))
    return names, [np.stack(part) for part in zip(*systems, strict=True)]


def solve(A: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """The solution, or None where there is none or it is out of reach."""
    if len(A) <= EXACT_SIZE:
        return exact.solve(A, b)
    return exact.solve_long(A, b)


def verdict(A: np.ndarray, b: np.ndarray, found: np.ndarray, reverse: bool, least: bool) -> str:
    """What a result is, one of `VERDICTS`; "refused" is NaN where a plain solve has five digits."""
    eps = np.finfo(A.dtype).eps
    plain = np.linalg.solve(A, b) if np.linalg.matrix_rank(A) == len(A) else found
    A, b, found = (np.asarray(part, float) for part in (A, b, found))
    x = solve(A, b)

    def near(value: np.ndarray, limit: float) -> bool:
        return x is not None and bool(np.linalg.norm(value - x) <= limit * np.linalg.norm(x))

    if not np.all(np.isfinite(found)):
        return "refused" if near(plain, 1e-3 * LIMIT) else "NaN"
    if near(found, LIMIT):
        return "right"
    if reverse and gauge(A, b, found, eps, least):
        return "gauge"
    return "unknown" if x is None and len(A) > EXACT_SIZE else "WRONG"


def gauge(A: np.ndarray, b: np.ndarray, found: np.ndarray, eps: float, least: bool) -> bool:
    """Whether A is singular up to rounding, the system is consistent, and `found` solves it, with the least norm."""
    U, sizes, Vt = np.linalg.svd(A)
    # Small multiples of rounding: how a matrix was computed is not known, and two decompositions are not the same.
    rounding = 8 * max(len(A) / 16, 1) ** 0.5 * eps * sizes[0]
    rank = int(np.sum(sizes > rounding))
    if rank == len(A) or (rank and sizes[rank - 1] < rounding * eps**-0.25 / 4):
        return False
    coordinates = (U[:, :rank].T @ b) / sizes[:rank]
    size = np.linalg.norm(coordinates)
    outside = np.linalg.norm(U[:, rank:].T @ b)
    consistent = outside <= 1000 * len(A) * eps * (sizes[0] * size + np.linalg.norm(b))
    limit = max(LIMIT, 4 * eps**0.25) * size
    solves = np.linalg.norm(Vt[:rank] @ found - coordinates) <= limit
    return bool(consistent and solves and (not least or np.linalg.norm(Vt[rank:] @ found) <= limit))


def batch(seed: int, number: int, method: str | None = None) -> tuple[dict, list[str]]:
    """One batch: a tally of verdicts by method, dtype and mode, and the wrong ones in words."""
    rng = np.random.default_rng([seed, number])
    method = method or str(rng.choice(list(METHODS), p=[0.46, 0.2, 0.06, 0.07, 0.07, 0.07, 0.07]))
    n, dtype = int(rng.choice(METHODS[method].sizes)), str(rng.choice(["float64", "float32"]))
    names, (A, b, c) = draw(rng, method, n, dtype)
    forward, reverse = compiled(method)(A, b, c)
    tally, wrong = collections.Counter(), []
    for i, name in enumerate(names):
        for mode, B, right, found in (("forward", A[i], b[i], forward[i]), ("reverse", A[i].T, c[i], reverse[i])):
            answer = verdict(B, right, np.asarray(found), mode == "reverse", METHODS[method].direct)
            tally[method, dtype, mode, answer] += 1
            if answer == "WRONG":
                wrong.append(f"{method}, {dtype}, {mode}, n = {n}, {name} (system {i})")
    return tally, wrong


def run(seed: int, seconds: float, only: int | None = None, most: int | None = None) -> int:
    """Try batches for so long, or so many systems; return 1 where a result was wrong."""
    end, tally, failed = time.monotonic() + seconds, collections.Counter(), 0
    number = only or 0
    while number == only if only is not None else time.monotonic() < end:
        print(f"\rbatch {number} ", end="", file=sys.stderr, flush=True)
        try:
            counted, wrong = batch(seed, number)
        except KeyboardInterrupt:
            break
        tally.update(counted)
        for words in wrong:
            failed = 1
            print(f"\nFAILED: python -m fuzz systems --seed {seed} --case {number}\n  {words}", flush=True)
        number += 1
        if most is not None and sum(tally.values()) >= most:
            break
    print(table(tally))
    return failed


VERDICTS = ("right", "gauge", "NaN", "refused", "unknown", "WRONG")


def table(tally: dict) -> str:
    """The tally, a line for each method, dtype and mode."""
    rows = sorted({key[:3] for key in tally})
    lines = [f"{'':30}" + "".join(f"{word:>9}" for word in VERDICTS)]
    lines += [f"{', '.join(row):30}" + "".join(f"{tally[*row, word]:9}" for word in VERDICTS) for row in rows]
    total = [sum(count for key, count in tally.items() if key[3] == word) for word in VERDICTS]
    lines.append(f"{'all ' + str(sum(total)):30}" + "".join(f"{count:9}" for count in total))
    return "\n".join(lines)
