"""The geometry of phi(x) = <x, log x - 1>: its mirror map, and Bregman projections onto simple sets.

grad phi = log and grad phi* = exp. A dual point y is therefore the logarithm of a primal point, and the divergence
D_phi(x, exp y) is the Kullback-Leibler divergence. The projections take y, not exp y.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..projection._arrays import check, floating, guarded, half_as_single, no_parameters, per_vector
from ..projection.box import box as euclidean_box


def log(x: PyTree) -> PyTree:
    """The mirror map of phi(x) = <x, log x - 1>: the logarithm.

    Numbers below the smallest normal number, including 0, are replaced by it, with derivative 0. Everything stays
    finite where x is on the boundary, and the bound x >= 0 counts as active there. Elsewhere the derivative is 1/x; the
    second derivative overflows where 1/x^2 does (x < 1e-19 in float32, x < 1e-154 in float64).

    Args:
        x: pytree of real arrays, at least 0.

    Returns:
        A pytree like x; NaN, with its derivative, where x is negative, infinite or NaN.

    Source: Beck, Teboulle, "Mirror descent and nonlinear projected subgradient methods for convex optimization", 2003.

    Example:
        >>> import jax.numpy as jnp
        >>> log(jnp.array([1.0, -1.0])).tolist()
        [0.0, nan]
    """
    return jax.tree.map(lambda leaf: _log(floating(leaf)), x)


def non_negative(y: PyTree, theta: None = None) -> PyTree:
    """Project the dual point y onto the non-negative orthant: x = exp(y).

    Where the exponential overflows, x is the largest number of the dtype, with derivative 0.

    Args:
        y: pytree of real arrays.
        theta: unused, the set has no parameters.

    Returns:
        A pytree like y.

    Example:
        >>> import jax.numpy as jnp
        >>> non_negative(jnp.array([0.0, -jnp.inf])).tolist()
        [1.0, 0.0]
    """
    no_parameters("non_negative", theta)
    return jax.tree.map(lambda leaf: _exp(floating(leaf)), y)


def box(y: PyTree, bounds: tuple[PyTree, PyTree]) -> PyTree:
    """Project the dual point y onto the box {x : lower <= x <= upper, x >= 0}: x = min(max(exp(y), lower), upper).

    phi is a sum over coordinates, and so is the Bregman projection. The derivative in y is x between the bounds and 0
    at them; the derivative in a bound is 1 where the bound is active. If exp(y) equals a bound, it counts as active.

    Args:
        y: pytree of real arrays.
        bounds: `(lower, upper)`, each a pytree like y or a prefix of it (one scalar for all), broadcasting against
            the leaves of y; None for a whole side, where there is no bound.

    Returns:
        A pytree like y.

    Raises:
        ValueError: lower > upper, upper < 0, or NaN, in concrete bounds; traced bounds give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> box(jnp.array([-9.0, 0.0, 9.0]), (0.5, 2.0)).tolist()
        [0.5, 1.0, 2.0]
    """
    lower, upper = bounds
    if upper is not None:
        upper = jax.tree.map(_upper_bound, upper)
    return euclidean_box(non_negative(y), (lower, upper))


def simplex(y: PyTree, scale: ArrayLike | None = 1.0, *, axis: int = -1) -> PyTree:
    """Project the dual point y onto the simplex {x : x >= 0, sum(x) = scale}: x = scale * softmax(y).

    With p = softmax(y), the derivative is scale (diag(p) - pp') in y, and p in scale. The projection is smooth.

    Args:
        y: pytree of real arrays; vectors lie along `axis`. -inf makes an entry 0.
        scale: finite and at least 0: a scalar, or one value for each vector; None for 1.
        axis: the axis of the vectors.

    Returns:
        A pytree like y.

    Raises:
        ValueError: scale is negative, infinite or NaN, if concrete; a traced one gives NaN.

    Source: Blondel et al., NeurIPS 2022, table 1 and appendix A; Beck, Teboulle 2003.

    Example:
        >>> import jax.numpy as jnp
        >>> simplex(jnp.array([5.0, 5.0]), 3.0).tolist()
        [1.5, 1.5]
    """

    @half_as_single
    def project(y: Float[Array, "..."]) -> Float[Array, "..."]:
        s = per_vector(y, 1.0 if scale is None else scale, "scale", axis)
        factor = check(lambda s: (s >= 0) & (s < jnp.inf), "simplex: scale must be finite and at least 0, found {}.", s)
        return (s * factor * jax.nn.softmax(y, axis)).astype(y.dtype)

    return jax.tree.map(project, y)


def _log(x: Array) -> Array:
    tiny = jnp.finfo(x.dtype).tiny
    factor = jnp.where((x >= 0) & (x < jnp.inf), 1.0, jnp.nan).astype(x.dtype)
    return guarded(lambda x: jnp.log(jnp.where((x >= 0) & (x < tiny), tiny, x)), factor, x)


def _upper_bound(u: ArrayLike) -> Array:
    return jnp.asarray(u) * check(lambda u: u >= 0, "box: upper must be at least 0, found {}.", u)


def _exp(y: Array) -> Array:
    largest = jnp.finfo(y.dtype).max
    # Slightly below the logarithm of the largest number, which may be rounded up.
    overflows = y >= jnp.log(largest / 2)
    return jnp.where(overflows, largest, jnp.exp(jnp.where(overflows, 0.0, y)))
