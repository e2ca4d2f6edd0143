"""Dependences through loops.

Short scans are followed step by step. All steps of a long one are followed at once, as a batch: the carry of each step
is what the step before it hands on, which is repeated until nothing is added. That ends soon where a step hands on its
own input or the time, and does not where it hands on what it was given: then the loop counts as dense. A `while_loop`
is likewise repeated until nothing is added, as soon happens where each lane of a batch iterates by itself.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from scipy import sparse

from .._program import scan_counts
from ._dependence import Known, size, union, unknowns

# Loops of at most so many steps are followed step by step.
UNROLLED = 64
# So often a loop is repeated before it counts as dense.
ROUNDS = 8


def loops(dependences: Any) -> dict[str, Any]:
    """The rules for both, given the function that follows a program."""

    def scan(eqn: Any, inputs: list[Known]) -> Any:
        params = eqn.params
        if not {"length", "reverse", "jaxpr"} <= set(params):
            return NotImplemented  # another version of JAX
        if scan_counts(params)[1] and 0 < params["length"] <= UNROLLED:
            return by_step(eqn, inputs)
        return at_once(eqn, inputs)

    def by_step(eqn: Any, inputs: list[Known]) -> list[Known]:
        fixed, carry, xs = parts(eqn, inputs)
        length, carries = eqn.params["length"], len(carry)
        avals = [atom.aval for atom in eqn.invars[len(fixed) + carries :]]
        ys: list[list[Known]] = []
        for step in range(length):
            at = length - 1 - step if eqn.params["reverse"] else step
            slices = [_row(one, aval, at) for one, aval in zip(xs, avals, strict=True)]
            found = dependences(eqn.params["jaxpr"], [*fixed, *carry, *slices])
            carry, ys = found[:carries], [*ys, found[carries:]]
        ys = ys[::-1] if eqn.params["reverse"] else ys
        n = unknowns(inputs)
        stacked = []
        for k, var in enumerate(eqn.outvars[carries:]):
            rows = [_some(y[k].on, size(var.aval) // length, n) for y in ys]
            stacked.append(Known(sparse.csr_array(sparse.vstack(rows, format="csr"))))
        return [*[Known(one.on) for one in carry], *stacked]

    def at_once(eqn: Any, inputs: list[Known]) -> Any:
        fixed, init, xs = parts(eqn, inputs)
        length, body, backwards = eqn.params["length"], eqn.params["jaxpr"], eqn.params["reverse"]
        if not length:
            return [*[Known(one.on) for one in init], *[Known()] * (len(eqn.outvars) - len(init))]
        moving = eqn.invars[len(fixed) :]
        shapes = [atom.aval.shape if k >= len(init) else (length, *atom.aval.shape) for k, atom in enumerate(moving)]
        likes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars[: len(fixed)]]
        likes += [jax.ShapeDtypeStruct(s, atom.aval.dtype) for s, atom in zip(shapes, moving, strict=True)]
        axes = [None] * len(fixed) + [0] * len(moving)
        with jax.ensure_compile_time_eval():
            closed = jax.make_jaxpr(jax.vmap(jex.jaxpr_as_fun(body), in_axes=axes, axis_size=length))(*likes)
        values = _counted(eqn, fixed, init, xs, dependences) if init else []
        n, counts = unknowns(inputs), [size(atom.aval) for atom in moving[: len(init)]]
        nothing = [None] * len(init)
        handed: list[Any] = nothing
        for _ in range(ROUNDS):
            carry = [
                Known(_shifted(one.on, out, count, length, backwards, n), value)
                for one, out, count, value in zip(init, handed, counts, values, strict=True)
            ]
            found = dependences(closed, [*fixed, *carry, *xs])
            new = [one.on for one in found[: len(init)]]
            if [_entries(on) for on in new] == [_entries(on) for on in handed]:
                last = [0 if backwards else length - 1] * len(init)
                ends = [
                    Known(None if on is None else sparse.csr_array(on[at * count : (at + 1) * count]))
                    for on, at, count in zip(new, last, counts, strict=True)
                ]
                return [*ends, *[Known(one.on) for one in found[len(init) :]]]
            handed = new
        return NotImplemented

    def while_loop(eqn: Any, inputs: list[Known]) -> Any:
        params = eqn.params
        if not {"cond_nconsts", "body_nconsts", "body_jaxpr"} <= set(params):
            return NotImplemented  # another version of JAX
        first = params["cond_nconsts"]
        fixed, init = inputs[first : first + params["body_nconsts"]], inputs[first + params["body_nconsts"] :]
        carry = [one.on for one in init]  # what numbers are known to be at first they are no more
        for _ in range(ROUNDS):
            found = dependences(params["body_jaxpr"], [*fixed, *[Known(on) for on in carry]])
            new = [union(on, one.on) for on, one in zip(carry, found, strict=True)]
            if [_entries(on) for on in new] == [_entries(on) for on in carry]:
                return [Known(on) for on in new]
            carry = new
        return NotImplemented

    return {"scan": scan, "while": while_loop}


def parts(eqn: Any, inputs: list[Known]) -> tuple[list[Known], list[Known], list[Known]]:
    """What is the same in all steps, the first carry, and what is given to the steps."""
    consts, carries = scan_counts(eqn.params)
    return inputs[:consts], inputs[consts : consts + carries], inputs[consts + carries :]


def _counted(eqn: Any, fixed: list[Known], init: list[Known], xs: list[Known], dependences: Any) -> list[Any]:
    """The integers that the carry holds in each step, where they are known, such as a counter."""
    body, length, backwards = eqn.params["jaxpr"], eqn.params["length"], eqn.params["reverse"]
    known = [one.value for one in init]
    avals = [atom.aval for atom in eqn.invars]
    steps = [_row(one, aval, 0) for one, aval in zip(xs, avals[len(fixed) + len(init) :], strict=True)]
    while any(value is not None for value in known):
        told = [Known(None, one.value) for one in fixed], [Known(None, value) for value in known]
        found = dependences(body, [*told[0], *told[1], *[Known(None, one.value) for one in steps]])
        left = [v if out.value is not None else None for v, out in zip(known, found, strict=False)]
        if [v is None for v in left] == [v is None for v in known]:
            break
        known = left
    at = [k for k, value in enumerate(known) if value is not None]
    if not at:
        return known
    zeros = [jnp.zeros(aval.shape, aval.dtype) if one.value is None else jnp.asarray(one.value)
             for one, aval in zip([*fixed, *init], avals, strict=False)]  # fmt: skip
    consts, start = zeros[: len(fixed)], zeros[len(fixed) :]
    rows = [None if one.value is None else jnp.asarray(one.value) for one in xs]
    slices = [atom.aval for atom in body.jaxpr.invars[len(fixed) + len(init) :]]

    def step(carry, given):
        whole = list(start)
        for k, value in zip(at, carry, strict=True):
            whole[k] = value
        filled = [jnp.zeros(a.shape, a.dtype) if g is None else g for g, a in zip(given, slices, strict=True)]
        out = jex.jaxpr_as_fun(body)(*consts, *whole, *filled)
        return [out[k] for k in at], carry

    with jax.ensure_compile_time_eval():
        _, stacked = lax.scan(step, [start[k] for k in at], rows, length=length, reverse=backwards)
    result: list[Any] = [None] * len(init)
    for k, value in zip(at, stacked, strict=True):
        result[k] = np.asarray(value)
    return result


def _shifted(first: Any, handed: Any, count: int, length: int, backwards: bool, n: int) -> Any:
    """The dependence of what each step is given, from that of what each step hands on."""
    if first is None and handed is None:
        return None
    first, handed = _some(first, count, n), _some(handed, count * length, n)
    blocks = [handed[count:], first] if backwards else [first, handed[: count * (length - 1)]]
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _some(on: Any, count: int, n: int) -> sparse.csr_array:
    return sparse.csr_array((count, n), dtype=bool) if on is None else on


def _entries(on: Any) -> int:
    return 0 if on is None else on.nnz


def _row(one: Known, aval: Any, at: int) -> Known:
    count = math.prod(aval.shape[1:])
    on = None if one.on is None else sparse.csr_array(one.on[at * count : (at + 1) * count])
    return Known(on, None if one.value is None else one.value[at])
