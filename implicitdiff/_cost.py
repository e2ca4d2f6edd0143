"""About how many operations a traced function takes: enough to choose between methods, before anything runs."""

import math
from typing import Any

from jax.extend import core as jex


def operations(jaxpr: jex.Jaxpr) -> int:
    """Multiplications, additions and entries written; a loop of unknown length counts once."""
    return sum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn: jex.JaxprEqn) -> int:
    written = sum(math.prod(_shape(v)) for v in eqn.outvars)
    inner = [operations(jaxpr) for jaxpr in jex.jaxprs_in_params(eqn.params)]
    if inner:
        return eqn.params.get("length", 1) * (max if eqn.primitive.name == "cond" else sum)(inner)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * written * math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel, out = _shape(eqn.invars[1]), eqn.params["dimension_numbers"].rhs_spec[0]
        return 2 * written * math.prod(kernel) // max(kernel[out], 1)
    return written


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())
