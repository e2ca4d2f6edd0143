"""The exact solution of a linear system of floating-point numbers, by elimination with integers.

Bareiss, "Sylvester's identity and multistep integer-preserving Gaussian elimination", Mathematics of Computation 1968:
every division has no remainder, and the diagonal of the reduced matrix is its determinant.
"""

import numpy as np


def _integers(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers and exponents with A = integers * 2^exponents, the same exponent in a column."""
    mantissas, exponents = np.frexp(A)
    mantissas = (mantissas * 2.0**53).astype(np.int64).astype(object)
    lowest = np.min(np.where(A != 0, exponents, np.max(exponents)), axis=0)
    shifts = np.where(A != 0, exponents - lowest, 0)
    return mantissas * (2 ** shifts.astype(object)), lowest - 53


def solve(A: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """x with A x = b rounded to float64, or None where A is singular."""
    n = len(A)
    W, exponents = _integers(np.column_stack([A, b]).astype(float))
    # A common factor of a row changes nothing, and makes the numbers longer.
    for i, row in enumerate(W):
        shift = min([(int(v) & -int(v)).bit_length() - 1 for v in row if v], default=0)
        W[i] = row // 2**shift
    last = 1
    for k in range(n):
        pivots = [i for i in range(k, n) if W[i, k] != 0]
        if not pivots:
            return None
        i = min(pivots, key=lambda i: abs(W[i, k]))
        W[[k, i]] = W[[i, k]]
        others = np.arange(n) != k
        pivot = W[k, k]
        W[others, k + 1 :] = (W[others, k + 1 :] * pivot - np.outer(W[others, k], W[k, k + 1 :])) // last
        W[others, k] = 0
        # The diagonal entries above are all equal to the pivot now.
        last = pivot
    return np.array([_ratio(W[i, n], last, exponents[n] - exponents[i]) for i in range(n)])


def _ratio(p: int, q: int, power: int) -> float:
    """p / q * 2^power."""
    shift = q.bit_length() - p.bit_length()  # a quotient of numbers of about the same length cannot overflow
    p, q = (p << shift, q) if shift > 0 else (p, q << -shift)
    return float(np.ldexp(p / q, int(power) - shift))


def solve_long(A: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """x with A x = b by elimination with 64 bits, or None where that is not known to give four digits."""
    n = len(A)
    W = np.column_stack([A, b]).astype(np.longdouble)
    eps = float(np.finfo(np.longdouble).eps)
    rows = np.abs(A).max(axis=1)
    columns = np.abs(A / np.where(rows > 0, rows, 1)[:, None]).max(axis=0)
    if not (np.all(rows > 0) and np.all(columns > 0)):
        return None
    scaled = A / rows[:, None] / columns
    if not np.linalg.cond(scaled) * n * eps < 1e-4:
        return None
    W[:, :n] /= rows[:, None].astype(np.longdouble)
    W[:, n] /= rows
    for k in range(n):
        i = k + int(np.argmax(np.abs(W[k:, k])))
        W[[k, i]] = W[[i, k]]
        W[k + 1 :, k:] -= np.outer(W[k + 1 :, k] / W[k, k], W[k, k:])
    x = np.zeros(n, np.longdouble)
    for k in reversed(range(n)):
        x[k] = (W[k, n] - W[k, k + 1 : n] @ x[k + 1 :]) / W[k, k]
    return x.astype(float)
