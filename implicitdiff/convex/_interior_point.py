"""An interior-point method for dense convex quadratic programs that runs on the device, without a callback."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import linalg
from jaxtyping import Array, Bool, Float, Int

from .._largest import largest
from .._precision import full_precision
from .._varying import while_loop
from ..projection.cones import Cone, NonNegative, Zero
from ._backends import ALMOST_SOLVED, FAILED, INFEASIBLE, SOLVED, UNBOUNDED
from ._saddle import active_set, or_one, saddle

# The smallest fraction of the way to the boundary of the orthant that a step takes; near the end it takes more.
STEP = 0.99
# The maximum number of active sets that are tried at the end.
POLISH = 5


class _Program(NamedTuple):
    """min 1/2 x'Px + q'x subject to Ax + s = b, scaled; s = 0 in the rows that are equations, else s >= 0."""

    P: Float[Array, "n n"]
    q: Float[Array, " n"]
    A: Float[Array, "m n"]
    b: Float[Array, " m"]


class _Iterate(NamedTuple):
    """A point of the homogeneous embedding: the solution is x / tau if tau > 0, otherwise there is a certificate."""

    x: Float[Array, " n"]
    z: Float[Array, " m"]
    s: Float[Array, " m-p"]
    tau: Float[Array, ""]
    kappa: Float[Array, ""]


class _State(NamedTuple):
    now: _Iterate
    best: _Iterate
    least: Float[Array, ""]  # error of the best iterate
    stalled: Int[Array, ""]  # number of steps since it was found
    steps: Int[Array, ""]
    status: Int[Array, ""]  # -1 while the method runs


@partial(jax.jit, static_argnames="cones")
@full_precision
def interior_point(
    P: Float[Array, "n n"] | None,
    q: Float[Array, " n"],
    A: Float[Array, "m n"],
    b: Float[Array, " m"],
    cones: Sequence[Cone],
    *,
    maxiter: int = 60,
    tol: float | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " m"], Float[Array, " m"], Int[Array, ""]]:
    """Solve min_x 1/2 x'Px + q'x subject to Ax + s = b, s = 0 or s >= 0 row by row.

    Mehrotra's predictor and corrector on the homogeneous embedding with a quadratic objective,

        Px + A'z + q tau = 0,   Ax + s - b tau = 0,   x'Px / tau + q'x + b'z + kappa = 0,   s z = 0,   tau kappa = 0,

    whose iterates tend to a solution (tau > 0) or to a certificate that there is none (kappa > 0). Each step factorises
    P + A' diag(z/s) A, of size n, and the Schur complement of the equations. At the end, Newton steps on the equations
    of the active set bring a regular solution to the precision of the dtype, even where a multiplier and its slack are
    both tiny. Each element of a batch stops on its own.

    Args:
        P: (n, n) symmetric positive semidefinite, or None.
        q: (n,).
        A: (m, n).
        b: (m,).
        cones: `Zero` and `NonNegative`, in the order of the rows of A.
        maxiter: maximum number of steps.
        tol: the error relative to the data at which the method stops, with the status "solved"; up to a hundred times
            this error counts as "almost solved". None means eps^(3/4).

    Returns:
        x, z, s and the status; x, z and s are NaN if the status is not that of a solution.

    Raises:
        ValueError: there are other cones.

    Source: Mehrotra, "On the implementation of a primal-dual interior point method", 1992; Goulart, Chen, "Clarabel: an
    interior-point solver for conic programs with quadratic objectives", 2024, for the embedding.

    Example:
        >>> import jax.numpy as jnp
        >>> found = interior_point(jnp.eye(1), jnp.array([-3.0]), jnp.eye(1), jnp.ones(1), (NonNegative(1),))
        >>> [part.round(3).tolist() for part in found]  # min 1/2 x^2 - 3x subject to x <= 1
        [[1.0], [2.0], [0.0], 0]
    """
    if not all(isinstance(cone, Zero | NonNegative) for cone in cones):
        raise ValueError("solver='jax' is for quadratic programs: cones Zero and NonNegative. 'clarabel' knows all.")
    equal = np.concatenate([np.full(cone.size, isinstance(cone, Zero)) for cone in cones] or [np.zeros(0, bool)])
    order = np.argsort(~equal, kind="stable")
    back, p = np.argsort(order), int(equal.sum())
    dtype = q.dtype
    P = jnp.zeros((q.size, q.size), dtype) if P is None else P.astype(dtype)
    A, b = A.astype(dtype)[order], b[order]
    sound = _convex(P) & jnp.all(jnp.isfinite(q)) & jnp.all(jnp.isfinite(A)) & jnp.all(jnp.isfinite(b))
    # Scale to rows of norm 1, an x of the size of the right-hand side, and an objective of size 1.
    rows = or_one(jnp.linalg.norm(A, axis=1))
    length = or_one(largest(b / rows))
    size = or_one(jnp.maximum(largest(P) * length, largest(q)))
    program = _Program(P * (length / size), q / size, A / rows[:, None], b / rows / length)
    limit = float(jnp.finfo(dtype).eps) ** 0.75 if tol is None else tol
    status = jnp.where(sound, -1, FAILED).astype(jnp.int32)
    x, v, status = _polished(program, p, _iterate(program, p, status, limit, maxiter), limit)
    z = _multipliers(v, p)
    found = (x * length, z * size / rows, (z - v) * length * rows)
    x, z, s = (jnp.where(status <= ALMOST_SOLVED, part, jnp.nan) for part in found)
    return x, z[back], s[back], status


def _convex(P: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether P is finite, symmetric and positive semidefinite up to rounding."""
    slack = max(1e-8, 100 * float(jnp.finfo(P.dtype).eps)) * largest(P)
    shifted = P + or_one(slack) * jnp.eye(P.shape[0], dtype=P.dtype)
    definite = jnp.all(jnp.isfinite(linalg.cholesky(shifted, symmetrize_input=False)))
    return jnp.isfinite(slack) & jnp.all(jnp.abs(P - P.T) <= slack) & definite


def _iterate(program: _Program, p: int, status: Array, limit: Array | float, maxiter: Array | int) -> _State:
    """Run the interior-point method until the error is below the limit or no longer falls."""
    P, q, A, b = program
    count = b.size - p + 1
    G = A[p:]
    unit = jnp.diagonal(P) + jnp.sum(A * A, axis=0)
    one, zero = jnp.ones((), q.dtype), jnp.zeros((), jnp.int32)

    def full(v: Float[Array, " m-p"]) -> Float[Array, " m"]:
        return jnp.pad(v, (p, 0))

    def factorised(weights: Float[Array, " m-p"]) -> Callable:
        """A function that solves Px + A'z = f, Ax - z / weights = g; no z in the second part for equations."""
        factors = saddle(P + (G.T * weights) @ G, A[:p], unit)

        def solve(f, g):
            x, y = factors.solve(f + (weights * g[:, p:]) @ G, g[:, :p])
            return x, jnp.concatenate([y, weights * (x @ G.T - g[:, p:])], axis=1)

        return solve

    def step(state: _State) -> _State:
        now = state.now
        x, z, s, tau, kappa = now
        rx, rz, rt = residuals = _residuals(program, now)
        best, least, stalled, status = _judge(program, state, residuals, limit)
        over_z = 1 / z[p:]
        solve = factorised(z[p:] / s)
        twice, mu = 2 * (P @ x) / tau + q, (s @ z[p:] + tau * kappa) / count

        def direction(f, ds, dk, x1, z1, x3, z3) -> _Iterate:
            # (x2, z2) solves the system for the data (-q, b), and (x3, z3) is its difference from (x, z) / tau. That
            # difference is solved for: it is small, and rounding errors are proportional to the size of the solution
            # times the weights.
            x2, z2 = x / tau - x3, z / tau - z3
            slope = kappa / tau + x3 @ (P @ x3) + (over_z * s * z2[p:]) @ z2[p:]
            dtau = (f * rt - dk / tau + twice @ x1 + b @ z1) / slope
            dz = z1 + dtau * z2
            return _Iterate(x1 + dtau * x2, dz, -over_z * (ds + s * dz[p:]), dtau, -(dk + kappa * dtau) / tau)

        # The predictor, solved together with the direction of the data; then the corrector.
        ds, dk = s * z[p:], kappa * tau
        xs, zs = solve(jnp.stack([-rx, rx / tau]), jnp.stack([full(s) - rz, (rz - full(2 * s)) / tau]))
        d = direction(1.0, ds, dk, xs[0], zs[0], xs[1], zs[1])
        sigma = (1 - _length(now, d, p)) ** 3
        f = 1 - sigma
        ds, dk = ds + d.s * d.z[p:] - sigma * mu, dk + d.kappa * d.tau - sigma * mu
        (x1,), (z1,) = solve(-f * rx[None], (full(over_z * ds) - f * rz)[None])
        d = direction(f, ds, dk, x1, z1, xs[1], zs[1])
        longest = _length(now, d, p)
        length = jnp.where(longest < 1, jnp.maximum(STEP, 1 - mu) * longest, 1)
        moved = jax.tree.map(lambda a, da: a + length * da, now, d)
        sound = jnp.isfinite(length) & jnp.all(jnp.isfinite(moved.x)) & jnp.all(jnp.isfinite(moved.z))
        ended = (least <= limit) | (stalled >= 3) | (length < 1e-8) | ~sound | (state.steps >= maxiter)
        status = jnp.where((status < 0) & ended, FAILED, status)
        return _State(moved, best, least, stalled, state.steps + 1, status)

    ones = jnp.ones(count - 1, q.dtype)
    first = _Iterate(jnp.zeros_like(q), full(ones), ones, one, one)
    return while_loop(lambda at: at.status < 0, step, _State(first, first, one * jnp.inf, zero, zero, status))


def _residuals(program: _Program, at: _Iterate) -> tuple[Array, Array, Array]:
    P, q, A, b = program
    x, z, s, tau, kappa = at
    Px, p = P @ x, z.size - s.size
    return Px + A.T @ z + q * tau, A @ x - b * tau + jnp.pad(s, (p, 0)), x @ Px / tau + q @ x + b @ z + kappa


def _judge(program: _Program, state: _State, residuals: tuple[Array, Array, Array], limit: Array | float):
    """Keep the best iterate so far, and recognise infeasible and unbounded programs by their certificates."""
    P, q, A, b = program
    now = state.now
    x, z, s, tau, kappa = now
    p = z.size - s.size
    Px, dual, primal = P @ x, A.T @ z, A @ x
    against = lambda r, *parts: largest(r) / (tau + sum(largest(part) for part in parts))  # noqa: E731
    error = jnp.maximum(against(residuals[0], Px, dual, q * tau), against(residuals[1], primal, s, b * tau))
    error = jnp.maximum(error, s @ z[p:] / (tau * (tau + jnp.abs(q @ x))))
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    best = jax.tree.map(lambda a, b: jnp.where(error < state.least, a, b), now, state.best)
    stalled = jnp.where(error < 0.5 * state.least, 0, state.stalled + (state.least < 1e3 * limit))
    # z >= 0 with A'z = 0 and b'z < 0 proves that no x satisfies the constraints. An x with Px = 0, Ax + s = 0 and
    # q'x < 0 proves that the program is unbounded. Rounding makes both uncertain, so kappa has to agree.
    gain, descent, tight = -(b @ z), -(q @ x), limit**0.75
    infeasible = largest(dual) <= tight * gain / (1 + largest(b))
    unbounded = jnp.maximum(largest(Px), largest(primal + jnp.pad(s, (p, 0)))) <= tight * descent / (1 + largest(q))
    status = jnp.where(infeasible & (gain > 0), INFEASIBLE, jnp.where(unbounded & (descent > 0), UNBOUNDED, -1))
    certain = (tau < kappa) & (error > limit) & (state.status < 0)
    return best, jnp.minimum(error, state.least), stalled, jnp.where(certain, status, state.status).astype(jnp.int32)


def _length(now: _Iterate, d: _Iterate, p: int) -> Array:
    """The longest step up to 1 in which s, z, tau and kappa stay non-negative."""
    v = jnp.concatenate([now.s, now.z[p:], now.tau[None], now.kappa[None]])
    dv = jnp.concatenate([d.s, d.z[p:], d.tau[None], d.kappa[None]])
    return jnp.minimum(1, jnp.min(jnp.where(dv < 0, -v / jnp.where(dv < 0, dv, 1), jnp.inf)))


def _multipliers(v: Float[Array, " m"], p: int) -> Float[Array, " m"]:
    return jnp.append(v[:p], jnp.maximum(v[p:], 0))


class _Polish(NamedTuple):
    """A point of the normal map, its residual, the active set for the next step, and whether there is a next step."""

    x: Float[Array, " n"]
    v: Float[Array, " m"]
    error: Float[Array, ""]
    active: Bool[Array, " m"]
    steps: Int[Array, ""]
    go_on: Bool[Array, ""]


def _polished(program: _Program, p: int, state: _State, limit: Array | float) -> tuple[Array, Array, Array]:
    """x, v = z - s and the status, after Newton steps on the normal map, each exact if its active set is right.

    If a multiplier and its slack are both of the order of sqrt(limit), the iterate may have the wrong one active, and
    the error of x is as large. The step then leads to a point with other signs, which give the next active set.
    """
    P, q, A, b = program
    x, z, s, tau, _ = state.best
    x, v = x / tau, jnp.append(z[:p], z[p:] - s) / tau

    def active_at(v):
        return jnp.append(jnp.ones(p, bool), v[p:] > 0)

    def residual(x, v):  # residual of the normal map
        z = _multipliers(v, p)
        return jnp.maximum(largest(P @ x + A.T @ z + q), largest(A @ x + (z - v) - b))

    def step(carry: tuple[_Polish, _Polish]) -> tuple[_Polish, _Polish]:
        now, best = carry
        # The equations of the active set, in whose rows v is a multiplier; in the others it is minus a slack.
        f = P @ now.x + A.T @ jnp.where(now.active, now.v, 0) + q
        h = A @ now.x - jnp.where(now.active, 0, now.v) - b
        solve, regular = active_set(P, A, now.active)
        dx, dy = solve(-f, jnp.where(now.active, -h, 0))
        new_x, new_v = now.x + dx, now.v + jnp.where(now.active, dy, A @ dx + h)
        active, error = active_at(new_v), residual(new_x, new_v)
        changed = regular & jnp.any(active != now.active) & jnp.isfinite(error)
        new = _Polish(new_x, new_v, error, active, now.steps + 1, changed)
        better = regular & (error < best.error)
        return new, jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)

    start = _Polish(x, v, residual(x, v), active_at(v), jnp.zeros((), jnp.int32), jnp.array(True))
    _, best = while_loop(lambda carry: carry[0].go_on & (carry[0].steps < POLISH), step, (start, start))
    x, v = best.x, best.v
    error = jnp.where(
        best.steps > 0, best.error / (1 + largest(A @ x) + largest(A.T @ _multipliers(v, p))), state.least
    )
    error = jnp.minimum(error, state.least)
    ended = jnp.where(error <= limit, SOLVED, jnp.where(error <= 100 * limit, ALMOST_SOLVED, FAILED))
    # A run that ended without a certificate is judged by its error; data that were rejected have none.
    judged = (state.status == FAILED) & (state.steps > 0)
    return x, v, jnp.where(judged, ended, state.status).astype(jnp.int32)
