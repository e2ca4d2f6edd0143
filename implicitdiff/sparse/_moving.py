"""Dependences through primitives that only move numbers: these are applied to the places of the numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from ._dependence import LARGEST, Known, TooDenseError, checked, gathered, picked, places_of, size, union, unknowns


def _moves(numpy_way: Any):
    def rule(eqn: Any, inputs: list[Known]) -> Any:
        avals = [atom.aval for atom in eqn.invars]
        try:
            places = numpy_way(eqn.params, inputs, *places_of(avals))
        except KeyError:  # a parameter has another name in another version of JAX
            return NotImplemented
        if places is NotImplemented:
            return NotImplemented
        several = places if isinstance(places, list) else [places]
        counts, n = [size(aval) for aval in avals], unknowns(inputs)
        return [picked(one, [given.on for given in inputs], counts, n) for one in several]

    return rule


def _broadcast(params, inputs, x, *_):
    shape = [1] * len(params["shape"])
    for axis, at in enumerate(params["broadcast_dimensions"]):
        shape[at] = x.shape[axis]
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params, inputs, x):
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _pad(params, inputs, x, filling):
    config = params["padding_config"]
    lengths = [max(d + (d - 1) * inner if d else 0, 0) for d, (_, _, inner) in zip(x.shape, config, strict=True)]
    full = np.full(lengths, filling)
    full[tuple(slice(None, None, inner + 1) for _, _, inner in config)] = x
    for axis, (low, high, _) in enumerate(config):
        around = [(max(low, 0), max(high, 0)) if at == axis else (0, 0) for at in range(x.ndim)]
        full = np.pad(full, around, constant_values=filling)
        cut = slice(max(-low, 0), full.shape[axis] - max(-high, 0))
        full = full[(slice(None),) * axis + (cut,)]
    return full


def _dynamic_slice(params, inputs, x, *starts):
    values = [one.value for one in inputs[1:]]
    if any(value is None for value in values):
        return NotImplemented
    sizes = params["slice_sizes"]
    first = [min(max(int(v), 0), d - s) for v, d, s in zip(values, x.shape, sizes, strict=True)]
    return x[tuple(slice(f, f + s) for f, s in zip(first, sizes, strict=True))]


def _dynamic_update_slice(params, inputs, x, update, *starts):
    values = [one.value for one in inputs[2:]]
    if any(value is None for value in values):
        return NotImplemented
    first = [min(max(int(v), 0), d - s) for v, d, s in zip(values, x.shape, update.shape, strict=True)]
    x = x.copy()
    x[tuple(slice(f, f + s) for f, s in zip(first, update.shape, strict=True))] = update
    return x


def _split(params, inputs, x):
    return np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


MOVES = dict(
    reshape=lambda params, inputs, x, *_: x.reshape(params["new_sizes"]),
    squeeze=lambda params, inputs, x: np.squeeze(x, tuple(params["dimensions"])),
    expand_dims=lambda params, inputs, x: np.expand_dims(x, tuple(params["dimensions"])),
    transpose=lambda params, inputs, x: x.transpose(params["permutation"]),
    rev=lambda params, inputs, x: np.flip(x, tuple(params["dimensions"])),
    concatenate=lambda params, inputs, *xs: np.concatenate(xs, axis=params["dimension"]),
    broadcast_in_dim=_broadcast,
    slice=_slice,
    pad=_pad,
    dynamic_slice=_dynamic_slice,
    dynamic_update_slice=_dynamic_update_slice,
    split=_split,
    tile=lambda params, inputs, x: np.tile(x, params["reps"]),
    stack=lambda params, inputs, *xs: np.stack(xs, axis=params["axis"]),
    unstack=lambda params, inputs, x: list(np.moveaxis(x, params["axis"], 0)),
)


def _gather(eqn: Any, inputs: list[Known]) -> Any:
    x, indices = inputs
    if x.on is None:
        return [Known()]
    if indices.value is None:
        return _gather_anywhere(eqn, x.on)
    places = places_of([eqn.invars[0].aval], np.int32)[0]
    with jax.ensure_compile_time_eval():
        params = eqn.params | dict(fill_value=0)
        moved = eqn.primitive.bind(jnp.asarray(places), jnp.asarray(indices.value), **params)
    return [picked(np.asarray(moved), [x.on], [places.size], unknowns(inputs))]


def _gather_anywhere(eqn: Any, on: sparse.csr_array) -> list[Known]:
    """At indices that are not known: all numbers along the axes that these choose from, those alike along others."""
    names, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    batch = [at for at in range(len(out)) if at not in names.offset_dims]
    same = {x: batch[i] for x, i in zip(names.operand_batching_dims, names.start_indices_batching_dims, strict=True)}
    whole = [d for d in range(len(shape)) if d not in (*names.collapsed_slice_dims, *names.operand_batching_dims)]
    same |= {d: at for at, d in zip(names.offset_dims, whole, strict=True) if sizes[d] == shape[d]}
    order = sorted(same)
    kept = [shape[d] for d in order]
    groups = np.arange(math.prod(kept)).reshape([shape[d] if d in same else 1 for d in range(len(shape))])
    line = gathered(np.broadcast_to(groups, shape), on, groups.size)
    rows = np.zeros((1,) * len(out), np.int64)
    for d, stride in zip(order, np.cumprod([1, *kept[::-1]])[-2::-1] if kept else [], strict=True):
        rows = rows + stride * np.arange(shape[d]).reshape([-1 if at == same[d] else 1 for at in range(len(out))])
    spread = np.broadcast_to(rows, out).ravel()
    if line.nnz * (spread.size // max(groups.size, 1)) > LARGEST:
        raise TooDenseError(f"an array of shape {out} may be any of the numbers, through 'gather' at unknown indices")
    return [Known(checked(sparse.csr_array(line[spread]), eqn))]


def _scatter(eqn: Any, inputs: list[Known]) -> Any:
    x, indices, updates = inputs
    if updates.on is None:
        return [Known(x.on)]
    if indices.value is None:
        return NotImplemented
    out, update = eqn.outvars[0].aval, eqn.invars[2].aval

    # The transpose of an addition at these indices tells each update where it goes to.
    def add(updates):
        names = eqn.params["dimension_numbers"]
        zeros = jnp.zeros(out.shape, updates.dtype)
        return lax.scatter_add(zeros, jnp.asarray(indices.value), updates, names, mode=eqn.params["mode"])

    wide = jax.dtypes.canonicalize_dtype(jnp.float64)
    if size(out) > 1 / jnp.finfo(wide).eps:  # places that are no longer exact numbers
        return NotImplemented
    with jax.ensure_compile_time_eval():
        places = jnp.asarray(places_of([out], np.float64)[0], wide)
        targets = jax.linear_transpose(add, jax.ShapeDtypeStruct(update.shape, wide))(places)[0]
    targets = np.asarray(targets).ravel().astype(np.int64) - 1
    hit = np.flatnonzero(targets >= 0)
    route = sparse.csr_array((np.ones(len(hit), bool), (targets[hit], hit)), shape=(size(out), size(update)))
    return [Known(union(x.on, route @ updates.on))]


MOVING: dict[str, Any] = {name: _moves(way) for name, way in MOVES.items()}
MOVING["gather"] = _gather
MOVING |= dict.fromkeys(
    [f"scatter{sign}{name}" for sign in "-_" for name in ("add", "sub", "mul", "min", "max")] + ["scatter"], _scatter
)
