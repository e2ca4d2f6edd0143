"""Solutions, multipliers and derivatives of convex programs in other units: they change as the mathematics says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicitdiff.convex import NonNegative, SecondOrder, solve_conic, solve_qp

N, M = 5, 7
RANDOM = np.random.default_rng(0)
ROOT = RANDOM.standard_normal((N, N))
P, Q = jnp.asarray(ROOT @ ROOT.T / N), jnp.asarray(RANDOM.standard_normal(N))
G, H = jnp.asarray(RANDOM.standard_normal((M, N))), jnp.asarray(RANDOM.uniform(0, 1, M))
T = jnp.asarray(RANDOM.standard_normal(N))


def solution(P, q, G, h, t):
    """x and its multipliers, and how both move with q."""

    def of(q):
        found = solve_qp(P, q, G=G, h=h)
        return found.x, found.ineq_dual

    return jax.jvp(of, (q,), (t,))


@pytest.mark.parametrize("worth", [1e-12, 1e-6, 1e6, 1e12])
def test_objective_unknowns_and_rows_in_other_units(worth):
    """A batch of units of x, in one program; each row is in a unit of its own as well."""
    units = jnp.array([1e-9, 1e-4, 1.0, 1e5, 1e9])
    rows = jnp.asarray(10.0 ** RANDOM.uniform(-6, 6, M))
    unit = units[:, None]
    found, moved = jax.jit(jax.vmap(solution))(
        worth * P / unit[..., None] ** 2,
        worth * Q / unit,
        G * rows[:, None] / unit[..., None],
        jnp.broadcast_to(rows * H, (len(units), M)),
        worth * T / unit,
    )
    expected, moving = solution(P, Q, G, H, T)
    for (x, z), (x0, z0) in ((found, expected), (moved, moving)):
        np.testing.assert_allclose(x / unit, jnp.broadcast_to(x0, x.shape), atol=1e-7)
        np.testing.assert_allclose(z * rows / worth, jnp.broadcast_to(z0, z.shape), atol=1e-7)


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e8])
def test_a_small_projection_and_a_second_order_cone(unit):
    found = jax.jacobian(
        lambda c: solve_qp(jnp.eye(2), -c * jnp.array([3.0, 1.0]), G=jnp.ones((1, 2)), h=1.5 * c[None]).x
    )
    np.testing.assert_allclose(found(jnp.asarray(unit)), [1.75, -0.25], rtol=1e-9)

    def closest(v, radius):
        """The point of a ball that is closest to v."""
        A = jnp.concatenate([jnp.zeros((1, 3)), -jnp.eye(3)])
        return solve_conic(jnp.eye(3), -v, A, jnp.append(radius, jnp.zeros(3)), [SecondOrder(4)]).x

    v, radius = unit * jnp.array([3.0, -4.0, 12.0]), 2 * unit
    by_v, by_radius = jax.jacobian(closest, argnums=(0, 1))(v, radius)
    direction = v / jnp.linalg.norm(v)
    np.testing.assert_allclose(closest(v, radius), radius * direction, rtol=1e-7)
    np.testing.assert_allclose(by_radius, direction, atol=1e-6)
    expected = radius / jnp.linalg.norm(v) * (jnp.eye(3) - jnp.outer(direction, direction))
    np.testing.assert_allclose(by_v, expected, atol=1e-6)


def test_a_portfolio_of_small_returns():
    """Returns of 0.1 % a period and their covariances, against the same program in percent."""
    returns = jnp.asarray(1e-3 * (1 + RANDOM.standard_normal(6)))
    root = RANDOM.standard_normal((6, 6))
    covariance = jnp.asarray(1e-6 * (root @ root.T + np.eye(6)))

    def weights(r, unit):
        A = jnp.concatenate([jnp.ones((1, 6)), -jnp.eye(6)])
        cones = [*[NonNegative(0)], *[NonNegative(1)], NonNegative(6)]
        b = jnp.zeros(7).at[0].set(1.0)
        return solve_conic(10 * covariance * unit, -r * unit, A, b, cones).x

    small, large = (jax.jacobian(weights)(returns, unit) for unit in (1.0, 1e6))
    np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-5 * jnp.max(jnp.abs(large)))


def test_a_bound_that_stands_for_infinity_does_not_set_the_unit():
    h = H.at[2].set(1e20)
    found = solve_qp(P, Q, G=G, h=h)
    keep = jnp.arange(M) != 2
    expected = solve_qp(P, Q, G=G[keep], h=H[keep])
    np.testing.assert_allclose(found.x, expected.x, atol=1e-8)
    np.testing.assert_allclose(found.ineq_dual[keep], expected.ineq_dual, atol=1e-8)
