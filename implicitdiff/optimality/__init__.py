"""Optimality conditions: what a solution satisfies, for `custom_root`, `custom_fixed_point` and the functions."""

from .stationary import gradient_descent as gradient_descent
from .stationary import stationary as stationary
