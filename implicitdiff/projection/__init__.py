"""Euclidean projections: projection(v, theta) = argmin_{x in C(theta)} ||x - v||^2.

Each is exact to the precision of the dtype and differentiable in v and theta, in both modes and to every order. Where
the projection has a kink, one element of its conservative Jacobian is returned: a constraint that holds with equality
counts as active. An argument that makes no sense raises ValueError, or gives NaN where its value is not known (under
jit, vmap or grad). An entry of v that is NaN or infinite makes its vector NaN, in the value and in every derivative.

Units do not matter: the projection of c v onto c C is c times the projection. Half precision is computed in single.
Sets that bound each entry (`box`, `hypercube`, `linf_ball`, `non_negative`, `zero`, `free`) take pytrees; the others
take one array, and raise TypeError for a tuple, list or dict of arrays.
"""

from . import cones as cones
from .affine import affine_set as affine_set
from .affine import half_space as half_space
from .affine import hyperplane as hyperplane
from .box import box as box
from .box import hypercube as hypercube
from .box import linf_ball as linf_ball
from .box import non_negative as non_negative
from .box_section import box_section as box_section
from .duality import dual as dual
from .duality import free as free
from .duality import zero as zero
from .exponential import exponential as exponential
from .exponential import exponential_dual as exponential_dual
from .isotonic import isotonic as isotonic
from .isotonic import order_simplex as order_simplex
from .l1 import l1_ball as l1_ball
from .l1 import l1_sphere as l1_sphere
from .l2 import l2_ball as l2_ball
from .l2 import l2_sphere as l2_sphere
from .permutahedron import permutahedron as permutahedron
from .polyhedron import polyhedron as polyhedron
from .power import power as power
from .power import power_dual as power_dual
from .second_order import second_order as second_order
from .semidefinite import semidefinite as semidefinite
from .simplex import simplex as simplex
from .simplex import sparse_simplex as sparse_simplex
from .transport import birkhoff as birkhoff
from .transport import transport as transport
