"""Which unknowns each number of a program may depend on: an abstract interpretation of its jaxpr.

The dependence of an array on the n unknowns is a sparse matrix of booleans with a row for each number of the array.
Each primitive maps the dependences of its inputs to those of its outputs. A derivative that is zero almost everywhere,
as that of `floor` or of a comparison, is no dependence. What nothing is known of depends on all of its inputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from scipy import sparse

from .._rule import dependence, ruled_p
from ._arithmetic import ARITHMETIC
from ._dependence import Known, all_of, size, union, unknowns
from ._moving import MOVING

# Loops of at most so many steps are followed step by step.
UNROLLED = 64
# Primitives that only call another program.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
"custom_vjp_call",
          "custom_vjp_call_jaxpr", "custom_vmap_call")  # fmt: skip


def dependences(closed: jex.ClosedJaxpr, inputs: Sequence[Known]) -> list[Known]:
    """What is known of the outputs of a program whose inputs are known."""
    return _follow(closed.jaxpr, [_constant(value) for value in closed.consts], inputs)


def _constant(value: Any) -> Known:
    """A constant, which may itself be traced: then nothing is known of it."""
    if isinstance(value, jax.core.Tracer) or jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return Known()
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return Known()
    return Known(None, np.asarray(value))


def _follow(jaxpr: jex.Jaxpr, consts: Sequence[Known], inputs: Sequence[Known]) -> list[Known]:
    known: dict[Any, Known] = {}

    def read(atom: Any) -> Known:
        return _constant(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    known.update(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _through(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _through(eqn: Any, inputs: list[Known]) -> list[Known]:
    """What is known of the outputs of one equation."""
    name, outputs = eqn.primitive.name, [var.aval for var in eqn.outvars]
    discrete = [not jnp.issubdtype(out.dtype, jnp.inexact) for out in outputs]
    inside = any(jex.jaxprs_in_params(eqn.params))
    if all(discrete) and not inside:
        # Integers have no derivative, but they steer what comes after them.
        values = [one.value for one in inputs]
        if any(value is None for value in values):
            return [Known()] * len(outputs)
        with jax.ensure_compile_time_eval():
            results = eqn.primitive.bind(*map(jnp.asarray, values), **eqn.params)
        return [Known(None, np.asarray(r)) for r in (results if eqn.primitive.multiple_results else [results])]
    if all(one.on is None for one in inputs) and name not in (*_CALLS, "bcoo_transpose"):
        return [Known()] * len(outputs)
    rule = RULES.get(name)
    found = NotImplemented if rule is None else rule(eqn, inputs)
    if found is NotImplemented:
        found = [all_of(eqn, inputs, out) for out in outputs]
    return [
        Known(one.on, one.value) if not no else Known(None, one.value) for one, no in zip(found, discrete, strict=True)
    ]


def _call(eqn: Any, inputs: list[Known]) -> Any:
    inner = (
        eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr") or eqn.params.get("call")
    )
    if inner is None:
        return NotImplemented
    if hasattr(inner, "jaxpr"):
        return dependences(inner, inputs)
    return _follow(inner, [], inputs)


def _ruled(eqn: Any, inputs: list[Known]) -> list[Known]:
    likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    with jax.ensure_compile_time_eval():
        closed = jax.make_jaxpr(lambda *operands: dependence(operands, **eqn.params))(*likes)
    return dependences(closed, inputs)


def _cond(eqn: Any, inputs: list[Known]) -> list[Known]:
    which, *operands = inputs
    branches = eqn.params["branches"]
    if which.value is not None and which.value.ndim == 0:
        branches = [branches[min(max(int(which.value), 0), len(branches) - 1)]]
    found = [dependences(branch, operands) for branch in branches]
    return [Known(union(*[one.on for one in outs])) for outs in zip(*found, strict=True)]


def _scan(eqn: Any, inputs: list[Known]) -> Any:
    params = eqn.params
    if not {"num_consts", "num_carry", "length", "reverse", "jaxpr"} <= set(params):
        return NotImplemented  # another version of JAX
    consts, carries, length = params["num_consts"], params["num_carry"], params["length"]
    body = params["jaxpr"]
    if carries and length > UNROLLED:
        return NotImplemented
    fixed, carry, xs = inputs[:consts], inputs[consts : consts + carries], inputs[consts + carries :]
    avals = [atom.aval for atom in eqn.invars[consts + carries :]]
    if not carries:  # the steps know nothing of each other: they are a batch
        axes = [None] * consts + [0] * len(xs)
        likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
        with jax.ensure_compile_time_eval():
            closed = jax.make_jaxpr(jax.vmap(jex.jaxpr_as_fun(body), in_axes=axes, axis_size=length))(*likes)
        return dependences(closed, inputs)
    ys: list[list[Known]] = []
    for step in range(length):
        at = length - 1 - step if params["reverse"] else step
        slices = [_row(one, aval, at) for one, aval in zip(xs, avals, strict=True)]
        found = dependences(body, [*fixed, *carry, *slices])
        # What a carry is known to be is that of this step alone.
        carry, ys = found[:carries], [*ys, found[carries:]]
    ys = ys[::-1] if params["reverse"] else ys
    n = unknowns(inputs)
    stacked = []
    for k, var in enumerate(eqn.outvars[carries:]):
        count = size(var.aval) // max(length, 1)
        rows = [sparse.csr_array((count, n), dtype=bool) if y[k].on is None else y[k].on for y in ys]
        stacked.append(Known(sparse.csr_array(sparse.vstack(rows, format="csr")) if rows else None))
    return [*[Known(one.on) for one in carry], *stacked]


def _row(one: Known, aval: Any, at: int) -> Known:
    count = math.prod(aval.shape[1:])
    on = None if one.on is None else sparse.csr_array(one.on[at * count : (at + 1) * count])
    return Known(on, None if one.value is None else one.value[at])


def _transposed(eqn: Any, inputs: list[Known]) -> Any:
    """The indices of a transposed `BCOO` matrix, which are known where those of the matrix are."""
    data, indices = inputs
    permutation = list(eqn.params["permutation"])
    if data.on is not None or indices.value is None or indices.value.ndim != 2:
        return NotImplemented if data.on is not None else [Known(), Known()]
    return [Known(), Known(None, indices.value[:, permutation])]


RULES: dict[str, Any] = MOVING | ARITHMETIC | dict.fromkeys(_CALLS, _call)
RULES |= {"bcoo_transpose": _transposed, "cond": _cond, "scan": _scan, ruled_p.name: _ruled}
# Behind a barrier numbers are what they were.
RULES["optimization_barrier"] = lambda eqn, inputs: list(inputs)
