"""Families of matrices of a size n, with a condition number of about c where they have one to choose."""

import numpy as np


def orthogonal(r, n):
    return np.linalg.qr(r.standard_normal((n, n)))[0]


def decades(r, n, c):
    """Numbers from 1 to 1 / c in any order."""
    return np.geomspace(1, 1 / c, n)[r.permutation(n)]


def chain(n):
    """The Laplacian of a ring: constants are mapped to zero."""
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)


def graded(d, G):
    return d[:, None] * (G @ G.T) * d


def transitions(r, n):
    P = r.uniform(size=(n, n)) ** 8
    return P / P.sum(1, keepdims=True)


def saddle(r, n, c):
    k = max(1, n // 3)
    B = r.standard_normal((n - k, k))
    return np.block([[np.diag(np.geomspace(1, 1 / c, n - k)), B], [B.T, np.zeros((k, k))]])


def kernel(r, n):
    t = np.linspace(0, 1, n)
    return np.exp(-(np.subtract.outer(t, t) ** 2) * 10 ** r.uniform(-1, 2))


def gram(X):
    return X.T @ X


GENERAL = {
    "normal": lambda r, n, c: r.standard_normal((n, n)),
    "singular values over decades": lambda r, n, c: (orthogonal(r, n) * np.geomspace(1, 1 / c, n)) @ orthogonal(r, n),
    "one small": lambda r, n, c: (orthogonal(r, n) * np.r_[np.ones(n - 1), 1 / c]) @ orthogonal(r, n),
    "one large": lambda r, n, c: (orthogonal(r, n) * np.r_[1, np.ones(n - 1) / c]) @ orthogonal(r, n),
    "rows over decades": lambda r, n, c: decades(r, n, c)[:, None] * r.standard_normal((n, n)),
    "columns over decades": lambda r, n, c: r.standard_normal((n, n)) * decades(r, n, c),
    "both over decades": lambda r, n, c: decades(r, n, c)[:, None] * r.standard_normal((n, n)) * decades(r, n, c),
    "Vandermonde": lambda r, n, c: np.vander(np.linspace(-1, 1, n) + 0.05 * r.uniform(size=n)),
    "bidiagonal": lambda r, n, c: np.eye(n) - 10 ** r.uniform(0, 2) * np.eye(n, k=-1),
    "triangular": lambda r, n, c: np.triu(r.standard_normal((n, n))),
    "nearly of low rank": lambda r, n, c: (
        r.standard_normal((n, n - 1)) @ r.standard_normal((n - 1, n)) + r.standard_normal((n, n)) / c
    ),
    "Markov chain": lambda r, n, c: np.eye(n) - (1 - 1 / c) * transitions(r, n),
    "sparse": lambda r, n, c: (
        np.where(r.uniform(size=(n, n)) < 0.3, r.standard_normal((n, n)), 0) + np.diag(r.standard_normal(n))
    ),
    "skew": lambda r, n, c: np.eye(n) / c + np.triu(U := r.standard_normal((n, n)), 1) - np.triu(U, 1).T,
}
SYMMETRIC = {
    "saddle point": saddle,
    "indefinite": lambda r, n, c: (Q := orthogonal(r, n)) * (np.geomspace(1, 1 / c, n) * r.choice([-1, 1], n)) @ Q.T,
}
DEFINITE = {
    "eigenvalues over decades": lambda r, n, c: ((Q := orthogonal(r, n)) * np.geomspace(1, 1 / c, n)) @ Q.T,
    "graded": lambda r, n, c: graded(np.geomspace(1, 1 / c, n), r.standard_normal((n, n))),
    "kernel": lambda r, n, c: kernel(r, n),
    "Hilbert": lambda r, n, c: 1 / (np.add.outer(np.arange(n), np.arange(n)) + 1 + r.uniform()),
    "normal equations": lambda r, n, c: gram(np.vander(np.linspace(0, 1, 2 * n), n)),
    "Laplacian": lambda r, n, c: chain(n) + np.eye(n) / c,
}
# Singular up to rounding whatever c, as where the solution is only determined up to a gauge.
SINGULAR = {
    "ring": lambda r, n, c: chain(n),
    "of low rank": lambda r, n, c: r.standard_normal((n, n - 1)) @ r.standard_normal((n - 1, n)),
    "of low rank, integer": lambda r, n, c: r.integers(-3, 4, (n, n - 1)) @ r.integers(-3, 4, (n - 1, n)) * 1.0,
    "stationary distribution": lambda r, n, c: np.eye(n) - transitions(r, n),
}
ALL = {**GENERAL, **SYMMETRIC, **DEFINITE, **SINGULAR}


def right_side(r: np.random.Generator, A: np.ndarray, kind: int) -> np.ndarray:
    """A random vector, one whose solution has small entries, a unit vector, or one over sixteen decades."""
    n = len(A)
    if kind == 0:
        return r.standard_normal(n)
    if kind == 1:
        return A @ (r.standard_normal(n) * 10.0 ** r.uniform(-6, 0, n))
    if kind == 2:
        return np.eye(n)[r.integers(n)]
    return r.standard_normal(n) * 10.0 ** r.uniform(-8, 8, n)
