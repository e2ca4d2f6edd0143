"""Differentiate the solution of an optimisation problem, a root or a fixed point, whatever solver found it."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from . import krylov as krylov
from ._adjoint import Adjoint as Adjoint
from ._adjoint import Neumann as Neumann
from ._adjoint import OneStep as OneStep
from ._adjoint import Unrolled as Unrolled
from ._decorators import custom_fixed_point as custom_fixed_point
from ._decorators import custom_root as custom_root
from ._host import host_solver as host_solver
from ._implicit import Implicit as Implicit
from ._root import implicit_fixed_point as implicit_fixed_point
from ._root import implicit_root as implicit_root
from ._root import root_jvp as root_jvp
from ._root import root_vjp as root_vjp
from .krylov import MINRES as MINRES

if TYPE_CHECKING:
    from . import bilevel as bilevel
    from . import certify as certify
    from . import compat as compat
    from . import convex as convex
    from . import mirror as mirror
    from . import optimality as optimality
    from . import projection as projection
    from . import prox as prox
    from . import solvers as solvers
    from . import sparse as sparse

# They come when first asked for: with what they stand on (Optax, SciPy) they would double the time of the import.
_PACKAGES = (
    "bilevel",
    "certify",
    "compat",
    "convex",
    "mirror",
    "optimality",
    "projection",
    "prox",
    "solvers",
    "sparse",
)


def __getattr__(name: str):
    if name in _PACKAGES:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})
