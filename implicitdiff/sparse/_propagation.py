"""Which unknowns each number of a program may depend on: an abstract interpretation of its jaxpr.

The dependence of an array on the n unknowns is a sparse matrix of booleans with a row for each number of the array.
Each primitive maps the dependences of its inputs to those of its outputs. A derivative that is zero almost everywhere,
as that of `floor` or of a comparison, is no dependence. What nothing is known of depends on all of its inputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import bcoo, bcsr
from jax.extend import core as jex

from .._rule import dependence, ruled_p
from ._arithmetic import ARITHMETIC
from ._custom import customs
from ._dependence import Known, all_of, union
from ._loops import loops
from ._moving import MOVING

# Primitives that only call another program.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_vmap_call")


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
    # A scatter says in a program how numbers meet.
    inside = any(jex.jaxprs_in_params(eqn.params)) and not name.startswith("scatter")
    if all(discrete) and not inside and not eqn.effects:
        # Integers have no derivative, but they steer what comes after them.
        values = [one.value for one in inputs]
        if any(value is None for value in values):
            return [Known()] * len(outputs)
        with jax.ensure_compile_time_eval():
            results = eqn.primitive.bind(*map(jnp.asarray, values), **eqn.params)
        return [Known(None, np.asarray(r)) for r in (results if eqn.primitive.multiple_results else [results])]
    of_sparse = name.startswith(("bcoo_", "bcsr_"))
    if all(one.on is None for one in inputs) and name not in _CALLS and not of_sparse:
        return [Known()] * len(outputs)
    rule = _sparse_array if of_sparse else RULES.get(name)
    found = NotImplemented if rule is None else rule(eqn, inputs)
    if found is NotImplemented and all(one.on is None for one in inputs):
        found = [Known()] * len(outputs)
    elif found is NotImplemented:
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


def _sparse_array(eqn: Any, inputs: list[Known]) -> Any:
    """The operations of `BCOO` and `BCSR`, by the programs in JAX that they are."""
    name = f"_{eqn.primitive.name}_impl"
    program = getattr(bcoo, name, None) or getattr(bcsr, name, None)
    if program is None:  # another version of JAX
        return NotImplemented
    likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    with jax.ensure_compile_time_eval():
        closed = jax.make_jaxpr(lambda *values: program(*values, **eqn.params))(*likes)
    return dependences(closed, inputs)


def _linear_solve(eqn: Any, inputs: list[Known]) -> list[Known]:
    """The tangent of A^-1 b is A^-1 (db - dA x)."""
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    consts, right = inputs[: sum(lengths)], inputs[sum(lengths) :]
    product, solve = consts[: lengths.matvec], consts[lengths.matvec + lengths.vecmat :][: lengths.solve]
    moved = dependences(jaxprs.matvec, [*product, *[Known() for _ in right]])
    right = [Known(union(b.on, d.on)) for b, d in zip(right, moved, strict=True)]
    if all(one.on is None for one in right):
        return [Known()] * len(eqn.outvars)
    return dependences(jaxprs.solve, [*[Known(None, one.value) for one in solve], *right])


def _cond(eqn: Any, inputs: list[Known]) -> list[Known]:
    which, *operands = inputs
    branches = eqn.params["branches"]
    if which.value is not None and which.value.ndim == 0:
        branches = [branches[min(max(int(which.value), 0), len(branches) - 1)]]
    found = [dependences(branch, operands) for branch in branches]
    return [Known(union(*[one.on for one in outs])) for outs in zip(*found, strict=True)]


RULES: dict[str, Any] = MOVING | ARITHMETIC | dict.fromkeys(_CALLS, _call) | customs(dependences)
RULES |= loops(dependences) | {"cond": _cond, ruled_p.name: _ruled, "custom_linear_solve": _linear_solve}
# Behind a barrier numbers are what they were.
RULES["optimization_barrier"] = lambda eqn, inputs: list(inputs)
