"""Norms of groups of entries: the l1-l2 norm of the group lasso, and the l1-linf norm."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from ..projection._arrays import magnitude, norm_and_direction
from ..projection.l1 import l1_ball
from ._leaves import Axis, axes_of, leafwise


def group_lasso(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0, *, axis: Axis = -1) -> PyTree:
    """The proximal operator of the group lasso, g(x) = sum_groups weight_k ||x_k||_2.

    Each group shrinks towards 0: x_k = max(||v_k|| - t, 0) u with t = scaling * weight_k and u = v_k / ||v_k||. Where
    ||v_k|| > t the derivative is I - t / ||v_k|| (I - uu') in v_k and -u in t, elsewhere 0. At the kink ||v_k|| = t > 0
    it is 0: the group counts as not selected. With t = 0 the operator is the identity, also in its derivative.

    Args:
        v: pytree of real arrays; a group is a slice along `axis`.
        weight: at least 0: a scalar, one value for each group (v's shape without `axis`, or with size 1 there; or a
            shape that broadcasts to it), or a pytree of such like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.
        axis: the axis or the axes of a group; None makes every leaf a group.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v (traced values give NaN); a
            leaf has no such axis.

    Source: Yuan, Lin, "Model selection and estimation in regression with grouped variables", 2006.

    Example:
        >>> import jax.numpy as jnp
        >>> group_lasso(jnp.array([[0.0, 4.0], [0.1, 0.2]]), 1.0).tolist()
        [[0.0, 3.0], [0.0, 0.0]]
    """
    return leafwise(_on_vectors(_group_lasso, axis), v, scaling, axis, weight=weight)


def l1_linf(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0, *, axis: Axis = -1) -> PyTree:
    """The proximal operator of the l1-linf norm, g(x) = sum_groups weight_k max_i |x_ki|.

    By Moreau's identity x_k = v_k minus the projection of v_k onto the l1 ball of radius t = scaling * weight_k: the
    entries larger than a threshold tau are cut to it. With u the signs of these (0 elsewhere) and c their number,
    the derivative is I - diag(|u|) + uu'/c in v_k and -u/c in t; where the group is 0 (||v_k||_1 < t) it is 0. At the
    kinks an entry with |v_i| = tau counts as not cut, a group with ||v_k||_1 = t as not 0. With t = 0 the operator is
    the identity, also in its derivative in v.

    Args:
        v: pytree of real arrays; a group is a slice along `axis`.
        weight: at least 0: a scalar, one value for each group (v's shape without `axis`, or with size 1 there; or a
            shape that broadcasts to it), or a pytree of such like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.
        axis: the axis or the axes of a group; None makes every leaf a group.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v (traced values give NaN); a
            leaf has no such axis.

    Source: Quattoni, Carreras, Collins, Darrell, "An efficient projection for l1,infinity regularization", 2009.

    Example:
        >>> import jax.numpy as jnp
        >>> l1_linf(jnp.array([[3.0, -2.5, 1.0], [0.1, 0.2, 0.3]]), 1.0).tolist()
        [[2.25, -2.25, 1.0], [0.0, 0.0, 0.0]]
    """
    return leafwise(_on_vectors(_l1_linf, axis), v, scaling, axis, weight=weight)


@jax.jit
def _group_lasso(v: Array, t: Array) -> Array:
    size = magnitude(v)
    norm, direction = norm_and_direction(v / size)
    t = t / size
    # NaN fails both comparisons, takes the branch with arithmetic and shows.
    excess = jnp.where(norm <= t, 0.0, norm - t)
    identity = v - jnp.where(t == 0, t, 0.0) * direction * size
    return jnp.where(t == 0, identity, excess * direction * size)


@jax.jit
def _l1_linf(v: Array, t: Array) -> Array:
    x = v - l1_ball(v, jnp.broadcast_to(t, (*v.shape[:-1], 1))[..., 0])
    # At t = 0 the ball is a point, whose derivative in the radius is 0. The right derivative of x cuts the
    # largest entries; the factor has value 0.
    size = jnp.abs(lax.stop_gradient(v))
    largest = (size == jnp.max(size, axis=-1, keepdims=True, initial=0.0)) & (size > 0)
    count = jnp.maximum(jnp.sum(largest, axis=-1, keepdims=True), 1)
    cut = jnp.where(largest, jnp.sign(v), 0.0) / count.astype(v.dtype)
    return x - jnp.where(t == 0, t, 0.0) * cut


def _on_vectors(prox: Callable[[Array, Array], Array], axis: Axis) -> Callable[[Array, Array, Array], Array]:
    """Make an operator on vectors in the last axis one on groups in any axes."""

    def on_groups(v: Array, weight: Array, scaling: Array) -> Array:
        axes = axes_of(v, axis)
        last = tuple(range(v.ndim - len(axes), v.ndim))
        t = jnp.broadcast_to(scaling * weight, [1 if i in axes else n for i, n in enumerate(v.shape)])
        moved, t = jnp.moveaxis(v, axes, last), jnp.moveaxis(t, axes, last)
        batch = moved.shape[: v.ndim - len(axes)]
        x = prox(moved.reshape(*batch, -1), t.reshape(*batch, 1))
        return jnp.moveaxis(x.reshape(moved.shape), last, axes)

    return on_groups
