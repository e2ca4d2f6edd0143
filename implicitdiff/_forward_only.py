"""Linear maps that have no transpose: what says so, where reverse mode asks for one."""

from typing import NoReturn

from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

forward_only_p = jex.Primitive("forward_only")


def forward_only(x: Array) -> Array:
    """The same array, in forward mode; NotImplementedError in reverse mode."""
    return forward_only_p.bind(x)


def _refuse(cotangent: object, x: object) -> NoReturn:
    del cotangent, x
    raise NotImplementedError(
        "Reverse mode has to transpose the Jacobian of the conditions F, and JAX cannot: F holds a lax.while_loop (or "
        "a lax.fori_loop with traced bounds) on what is differentiated. That is supported for up to 1,000 real "
        "unknowns. Beyond, use lax.scan or a fixed number of steps in F, attach the result of the loop with "
        "implicit_root or implicit_fixed_point, or differentiate in forward mode (jax.jvp, jax.jacfwd)."
    )


forward_only_p.def_impl(lambda x: x)
forward_only_p.def_abstract_eval(lambda x: x)
ad.deflinear2(forward_only_p, _refuse)
batching.defvectorized(forward_only_p)
mlir.register_lowering(forward_only_p, lambda ctx, x: [x])
