"""The cone of positive semidefinite matrices."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._precision import full_precision
from .._rule import ruled
from ._arrays import floating, guarded, half_as_single, no_parameters, sound


@half_as_single
def semidefinite(V: Float[Array, "... n n"], theta: None = None) -> Float[Array, "... n n"]:
    """Project onto the cone of symmetric positive semidefinite matrices; it is its own dual.

    With (V + V')/2 = Q diag(l) Q', X = Q diag(max(l, 0)) Q'. The derivative along E (symmetrised) is Q (W o Q'EQ) Q'
    with W_ij = (l_i^+ + l_j^+) / (|l_i| + |l_j|), which has no trouble with repeated eigenvalues; W_ij = 0 where
    l_i = l_j = 0 (at the boundary the constraint counts as active, at V = 0 the derivative is 0).

    Args:
        V: real square matrices in the last two axes. The part that is not symmetric is dropped: it is orthogonal to
            all symmetric matrices.
        theta: unused, the set has no parameters.

    Returns:
        An array like V.

    Source: Malick, Sendov, "Clarke generalized Jacobian of the projection onto the cone of positive semidefinite
    matrices", Set-Valued Analysis 2006. The second derivative follows from |S||S| = SS (see the code).

    Example:
        >>> import jax.numpy as jnp
        >>> semidefinite(jnp.array([[1.0, 0.0], [0.0, -2.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    no_parameters("semidefinite", theta)
    V = floating(V)
    if V.ndim < 2 or V.shape[-1] != V.shape[-2]:
        raise ValueError(f"semidefinite: expected square matrices in the last two axes, found shape {V.shape}.")
    return guarded(_of_any_matrix, sound(V, (-2, -1)), V)


@jax.jit
def _of_any_matrix(V: Array) -> Array:
    S = _symmetric(V)
    values, Q = jnp.linalg.eigh(lax.stop_gradient(S), symmetrize_input=False)
    return _semidefinite(S, values, Q)


def _symmetric(V: Array) -> Array:
    return V / 2 + jnp.swapaxes(V, -1, -2) / 2


# The derivative of eigenvectors is infinite at repeated eigenvalues, that of the projection is not. So nothing below
# differentiates values and Q: they are tools that belong to S. With A = |S|, the projection is P = (S + A)/2, and
#     AA = SS    gives along E    A A_E + A_E A = SE + ES,    that is    A X + X A = PE + EP    for X = P_E.
# The eigenbasis solves this to full precision, X0 below. That X is the solution for S near by as well, which matters
# when X is differentiated again, is said with increments of P and A: their value is 0, their derivative is not.


@full_precision
def _semidefinite(S: Array, values: Array, Q: Array) -> Array:
    """The projection of S = Q diag(values) Q'."""
    P = _symmetric((Q * jnp.maximum(values, 0.0)[..., None, :]) @ jnp.swapaxes(Q, -1, -2))
    return ruled(_projection_tangent, [P], S, values, Q)[0]


def _projection_tangent(x, theta, theta_dot):
    S, values, Q = theta
    return [_derivative(S, theta_dot[0], values, Q)]


def _increments(S: Array, values: Array, Q: Array) -> list[Array]:
    """P(T) - P(S) and |T| - |S| at T = S: zero, with the derivative in T."""
    return ruled(_increments_tangent, [jnp.zeros_like(S)] * 2, S, values, Q)


def _increments_tangent(x, theta, theta_dot):
    (S, values, Q), (E, *_) = theta, theta_dot
    X = _derivative(S, E, values, Q)
    return [X, 2 * X - E]


@full_precision
def _derivative(S: Array, E: Array, values: Array, Q: Array) -> Array:
    """The derivative of the projection at S = Q diag(values) Q' along E."""
    absolute = jnp.abs(values)

    def in_basis(C: Array) -> Array:
        return jnp.swapaxes(Q, -1, -2) @ C @ Q

    def from_basis(C: Array) -> Array:
        return Q @ C @ jnp.swapaxes(Q, -1, -2)

    X0 = from_basis(_quotient(_sums(jnp.maximum(values, 0.0)), _sums(absolute)) * in_basis(E))
    P_increment, A_increment = _increments(S, values, Q)
    A = (Q * absolute[..., None, :]) @ jnp.swapaxes(Q, -1, -2) + A_increment
    correction = lax.custom_linear_solve(
        lambda Y: A @ Y + Y @ A,
        P_increment @ E + E @ P_increment - A_increment @ X0 - X0 @ A_increment,
        lambda _, R: from_basis(_quotient(in_basis(R), _sums(absolute))),
        symmetric=True,
    )
    return X0 + correction


def _quotient(numerator: Array, denominator: Array) -> Array:
    """Their quotient, and 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def _sums(a: Array) -> Array:
    """The matrix of a_i + a_j."""
    return a[..., :, None] + a[..., None, :]
