"""What all projections share: dtypes, the checks of their arguments, and scaling against overflow."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._largest import largest
from .._rule import ruled

Parameters = ParamSpec("Parameters")


def floating(v: Any) -> Float[Array, "..."]:
    """V as a floating-point array; integers become JAX's default float.

    Raises:
        TypeError: v is a container of arrays, which would be stacked, or complex.
    """
    numbers = isinstance(v, list) and all(np.isscalar(leaf) for leaf in jax.tree.leaves(v))
    if not (numbers or jax.tree_util.all_leaves([v])):
        raise TypeError(
            f"expected one array, found a {type(v).__name__}. Project each of its arrays by itself with jax.tree.map, "
            "or all of them as one vector with jax.flatten_util.ravel_pytree."
        )
    v = jnp.asarray(v)
    if jnp.issubdtype(v.dtype, jnp.floating):
        return v
    if jnp.issubdtype(v.dtype, jnp.complexfloating):
        raise TypeError(f"a projection needs a real array, found dtype {v.dtype}; project real and imaginary parts.")
    return v.astype(jnp.result_type(float))


def at_least_single(v: Array) -> Array:
    """V, in float32 where it comes in half precision."""
    return v if v.dtype.itemsize > 2 else v.astype(jnp.float32)


def half_as_single(project: Callable[Parameters, Array]) -> Callable[Parameters, Array]:
    """The projection of an array, where float16 and bfloat16 are computed in float32 and rounded at the end."""

    @wraps(project)
    def projection(*args: Parameters.args, **options: Parameters.kwargs) -> Array:
        v = floating(args[0])
        return project(at_least_single(v), *args[1:], **options).astype(v.dtype)  # type: ignore[arg-type]

    return projection


def no_parameters(name: str, theta: Any) -> None:
    """Raise TypeError for a theta: the set has no parameters."""
    if jax.tree.leaves(theta):
        raise TypeError(f"{name}: the set has no parameters, found theta = {theta!r}; leave it out, or give None.")


def like(v: Array, parameter: ArrayLike) -> Array:
    """A parameter of the set in the dtype of the projected array: the result keeps v's dtype."""
    return jnp.asarray(parameter, dtype=v.dtype)


def per_vector(v: Array, parameter: ArrayLike, name: str, axis: int = -1) -> Array:
    """A parameter with one value for each vector (each slice of v along `axis`), shaped to broadcast against v."""
    parameter = like(v, parameter)
    if parameter.ndim == 0:
        return parameter
    batch = tuple(np.delete(v.shape, axis))
    try:
        fits = np.broadcast_shapes(parameter.shape, batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {parameter.shape}: expected a scalar, or one value for each vector, that is a shape "
            f"that broadcasts to {batch} (v has shape {v.shape}, its vectors lie along axis {axis})."
        )
    return jnp.expand_dims(jnp.broadcast_to(parameter, batch), axis)


def check(condition: Callable[..., Any], error: str, *values: ArrayLike) -> float | Array:
    """A factor for the result: 1 where `condition(*values)` holds, NaN where it does not.

    Multiplying by it makes value and derivative NaN at once. Values that are known while Python runs (not traced)
    raise instead.

    Args:
        condition: a boolean array from arithmetic and comparisons that NumPy and JAX share; false for NaN.
        error: the message, with {} where each of the values is to be shown.
        *values: what the condition is about.

    Raises:
        ValueError: the values are concrete and the condition does not hold.
    """
    if not all(_is_concrete(value) for value in values):
        return jnp.where(condition(*values), 1.0, jnp.nan)
    if not np.all(condition(*map(np.asarray, values))):
        with np.printoptions(threshold=8, edgeitems=3, precision=4):
            raise ValueError(error.format(*map(np.asarray, values)))
    return 1.0


def _is_concrete(value: ArrayLike) -> bool:
    if isinstance(value, jax.core.Tracer):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


@partial(jax.jit, static_argnums=1)
def sound(v: Array, axes: int | tuple[int, ...] = -1) -> Array:
    """A factor for each vector along `axes`, kept: 1 where all of its entries are finite, else NaN."""
    finite = jnp.all(jnp.isfinite(lax.stop_gradient(v)), axis=axes, keepdims=True)
    return jnp.where(finite, 1.0, jnp.nan).astype(v.dtype)


def guarded(function: Callable[..., Array], factor: ArrayLike, *arrays: Array) -> Array:
    """function(*arrays), and where the factor is NaN and not 1, NaN in the value and in every derivative.

    The factor of the arrays makes NaN what reverse mode returns, that of the result what forward mode does.
    """
    return function(*(a * factor for a in arrays)) * factor


def with_value(x: Array, formula: Array) -> Array:
    """The value x, with the derivatives of a formula that has this value but for rounding.

    Where a projection is a formula on a support or on blocks that stay the same nearby, these are all of its
    derivatives, and no rule is needed that a transformation could lose.
    """
    return lax.stop_gradient(x) + (formula - lax.stop_gradient(formula))


def magnitude(v: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """The power of two below max|v| along `axis`, kept as an axis of size one; no derivative.

    Dividing by it is exact and brings the largest entry into [1, 2): squares then neither overflow nor vanish.
    """
    size = largest(v, axis=axis, keepdims=True)
    _, exponent = jnp.frexp(size)
    power = jnp.ldexp(jnp.ones_like(size), exponent - 1)
    # Zero has no magnitude, and infinity or NaN shall stay what they are.
    return jnp.where((size > 0) & jnp.isfinite(size), jnp.maximum(power, jnp.finfo(v.dtype).tiny), 1.0)


def homogeneous(f: Callable[..., Array], v: Float[Array, "... n"], *parameters: Array) -> Float[Array, "... n"]:
    """f(v, *parameters), for an f with f(cv) = c f(v) for all c > 0, evaluated at entries of order one.

    The derivative in v is that of f there: scaled forth and back, it would have products of large numbers on the way.
    """
    fixed, *fixed_parameters = lax.stop_gradient((v, *parameters))
    size = magnitude(fixed)
    (x,) = ruled(_OfOrderOne(f), [size * f(fixed / size, *fixed_parameters)], v, *parameters)
    return x


@dataclasses.dataclass(frozen=True)
class _OfOrderOne:
    """The derivative of `homogeneous`."""

    f: Callable[..., Array]

    def __call__(self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array]) -> list[Array]:
        (v, *parameters), (v_dot, *parameters_dot) = theta, theta_dot
        size = magnitude(v)
        u_dot = jax.jvp(lambda u: self.f(u, *parameters), (v / size,), (v_dot,))[1]
        if parameters:
            u_dot += size * jax.jvp(partial(self.f, v / size), parameters, parameters_dot)[1]
        return [u_dot]


def norm_and_direction(w: Array, axis: int | tuple[int, ...] = -1) -> tuple[Array, Array]:
    """||w|| and w / ||w|| along `axis` (kept), for w brought to order one; at w = 0 both are zero.

    The derivative of the norm at 0 is 0, that of the direction the identity: finite, to every order.
    """
    squared = jnp.sum(w * w, axis=axis, keepdims=True)
    zero = squared == 0
    norm = jnp.sqrt(jnp.where(zero, 1.0, squared))
    return jnp.where(zero, 0.0, norm), w / norm
