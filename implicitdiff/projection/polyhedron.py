"""Polyhedra."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._largest import largest
from .._precision import full_precision
from .._varying import while_loop
from ._arrays import check, floating, guarded, half_as_single, like, sound, with_value
from .affine import project_affine, pseudo_inverse

Constraints = tuple[
    Float[Array, "p n"] | None, Float[Array, "... p"] | None, Float[Array, "m n"] | None, Float[Array, "... m"] | None
]


@half_as_single
def polyhedron(v: Float[Array, "... n"], constraints: Constraints) -> Float[Array, "... n"]:
    """Project onto the polyhedron {x : Ax = b, Gx <= h}.

    A dense interior-point method finds which inequalities are active, an active-set method confirms it, and x is the
    projection onto the affine set of the equations and the active inequalities, exact to working precision: this is
    what is differentiated. In v the derivative is the orthogonal projector onto the null space of the active rows,
    in the constraints it follows as for `affine_set`. An inequality that holds with equality without pushing counts
    as active when v itself satisfies it exactly. Rows may depend on each other.

    Args:
        v: real array; vectors lie along the last axis.
        constraints: `(A, b, G, h)`; A and b, or G and h, may be None; b and h may be one for each vector of v.

    Returns:
        An array like v; NaN where the method fails (Gx <= h or Ax = b cannot be met to half of the digits).

    Raises:
        ValueError: the polyhedron is empty, or NaN among the constraints, if all arguments are concrete; otherwise
            the result is NaN.

    Source: Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 1992.

    Example:
        >>> import jax.numpy as jnp
        >>> simplex = (jnp.ones((1, 2)), jnp.ones(1), -jnp.eye(2), jnp.zeros(2))
        >>> polyhedron(jnp.array([2.0, 0.5]), simplex).round(5).tolist()
        [1.0, 0.0]
    """
    v = floating(v)
    A, b, G, h = constraints
    A, b = _rows("A", "b", v, A, b)
    G, h = _rows("G", "h", v, G, h)
    factor = check(
        lambda *parameters: sum(abs(p).sum() for p in parameters) < jnp.inf,
        "polyhedron: the constraints must be finite, found A = {}, b = {}, G = {}, h = {}.",
        A,
        b,
        G,
        h,
    )
    batch = v.shape[:-1]
    b, h = jnp.broadcast_to(b, (*batch, b.shape[-1])), jnp.broadcast_to(h, (*batch, h.shape[-1]))
    x, violation = _project(v, A, b, G, h, (sound(v) * factor)[..., 0])
    check(
        lambda violation: ~(violation > jnp.finfo(v.dtype).eps ** 0.5),
        "polyhedron: no point was found that satisfies Ax = b and Gx <= h; relative violation {}. The set is empty.",
        violation,
    )
    return x


def _rows(name: str, name_side: str, v: Array, rows: Array | None, sides: Array | None) -> tuple[Array, Array]:
    """The rows scaled to length one, and their right-hand sides; no rows for None."""
    n = v.shape[-1] if v.ndim else 0
    if rows is None or sides is None:
        if rows is not sides:
            raise ValueError(f"polyhedron: {name} and {name_side} must be given both or be None both.")
        return jnp.zeros((0, n), v.dtype), jnp.zeros(0, v.dtype)
    rows, sides = like(v, rows), like(v, sides)
    if rows.ndim != 2 or rows.shape[-1] != n or sides.shape[-1:] != rows.shape[:1]:
        raise ValueError(
            f"polyhedron: expected {name} of shape (k, {n}) and {name_side} of shape (k,) or (..., k), found "
            f"{rows.shape} and {sides.shape} (v has shape {v.shape})."
        )
    length = lax.stop_gradient(jnp.linalg.norm(rows, axis=-1))
    length = jnp.where(length == 0, 1.0, length)
    return rows / length[:, None], sides / length


@jax.jit
@partial(jnp.vectorize, signature="(n),(p,n),(p),(m,n),(m),()->(n),()")
@full_precision
def _project(v: Array, A: Array, b: Array, G: Array, h: Array, factor: Array) -> tuple[Array, Array]:
    """The projection of one vector, and the largest violation relative to the size of the terms.

    The projection is NaN where the factor is, or where the violation is large.
    """
    active, x = _solve(*(lax.stop_gradient(argument * factor) for argument in (v, A, b, G, h)))
    violation = jnp.concatenate([jnp.abs(A @ x - b), jnp.maximum(G @ x - h, 0.0)])
    size = jnp.linalg.norm(x) + jnp.abs(jnp.concatenate([b, h]))  # the rows have length one
    violation = lax.stop_gradient(jnp.max(violation / jnp.where(size == 0, 1.0, size), initial=0.0))
    factor = factor * jnp.where(violation <= jnp.finfo(v.dtype).eps ** 0.5, 1.0, jnp.nan)
    # The value is the more exact one, the derivative is that at v.
    return with_value(x * factor, guarded(partial(_onto_active, active), factor, v, A, b, G, h)), violation


def _onto_active(active: Array, v: Array, A: Array, b: Array, G: Array, h: Array) -> Array:
    rows = jnp.concatenate([A, jnp.where(active[:, None], G, 0.0)])
    sides = jnp.concatenate([b, jnp.where(active, h, 0.0)])
    return project_affine(v, sides, rows, pseudo_inverse(rows))


def _solve(v: Array, A: Array, b: Array, G: Array, h: Array) -> tuple[Array, Array]:
    """The active inequalities, and the projection.

    Of a v that is so far away that its rounding error shows, this is an approximation x. All points of the ray from
    the projection to v project to the same point: so the next v is nearer to x, by as much as x is known to.
    """
    root_eps = jnp.finfo(v.dtype).eps ** 0.5

    sides = largest(jnp.concatenate([b, h]))

    def unfinished(state):
        *_, iteration, done = state
        return ~done & (iteration < 100)

    def approach(state):
        v, *_, iteration, _ = state
        active = _active_inequalities(v, A, b, G, h)
        x = _onto_active(active, v, A, b, G, h)
        near = ~(root_eps * largest(v - x) > jnp.maximum(sides, largest(x)))
        return x + root_eps * (v - x), active, x, iteration + 1, near | (sides == 0)

    # Nothing agrees with the first active set, unless there are no inequalities.
    start = (v, jnp.zeros(h.shape, bool), v, 0, jnp.array(False))
    _, active, x, *_ = while_loop(unfinished, approach, start)
    return active, x


def _active_inequalities(v: Array, A: Array, b: Array, G: Array, h: Array) -> Bool[Array, " m"]:
    # In coordinates y = x - x0 around the projection x0 onto Ax = b the equations drop out: minimise |y|^2 subject to
    # G N y <= g, with N the projector onto the null space of A; the solution lies in this null space by itself.
    inverse = jnp.linalg.pinv(A)
    x0 = project_affine(v, b, A, inverse)
    GN = G - (G @ inverse) @ A
    length = jnp.linalg.norm(GN, axis=-1)
    eps = jnp.finfo(v.dtype).eps
    free = length > 100 * eps  # an inequality on what the equations fix cannot be active
    length = jnp.where(free, length, 1.0)
    GN, g = jnp.where(free[:, None], GN / length[:, None], 0.0), jnp.where(free, (h - G @ x0) / length, jnp.inf)
    # The largest violation is the unit of length.
    unit = jnp.max(-g, initial=0.0)
    outside = unit > 0
    g = jnp.where(free, g / jnp.where(outside, unit, 1.0), 1.0)
    multiplier, slack = _interior_point(GN @ GN.T, g, ~outside)
    active = jnp.where(outside, multiplier > slack, g <= 0) & free
    return _confirm(GN, g, active, jnp.where(active & outside, multiplier, 0.0))


def _interior_point(
    K: Float[Array, "m m"], g: Float[Array, " m"], done: Bool[Array, ""]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Multipliers l and slacks s = Kl + g near the minimum of l'Kl/2 + g'l over l >= 0.

    This is the dual of min |y|^2/2 subject to Gy <= g, with K = GG', y = -G'l and s = g - Gy.
    """
    m = g.size
    eps = jnp.finfo(g.dtype).eps

    def unfinished(state):
        *_, iteration, done = state
        return ~done & (iteration < 60)

    def step(state):
        multiplier, slack, iteration, done = state
        residual = slack - K @ multiplier - g
        mean = jnp.sum(multiplier * slack) / m
        diagonal = slack / multiplier + 10 * m * eps
        factor = jnp.linalg.cholesky(K + jnp.diag(diagonal))

        def direction(target):
            """The Newton step towards multiplier * slack = target, and the longest admissible one."""
            change = target - multiplier * slack
            d = jax.scipy.linalg.cho_solve((factor, True), residual + change / multiplier)
            e = (change - slack * d) / multiplier
            ratios = jnp.maximum(-d / multiplier, -e / slack)
            return d, e, jnp.minimum(1.0, 1.0 / jnp.maximum(jnp.max(ratios), 1e-30))

        d, e, length = direction(0.0)
        predicted = jnp.sum((multiplier + length * d) * (slack + length * e)) / m
        d, e, length = direction((predicted / mean) ** 3 * mean - d * e)
        length = jnp.minimum(1.0, 0.99 * length)
        size = 1 + jnp.max(jnp.where(multiplier > slack, multiplier, 0.0))
        solved = (mean <= eps**1.5 * size) & (largest(residual) <= 100 * eps * size)
        done = done | solved | ~(mean < jnp.inf)
        moved = multiplier + length * d, slack + length * e
        return jnp.where(done, multiplier, moved[0]), jnp.where(done, slack, moved[1]), iteration + 1, done

    if m == 0:
        return g, g
    start = (jnp.ones_like(g), jnp.maximum(jnp.abs(g), 1.0), 0, done)
    multiplier, slack, *_ = while_loop(unfinished, step, start)
    return multiplier, slack


def _confirm(
    G: Float[Array, "m n"], g: Float[Array, " m"], active: Bool[Array, " m"], multiplier: Float[Array, " m"]
) -> Bool[Array, " m"]:
    """Mend the guess of the active set, by the method of Lawson and Hanson for non-negative least squares.

    Every step lowers the dual objective: towards the minimum on the active set up to where a multiplier vanishes,
    which is dropped; or at this minimum, where the inequality that is violated most is added.
    """
    if g.size == 0:
        return active
    eps = jnp.finfo(g.dtype).eps
    number = jnp.arange(g.size)

    def unfinished(state):
        _, _, iteration, done = state
        return ~done & (iteration < 100)

    def mend(state):
        active, multiplier, iteration, _ = state
        inverse = jnp.linalg.pinv(jnp.where(active[:, None], G, 0.0))
        y = inverse @ jnp.where(active, g, 0.0)
        best = -(inverse.T @ y)
        tolerance = 100 * eps * (1 + jnp.linalg.norm(y))
        pulling = active & (best < -tolerance)
        ratio = jnp.where(pulling, multiplier / (multiplier - best), jnp.inf)
        first = pulling & (number == jnp.argmin(ratio))
        violation = jnp.where(active, -jnp.inf, G @ y - g)
        worst = (number == jnp.argmax(violation)) & (violation > tolerance)
        blocked = jnp.any(pulling)
        multiplier = jnp.where(blocked, multiplier + jnp.min(ratio) * (best - multiplier), best)
        new = jnp.where(blocked, active & ~first, active | worst)
        return new, jnp.where(new, jnp.maximum(multiplier, 0.0), 0.0), iteration + 1, jnp.all(new == active)

    active, *_ = while_loop(unfinished, mend, (active, multiplier, 0, jnp.array(False)))
    return active
