"""Run a traced program operation by operation, without compiling it.

The derivatives of a program of a few operations are some thousand operations, and compiling these takes ten seconds.
Here NumPy runs the plain ones, and JAX the others, which it compiles by themselves, once for all programs. Loops,
branches and calls run what is inside of them in the same way. Only tracing is left, where derivatives are made.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from implicitdiff._program import scan_counts

from .with_numpy import NUMPY

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}


def evaluated(f: Callable) -> Callable:
    """The function f of arrays, traced and then run operation by operation; its results are NumPy's."""

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
        with np.errstate(all="ignore"):
            values = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return run


def _value(array: Any) -> Any:
    """The array as NumPy's; keys of random numbers stay what they are."""
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    return np.asarray(array)


def _closed(jaxpr: Any, args: list) -> list:
    if hasattr(jaxpr, "consts"):
        return _run(jaxpr.jaxpr, jaxpr.consts, args)
    return _run(jaxpr, (), args)


def _run(jaxpr: Any, consts: Any, args: Any) -> list:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], map(_value, [*consts, *args]), strict=True))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        out = _apply(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, map(_value, out), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: jex.JaxprEqn, args: list) -> list:
    name, params = eqn.primitive.name, eqn.params
    if name in NUMPY and all(isinstance(arg, np.ndarray) for arg in args):
        out = NUMPY[name](*args, **params)
        return out if eqn.primitive.multiple_results else [out]
    if name in CALLS and CALLS[name] in params:
        return _closed(params[CALLS[name]], args)
    if name == "while":
        return _while(params, args)
    if name == "cond":
        index = min(max(int(args[0]), 0), len(params["branches"]) - 1)
        return _closed(params["branches"][index], args[1:])
    if name == "scan":
        return _scan(params, args)
    if name == "custom_linear_solve":
        lengths, jaxprs = params["const_lengths"], params["jaxprs"]
        before = lengths.matvec + lengths.vecmat
        constants = args[before : before + lengths.solve]
        return _closed(jaxprs.solve, [*constants, *args[sum(lengths) :]])
    bound = eqn.primitive.get_bind_params(params)
    functions, bound = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*functions, *args, **bound)
    return list(out) if eqn.primitive.multiple_results else [out]


def _while(params: dict, args: list) -> list:
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_test, of_body, state = args[:first], args[first:second], args[second:]
    while np.any(going := _closed(params["cond_jaxpr"], [*of_test, *state])[0]):
        moved = _closed(params["body_jaxpr"], [*of_body, *state])
        if going.ndim:  # under vmap each element of the batch stops by itself
            pairs = zip(moved, state, strict=True)
            moved = [np.where(going.reshape(going.shape + (1,) * (a.ndim - going.ndim)), a, b) for a, b in pairs]
        state = moved
    return state


def _scan(params: dict, args: list) -> list:
    constants, carried = scan_counts(params)
    fixed, carry, xs = args[:constants], args[constants : constants + carried], args[constants + carried :]
    steps = range(params["length"])
    collected = []
    for i in reversed(steps) if params["reverse"] else steps:
        out = _closed(params["jaxpr"], [*fixed, *carry, *[x[i] for x in xs]])
        carry = out[:carried]
        collected.append(out[carried:])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *[np.stack(column) for column in zip(*collected, strict=True)]]
