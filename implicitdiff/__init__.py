"""Differentiate the solution of an optimisation problem, a root or a fixed point, whatever solver found it."""

from . import krylov as krylov, optimality as optimality
from ._adjoint import Implicit as Implicit, Neumann as Neumann, OneStep as OneStep, Unrolled as Unrolled
from ._decorators import custom_fixed_point as custom_fixed_point, custom_root as custom_root
from ._host import host_solver as host_solver
from ._root import (
    implicit_fixed_point as implicit_fixed_point,
    implicit_root as implicit_root,
    root_jvp as root_jvp,
    root_vjp as root_vjp,
)
from .krylov import MINRES as MINRES
