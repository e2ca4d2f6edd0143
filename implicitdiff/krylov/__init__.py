"""Krylov methods: linear systems solved with products v -> A v alone."""

from ._cycle import Krylov as Krylov
from ._cycle import Outcome as Outcome
from .bicgstab import BiCGStab as BiCGStab
from .cg import CG as CG
from .gmres import GMRES as GMRES
from .minres import MINRES as MINRES
