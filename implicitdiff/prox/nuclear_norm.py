"""The nuclear norm: the sum of the singular values."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from .._precision import full_precision
from .._rule import ruled
from .._varying import axes_of, varying
from ..projection._arrays import magnitude
from ..projection.semidefinite import _semidefinite
from ._leaves import leafwise


def nuclear_norm(v: PyTree, weight: PyTree | None = 1.0, scaling: PyTree = 1.0) -> PyTree:
    """The proximal operator of the nuclear norm, g(X) = weight * sum of the singular values of X.

    With V = U diag(s) W', X = U diag(f(s)) W', f(s) = max(s - t, 0) and t = scaling * weight. The derivative is finite
    everywhere, to every order, also at repeated and zero singular values, and exact where no singular value is t. At
    the kink s_i = t > 0 this singular value counts as not selected. With t = 0 the operator is the identity, also in
    its derivative in v. Value and derivative cost one thin SVD and products of matrices.

    Args:
        v: pytree of real arrays with matrices of any shape in the last two axes.
        weight: at least 0: a scalar, one value for each matrix (v's shape without the last two axes, or a shape that
            broadcasts to it), or a pytree of such like v or a prefix of it; None for 1.
        scaling: at least 0, shaped like a weight.

    Returns:
        A pytree like v, in the dtypes of v.

    Raises:
        ValueError: weight or scaling is negative, infinite or NaN, or does not fit v (traced values give NaN); a
            leaf has less than two axes.

    Source: Cai, Candes, Shen, "A singular value thresholding algorithm for matrix completion", 2010. The derivative:
    Candes, Sing-Long, Trzasko, "Unbiased risk estimates for singular value thresholding", 2013.

    Example:
        >>> import jax.numpy as jnp
        >>> nuclear_norm(jnp.array([[3.0, 0.0], [0.0, 0.5]]), 1.0).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    return leafwise(_nuclear_norm, v, scaling, axis=(-2, -1), weight=weight)


@jax.jit
def _nuclear_norm(V: Array, weight: Array, scaling: Array) -> Array:
    size = magnitude(V, (-2, -1))
    V, t = V / size, jnp.broadcast_to(scaling * weight, size.shape) / size
    return size * (_t(_threshold(_t(V), t)) if V.shape[-2] < V.shape[-1] else _threshold(V, t))


# V is m x n with m >= n from here on, and t broadcasts against it.


@full_precision
def _threshold(V: Array, t: Array) -> Array:
    U, s, W = _svd(V)
    X = jnp.where(t == 0, V, (U * jnp.where(s <= t, 0.0, s - t)) @ _t(W))
    return ruled(_threshold_tangent, [X], V, t, U, s, W)[0]


@full_precision
def _threshold_tangent(x, theta, theta_dot):
    (V, t, U, s, W), (V_dot, t_dot, *_) = theta, theta_dot
    _, moved = jax.jvp(lambda V, t: _smoothly(V, t, U, s, W), (V, t), (V_dot, t_dot))
    at_zero = V_dot - t_dot * ((U * (s > 0)) @ _t(W))
    return [jnp.where(t == 0, at_zero, moved)]


@full_precision
def _smoothly(V: Array, t: Array, U: Array, s: Array, W: Array) -> Array:
    """The same for t > 0, written so that no derivative of singular vectors is needed.

    max(s, t) is the root of max(s^2 - t^2, 0) + t^2, and s the one of an eigenvalue of V'V. So with P the projection
    of V'V - t^2 I onto the positive semidefinite matrices and R = (P + t^2 I)^(1/2), X = V - t V R^-1: functions of
    matrices that are smooth at repeated eigenvalues.

    In the basis W, which stays fixed, all of them are diagonal here, and are written as such: not as products, which
    would drown small singular values in the rounding errors of large ones.
    """
    identity = varying(jnp.eye(V.shape[-1], dtype=V.dtype), axes_of(V))
    VW = U * s + (V - lax.stop_gradient(V)) @ W
    r = jnp.maximum(s, lax.stop_gradient(t))
    r = jnp.where(r == 0, 1.0, r)
    excess = (s - lax.stop_gradient(t)) * (s + lax.stop_gradient(t))
    P = _semidefinite(_t(VW) @ VW - t**2 * identity, excess[..., 0, :], identity)
    R = _square_root(P + t**2 * identity, r)
    ones = jnp.broadcast_to(identity, R.shape)
    R_inverse = lax.custom_linear_solve(lambda Y: R @ Y, ones, lambda _, B: B / _t(r), symmetric=True)
    return (VW - t * (VW @ R_inverse)) @ _t(W)


def _square_root(S: Array, r: Array) -> Array:
    """The square root of S, which is diag(r^2)."""
    return ruled(_square_root_tangent, [jnp.eye(S.shape[-1], dtype=S.dtype) * r], S, r)[0]


@full_precision
def _square_root_tangent(x, theta, theta_dot):
    (R,), (_, r) = x, theta
    # RR = S gives R R_dot + R_dot R = S_dot.
    R_dot = lax.custom_linear_solve(lambda Y: R @ Y + Y @ R, theta_dot[0], lambda _, B: B / (_t(r) + r), symmetric=True)
    return [R_dot]


def _svd(V: Array) -> tuple[Array, Array, Array]:
    """U, s as a row, W with V = (U * s) W'."""
    U, s, Wt = jnp.linalg.svd(lax.stop_gradient(V), full_matrices=False)
    return U, s[..., None, :], _t(Wt)


def _t(A: Array) -> Array:
    return jnp.swapaxes(A, -1, -2)
