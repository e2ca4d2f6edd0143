"""The operations of JAX that NumPy has: functions of arrays and of the parameters of the operation."""

import string

import numpy as np


def _plain(f):
    return lambda *args, **params: f(*args)


def _reduction(f):
    return lambda a, *, axes, **params: f(a, axis=tuple(axes))


def _broadcast(a, *, shape, broadcast_dimensions, **params):
    sizes = np.ones(len(shape), int)
    sizes[list(broadcast_dimensions)] = a.shape
    return np.broadcast_to(a.reshape(sizes), shape)


def _convert(a, *, new_dtype, **params):
    if np.iscomplexobj(a) and not np.issubdtype(new_dtype, np.complexfloating):
        a = a.real
    return a.astype(new_dtype)


def _dot(a, b, *, dimension_numbers, **params):
    (of_a, of_b), (batch_a, batch_b) = dimension_numbers
    supply = iter(string.ascii_letters)
    left, right = [next(supply) for _ in a.shape], [next(supply) for _ in b.shape]
    for i, j in zip([*of_a, *batch_a], [*of_b, *batch_b], strict=True):
        right[j] = left[i]
    free = [left[i] for i in range(a.ndim) if i not in (*of_a, *batch_a)]
    free += [right[j] for j in range(b.ndim) if j not in (*of_b, *batch_b)]
    out = [left[i] for i in batch_a] + free
    return np.einsum(f"{''.join(left)},{''.join(right)}->{''.join(out)}", a, b)


def _iota(*, dtype, shape, dimension, **params):
    sizes = np.ones(len(shape), int)
    sizes[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(sizes), shape)


def _pad(a, value, *, padding_config):
    for axis, (low, high, inner) in enumerate(padding_config):
        length = a.shape[axis]
        spaced = length + max(length - 1, 0) * inner
        shape = list(a.shape)
        shape[axis] = max(low, 0) + spaced + max(high, 0)
        padded = np.full(shape, value, a.dtype)
        index = [slice(None)] * a.ndim
        index[axis] = slice(max(low, 0), max(low, 0) + spaced, inner + 1)
        padded[tuple(index)] = a
        index[axis] = slice(max(-low, 0), shape[axis] - max(-high, 0))
        a = padded[tuple(index)]
    return a


def _reshape(a, *, new_sizes, dimensions, **params):
    return (a if dimensions is None else np.transpose(a, dimensions)).reshape(new_sizes)


def _select(which, *cases):
    if which.dtype == bool:
        return np.where(which, cases[1], cases[0]) if len(cases) > 1 else cases[0]
    return np.choose(np.broadcast_to(which, cases[0].shape), cases)


def _slice(a, *, start_indices, limit_indices, strides, **params):
    return a[tuple(map(slice, start_indices, limit_indices, strides or (1,) * a.ndim))]


def _dynamic_slice(a, *starts, slice_sizes, **params):
    starts = [int(np.clip(s, 0, n - m)) for s, n, m in zip(starts, a.shape, slice_sizes, strict=True)]
    return a[tuple(slice(s, s + m) for s, m in zip(starts, slice_sizes, strict=True))]


NUMPY = {
    "abs": _plain(np.abs),
    "add": _plain(np.add),
    "add_any": _plain(np.add),
    "and": _plain(np.bitwise_and),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *args, dimension, **params: np.concatenate(args, dimension),
    "convert_element_type": _convert,
    "copy": _plain(np.array),
    "cos": _plain(np.cos),
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "eq": _plain(np.equal),
    "exp": _plain(np.exp),
    "expand_dims": lambda a, *, dimensions, **params: np.expand_dims(a, dimensions),
    "ge": _plain(np.greater_equal),
    "gt": _plain(np.greater),
    "integer_pow": lambda a, *, y, **params: a ** np.asarray(y, a.dtype),
    "iota": _iota,
    "is_finite": _plain(np.isfinite),
    "le": _plain(np.less_equal),
    "log": _plain(np.log),
    "lt": _plain(np.less),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "mul": _plain(np.multiply),
    "ne": _plain(np.not_equal),
    "neg": _plain(np.negative),
    "not": _plain(np.invert),
    "or": _plain(np.bitwise_or),
    "optimization_barrier": lambda *args: list(args),
    "pad": _pad,
    "reduce_and": _reduction(np.all),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_or": _reduction(np.any),
    "reduce_sum": lambda a, *, axes, **params: np.sum(a, axis=tuple(axes), dtype=a.dtype),
    "reshape": _reshape,
    "rev": lambda a, *, dimensions: np.flip(a, dimensions),
    "select_n": _select,
    "sin": _plain(np.sin),
    "slice": _slice,
    "split": lambda a, *, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "sqrt": _plain(np.sqrt),
    "square": _plain(np.square),
    "squeeze": lambda a, *, dimensions, **params: np.squeeze(a, tuple(dimensions)),
    "sub": _plain(np.subtract),
    "tanh": _plain(np.tanh),
    "transpose": lambda a, *, permutation, **params: np.transpose(a, permutation),
    "div": lambda a, b, **params: np.divide(a, b) if a.dtype.kind in "fc" else np.trunc(a / b).astype(a.dtype),
}
