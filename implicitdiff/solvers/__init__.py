"""Solvers whose solutions are differentiable, and adapters to the solvers of other libraries."""

from .fixed_point import AndersonAcceleration as AndersonAcceleration
from .fixed_point import FixedPointIteration as FixedPointIteration
from .fixed_point import Newton as Newton
from .mirror_descent import MirrorDescent as MirrorDescent
from .proximal_gradient import GradientDescent as GradientDescent
from .proximal_gradient import ProjectedGradient as ProjectedGradient
from .proximal_gradient import ProximalGradient as ProximalGradient
