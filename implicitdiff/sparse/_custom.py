"""Dependences of derivatives through functions that have rules of their own, `jax.custom_jvp` and `jax.custom_vjp`.

The rule decides, not the function: a rounding with the derivative of the identity moves with its input.
"""

from typing import Any

import jax
import jax.numpy as jnp
from scipy import sparse

from ._dependence import Known, size, union


def customs(dependences: Any) -> dict[str, Any]:
    """The rules for both, given the function that follows a program."""

    def by_jvp(eqn: Any, inputs: list[Known]) -> list[Known]:
        likes, moving, call = _parts(eqn, inputs)

        def pushed(primals, dots):
            at = [primals[k] for k in moving]
            return jax.jvp(lambda *at: call(primals, at), at, dots)[1]

        with jax.ensure_compile_time_eval():
            closed = jax.make_jaxpr(pushed)(likes, [likes[k] for k in moving])
        known = [Known(None, one.value) for one in inputs]
        return _placed(eqn, dependences(closed, [*known, *[Known(inputs[k].on) for k in moving]]))

    def by_vjp(eqn: Any, inputs: list[Known]) -> list[Known]:
        likes, moving, call = _parts(eqn, inputs)

        def pulled(primals, cotangents):
            pull = jax.vjp(lambda *at: call(primals, at), *[primals[k] for k in moving])[1]
            return pull(list(cotangents))

        outs = [var.aval for var in eqn.outvars if jnp.issubdtype(var.aval.dtype, jnp.inexact)]
        counts = [size(out) for out in outs]
        every, start, seeds = sparse.eye_array(sum(counts), dtype=bool, format="csr"), 0, []
        for count in counts:
            seeds.append(Known(sparse.csr_array(every[start : start + count])))
            start += count
        with jax.ensure_compile_time_eval():
            closed = jax.make_jaxpr(pulled)(likes, [jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outs])
        known = [Known(None, one.value) for one in inputs]
        back = dependences(closed, [*known, *seeds])
        # A row of the transpose is what a number of the output depends on.
        parts = [one.on.T.tocsr() @ inputs[k].on for one, k in zip(back, moving, strict=True) if one.on is not None]
        whole, start, found = union(*parts), 0, []
        for count in counts:
            found.append(Known(None if whole is None else sparse.csr_array(whole[start : start + count])))
            start += count
        return _placed(eqn, found)

    return dict(custom_jvp_call=by_jvp, custom_vjp_call=by_vjp, custom_vjp_call_jaxpr=by_vjp)


def _parts(eqn: Any, inputs: list[Known]) -> Any:
    """Abstract inputs, which of them depend on the unknowns, and the outputs that have derivatives as a function."""
    likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    moving = [k for k, one in enumerate(inputs) if one.on is not None]
    bound: Any = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # the first before JAX 0.10

    def call(primals, at):
        values = list(primals)
        for k, value in zip(moving, at, strict=True):
            values[k] = value
        outs = eqn.primitive.bind(*functions, *values, **params)
        return [out for out in outs if jnp.issubdtype(out.dtype, jnp.inexact)]

    return likes, moving, call


def _placed(eqn: Any, found: list[Known]) -> list[Known]:
    """Integers among the outputs depend on nothing."""
    supply = iter(found)
    return [next(supply) if jnp.issubdtype(var.aval.dtype, jnp.inexact) else Known() for var in eqn.outvars]
