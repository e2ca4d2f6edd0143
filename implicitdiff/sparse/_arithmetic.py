"""Dependences through arithmetic: elementwise functions, reductions, products, convolutions and transforms."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from ._dependence import LARGEST, Known, TooDenseError, checked, gathered, picked, places_of, size, union, unknowns


def _elementwise(eqn: Any, inputs: list[Known]) -> list[Known]:
    """Each number depends on the numbers at its place."""
    out, parts = eqn.outvars[0].aval, []
    for atom, one in zip(eqn.invars, inputs, strict=True):
        if one.on is not None and atom.aval.shape != out.shape:  # a scalar, or axes of length one
            places = np.broadcast_to(np.arange(size(atom.aval)).reshape(atom.aval.shape), out.shape)
            parts.append(sparse.csr_array(one.on[places.ravel()]))
        else:
            parts.append(one.on)
    return [Known(checked(union(*parts), eqn))]


def _select(eqn: Any, inputs: list[Known]) -> list[Known]:
    """The case that is known to be taken, or all of them."""
    which, cases = inputs[0].value, inputs[1:]
    avals = [atom.aval for atom in eqn.invars[1:]]
    shape = eqn.outvars[0].aval.shape
    if which is None or len(cases) > 32 or any(aval.shape != shape for aval in avals):  # NumPy chooses from 32
        return _elementwise(eqn, [Known(), *cases])
    places = np.choose(np.broadcast_to(which.astype(int), shape), places_of(avals))
    return [picked(places, [one.on for one in cases], [size(aval) for aval in avals], unknowns(cases))]


def _reduction(eqn: Any, inputs: list[Known]) -> list[Known]:
    axes, aval = eqn.params["axes"], eqn.invars[0].aval
    out = eqn.outvars[0].aval
    groups = np.arange(size(out)).reshape([1 if at in axes else d for at, d in enumerate(aval.shape)])
    return [Known(checked(gathered(np.broadcast_to(groups, aval.shape), inputs[0].on, size(out)), eqn))]


def _along(eqn: Any, inputs: list[Known], axes: Sequence[int]) -> list[Known]:
    """Outputs of the shape of the inputs that depend on all numbers along these axes."""
    found = []
    shape = eqn.invars[0].aval.shape
    lines = [1 if at in axes else d for at, d in enumerate(shape)]
    groups = np.broadcast_to(np.arange(math.prod(lines)).reshape(lines), shape)
    line: Any = union(*[gathered(groups, one.on, math.prod(lines)) for one in inputs if one.on is not None])
    for var in eqn.outvars:
        out = var.aval.shape
        # The transform of real numbers has another length along its last axis.
        spread = np.broadcast_to(np.arange(math.prod(lines)).reshape(lines), out)
        if line.nnz * max(math.prod(out) // max(math.prod(lines), 1), 1) > LARGEST:
            raise TooDenseError(f"every number along an axis depends on all, through {eqn.primitive.name!r}")
        found.append(Known(sparse.csr_array(line[spread.ravel()])))
    return found


def _last(eqn: Any, count: int) -> range:
    """The last axes of the first input."""
    rank = len(eqn.invars[0].aval.shape)
    return range(rank - count, rank)


def _dot(eqn: Any, inputs: list[Known]) -> list[Known]:
    """Each number depends on a row of one factor and a column of the other."""
    (contracted, batch), out = eqn.params["dimension_numbers"], eqn.outvars[0].aval
    parts = []
    free = [
        [at for at in range(len(atom.aval.shape)) if at not in (*c, *b)]
        for atom, c, b in zip(eqn.invars, contracted, batch, strict=True)
    ]
    for side, (atom, one) in enumerate(zip(eqn.invars, inputs, strict=True)):
        if one.on is None:
            continue
        shape = atom.aval.shape
        order = [*batch[side], *free[side]]
        kept = [shape[at] for at in order]
        rows = np.arange(math.prod(kept)).reshape(kept)
        groups = np.broadcast_to(
            rows.reshape(kept + [1] * len(contracted[side])), kept + [shape[at] for at in contracted[side]]
        )
        groups = groups.transpose(np.argsort([*order, *contracted[side]]))
        of_rows = gathered(groups, one.on, rows.size)
        between = len(free[0]) if side else 0
        after = 0 if side else len(free[1])
        b = len(batch[side])
        spread = rows.reshape(kept[:b] + [1] * between + kept[b:] + [1] * after)
        spread = np.broadcast_to(spread, out.shape).ravel()
        if of_rows.nnz * (spread.size // max(rows.size, 1)) > LARGEST:
            raise TooDenseError(f"a product of shape {out.shape} with {of_rows.nnz:,} entries")
        parts.append(of_rows[spread])
    return [Known(checked(union(*parts), eqn))]


def _convolution(eqn: Any, inputs: list[Known]) -> Any:
    image, kernel = inputs
    if kernel.on is not None or eqn.params["batch_group_count"] != 1:
        return NotImplemented
    params, names = eqn.params, eqn.params["dimension_numbers"]
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval
    window = [eqn.invars[1].aval.shape[at] for at in names.rhs_spec[2:]]
    wide = jax.dtypes.canonicalize_dtype(jnp.float64)
    if math.prod(shape) > 1 / jnp.finfo(wide).eps:  # places that are no longer exact numbers
        return NotImplemented
    places = np.arange(1, math.prod(shape) + 1).reshape(shape)
    with jax.ensure_compile_time_eval():
        # (batch, features * window, space), all places that the window sees
        seen = lax.conv_general_dilated_patches(
            jnp.asarray(places.transpose(names.lhs_spec), wide), window, params["window_strides"], params["padding"],
            params["lhs_dilation"], params["rhs_dilation"], precision=lax.Precision.HIGHEST,
        )  # fmt: skip
    batch, features = seen.shape[0], shape[names.lhs_spec[1]]
    space, groups = seen.shape[2:], params["feature_group_count"]
    # Each output feature sees the input features of its group.
    lines = batch, groups, features // groups * math.prod(window), math.prod(space)
    inputs_seen = np.rint(np.asarray(seen)).astype(np.int64).reshape(lines)
    count = batch * groups * math.prod(space)
    target = np.arange(count).reshape(batch, groups, 1, math.prod(space))
    target = np.broadcast_to(target, lines)
    hit = inputs_seen.ravel() > 0
    ones = np.ones(int(hit.sum()), bool)
    route = sparse.csr_array(
        (ones, (target.ravel()[hit], inputs_seen.ravel()[hit] - 1)), shape=(count, math.prod(shape))
    )
    windows = route @ image.on
    made = out.shape[names.out_spec[1]] // groups
    spread = np.arange(count).reshape(batch, groups, 1, *space)
    spread = np.broadcast_to(spread, (batch, groups, made, *space)).reshape(batch, groups * made, *space)
    inverse = np.argsort(names.out_spec)
    return [Known(checked(sparse.csr_array(windows[spread.transpose(inverse).ravel()]), eqn))]


def _lanes(core: int) -> Any:
    """Outputs that depend on all inputs of their lane, the matrices of the last `core` axes of the first input."""

    def rule(eqn: Any, inputs: list[Known]) -> list[Known]:
        shape = eqn.invars[0].aval.shape
        lanes = math.prod(shape[: len(shape) - core])
        parts = []
        for atom, one in zip(eqn.invars, inputs, strict=True):
            if one.on is not None:
                parts.append(gathered(np.repeat(np.arange(lanes), size(atom.aval) // max(lanes, 1)), one.on, lanes))
        lane: Any = union(*parts)
        found = []
        for var in eqn.outvars:
            each = size(var.aval) // max(lanes, 1)
            if lane.nnz * each > LARGEST:
                raise TooDenseError(f"every number of a matrix depends on all, through {eqn.primitive.name!r}")
            found.append(Known(sparse.csr_array(lane[np.repeat(np.arange(lanes), each)])))
        return found

    return rule


def _windows(eqn: Any, inputs: list[Known]) -> Any:
    """Sums and extrema of windows, axis by axis: the window of an output is a product of intervals."""
    params, route = eqn.params, sparse.eye_array(1, dtype=bool, format="csr")
    axes = zip(
        eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, params["window_dimensions"], params["window_strides"],
        params["padding"], params["base_dilation"], params["window_dilation"], strict=True,
    )  # fmt: skip
    for length, out, window, stride, (low, _), base, dilation in axes:
        at = np.arange(out)[:, None] * stride + np.arange(window) * dilation - low
        hit = (at % base == 0) & (at >= 0) & (at // base < length)
        row, _ = np.nonzero(hit)
        one = sparse.csr_array((np.ones(len(row), bool), (row, at[hit] // base)), shape=(out, length))
        route = sparse.kron(route, one, format="csr")
    return [Known(checked(sparse.csr_array(route @ inputs[0].on), eqn))]


# fmt: off
_ELEMENTWISE = (
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "clamp", "complex", "conj", "convert_element_type", "copy", "cos", "cosh", "digamma",
    "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "igamma", "igammac", "imag", "integer_pow", "lgamma",
    "log", "log1p", "logistic", "max", "min", "mul", "neg", "polygamma", "pow", "random_gamma_grad", "real",
    "reduce_precision", "regularized_incomplete_beta", "rem", "rsqrt", "sin", "sinh", "sqrt", "square", "sub",
    "tan", "tanh", "zeta",
)
# fmt: on
ARITHMETIC: dict[str, Any] = dict.fromkeys(_ELEMENTWISE, _elementwise)
ARITHMETIC |= dict.fromkeys(["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"], _reduction)
ARITHMETIC |= dict.fromkeys(
    ["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"],
    lambda eqn, inputs: _along(eqn, inputs, [eqn.params["axis"]]),
)
# The derivative is zero almost everywhere.
ARITHMETIC |= dict.fromkeys(
    ["floor", "ceil", "round", "sign", "stop_gradient"], lambda eqn, inputs: [Known()] * len(eqn.outvars)
)
ARITHMETIC |= dict.fromkeys(["reduce_window_sum", "reduce_window_max", "reduce_window_min"], _windows)
ARITHMETIC |= dict.fromkeys(
    ["cholesky", "lu", "eigh", "eig", "svd", "qr", "geqrf", "householder_product", "schur", "triangular_solve"],
    _lanes(2),
)
ARITHMETIC |= dict.fromkeys(["top_k", "tridiagonal_solve"], _lanes(1))
ARITHMETIC |= dict(
    select_n=_select,
    dot_general=_dot,
    conv_general_dilated=_convolution,
    sort=lambda eqn, inputs: _along(eqn, inputs, [eqn.params["dimension"]]),
    fft=lambda eqn, inputs: _along(eqn, inputs, _last(eqn, len(eqn.params["fft_lengths"]))),
)
