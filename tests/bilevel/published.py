"""Small bilevel problems of the literature, typed in from their formulas.

PROBLEMS: the lower level is one variable in an interval that may depend on theta, or a few in a box: solved in closed
form, so that a fine grid over theta is the judge. OUTRATA: it is a quadratic program in two variables, the judge an
enumeration of its active sets.

Sources: Bard, "Convex two-level optimization", 1988; Shimizu, Aiyoshi 1981; Clark, Westerberg 1990; Falk, Liu 1995;
Muu, Quy 2003; Outrata 1990; Colson 2002 ("BIPA" 1, 3, 4), as collected in the BOLIB library of Zhou, Zemkoho and Tin, 2018.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Published(NamedTuple):
    """Upper F(t, y), lower f(y, t) over low(t) <= y <= high(t), theta in a box, the best known value, starts."""

    upper: Callable
    lower: Callable
    low: Callable
    high: Callable
    box: tuple
    best: float
    starts: tuple = (0.1, 0.5, 0.9)  # shares of the box
    size: int = 1


def constant(value):
    return lambda t: value


INF = float("inf")
PROBLEMS = {
    "Bard 1988, 1": Published(
        lambda t, y: (t - 5) ** 2 + (2 * y + 1) ** 2,
        lambda y, t: (y - 1) ** 2 - 1.5 * t * y,
        lambda t: jnp.maximum(0.0, 2 * t - 8),
        lambda t: jnp.minimum(3 * t - 3, 7 - t),
        (1.0, 5.0),
        17.0,
    ),
    "Shimizu, Aiyoshi 1981, 1": Published(  # y <= x, a constraint of the upper level, is x >= 10 here
        lambda t, y: t**2 + (y - 10) ** 2,
        lambda y, t: (t + 2 * y - 30) ** 2,
        constant(0.0),
        lambda t: 20 - t,
        (10.0, 15.0),
        100.0,
    ),
    "Clark, Westerberg 1990": Published(
        lambda t, y: (t - 3) ** 2 + (y - 2) ** 2,
        lambda y, t: (y - 5) ** 2,
        lambda t: t / 2 + 1,
        lambda t: jnp.minimum(2 * t + 1, 7 - t / 2),
        (0.5, 6.0),
        5.0,
    ),
    "Falk, Liu 1995": Published(
        lambda t, y: jnp.sum(t**2 - 3 * t + y**2),
        lambda y, t: jnp.sum((y - t) ** 2),
        # From t > 1.5 a run ends in the kink there: y does not move to its right, and 2 t - 3 = 0.
        constant(0.5),
        constant(1.5),
        (0.0, 2.0),
        -2.25,
        (0.1, 0.4, 0.6),
        size=2,
    ),
    "Muu, Quy 2003, 1": Published(
        lambda t, y: jnp.sum(y**2) + t**2 - 4 * t,
        lambda y, t: y[0] ** 2 + 0.5 * y[1] ** 2 + y[0] * y[1] + (1 - 3 * t) * y[0] + (1 + t) * y[1],
        constant(0.0),
        constant(10.0),
        (0.0, 2.0),
        -2.0769,
        size=2,
    ),
    "Colson 2002, BIPA 1": Published(
        lambda t, y: (10 - t) ** 3 + (10 - y) ** 3,
        lambda y, t: (t + 2 * y - 15) ** 4,
        constant(0.0),
        lambda t: t,
        (0.0, 5.0),
        250.0,
    ),
    "Colson 2002, BIPA 3": Published(
        lambda t, y: (t - 5) ** 4 + (2 * y + 1) ** 4,
        lambda y, t: jnp.exp(y - t) + t**2 + 2 * t * y + y**2 + 2 * t + 6 * y,
        constant(0.0),
        lambda t: t + 2,
        (0.0, 4.0),
        2.0,
    ),
    "Colson 2002, BIPA 4": Published(
        lambda t, y: t**2 + (y - 10) ** 2,
        lambda y, t: t**3 + 2 * y**3 + t - 2 * y - t**2,
        constant(0.0),
        lambda t: (t + 3) / 2,
        (0.0, 4.0),
        88.79,
    ),
}


class QuadraticLower(NamedTuple):
    """Outrata's first example: weight |t|^2 + 1/2 |y - (3, 4)|^2 - 12.5 over lower 1/2 y'Hy - y'Mt, OUTRATA_BOUNDS."""

    weight: float
    H: np.ndarray
    M: np.ndarray
    best: float

    def upper(self, t, y):
        return self.weight * jnp.sum(t**2) + 0.5 * jnp.sum((y - jnp.array([3.0, 4.0])) ** 2) - 12.5


FLAT, STEEP, SAME = np.array([[1.0, -2.0], [-2.0, 5.0]]), np.array([[1.0, 3.0], [3.0, 10.0]]), np.eye(2)
# G y <= h
OUTRATA_BOUNDS = np.array([[-0.333, 1.0], [1.0, -0.333], [-1.0, 0.0], [0.0, -1.0]]), np.array([2.0, 2.0, 0.0, 0.0])
OUTRATA_STARTS = np.array([[1.0, 1.0], [4.0, 2.0], [2.0, 6.0]])
OUTRATA = {
    "1a": QuadraticLower(0.1, FLAT, SAME, -8.92),
    "1b": QuadraticLower(1.0, FLAT, SAME, -7.56),
    "1c": QuadraticLower(0.0, STEEP, SAME, -12.0),
    "1d": QuadraticLower(0.1, STEEP, SAME, -3.60),
    # The table's value is that of a local minimum: -3.92 is reached, and the grid's.
    "1e": QuadraticLower(0.1, STEEP, np.array([[-1.0, 2.0], [3.0, -3.0]]), -3.15),
}
