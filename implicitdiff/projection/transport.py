"""The transportation polytope and the Birkhoff polytope."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._largest import largest
from .._precision import full_precision
from .._varying import while_loop
from ._arrays import check, floating, guarded, half_as_single, like, magnitude, no_parameters, sound

Marginals = tuple[Float[Array, "... m"], Float[Array, "... n"]]


@half_as_single
def transport(V: Float[Array, "... m n"], marginals: Marginals) -> Float[Array, "... m n"]:
    """Project onto the transportation polytope {X : X >= 0, X 1 = a, X' 1 = b}.

    X = max(V + alpha 1' + 1 beta', 0), where (alpha, beta) solve the dual problem: find potentials such that X has
    the marginals. Newton's method on this piecewise linear equation ends after finitely many steps; each costs one
    Cholesky factorisation of size min(m, n). On the support {X > 0} X is the projection onto an affine set, which is
    what is differentiated. X_ij = 0 counts as fixed; a change of the marginals that unbalances them is projected
    onto those that do not.

    Args:
        V: real matrices in the last two axes.
        marginals: `(a, b)`, vectors that are not negative, of equal sum; or one of each for each matrix.

    Returns:
        An array like V; NaN where the method fails (in float32, it may for V beyond 1e5 times the marginals).

    Raises:
        ValueError: marginals that are negative, of different sums, infinite or NaN, if concrete; traced ones give NaN.

    Source: Li, Sun, Toh, "On the efficient computation of a generalized Jacobian of the projector over the Birkhoff
    polytope", Mathematical Programming 2020.

    Example:
        >>> import jax.numpy as jnp
        >>> transport(jnp.eye(2), (jnp.array([1.0, 2.0]), jnp.array([1.5, 1.5]))).tolist()
        [[1.0, 0.0], [0.5, 1.5]]
    """
    V = floating(V)
    a, b = (like(V, marginal) for marginal in marginals)
    if V.ndim < 2 or a.shape[-1:] != V.shape[-2:-1] or b.shape[-1:] != V.shape[-1:]:
        raise ValueError(
            "transport: expected V of shape (..., m, n), row marginals of shape (..., m) and column marginals of "
            f"shape (..., n), found {V.shape}, {a.shape} and {b.shape}."
        )
    eps = jnp.finfo(V.dtype).eps
    factor = check(
        lambda a, b: (
            (a.min(-1) >= 0)
            & (b.min(-1) >= 0)
            & (abs(a.sum(-1) - b.sum(-1)) <= 8 * eps * (sum(V.shape[-2:]) * (a.sum(-1) + b.sum(-1))))
        ),
        "transport: the marginals must not be negative and have the same sum; found row marginals {} and column "
        "marginals {}.",
        a,
        b,
    )
    factor = sound(V, (-2, -1)) * jnp.asarray(factor)[..., None, None]
    if V.shape[-2] > V.shape[-1]:
        return jnp.swapaxes(
            guarded(_transport, factor, jnp.swapaxes(V, -1, -2), b[..., None, :], a[..., None, :]), -1, -2
        )
    return guarded(_transport, factor, V, a[..., None, :], b[..., None, :])


@half_as_single
def birkhoff(V: Float[Array, "... n n"], theta: None = None) -> Float[Array, "... n n"]:
    """Project onto the Birkhoff polytope {X : X >= 0, X 1 = 1, X' 1 = 1}, the doubly stochastic matrices.

    It is the transportation polytope with marginals of ones; see `transport` for derivative and method.

    Args:
        V: real square matrices in the last two axes.
        theta: unused, the set has no parameters.

    Returns:
        An array like V.

    Example:
        >>> import jax.numpy as jnp
        >>> birkhoff(jnp.array([[3.0, 0.0], [1.0, 2.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    no_parameters("birkhoff", theta)
    V = floating(V)
    if V.ndim < 2 or V.shape[-1] != V.shape[-2]:
        raise ValueError(f"birkhoff: expected square matrices in the last two axes, found shape {V.shape}.")
    ones = jnp.ones(V.shape[-1], V.dtype)
    return transport(V, (ones, ones))


@jax.jit
@full_precision
def _transport(V: Array, a: Array, b: Array) -> Array:
    a, b = a[..., 0, :], b[..., 0, :]
    Y = _near_solution(*(lax.stop_gradient(argument) for argument in (V, a, b)))
    support = Y > 0
    Y = Y + (V - lax.stop_gradient(V))
    on_support = jnp.where(support, Y, 0.0)
    step = _solve(support.astype(V.dtype), a - on_support.sum(-1), b - on_support.sum(-2))
    Y = Y + _outer_sum(*step)
    X = jnp.where(support, Y, 0.0)
    residual = jnp.maximum(largest(X.sum(-1) - a, -1), largest(X.sum(-2) - b, -1))
    residual = jnp.maximum(residual, largest(jnp.maximum(Y, 0.0) - X, (-2, -1)))
    solved = residual <= jnp.finfo(V.dtype).eps ** 0.5 * lax.stop_gradient(jnp.sum(a, axis=-1))
    # Rounding must not make X negative. Better NaN than wrong where Newton's method got stuck.
    X = X + lax.stop_gradient(jnp.maximum(X, 0.0) - X)
    return X * jnp.where(solved, 1.0, jnp.nan)[..., None, None]


def _outer_sum(alpha: Array, beta: Array) -> Array:
    return alpha[..., :, None] + beta[..., None, :]


def _near_solution(V: Array, a: Array, b: Array) -> Array:
    """V + alpha 1' + 1 beta', with potentials near enough to tell the support, where this is positive.

    Where V is much larger than the marginals this is nearly a linear program. Then first a small multiple of V is
    projected, and the solution's V + alpha 1' + 1 beta' stands for V when the multiple is raised. Entries far below
    zero cannot get into the support: they are raised. At the end the potentials are solved for once more from where
    they lead to, for what their rounding left.
    """
    step = jnp.finfo(V.dtype).eps ** -0.25
    floor = -(step**2)
    unit = magnitude(a)[..., None]
    a, b = a / unit[..., 0], b / unit[..., 0]
    width = jnp.max(V, axis=(-2, -1), keepdims=True) - jnp.min(V, axis=(-2, -1), keepdims=True)
    whole = 1 / unit
    first = jnp.minimum(whole, step / jnp.where(width > 0, width, 1.0))

    def unfinished(state):
        return jnp.any(~state[-1])

    def solve_again(state):
        V, left, done = state
        # Start from the projection onto the affine hull.
        row, column = a - V.sum(-1), b - V.sum(-2)
        alpha = row / V.shape[-1]
        beta = (column - jnp.sum(alpha, axis=-1, keepdims=True)) / V.shape[-2]
        Y = jnp.maximum(V + _outer_sum(*_potentials(V, a, b, alpha, beta)), floor)
        times = jnp.clip(left, 1.0, step)
        return jnp.where(done, V, times * Y), jnp.where(left > 1, left / times, left / 2), done | (left < 1)

    left = jnp.minimum(whole / first, jnp.finfo(V.dtype).max)
    Y, *_ = while_loop(unfinished, solve_again, (first * V, left, ~(left >= 1)))
    return unit * Y


def _potentials(V: Array, a: Array, b: Array, alpha: Array, beta: Array) -> tuple[Array, Array]:
    """The potentials that maximise a'alpha + b'beta - |max(V + alpha + beta', 0)|^2 / 2.

    By Newton's method with a line search, from a start.
    """
    m, n = V.shape[-2:]
    eps = jnp.finfo(V.dtype).eps

    def primal(alpha, beta):
        return jnp.maximum(V + _outer_sum(alpha, beta), 0.0)

    def gradient(X):
        return a - X.sum(-1), b - X.sum(-2)

    def larger(p, q):
        return jnp.maximum(largest(p, -1), largest(q, -1))

    def unfinished(state):
        return jnp.any(~state[-1])

    def newton(state):
        alpha, beta, support, t, iteration, done = state
        X = primal(alpha, beta)
        p, q = gradient(X)
        error = larger(p, q)
        # After a whole step on the same support the residual is zero but for rounding of the terms of X.
        same = jnp.all((X > 0) == support, axis=(-2, -1)) & (t == 1.0)
        terms = largest(jnp.where(X > 0, V, 0.0), (-2, -1)) + larger(alpha, beta)
        rounding = eps * jnp.where(same, (m + n) * terms, 2 * scale)
        done = done | ~(error > rounding) | (t < smallest) | (iteration >= 500)
        # The Hessian is singular. The shift makes a step along its kernel as long as V is large, or 1000 scale.
        shift = jnp.maximum(10 * eps * (m + n), jnp.minimum(1e-3, error / jnp.maximum(1e3 * scale, width)))
        d_alpha, d_beta = _shifted_solve((X > 0).astype(V.dtype), shift, p, q)
        slope = jnp.sum(p * d_alpha, axis=-1) + jnp.sum(q * d_beta, axis=-1)
        linear = jnp.sum(a * d_alpha, axis=-1) + jnp.sum(b * d_beta, axis=-1)

        def rejected(t):
            moved = primal(alpha + t[..., None] * d_alpha, beta + t[..., None] * d_beta)
            # The gain is a difference of objectives, without cancellation of their common part.
            gain = t * linear - jnp.sum((moved - X) * ((moved + X) / 2), axis=(-2, -1))
            accepted = (gain >= 1e-4 * t * slope) | (larger(*gradient(moved)) <= error / 2)
            return ~(accepted | done | (t < smallest))

        t = while_loop(lambda t: jnp.any(rejected(t)), lambda t: jnp.where(rejected(t), t / 2, t), jnp.ones_like(error))
        stay, t_ = done[..., None], t[..., None]
        alpha, beta = jnp.where(stay, alpha, alpha + t_ * d_alpha), jnp.where(stay, beta, beta + t_ * d_beta)
        return alpha, beta, X > 0, t, iteration + 1, done

    smallest = eps**2
    width = jnp.max(V, axis=(-2, -1)) - jnp.min(V, axis=(-2, -1))
    scale = jnp.sum(a, axis=-1) + 0 * V[..., 0, 0]
    state = (alpha, beta, jnp.zeros(V.shape, bool), jnp.ones_like(scale), 0, jnp.zeros(scale.shape, bool))
    alpha, beta, *_ = while_loop(unfinished, newton, state)
    return alpha, beta


def _shifted_solve(S: Array, shift: Array, p: Array, q: Array) -> tuple[Array, Array]:
    """Solve [diag(S 1) + shift, S; S', diag(S' 1) + shift] (alpha, beta) = (p, q)."""
    rows, columns = S.sum(-1) + shift[..., None], S.sum(-2) + shift[..., None]
    schur = _diagonal(rows) - (S / columns[..., None, :]) @ jnp.swapaxes(S, -1, -2)
    factor = jnp.linalg.cholesky(schur)
    rhs = p - _times(S, q / columns)
    alpha = jax.scipy.linalg.cho_solve((factor, True), rhs[..., None])[..., 0]
    return alpha, (q - _times(jnp.swapaxes(S, -1, -2), alpha)) / columns


def _solve(S: Array, p: Array, q: Array) -> tuple[Array, Array]:
    """Solve [diag(S 1), S; S', diag(S' 1)] (alpha, beta) = (p, q) on the range of this matrix.

    It is singular, once for every connected part of the support: these directions do not change X. They are the
    kernel of the Schur complement, which its eigenvalues tell.
    """
    rows, columns = S.sum(-1), S.sum(-2)
    inverse = jnp.where(columns > 0, 1.0 / jnp.maximum(columns, 1.0), 0.0)
    schur = _diagonal(rows) - (S * inverse[..., None, :]) @ jnp.swapaxes(S, -1, -2)
    values, Q = jnp.linalg.eigh(schur)
    threshold = 4 * S.shape[-2] * jnp.finfo(S.dtype).eps * jnp.max(values, axis=-1, keepdims=True)
    kept = values > threshold
    weights = jnp.where(kept, 1.0 / jnp.where(kept, values, 1.0), 0.0)
    alpha, beta = jnp.zeros_like(p), jnp.zeros_like(q)
    for _ in range(2):  # the second time for what the first one's rounding left
        p_left = p - rows * alpha - _times(S, beta)
        q_left = q - columns * beta - _times(jnp.swapaxes(S, -1, -2), alpha)
        rhs = p_left - _times(S, inverse * q_left)
        d_alpha = _times(Q, weights * _times(jnp.swapaxes(Q, -1, -2), rhs))
        alpha, beta = alpha + d_alpha, beta + inverse * (q_left - _times(jnp.swapaxes(S, -1, -2), d_alpha))
    return alpha, beta


def _times(A: Array, x: Array) -> Array:
    return jnp.einsum("...mn,...n->...m", A, x)


def _diagonal(d: Array) -> Array:
    return d[..., :, None] * jnp.eye(d.shape[-1], dtype=d.dtype)
