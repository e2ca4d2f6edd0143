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
# And those whose functions say how they are differentiated or batched, beside the parameters that say what they are.
_CUSTOM_RULES = {
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
    "custom_vmap_call": ("call",),
    "ruled": ("values",),
}


class NoKeyError(Exception):
    """The program holds a Python function: nothing can tell whether it is the same as another one."""


def jaxpr_key(jaxpr: jex.Jaxpr, derivatives: bool) -> Hashable:
    """A hashable value that is equal for two jaxprs exactly when they are the same computation.

    Args:
        jaxpr: the computation.
        derivatives: whether equal jaxprs must have equal derivatives as well. A custom derivative rule is no part of a
            jaxpr but a Python function, which may read what has changed since: a jaxpr with one has no key then.

    Raises:
        NoKeyError: there is none.
    """
    number: dict[Any, int] = {}

    def name(atom):
        if isinstance(atom, jex.Literal):
            return _value_key(np.asarray(atom.val), derivatives), atom.aval
        return number.setdefault(atom, len(number))

    inputs = [*jaxpr.constvars, *jaxpr.invars]
    return (
        tuple((name(v), v.aval) for v in inputs),
        tuple(
            (
                eqn.primitive,
                tuple(map(name, eqn.invars)),
                tuple((name(v), v.aval) for v in eqn.outvars),
                _params_key(eqn, derivatives),
                eqn.ctx,
            )
            for eqn in jaxpr.eqns
        ),
        tuple(map(name, jaxpr.outvars)),
        len(jaxpr.constvars),
    )


def _params_key(eqn: jex.JaxprEqn, derivatives: bool) -> Hashable:
    params = eqn.params
    if eqn.primitive.name in _CALLBACKS:
        raise NoKeyError
    if eqn.primitive.name in _CUSTOM_RULES:
        if not derivatives:
            params = {name: params[name] for name in _CUSTOM_RULES[eqn.primitive.name]}
        elif eqn.primitive.name != "ruled":
            raise NoKeyError
    return tuple((k, _value_key(v, derivatives)) for k, v in sorted(params.items()))


def _value_key(value: Any, derivatives: bool) -> Hashable:
    if isinstance(value, jex.ClosedJaxpr):
        return jaxpr_key(value.jaxpr, derivatives), tuple(_value_key(c, derivatives) for c in value.consts)
    if isinstance(value, jex.Jaxpr):
        return jaxpr_key(value, derivatives)
    if isinstance(value, tuple | list):
        return type(value), *(_value_key(v, derivatives) for v in value)
    if isinstance(value, dict):
        return (dict, *((k, _value_key(v, derivatives)) for k, v in value.items()))
    if isinstance(value, np.ndarray | np.generic | float | complex):
        # By bytes: 0.0 and -0.0 are equal but not the same, and nan is not equal to itself.
        array = np.asarray(value)
        return type(value), array.dtype, array.shape, array.tobytes()
    if isinstance(value, jax.Array | types.FunctionType | types.MethodType | functools.partial):
        raise NoKeyError
    if getattr(value, "reusable", True) is False:  # the rule of an implicit function
        raise NoKeyError
    kind: Any = type(value)
    if kind.__hash__ is object.__hash__ and kind.__module__.partition(".")[0] not in ("builtins", "jax", "jaxlib"):
        raise NoKeyError  # only equal to itself, and made anew at each trace; those of JAX are constants
    try:
        hash(value)
    except TypeError as error:
        raise NoKeyError from error
    return type(value), value
