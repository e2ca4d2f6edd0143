"""Bilevel optimisation: min over theta of outer(theta, x*(theta)), where x* solves an inner problem."""

from ._checkpoint import Checkpoint as Checkpoint
from ._history import History as History
from .minimize import Result as Result
from .minimize import minimize as minimize
from .stochastic import minimize_stochastic as minimize_stochastic
