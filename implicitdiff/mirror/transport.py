"""Bregman projections for entropic optimal transport: the transportation and the Birkhoff polytope."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._implicit import Implicit
from .._precision import full_precision
from .._root import implicit_root
from .._varying import while_loop
from ..projection._arrays import check, floating, half_as_single, like, no_parameters, sound

Marginals = tuple[Float[Array, "... m"], Float[Array, "... n"]]


@half_as_single
def transport(y: Float[Array, "... m n"], marginals: Marginals) -> Float[Array, "... m n"]:
    """Project the dual point y onto the transportation polytope {X : X >= 0, X 1 = a, X' 1 = b}.

    X_ij = exp(y_ij + f_i + g_j), with potentials f and g for which X has these marginals (Sinkhorn's matrix scaling).
    With y = -cost / epsilon, X is the plan of entropic optimal transport. X has the marginals to the precision of the
    dtype even if y is large (cost / epsilon up to 1,000; beyond, some plans are not found). Each iteration makes a
    Sinkhorn step and a damped Newton step, while y grows from a small multiple to its full size; it takes a
    factorisation of order min(m, n).

    The derivative is that of the potentials by the implicit function theorem: exact and smooth, to every order. The
    potentials are determined up to a constant, which does not change X. Marginals that are 0 make rows and columns 0,
    with the derivative from the right. If a change of the marginals makes their sums differ, both are scaled to the
    mean of the sums. If no plan is found, the result is NaN.

    Args:
        y: real matrices in the last two axes.
        marginals: `(a, b)`, vectors that are not negative, of equal sum; or one of each for each matrix.

    Returns:
        An array like y.

    Raises:
        ValueError: marginals that are negative, of different sums, infinite or NaN, if concrete; traced ones give NaN.

    Source: Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013; the Newton step:
    Brauer, Clason, Lorenz, Wirth, "A Sinkhorn-Newton method for entropic optimal transport", 2017.

    Example:
        >>> import jax.numpy as jnp
        >>> X = transport(jnp.eye(2), (jnp.array([1.0, 2.0]), jnp.array([1.5, 1.5])))
        >>> X.sum(axis=0).round(6).tolist(), X.sum(axis=1).round(6).tolist()
        ([1.5, 1.5], [1.0, 2.0])
    """
    y = floating(y)
    a, b = (like(y, marginal) for marginal in marginals)
    if y.ndim < 2 or a.shape[-1:] != y.shape[-2:-1] or b.shape[-1:] != y.shape[-1:]:
        raise ValueError(
            "transport: expected y of shape (..., m, n), row marginals of shape (..., m) and column marginals of "
            f"shape (..., n), found {y.shape}, {a.shape} and {b.shape}."
        )
    tol = 8 * jnp.finfo(y.dtype).eps * sum(y.shape[-2:])
    factor = check(
        lambda a, b: (
            (a.min(-1) >= 0)
            & (b.min(-1) >= 0)
            & (a.sum(-1) < jnp.inf)
            & (a.sum(-1) <= b.sum(-1) * (1 + tol))
            & (b.sum(-1) <= a.sum(-1) * (1 + tol))
        ),
        "transport: the marginals must be finite, not negative and have the same sum; found row marginals {} and "
        "column marginals {}.",
        a,
        b,
    )
    # The mass of an entry may be 0, its logarithm -inf.
    factor = sound(jnp.where(y == -jnp.inf, 0.0, y), (-2, -1)) * jnp.asarray(factor)[..., None, None]
    y, a, b = y * factor, a[..., None, :] * factor, b[..., None, :] * factor
    if y.shape[-2] < y.shape[-1]:
        return jnp.swapaxes(_transport(jnp.swapaxes(y, -1, -2), b[..., 0, :], a[..., 0, :]), -1, -2) * factor
    return _transport(y, a[..., 0, :], b[..., 0, :]) * factor


@half_as_single
def birkhoff(y: Float[Array, "... n n"], theta: None = None) -> Float[Array, "... n n"]:
    """Project the dual point y onto the Birkhoff polytope of doubly stochastic matrices: rows and columns sum to 1.

    The same as `transport` with marginals of ones.

    Args:
        y: real square matrices in the last two axes.
        theta: unused, the set has no parameters.

    Returns:
        An array like y.

    Source: Sinkhorn, Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967.

    Example:
        >>> import jax.numpy as jnp
        >>> birkhoff(jnp.array([[9.0, 1.0], [9.0, 1.0]])).round(6).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    no_parameters("birkhoff", theta)
    y = floating(y)
    if y.ndim < 2 or y.shape[-1] != y.shape[-2]:
        raise ValueError(f"birkhoff: expected square matrices in the last two axes, found shape {y.shape}.")
    ones = jnp.ones(y.shape[-1], y.dtype)
    return transport(y, (ones, ones))


# The potentials of rows are eliminated, and the potential h_j of a column is measured relative to its marginal:
#   X_ij = a_i b_j P_ij,    P_ij = exp(y_ij + h_j) / sum_k b_k exp(y_ik + h_k).
# The rows sum to a for any h, and there is no division by marginals and no logarithm of them. The columns sum to b if
# c_j = sum_i a_i P_ij is 1. Multiplied by b, this equation has a symmetric Jacobian, a weighted graph Laplacian. The
# term b'h makes it regular along its null vector, a constant h.


def _kernel(y: Array, h: Array, b: Array) -> Array:
    """P, for potentials of any size."""
    z = y + h
    z = z - jnp.max(jnp.where(b > 0, z, -jnp.inf), axis=1, keepdims=True)
    exp_z = _exp(z)
    return exp_z / jnp.sum(b * exp_z, axis=1, keepdims=True)


def _exp(z: Array) -> Array:
    # Only columns without mass can overflow.
    return jnp.exp(jnp.minimum(z, jnp.log(jnp.finfo(z.dtype).max) / 2))


def _condition(h: Array, y: Array, a: Array, b: Array) -> Array:
    K = _exp(y)
    w = jnp.exp(h)
    c = w * ((a / (K @ (b * w))) @ K)
    # A column without mass has a potential, which matters for the derivative in b_j and for nothing else.
    return jnp.where(b > 0, b * (c - 1 + b @ h), h - lax.stop_gradient(h))


@jax.jit
@partial(jnp.vectorize, signature="(m,n),(m),(n)->(m,n)")
@full_precision
def _transport(y: Float[Array, "m n"], a: Float[Array, " m"], b: Float[Array, " n"]) -> Float[Array, "m n"]:
    mass = (jnp.sum(a) + jnp.sum(b)) / 2
    a, b = _normalised(a), _normalised(b)
    fixed_y, fixed_a, fixed_b = lax.stop_gradient((y, a, b))

    z, start = fixed_y, jnp.minimum(1.0, 8 / _spread(fixed_y)).astype(y.dtype)
    # Adding constants to rows and columns of y does not change X. The potentials found are therefore added to y, and
    # the problem is solved again: its potentials are near 0 and do not have the rounding errors of large ones, with
    # which X would miss its marginals. In the end they are 0.
    for _ in range(2):
        h, error = _potential(z, fixed_a, fixed_b, start)
        z, start = z + h, jnp.ones_like(start)
        z = z - jnp.max(jnp.where(fixed_b > 0, z, -jnp.inf), axis=1, keepdims=True)
    y = z + jnp.where(jnp.isfinite(z), y - fixed_y, 0.0)
    h = implicit_root(_condition, jnp.zeros_like(b), y, a, b, adjoint=_ADJOINT)
    found = error <= 1000 * jnp.finfo(y.dtype).eps
    K, w = _exp(y), jnp.exp(h)
    rows = jnp.where(found, mass, jnp.nan) * a / (K @ (b * w))
    return rows[:, None] * K * (b * w)


def _normalised(a: Float[Array, " m"]) -> Float[Array, " m"]:
    mass = jnp.sum(a)
    return jnp.where(mass == 0, 1 / a.shape[0], a / jnp.where(mass == 0, 1.0, mass))


def _spread(y: Array) -> Array:
    finite = jnp.isfinite(y)
    return jnp.max(y, where=finite, initial=-jnp.inf) - jnp.min(y, where=finite, initial=jnp.inf)


def _potential(
    y: Float[Array, "m n"], a: Float[Array, " m"], b: Float[Array, " n"], start: Array
) -> tuple[Array, Array]:
    """The potential h for which the columns sum to b, and the error of their sums.

    Each iteration makes a Sinkhorn step and then a damped Newton step, which is left out if it does not reduce the
    error. Both would be slow for a large y, so the problem is solved for t y with t growing from `start` to 1.
    """
    eps = jnp.finfo(y.dtype).eps
    attainable = 16 * eps * (1 + _spread(y))

    def columns(t: Array, h: Array) -> tuple[Array, Array, Array]:
        P = _kernel(t * y, h, b)
        c = a @ P
        return P, c, jnp.sum(b * jnp.abs(c - 1))

    def searching(state):
        k, t, _, error, stalled = state
        return (k < 300) & ~stalled & ((t < 1) | (error > 2 * eps))

    def step(state):
        k, t, h, error, _ = state
        growth = jnp.where(error < 0.05, jnp.minimum(2.0, 1 / t), 1.0)
        t, h = jnp.where(growth * t > 0.99, 1.0, growth * t), growth * h
        _, c, _ = columns(t, h)
        sinkhorn = h - jnp.log(jnp.maximum(c, jnp.finfo(y.dtype).tiny))
        P, c, error = columns(t, sinkhorn)
        flow = P * b
        S = jnp.diag(jnp.where(b > 0, b * c, 1.0)) - (flow.T * a) @ flow + jnp.outer(b, b)
        newton = _solve(S, b * (1 - c))

        def too_long(state):
            length, new_error = state
            return (length > 1e-3) & ~(new_error < (1 - length / 4) * error)

        def shorter(state):
            length = state[0] / 4
            return length, columns(t, sinkhorn + length * newton)[2]

        length, new_error = while_loop(too_long, shorter, (jnp.full_like(t, 4.0), jnp.full_like(t, jnp.inf)))
        better = new_error < error
        h = jnp.where(better, sinkhorn + length * newton, sinkhorn)
        stalled = ~better & (t == 1) & (error <= attainable)
        return k + 1, t, h, jnp.where(better, new_error, error), stalled

    h = jnp.zeros_like(b)
    state = 0, start, h, columns(start, h)[2], False
    _, _, h, error, _ = while_loop(searching, step, state)
    # Columns without mass follow the others.
    c = a @ _kernel(y, h, b)
    return jnp.where(b > 0, h - b @ h, h - jnp.log(c)), error


def _solve(S: Float[Array, "n n"], r: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve S u = r for S positive semidefinite.

    If X is almost a permutation (for large y), S is singular to the precision of the dtype, in directions on which X
    does not depend. S is therefore shifted by the size of its rounding errors, and a step of iterative refinement
    corrects the effect in other directions.
    """
    scale = 1 / jnp.sqrt(jnp.diagonal(S))
    S = S * scale * scale[:, None]
    factor = jax.scipy.linalg.cho_factor(S + 16 * jnp.finfo(S.dtype).eps * jnp.eye(S.shape[0], dtype=S.dtype))
    u = jax.scipy.linalg.cho_solve(factor, scale * r)
    u = u + jax.scipy.linalg.cho_solve(factor, scale * r - S @ u)
    return scale * u


def _solve_products(matvec: Callable[[Array], Array], r: Array) -> Array:
    return _solve(jax.vmap(matvec)(jnp.eye(r.shape[0], dtype=r.dtype)), r)


# `_solve` reports no failure.
_ADJOINT = Implicit(linear_solver=_solve_products, symmetric=True, on_failure="ignore")
