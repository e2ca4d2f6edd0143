"""Optimality conditions of a solution, as roots F(x, ...) = 0 or as fixed points x = T(x, ...)."""

from .block import block_proximal_gradient as block_proximal_gradient
from .conic import conic_normal_map as conic_normal_map
from .conic import conic_residual as conic_residual
from .frank_wolfe import frank_wolfe as frank_wolfe
from .kkt import kkt as kkt
from .kkt import quadratic_program as quadratic_program
from .mirror import mirror_descent as mirror_descent
from .newton import newton as newton
from .newton import newton_minimum as newton_minimum
from .newton import root as root
from .proximal import projected_gradient as projected_gradient
from .proximal import proximal_gradient as proximal_gradient
from .stationary import gradient_descent as gradient_descent
from .stationary import stationary as stationary
