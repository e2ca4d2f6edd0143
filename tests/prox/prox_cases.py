"""Every proximal operator with its function g in NumPy, and points where it has kinks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from implicitdiff import prox
from implicitdiff.projection.box import box


class Case(NamedTuple):
    prox: Callable[..., Any]  # prox(v, theta, scaling)
    g: Callable[..., float]  # g(x, theta) of one x
    theta: Any
    shape: tuple[int, ...]
    kinks: list[Any]  # points v for theta and scaling 1
    atoms: Callable[..., Any] | None = None  # g(x, theta) in CVXPY


def non_negative(value, x):
    return value if np.all(x >= 0) else np.inf


def cvx(name):
    def of(x, *args):
        import cvxpy

        return getattr(cvxpy, name)(x, *args)

    return of


total, absolute, square = cvx("sum"), cvx("abs"), cvx("square")
W = np.array([0.5, 1.0, 0.2, 0.7])
V = np.diag([2.0, 2.0, 0.6, 0.0])[:, :3]

CASES = {
    "none": Case(prox.none, lambda x, t: 0.0, None, (4,), [np.zeros(4)], lambda x, t: 0.0),
    "lasso": Case(
        prox.lasso,
        lambda x, w: np.sum(w * abs(x)),
        W,
        (4,),
        [np.zeros(4), W, -W],
        lambda x, w: total(np.asarray(w) @ absolute(x)),
    ),
    "non_negative_lasso": Case(
        prox.non_negative_lasso,
        lambda x, w: non_negative(np.sum(w * x), x),
        W,
        (4,),
        [np.zeros(4), W, -W],
        lambda x, w: (w @ x, [x >= 0]),
    ),
    "elastic_net": Case(
        prox.elastic_net,
        lambda x, t: np.sum(t[0] * abs(x)) + np.sum(t[1] * x**2) / 2,
        (W, 0.8),
        (4,),
        [np.zeros(4), W, -W],
        lambda x, t: t[0] @ absolute(x) + 0.4 * total(square(x)),
    ),
    "ridge": Case(
        prox.ridge, lambda x, w: np.sum(w * x**2) / 2, W, (4,), [np.zeros(4)], lambda x, w: w @ square(x) / 2
    ),
    "non_negative_ridge": Case(
        prox.non_negative_ridge,
        lambda x, w: non_negative(np.sum(w * x**2) / 2, x),
        W,
        (4,),
        [np.zeros(4)],
        lambda x, w: (w @ square(x) / 2, [x >= 0]),
    ),
    "group_lasso": Case(
        prox.group_lasso,
        lambda x, w: np.sum(w * np.sqrt(np.sum(x**2, axis=-1))),
        np.array([0.5, 1.2]),
        (2, 3),
        [np.zeros((2, 3)), np.array([[0.3, 0.0, 0.4], [1.2, 0.0, 0.0]])],
        lambda x, w: w @ cvx("norm")(x, 2, 1),
    ),
    "l1_linf": Case(
        prox.l1_linf,
        lambda x, w: np.sum(w * np.max(abs(x), axis=-1)),
        np.array([0.5, 1.2]),
        (2, 4),
        [np.zeros((2, 4)), np.ones((2, 4)), np.array([[0.5, 0, 0, 0], [2.0, 0.8, -0.8, 0.0]])],
        lambda x, w: w @ cvx("max")(absolute(x), 1),
    ),
    "nuclear_norm": Case(
        prox.nuclear_norm,
        lambda x, w: w * np.sum(np.linalg.svd(x, compute_uv=False)),
        0.6,
        (4, 3),
        [np.zeros((4, 3)), np.eye(4, 3), V, 0.6 * np.eye(4, 3), np.ones((4, 3))],
        lambda x, w: w * cvx("normNuc")(x),
    ),
    "total_variation": Case(
        prox.total_variation,
        lambda x, w: w * np.sum(abs(np.diff(x))),
        0.4,
        (8,),
        [np.zeros(8), np.ones(8), np.array([0.0, 0, 1, 1, 0, 0, 1, 1]), np.array([0.0, 0.8, 0, 0, 0, 0, 0, 0])],
        lambda x, w: w * total(absolute(cvx("diff")(x))),
    ),
    "log_barrier": Case(
        prox.log_barrier,
        lambda x, w: -np.sum(w * np.log(x)) if np.all(x > 0) else np.inf,
        W,
        (4,),
        [np.zeros(4), np.array([1e-60, -1e-60, 1e9, -1e9])],
        lambda x, w: -(w @ cvx("log")(x)),
    ),
    "from_projection": Case(
        prox.from_projection(box),
        lambda x, t: 0.0 if np.all((x >= t[0]) & (x <= t[1])) else np.inf,
        (np.array(-0.5), np.array(1.0)),
        (4,),
        [np.zeros(4), np.array([-0.5, 1.0, 2.0, -2.0])],
        lambda x, t: (0.0, [x >= -0.5, x <= 1]),
    ),
}
