"""Mirror maps grad phi and Bregman projections of dual points.

projection(y, theta_C) = argmin_{x in C} phi(x) - <x, y> is the point of C nearest to grad phi*(y) in the Bregman
divergence of phi.
"""

from .euclidean import identity as identity
from .kullback_leibler import box as box
from .kullback_leibler import log as log
from .kullback_leibler import non_negative as non_negative
from .kullback_leibler import simplex as simplex
from .transport import birkhoff as birkhoff
from .transport import transport as transport
