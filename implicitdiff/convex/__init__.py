"""Convex programs whose solutions are differentiable in all of their data."""

from ..projection.cones import Exponential as Exponential
from ..projection.cones import NonNegative as NonNegative
from ..projection.cones import PositiveSemidefinite as PositiveSemidefinite
from ..projection.cones import Power as Power
from ..projection.cones import SecondOrder as SecondOrder
from ..projection.cones import Zero as Zero
from ._backends import MEANING as STATUS
from .conic import ConicSolution as ConicSolution
from .conic import solve_conic as solve_conic
from .cvxpy_layer import CvxpyLayer as CvxpyLayer
from .qp import QPSolution as QPSolution
from .qp import solve_qp as solve_qp

__all__ = [
    "STATUS",
    "ConicSolution",
    "CvxpyLayer",
    "Exponential",
    "NonNegative",
    "PositiveSemidefinite",
    "Power",
    "QPSolution",
    "SecondOrder",
    "Zero",
    "solve_conic",
    "solve_qp",
]
