"""Proximal operators: prox(v, theta_g, scaling) = argmin_x 1/2 ||x - v||^2 + scaling g(x, theta_g).

They act leaf by leaf. An entry of v that is NaN or infinite makes its group NaN (the entries that g couples), in the
value and in every derivative. Half precision is computed in single.
"""

from .group_lasso import group_lasso as group_lasso
from .group_lasso import l1_linf as l1_linf
from .indicator import from_projection as from_projection
from .indicator import none as none
from .lasso import elastic_net as elastic_net
from .lasso import lasso as lasso
from .lasso import non_negative_lasso as non_negative_lasso
from .log_barrier import log_barrier as log_barrier
from .nuclear_norm import nuclear_norm as nuclear_norm
from .ridge import non_negative_ridge as non_negative_ridge
from .ridge import ridge as ridge
from .total_variation import total_variation as total_variation
