"""Large sparse Jacobians: patterns, and direct solvers that read the entries off few products with A and A'.

The solvers are used as `Implicit(linear_solver=...)` and as `solvers.Newton(G, linear_solver=...)`.
"""

from ._detection import pattern as pattern
from ._pattern import Pattern as Pattern
from .banded import Banded as Banded
from .lu import LU as LU
