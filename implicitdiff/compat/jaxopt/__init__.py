"""JAXopt's names and conventions: `import implicitdiff.compat.jaxopt as jaxopt`.

JAXopt is no longer maintained. Programs that use it run on with this one line changed, and with derivatives that are
right, in forward mode too and to second order. The solvers are those of `implicitdiff.solvers` under JAXopt's
arguments; an option of JAXopt's own algorithms that has no effect here warns where it is set. New programs use
`implicitdiff` itself: the migration page says how.

What differs in all solver classes: the iteration ends when both JAXopt's error, which has the units of the problem,
and our own, which has none, are at most tol; where it did not end so, it warns; the derivative is that of the solution,
taken one Newton step beyond the last iterate, so that its error is of second order in what tol leaves over.
"""

from . import base as base
from . import implicit_diff as implicit_diff
from . import isotonic as isotonic
from . import linear_solve as linear_solve
from . import loss as loss
from . import objective as objective
from . import perturbations as perturbations
from . import projection as projection
from . import prox as prox
from . import tree_util as tree_util
from ._base import OptStep as OptStep
from ._first_order import BlockCoordinateDescent as BlockCoordinateDescent
from ._first_order import MirrorDescent as MirrorDescent
from ._first_order import ProjectedGradient as ProjectedGradient
from ._first_order import ProximalGradient as ProximalGradient
from ._fixed_points import AndersonAcceleration as AndersonAcceleration
from ._fixed_points import AndersonWrapper as AndersonWrapper
from ._fixed_points import Bisection as Bisection
from ._fixed_points import Broyden as Broyden
from ._fixed_points import FixedPointIteration as FixedPointIteration
from ._least_squares import GaussNewton as GaussNewton
from ._least_squares import LevenbergMarquardt as LevenbergMarquardt
from ._quadratic import OSQP as OSQP
from ._quadratic import BoxOSQP as BoxOSQP
from ._quadratic import CvxpyQP as CvxpyQP
from ._quadratic import EqualityConstrainedQP as EqualityConstrainedQP
from ._scipy import ScipyBoundedLeastSquares as ScipyBoundedLeastSquares
from ._scipy import ScipyBoundedMinimize as ScipyBoundedMinimize
from ._scipy import ScipyLeastSquares as ScipyLeastSquares
from ._scipy import ScipyMinimize as ScipyMinimize
from ._scipy import ScipyRootFinding as ScipyRootFinding
from ._smooth import BFGS as BFGS
from ._smooth import LBFGS as LBFGS
from ._smooth import LBFGSB as LBFGSB
from ._smooth import GradientDescent as GradientDescent
from ._smooth import NonlinearCG as NonlinearCG
from ._stochastic import ArmijoSGD as ArmijoSGD
from ._stochastic import OptaxSolver as OptaxSolver
from ._stochastic import PolyakSGD as PolyakSGD

_GONE = {
    "BacktrackingLineSearch": "optax.scale_by_backtracking_linesearch",
    "HagerZhangLineSearch": "optax.scale_by_zoom_linesearch",
    "ZoomLineSearch": "optax.scale_by_zoom_linesearch",
    "BoxCDQP": "BoxOSQP, with the identity for A",
    "IterativeRefinement": "linear_solve.solve_lu, or EqualityConstrainedQP, which go to full precision",
    "cond": "jax.lax.cond",
    "loop": "jax.lax.while_loop and jax.lax.scan",
}


def __getattr__(name: str):
    if name in _GONE:
        raise AttributeError(f"implicitdiff.compat.jaxopt has no {name}: use {_GONE[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
