"""What solvers return, and the matrices of linear objectives."""

from ._base import KKTSolution as KKTSolution
from ._base import OptStep as OptStep
from .objective import LinearOperator as LinearOperator
