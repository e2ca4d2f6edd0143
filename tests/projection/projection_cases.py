"""Every projection with parameters, an independent reference in NumPy, its set in CVXPY, and points at kinks."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from projection_references import exponential, polyhedral, power

from implicitdiff import projection
from implicitdiff.projection import cones


class Case(NamedTuple):
    project: Callable[..., Any]  # project(v, theta)
    theta: Any
    shape: tuple[int, ...]
    reference: Callable[..., np.ndarray]  # reference(v, theta), exact in float64
    set: Callable[..., list] | None  # set(x, theta): constraints in CVXPY; None if the set is not convex
    kinks: Sequence[Any] = ()  # beside 0 and all ones
    cone: bool = False


class Atoms:
    """The functions of CVXPY, imported at the first use."""

    def __getattr__(self, name):
        import cvxpy

        return getattr(cvxpy, name)


cp = Atoms()
I5 = np.eye(5)


def bounds_rows(lower, upper, n=5):
    return np.concatenate([np.eye(n), -np.eye(n)]), np.concatenate(
        [np.broadcast_to(upper, n), -np.broadcast_to(lower, n)]
    )


def simplex(v, scale):
    return polyhedral(v, np.ones((1, v.size)), [scale], -np.eye(v.size), np.zeros(v.size))


def sparse_simplex(v, scale):
    x = np.zeros_like(v)
    x[np.argsort(-v)[:2]] = simplex(np.sort(v)[:-3:-1], scale)
    return x


def l1_ball(v, radius):
    signs = np.array(list(itertools.product([-1, 1], repeat=v.size)))
    return polyhedral(v, None, None, signs, np.full(len(signs), radius))


def l1_sphere(v, radius):
    return np.sign(v) * simplex(abs(v), radius)


def box_section(v, section):
    lower, upper, w, c = section
    return polyhedral(v, [w], [c], *bounds_rows(lower, upper))


def marginal_rows(m, n):
    return np.concatenate([np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))])


def balanced(theta):
    """Marginals with equal sums, whatever theta is: the derivative stays inside of these."""
    a, b = theta
    return a, jnp.append(b, jnp.sum(a) - jnp.sum(b))


def transport(V, theta):
    sides = np.concatenate([np.asarray(side) for side in balanced(theta)])
    X = polyhedral(V.ravel(), marginal_rows(*V.shape), sides, -np.eye(V.size), np.zeros(V.size))
    return X.reshape(V.shape)


def birkhoff(V, theta):
    n = len(V)
    X = polyhedral(V.ravel(), marginal_rows(n, n), np.ones(2 * n), -np.eye(V.size), np.zeros(V.size))
    return X.reshape(V.shape)


def doubly(X, a, b):
    return [X >= 0, cp.sum(X, 1) == a, cp.sum(X, 0) == b]


def order_simplex(v, bounds):
    fall = np.diff(np.eye(5), axis=0)
    return polyhedral(v, None, None, *map(np.concatenate, zip((fall, np.zeros(4)), bounds_rows(*bounds), strict=True)))


def permutahedron(v, w):
    # The sum over any subset of k entries is at most that of the k largest entries of w.
    subsets = np.array(list(itertools.product([0, 1], repeat=v.size))[1:-1])
    largest = np.cumsum(-np.sort(-np.asarray(w)))
    return polyhedral(v, np.ones((1, v.size)), [np.sum(w)], subsets, largest[subsets.sum(1) - 1])


def second_order(v):
    t, z = v[0], v[1:]
    norm = np.linalg.norm(z)
    if norm <= abs(t):
        return v if t > 0 else 0 * v
    return (t + norm) / 2 * np.append(1, z / norm)


def semidefinite(V):
    values, Q = np.linalg.eigh((V + V.T) / 2)
    return Q @ np.diag(np.maximum(values, 0)) @ Q.T


def product(v):
    return np.concatenate(
        [
            np.zeros(2),
            np.maximum(v[2:4], 0),
            second_order(v[4:7]),
            second_order(v[7:10]),
            np.asarray(cones.to_vector(semidefinite(np.asarray(cones.to_matrix(v[10:13]))))),
            exponential(v[13:16]),
            power(v[16:19], 0.3),
        ]
    )


CONES = [
    cones.Zero(2),
    cones.NonNegative(2),
    cones.SecondOrder(3),
    cones.SecondOrder(3),
    cones.PositiveSemidefinite(2),
    cones.Exponential(),
    cones.Power(0.3),
]


def exponential_set(x):
    return [cp.constraints.ExpCone(x[0], x[1], x[2])]


def power_set(x, alpha):
    return [cp.constraints.PowCone3D(x[0], x[1], x[2], float(alpha))]


def product_set(x):
    matrix = cp.bmat([[x[10], x[11] / 2**0.5], [x[11] / 2**0.5, x[12]]])
    return [
        x[:2] == 0,
        x[2:4] >= 0,
        cp.SOC(x[4], x[5:7]),
        cp.SOC(x[7], x[8:10]),
        matrix >> 0,
        *exponential_set(x[13:16]),
        *power_set(x[16:19], 0.3),
    ]


def dual(reference):
    return lambda v, *theta: v + reference(-v, *theta)


A, B = np.array([[1.0, 2.0, -1.0, 0.5, 0.0], [0.0, 1.0, 1.0, -1.0, 2.0]]), np.array([0.5, 1.0])
G = np.array([[1.0, 1.0, 0, 0, 0], [-1, 0.5, 0, 1, 0], [0, 0, -1, 0, 1], [2, 0, 0, -1, -1], *np.eye(5), *-np.eye(5)])
H = np.concatenate([[0.5, 0.4, 0.6, 0.7], np.full(10, 2.0)])
LOWER, UPPER = np.array([-0.5, 0.0, -1.0, -0.2, -0.1]), np.array([0.5, 1.0, 0.3, 0.8, 0.4])
WEIGHTS, RANKS = np.array([1.0, -2.0, 0.5, 1.5, 0.7]), np.array([0.3, -1.0, 2.0, 0.5, 1.0])


def without_theta(f):
    return None if f is None else lambda x, theta: f(x)


def cone(project, shape, reference, constraints, kinks=(), theta=None):
    if theta is None:
        reference, constraints = without_theta(reference), without_theta(constraints)
    return Case(project, theta, shape, reference, constraints, list(kinks), True)


EXPONENTIAL_KINKS = np.array(
    [
        (0, 1, 1),
        (1, 0, 0),
        (0, -1, 1),
        (-1, 0, 1),
        (-1, 0, -1),
        (0, 0, 1),
        (0, 0, -1),
        (1, -1, -1),
        (0, 1, 0),
        (1, -1, -np.exp(-2)),
    ]
)
POWER_KINKS = np.array(
    [
        (1, 1, 1),
        (1, -1, 0),
        (-1, 1, 0),
        (-1, -1, 0),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (-0.3, -0.7, 1),
        (-0.3, -0.7, -1),
    ]
)

CASES = {
    "non_negative": cone(projection.non_negative, (5,), lambda v: np.maximum(v, 0), lambda x: [x >= 0]),
    "box": Case(
        projection.box,
        (LOWER, UPPER),
        (5,),
        lambda v, t: np.clip(v, *t),
        lambda x, t: [x >= t[0], x <= t[1]],
        [LOWER, UPPER],
    ),
    "hypercube": Case(
        projection.hypercube, 0.8, (5,), lambda v, s: np.clip(v, 0, s), lambda x, s: [x >= 0, x <= s], [0.8 * I5[0]]
    ),
    "linf_ball": Case(
        projection.linf_ball,
        0.6,
        (5,),
        lambda v, r: np.clip(v, -r, r),
        lambda x, r: [cp.norm_inf(x) <= r],
        [0.6 * I5[0]],
    ),
    "simplex": Case(
        projection.simplex,
        1.3,
        (5,),
        simplex,
        lambda x, s: [x >= 0, cp.sum(x) == s],
        [1.3 * I5[0], np.array([2.0, 0.7, 0.7, 0, 0])],
    ),
    "sparse_simplex": Case(
        lambda v, s: projection.sparse_simplex(v, s, max_nonzeros=2), 1.3, (5,), sparse_simplex, None, [1.3 * I5[0]]
    ),
    "l1_ball": Case(
        projection.l1_ball, 1.3, (5,), l1_ball, lambda x, r: [cp.norm1(x) <= r], [1.3 * I5[0], -1.3 * I5[1]]
    ),
    "l1_sphere": Case(projection.l1_sphere, 1.3, (5,), l1_sphere, None, [1.3 * I5[0]]),
    "l2_ball": Case(
        projection.l2_ball,
        1.3,
        (5,),
        lambda v, r: v * min(1, r / np.linalg.norm(v)),
        lambda x, r: [cp.norm(x) <= r],
        [1.3 * I5[0]],
    ),
    "l2_sphere": Case(projection.l2_sphere, 1.3, (5,), lambda v, r: v * r / np.linalg.norm(v), None, [1.3 * I5[0]]),
    "hyperplane": Case(
        projection.hyperplane,
        (WEIGHTS, 0.4),
        (5,),
        lambda v, t: polyhedral(v, [t[0]], [t[1]]),
        lambda x, t: [t[0] @ x == t[1]],
    ),
    "half_space": Case(
        projection.half_space,
        (WEIGHTS, -0.4),
        (5,),
        lambda v, t: polyhedral(v, None, None, [t[0]], [t[1]]),
        lambda x, t: [t[0] @ x <= t[1]],
        [-0.4 * WEIGHTS / (WEIGHTS @ WEIGHTS)],
    ),
    "affine_set": Case(
        projection.affine_set, (A, B), (5,), lambda v, t: polyhedral(v, *t), lambda x, t: [t[0] @ x == t[1]]
    ),
    "polyhedron": Case(
        projection.polyhedron,
        (A[:1], B[:1], G, H),
        (5,),
        lambda v, t: polyhedral(v, *t),
        lambda x, t: [t[0] @ x == t[1], t[2] @ x <= t[3]],
        [2 * I5[0], polyhedral(np.ones(5), A[:1], B[:1], G, H)],
    ),
    "box_section": Case(
        projection.box_section,
        (LOWER, UPPER, WEIGHTS, 0.6),
        (5,),
        box_section,
        lambda x, t: [x >= t[0], x <= t[1], t[2] @ x == t[3]],
        [LOWER, UPPER, 10 * WEIGHTS],
    ),
    "transport": Case(
        lambda V, t: projection.transport(V, balanced(t)),
        (np.array([0.5, 1.0, 0.7]), np.array([0.9, 0.4, 0.6])),
        (3, 4),
        transport,
        lambda X, t: doubly(X, *map(np.asarray, balanced(t))),
        [np.eye(3, 4), -np.eye(3, 4)],
    ),
    "birkhoff": Case(
        projection.birkhoff, None, (3, 3), birkhoff, lambda X, t: doubly(X, 1, 1), [np.eye(3), -5 * np.eye(3)]
    ),
    "order_simplex": Case(
        projection.order_simplex,
        (-0.4, 0.7),
        (5,),
        order_simplex,
        lambda x, t: [cp.diff(x) <= 0, x <= t[1], x >= t[0]],
        [np.array([0.7, 0.7, 0, 0, -0.4])],
    ),
    "isotonic": cone(
        projection.isotonic,
        (5,),
        lambda v: polyhedral(v, None, None, -np.diff(np.eye(5), axis=0), np.zeros(4)),
        lambda x: [cp.diff(x) >= 0],
        [np.array([0.0, 0, 1, 1, 1])],
    ),
    "permutahedron": Case(
        projection.permutahedron, RANKS, (5,), permutahedron, None, [RANKS, np.sort(RANKS), np.full(5, RANKS.mean())]
    ),
    "zero": cone(projection.zero, (5,), lambda v: 0 * v, lambda x: [x == 0]),
    "free": cone(projection.free, (5,), lambda v: v, lambda x: []),
    "second_order": cone(
        projection.second_order,
        (4,),
        second_order,
        lambda x: [cp.SOC(x[0], x[1:])],
        [np.array([5.0, 3, 4, 0]), np.array([-5.0, 3, 4, 0]), np.array([1.0, 0, 0, 0]), np.array([-1.0, 0, 0, 0])],
    ),
    "semidefinite": cone(
        projection.semidefinite,
        (3, 3),
        semidefinite,
        lambda X: [X >> 0],
        [np.eye(3), -np.eye(3), np.diag([1.0, 1.0, -1.0]), np.diag([1.0, 0.0, -1.0])],
    ),
    "exponential": cone(projection.exponential, (3,), exponential, exponential_set, EXPONENTIAL_KINKS),
    "exponential_dual": cone(
        projection.exponential_dual, (3,), dual(exponential), None, [np.array([-1.0, 0, np.exp(-1)])]
    ),
    "power": cone(projection.power, (3,), power, power_set, POWER_KINKS, 0.3),
    "power_dual": cone(projection.power_dual, (3,), dual(power), None, [np.array([0.3, 0.7, 1.0])], 0.3),
    "product": cone(lambda v, theta: cones.product(v, CONES), (19,), product, product_set),
    "product_dual": cone(lambda v, theta: cones.product_dual(v, CONES), (19,), dual(product), None),
}
CONVEX = [name for name in CASES if name not in ("sparse_simplex", "l1_sphere", "l2_sphere")]
PARAMETRIC = [name for name, case in CASES.items() if case.theta is not None]

# Compiled once for all test files. Parameters are arrays, so that others of the same shapes do not compile anew.
_COMPILED = {name: jax.jit(case.project) for name, case in CASES.items()}


def run(name, v, theta):
    return _COMPILED[name](v, jax.tree.map(np.asarray, theta))
