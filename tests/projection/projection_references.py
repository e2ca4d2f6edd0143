"""Projections in NumPy and SciPy, exact to about 1e-13: by an active set, and by bisection along a curve."""

import clarabel
import numpy as np
import scipy


def polyhedral(v, A=None, b=None, G=None, h=None):
    """The point of {Ax = b, Gx <= h} nearest to v."""
    A, b = (np.zeros((0, v.size)), np.zeros(0)) if A is None else (np.asarray(A, float), np.asarray(b, float))
    G, h = (np.zeros((0, v.size)), np.zeros(0)) if G is None else (np.asarray(G, float), np.asarray(h, float))
    x = v - np.linalg.pinv(A, rcond=1e-10) @ (A @ v - b)
    g = h - G @ x
    unit = max(1e-300, np.max(-g, initial=0))
    if np.all(g >= 0):
        return x
    # An interior-point method tells the active rows, in units in which the distance is about 1.
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    found = clarabel.DefaultSolver(
        scipy.sparse.identity(v.size, format="csc"),
        np.zeros(v.size),
        scipy.sparse.csc_matrix(np.vstack([A, G])),
        np.append(b - A @ v, h - G @ v) / unit,
        [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))],
        settings,
    ).solve()
    active = np.array(found.z)[len(b) :] > np.array(found.s)[len(b) :]
    for _ in range(200):
        rows, sides = np.vstack([A, G[active]]), np.append(b, h[active])
        inverse = np.linalg.pinv(rows, rcond=1e-10)
        x = v - inverse @ (rows @ v - sides)
        x = x - inverse @ (rows @ x - sides)
        # Mend what does not satisfy the conditions of Karush, Kuhn and Tucker.
        pushes = np.full(len(G), np.inf)
        pushes[active] = (inverse.T @ (v - x))[len(A) :]
        violations = np.where(active, -np.inf, G @ x - h)
        if pushes.min(initial=np.inf) < -1e-11:
            active[np.argmin(pushes)] = False
        elif violations.max(initial=-np.inf) > 1e-11 * unit:
            active[np.argmax(violations)] = True
        else:
            return x
    raise RuntimeError("no active set found")


def exponential(v):
    x, y, z = v
    if y > 0 and z > 0 and y * np.exp(x / y) <= z:
        return v
    # The closure has one more face: y = 0.
    face = np.array([min(x, 0), 0, max(z, 0)])
    return nearest(
        v,
        [
            0 * v,
            face,
            nearest_ray(v, lambda u: (np.stack([u, 1 + 0 * u, np.exp(u)]), np.stack([1 + 0 * u, 0 * u, np.exp(u)]))),
        ],
    )


def power(v, alpha):
    x, y, z = v
    if x >= 0 and y >= 0 and x**alpha * y ** (1 - alpha) >= abs(z):
        return v

    def ray(u):
        a, b = np.exp((1 - alpha) * u), np.exp(-alpha * u)
        return np.stack([a, b, 1 + 0 * u]), np.stack([(1 - alpha) * a, -alpha * b, 0 * u])

    signs = np.array([1, 1, -1 if z < 0 else 1])
    return nearest(v, [0 * v, np.array([max(x, 0), max(y, 0), 0]), signs * nearest_ray(signs * v, ray)])


def nearest(v, points):
    return min(points, key=lambda point: np.sum((point - v) ** 2))


def nearest_ray(v, ray):
    """The projection onto the rays through a curve of u: where cos(angle) is largest, its derivative has a root."""
    v = np.asarray(v, np.longdouble)

    def cosine(u):
        q, _ = ray(u)
        return v @ q / np.sqrt(np.sum(q * q, axis=0))

    def slope(u):
        q, q_u = ray(u)
        return v @ q_u * np.sum(q * q, axis=0) - v @ q * np.sum(q * q_u, axis=0)

    u = np.linspace(-40, 40, 40001, dtype=np.longdouble)
    best = np.clip(np.argmax(cosine(u)), 1, u.size - 2)
    low, high = u[best - 1], u[best + 1]
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    q, _ = ray(low)
    return np.asarray(max(v @ q, 0) / (q @ q) * q, float)
