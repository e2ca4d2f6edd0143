"""Large sparse Jacobians: patterns, direct solvers and preconditioners, all from few products with A and A'.

Each is used as `Implicit(linear_solver=...)` or `Implicit(preconditioner=...)`.
"""

from ._detection import pattern as pattern
from ._pattern import Pattern as Pattern
from .banded import Banded as Banded
from .lu import LU as LU
