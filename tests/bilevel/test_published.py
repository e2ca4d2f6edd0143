"""bilevel.minimize on bilevel problems of the literature: the best known value from three starts, or the local one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import OUTRATA, OUTRATA_BOUNDS, OUTRATA_STARTS, PROBLEMS

import implicitdiff as idf
from implicitdiff.bilevel import minimize


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_published_problems(name):
    problem = PROBLEMS[name]
    n = problem.size
    scalar = n == 1 or name.startswith("Muu")
    bounds = lambda t: (problem.low(t) + jnp.zeros(n), problem.high(t) + jnp.zeros(n))
    shaped = lambda y: y[0] if n == 1 else y
    lower = lambda y, t: problem.lower(shaped(y), t)
    upper = lambda t, y: problem.upper(t, shaped(y))

    def solve(y, t):  # projected Newton: exact for these lower levels
        def step(_, y):
            H = jnp.diagonal(jax.hessian(lower)(y, t))
            return jnp.clip(y - jax.grad(lower)(y, t) / (jnp.maximum(H, 1e-3) * n), *bounds(t))

        return jax.lax.fori_loop(0, 300, step, y)

    T = idf.optimality.projected_gradient(lower, idf.projection.box, 0.05)
    condition = idf.optimality._condition.Condition(lambda y, t: T(y, t, bounds(t)), "T")
    low, high = problem.box
    start = lambda share: jnp.full(() if scalar else (n,), low + share * (high - low))
    x0 = jnp.full(n, 1.0)
    grid = np.linspace(low, high, 2001)
    values = jax.jit(
        jax.vmap(lambda t: upper(t if scalar else jnp.full(n, t), solve(x0, t if scalar else jnp.full(n, t))))
    )(grid)
    np.testing.assert_allclose(np.min(values), problem.best, rtol=1e-3)  # typed in right
    minima = [v for i, v in enumerate(values) if v <= min(values[max(i - 1, 0)], values[min(i + 1, 2000)])]
    run = jax.jit(lambda t: minimize(upper, (solve, condition), t, x0=x0, projection=lambda t: jnp.clip(t, low, high)))
    losses = [run(start(share)).loss for share in problem.starts]
    np.testing.assert_allclose(min(losses), problem.best, rtol=1e-3)
    for loss in losses:  # the best one, or a local one
        assert np.min(np.abs(np.array(minima) - loss)) <= 1e-3 * abs(loss)


def by_active_sets(H, q):
    """argmin of 1/2 y'Hy - q'y under OUTRATA_BOUNDS, two unknowns: of all active sets the one that satisfies the
    Karush-Kuhn-Tucker conditions."""
    G, h = OUTRATA_BOUNDS
    for active in itertools.chain(*(itertools.combinations(range(4), k) for k in range(3))):
        rows = list(active)
        k = len(rows)
        M = np.block([[H, G[rows].T], [G[rows], np.zeros((k, k))]])
        try:
            z = np.linalg.solve(M, np.concatenate([q, h[rows]]))
        except np.linalg.LinAlgError:
            continue
        if np.all(G @ z[:2] <= h + 1e-9) and np.all(z[2:] >= -1e-9):
            return z[:2]
    raise AssertionError("no active set fits")


@pytest.fixture(scope="module")
def outrata():
    """Every problem from every start, in one program."""
    G, h = map(jnp.asarray, OUTRATA_BOUNDS)

    def solve(_, quadratic, equations, inequalities):
        found = idf.convex.solve_qp(*quadratic, None, None, *inequalities, solver="jax")
        return found.x, None, found.ineq_dual

    def run(problem, start):
        return minimize(
            lambda t, x: problem.upper(t, x[0]),
            (solve, idf.optimality.quadratic_program("natural")),
            start,
            x0=(jnp.zeros(2), None, jnp.zeros(4)),
            args=lambda t: ((problem.H, -problem.M @ t), None, (G, h)),
        )

    problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *OUTRATA.values())
    together = jax.jit(jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None)))(problems, OUTRATA_STARTS)
    return dict(zip(OUTRATA, zip(together.theta, together.loss, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTRATA)
def test_lower_levels_that_are_quadratic_programs(outrata, name):
    problem, (thetas, losses) = OUTRATA[name], outrata[name]
    truth = lambda t: float(problem.upper(t, by_active_sets(problem.H, problem.M @ np.asarray(t))))
    np.testing.assert_allclose(losses, [truth(t) for t in thetas], atol=1e-6)
    assert np.min(losses) <= problem.best + 6e-3  # the table gives two digits
    random = np.random.default_rng(0)
    for theta, loss in zip(thetas, losses, strict=True):
        # Each is a local minimum, up to where the kinks of this function let a gradient method come; nearly all optima
        # are on one.
        assert min(truth(theta + 0.03 * move) for move in random.standard_normal((100, 2))) >= loss - 3e-3
