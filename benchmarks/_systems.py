"""Linear systems with a given condition number, and their solutions to more digits than float64 has."""

import functools

import numpy as np


def matrix(n: int, condition: float, symmetric: bool, spectrum: str, seed: int) -> np.ndarray:
    """Random, with singular values from 1 to 1 / condition: "geometric", or "outlier", where all but one are 1."""
    exponents = np.linspace(0, 1, n) if spectrum == "geometric" else np.r_[np.zeros(n - 1), 1.0]
    left, right = _bases(n, seed)
    if symmetric:
        A = left(left(np.diag(condition**-exponents)).T)
        return (A + A.T) / 2
    return left(right(np.diag(condition**-exponents)).T)


@functools.lru_cache(maxsize=32)
def _bases(n: int, seed: int):
    """Random orthogonal factors, cached for all conditions and spectra, because they are expensive to make."""
    random = np.random.default_rng([n, seed])
    return _orthogonal(n, random), _orthogonal(n, random)


def _orthogonal(n: int, random: np.random.Generator):
    if n <= 1000:
        Q = np.linalg.qr(random.standard_normal((n, n)))[0]
        return lambda A: Q @ A
    units = [u / np.linalg.norm(u) for u in random.standard_normal((8, n))]

    def reflect(A):
        for u in units:
            A = A - 2 * np.outer(u, u @ A)
        return A

    return reflect


def solution(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A^-1 b, for one column b or several, by iterative refinement with residuals in extended precision."""
    inverse = np.linalg.inv(A)
    long_A, long_b = A.astype(np.longdouble), b.astype(np.longdouble)
    x = (inverse @ b).astype(np.longdouble)
    for _ in range(4):
        x = x + inverse @ (long_b - long_A @ x).astype(np.float64)
    return x.astype(np.float64)
