"""Differentiate the solution of an optimisation problem, a root or a fixed point, whatever solver found it."""

from . import bilevel as bilevel
from . import certify as certify
from . import convex as convex
from . import krylov as krylov
from . import mirror as mirror
from . import optimality as optimality
from . import projection as projection
from . import prox as prox
from . import solvers as solvers
from ._adjoint import Implicit as Implicit
from ._adjoint import Neumann as Neumann
from ._adjoint import OneStep as OneStep
from ._adjoint import Unrolled as Unrolled
from ._decorators import custom_fixed_point as custom_fixed_point
from ._decorators import custom_root as custom_root
from ._host import host_solver as host_solver
from ._root import implicit_fixed_point as implicit_fixed_point
from ._root import implicit_root as implicit_root
from ._root import root_jvp as root_jvp
from ._root import root_vjp as root_vjp
from .krylov import MINRES as MINRES
