"""Conditions that exchange data between lanes: `psum`, `all_gather`, `ppermute`, ... along a named axis in F.

A lane is an element of `vmap(axis_name=)`, or a device of `shard_map` or `pmap`. Each lane has its own F_i, and where a
collective of F reads x, F_i depends on the unknowns of other lanes. What is to be solved then is one of two systems:

- shared: the equations are the same in all lanes, as a gradient summed over shares of the data is. The unknown is one
  x, which all lanes know;
- coupled: the equations differ. F_1, ..., F_N are one system for the unknowns x_1, ..., x_N of all lanes, and not N
  systems.

Otherwise the lanes are independent. Which it is follows from the program: `lanes` runs through its jaxpr and keeps, for
each value, whether it depends on x and whether it varies from lane to lane.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax.extend import core as jex

from ._program import scan_counts

Kind = Literal["independent", "shared", "coupled"]

# The same result in every lane, unless the lanes form groups.
_TO_ALL = ("psum", "psum2", "psum_invariant", "pmax", "pmin", "all_gather", "all_gather_invariant")
# These name axes, but exchange nothing.
_LOCAL = ("pvary", "pcast", "axis_index", "reshard")


class Value(NamedTuple):
    """What is known of a value of the program."""

    of_x: bool  # it depends on x, differentiably
    varies: bool  # it differs from lane to lane

    def __or__(self, other: "Value") -> "Value":
        return Value(self.of_x or other.of_x, self.varies or other.varies)


NOTHING = Value(False, False)


def lanes(jaxpr: jex.Jaxpr, axis: Hashable, inputs: Sequence[Value]) -> Kind:
    """What the lanes along a named axis are to each other.

    Args:
        jaxpr: F, traced where the axis has a name.
        axis: the name of the axis.
        inputs: what is known of the jaxpr's constants and arguments, in this order.
    """
    reader = _Reader(axis)
    outputs = reader.run(jaxpr, inputs)
    if not reader.exchanges_x:
        return "independent"
    return "coupled" if any(value.varies for value in outputs) else "shared"


class _Reader:
    """One reading of a program."""

    def __init__(self, axis: Hashable):
        self.axis = axis
        self.exchanges_x = False

    def run(self, jaxpr: jex.Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        """What is known of the outputs of a jaxpr."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

        def read(atom: Any) -> Value:
            return NOTHING if isinstance(atom, jex.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [read(atom) for atom in eqn.invars])
            for var, value in zip(eqn.outvars, results, strict=True):
                differentiable = jnp.issubdtype(getattr(var.aval, "dtype", jnp.int32), jnp.inexact)
                known[var] = Value(value.of_x and differentiable, value.varies)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: jex.JaxprEqn, inputs: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        inner = list(jex.jaxprs_in_params(params))
        if name == "cond":
            return self._cond(params, inputs)
        if name == "scan":
            return self._scan(params, inputs)
        if name == "while":
            return self._while(params, inputs)
        same_call = len(inner) == 1 and len(inner[0].invars) == len(inputs)
        if same_call and len(inner[0].outvars) == len(eqn.outvars) and self.axis not in _own_axes(eqn):
            # A function called with these arguments; the constants of an inner program are the same in all lanes.
            return self.run(inner[0], [*[NOTHING] * len(inner[0].constvars), *inputs])
        joint = _join(inputs)
        if self.axis in set().union(*map(names_of, inner)) - _own_axes(eqn):
            self.exchanges_x |= joint.of_x
            joint = Value(joint.of_x, True)
        if name == "axis_index" and self.axis in _axes(params):
            return [Value(False, True)]
        if name in _LOCAL or self.axis not in _axes(params):
            return [joint] * len(eqn.outvars)
        self.exchanges_x |= joint.of_x
        same = name in _TO_ALL and params.get("axis_index_groups") is None
        # A collective of several results treats each operand alone.
        each = inputs if len(inputs) == len(eqn.outvars) else [joint] * len(eqn.outvars)
        return [Value(value.of_x, not same) for value in each]

    def _cond(self, params: dict[str, Any], inputs: list[Value]) -> list[Value]:
        index, operands = inputs[0], inputs[1:]
        branches = [self.run(b.jaxpr, [*[NOTHING] * len(b.consts), *operands]) for b in params["branches"]]
        return [_join([index, *results]) for results in zip(*branches, strict=True)]

    def _scan(self, params: dict[str, Any], inputs: list[Value]) -> list[Value]:
        consts, carried = scan_counts(params)
        fixed, carry, xs = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]
        body = params["jaxpr"]
        while True:
            results = self.run(body.jaxpr, [*[NOTHING] * len(body.consts), *fixed, *carry, *xs])
            after = [a | b for a, b in zip(carry, results[:carried], strict=True)]
            if after == carry:
                return [*carry, *results[carried:]]
            carry = after

    def _while(self, params: dict[str, Any], inputs: list[Value]) -> list[Value]:
        of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
        cond, body = params["cond_jaxpr"], params["body_jaxpr"]
        tested, fixed, carry = inputs[:of_cond], inputs[of_cond : of_cond + of_body], inputs[of_cond + of_body :]
        while True:
            goes_on = self.run(cond.jaxpr, [*[NOTHING] * len(cond.consts), *tested, *carry])[0]
            results = self.run(body.jaxpr, [*[NOTHING] * len(body.consts), *fixed, *carry])
            after = [a | b | goes_on for a, b in zip(carry, results, strict=True)]
            if after == carry:
                return carry
            carry = after


def _join(values: Sequence[Value]) -> Value:
    return Value(any(value.of_x for value in values), any(value.varies for value in values))


def _own_axes(eqn: jex.JaxprEqn) -> set[Hashable]:
    """The axes to which an equation, a shard_map, gives a meaning of its own."""
    return set(eqn.params.get("newly_manual_axes", ())) | set(eqn.params.get("manual_axes", ()))


def _axes(params: dict[str, Any]) -> tuple:
    """The axes that a primitive names; numbers are dimensions of its operand."""
    names = params.get("axes", params.get("axis_name", ()))
    return tuple(names) if isinstance(names, tuple | list | frozenset | set) else (names,)


def names_of(jaxpr: jex.Jaxpr) -> set[Hashable]:
    """The axes outside of the jaxpr along which its collectives exchange data."""
    found: set[Hashable] = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in _LOCAL:
            found.update(name for name in _axes(eqn.params) if not hasattr(name, "__index__"))
        inner = [names_of(jaxpr) for jaxpr in jex.jaxprs_in_params(eqn.params)]
        found.update(set().union(*inner) - _own_axes(eqn))
    return found
