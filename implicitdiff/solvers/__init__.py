"""Solvers whose solutions are differentiable, and adapters to the solvers of other libraries."""

from .bisection import Bisection as Bisection
from .block_coordinate_descent import BlockCoordinateDescent as BlockCoordinateDescent
from .block_coordinate_descent import Composite as Composite
from .broyden import Broyden as Broyden
from .fixed_point import AndersonAcceleration as AndersonAcceleration
from .fixed_point import FixedPointIteration as FixedPointIteration
from .fixed_point import Newton as Newton
from .gradient_descent import GradientDescent as GradientDescent
from .lbfgs import LBFGS as LBFGS
from .lbfgs import NonlinearCG as NonlinearCG
from .mirror_descent import MirrorDescent as MirrorDescent
from .named import BFGS as BFGS
from .named import Dogleg as Dogleg
from .named import GaussNewton as GaussNewton
from .named import LevenbergMarquardt as LevenbergMarquardt
from .optax import optax_solver as optax_solver
from .optimistix import optimistix_solver as optimistix_solver
from .proximal_gradient import ProjectedGradient as ProjectedGradient
from .proximal_gradient import ProximalGradient as ProximalGradient
from .scipy import Solution as Solution
from .scipy import scipy_least_squares as scipy_least_squares
from .scipy import scipy_minimize as scipy_minimize
from .scipy import scipy_root as scipy_root
from .sklearn import sklearn_solver as sklearn_solver
