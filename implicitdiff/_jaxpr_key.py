"""When two jaxprs are the same computation: a hashable key of all that a jaxpr is made of."""

import functools
import types
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

# Primitives that hold Python functions, which JAX makes anew at each trace.
_CALLBACKS = ("pure_callback", "io_callback", "debug_callback")
_CUSTOM_RULES = ("custom_jvp_call", "custom_vjp_call")


class NoKeyError(Exception):
    """The program holds a Python function: nothing can tell whether it is the same as another one."""


def jaxpr_key(jaxpr: jex.Jaxpr) -> Hashable:
    """A hashable value that is equal for two jaxprs exactly when they are the same computation."""
    number: dict[Any, int] = {}

    def name(atom):
        if isinstance(atom, jex.Literal):
            return _value_key(np.asarray(atom.val)), atom.aval
        return number.setdefault(atom, len(number))

    if any(eqn.primitive.name in _CALLBACKS for eqn in jaxpr.eqns):
        raise NoKeyError
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    return (
        tuple((name(v), v.aval) for v in inputs),
        tuple(
            (
                eqn.primitive,
                tuple(map(name, eqn.invars)),
                tuple((name(v), v.aval) for v in eqn.outvars),
                _params_key(eqn),
                eqn.ctx,
            )
            for eqn in jaxpr.eqns
        ),
        tuple(map(name, jaxpr.outvars)),
        len(jaxpr.constvars),
    )


def _params_key(eqn: jex.JaxprEqn) -> Hashable:
    if eqn.primitive.name not in _CUSTOM_RULES:
        return tuple((k, _value_key(v)) for k, v in sorted(eqn.params.items()))
    rules = {k: _rule_key(v) for k, v in eqn.params.items() if k in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")}
    rest = {k: _value_key(v) for k, v in eqn.params.items() if k in ("call_jaxpr", "num_consts", "symbolic_zeros")}
    return tuple(sorted((rules | rest).items()))


def _rule_key(rule: Any) -> Hashable:
    """The functions that the user defined a custom derivative with, found behind the wrappers that JAX makes anew.

    Looks into JAX's internals, and so gives up wherever they look otherwise than expected: nothing is wrong then,
    but a program with such a rule is compiled again at each eager call.
    """
    if not hasattr(rule, "f") or not hasattr(rule, "transforms"):
        raise NoKeyError
    if not getattr(rule.f, "__module__", "").startswith("jax._src.interpreters."):
        return rule.f, tuple(_value_key(_bare(static)) for _, static in rule.transforms)
    seen, found = [rule.f], []
    for function in seen:
        for cell in function.__closure__ or ():
            if isinstance(cell.cell_contents, types.FunctionType):
                seen.append(cell.cell_contents)
            elif hasattr(cell.cell_contents, "transforms"):
                found.append(cell.cell_contents)
    if len(found) != 1:
        raise NoKeyError
    return _rule_key(found[0])


def _bare(static: Any) -> Any:
    """Static arguments of a transformation without the functions and the boxes that JAX puts there."""
    if isinstance(static, tuple | list):
        of_jax = [callable(s) and getattr(s, "__module__", "").startswith("jax._src.") for s in static]
        return tuple(_bare(s) for s, drop in zip(static, of_jax, strict=True) if not drop)
    return static.val if type(static).__module__ == "jax._src.util" and hasattr(static, "val") else static


def _value_key(value: Any) -> Hashable:
    if isinstance(value, jex.ClosedJaxpr):
        return jaxpr_key(value.jaxpr), tuple(map(_value_key, value.consts))
    if isinstance(value, jex.Jaxpr):
        return jaxpr_key(value)
    if isinstance(value, tuple | list):
        return (type(value), *map(_value_key, value))
    if isinstance(value, dict):
        return (dict, *((k, _value_key(v)) for k, v in value.items()))
    if isinstance(value, np.ndarray | np.generic | float | complex):
        # By bytes: 0.0 and -0.0 are equal but not the same, and nan is not equal to itself.
        array = np.asarray(value)
        return type(value), array.dtype, array.shape, array.tobytes()
    if isinstance(value, jax.Array | types.FunctionType | types.MethodType | functools.partial):
        raise NoKeyError
    try:
        hash(value)
    except TypeError as error:
        raise NoKeyError from error
    return type(value), value
