"""Mirror maps and Bregman projections onto simple sets in the Kullback-Leibler geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicitdiff import Implicit, implicit_fixed_point, krylov, mirror, optimality, projection, solvers

Y = jnp.array([[0.3, -1.0, 2.0], [1.0, 0.0, -0.5]])
BOUNDS = (jnp.array([0.5, 0.6, 0.1]), jnp.array(2.0))
CASES = {  # projection, theta, a random point of the set
    "non_negative": (mirror.non_negative, None, lambda rng: rng.exponential(size=(2, 3))),
    "box": (mirror.box, BOUNDS, lambda rng: rng.uniform(*BOUNDS, size=(2, 3))),
    "simplex": (mirror.simplex, jnp.array([1.0, 3.0]), lambda rng: rng.dirichlet(np.ones(3), 2) * [[1.0], [3.0]]),
}


def objective(x, y):
    """phi(x) - <x, y>, which the projection minimises over the set."""
    return np.sum(x * np.log(x) - x - x * y)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_projection_is_the_minimum(name, seed):
    projection, theta, point = CASES[name]
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(2, 3))
    x = np.asarray(projection(y, theta))
    for mix in (1e-6, 1e-2, 1.0):
        z = (1 - mix) * x + mix * point(rng)
        assert objective(x, y) <= objective(z, y) + 1e-14


@pytest.mark.parametrize("name", CASES)
def test_derivatives(name):
    projection, theta, _ = CASES[name]
    run = jax.jit(projection)
    rng = np.random.default_rng(0)
    moves = (rng.normal(size=Y.shape), jax.tree.map(lambda t: rng.normal(size=t.shape), theta))

    def moved(step):
        return projection(*jax.tree.map(lambda a, d: a + step * d, (Y, theta), moves))

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jvp(projection, (Y, theta), moves)[1], slope, atol=1e-8)
    ct = rng.normal(size=Y.shape)
    pulled = jax.vjp(projection, Y, theta)[1](ct)
    products = jax.tree.map(np.vdot, pulled, moves)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), np.vdot(ct, slope), atol=1e-8)
    hessian = jax.jacfwd(jax.grad(lambda y: jnp.sum(run(y, theta) ** 2)))(Y)
    slope = jax.grad(lambda y: jnp.sum(run(y, theta) ** 2))
    expected = (slope(Y + 1e-6 * moves[0]) - slope(Y - 1e-6 * moves[0])) / 2e-6
    np.testing.assert_allclose(np.tensordot(hessian, moves[0], 2), expected, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_everything_is_finite_at_extremes(name):
    projection, theta, _ = CASES[name]
    for dtype in (np.float32, np.float64):
        big = np.finfo(dtype).max / 4
        for y in ([[0.0, 0, 0]] * 2, [[1e4, -1e4, 0]] * 2, [[big, -big, 0]] * 2, [[-np.inf, 0, 1]] * 2):
            y = jnp.array(y, dtype)
            x, pull = jax.vjp(lambda y: projection(y, theta), y)
            assert x.dtype == dtype
            assert np.all(np.isfinite(x))
            assert np.all(np.isfinite(pull(jnp.ones_like(x))[0]))
            assert np.all(np.isfinite(jax.hessian(lambda y: jnp.sum(projection(y, theta) ** 2))(jnp.clip(y, -9, 9))))


def test_log():
    x = jnp.array([0.5, 2.0, 1e-300])
    np.testing.assert_allclose(mirror.log(x), np.log(x), rtol=1e-15)
    np.testing.assert_allclose(jax.vmap(jax.grad(mirror.log))(x), 1 / x, rtol=1e-15)
    assert jax.grad(mirror.log)(0.0) == 0
    assert jax.hessian(mirror.log)(0.0) == 0
    assert np.isfinite(mirror.log(0.0))
    assert np.isnan(mirror.log(-1.0))
    assert np.isnan(mirror.log(np.nan))
    assert mirror.log(np.float32(2)).dtype == np.float32


def test_maps_and_projections_are_inverse():
    x = jnp.array([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(mirror.simplex(mirror.log(x)), x, atol=1e-16)
    np.testing.assert_allclose(mirror.non_negative(mirror.log(x)), x, atol=1e-16)
    np.testing.assert_allclose(mirror.transport(mirror.log(x), (x.sum(1), x.sum(0))), x, atol=1e-15)
    assert mirror.identity(x) is x


def test_kinks_and_the_empty_side_of_a_box():
    # At a bound the bound is active.
    assert jax.grad(lambda y: mirror.box(y, (1.0, 2.0)))(0.0) == 0
    assert jax.grad(lambda lower: mirror.box(0.0, (lower, 2.0)))(1.0) == 1
    np.testing.assert_allclose(mirror.box(jnp.array([-1.0, 5.0]), (None, 1.0)), [np.exp(-1), 1])
    np.testing.assert_allclose(mirror.box(jnp.array([-1.0, 2.0]), (0.5, None)), [0.5, np.exp(2)])


def test_pytrees_axes_and_batches():
    x = mirror.simplex({"a": Y, "b": Y[0]}, 2.0)
    np.testing.assert_allclose(x["a"].sum(axis=1), 2)
    np.testing.assert_allclose(x["b"], x["a"][0])
    np.testing.assert_allclose(mirror.simplex(Y, axis=0).sum(axis=0), 1)
    np.testing.assert_allclose(jax.vmap(mirror.simplex)(Y, jnp.array([1.0, 2.0])).sum(axis=1), [1, 2])
    x = mirror.box({"a": Y, "b": Y[0]}, ({"a": 0.5, "b": 1.0}, 2.0))
    assert (x["a"].min(), x["b"].min()) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("call", "theta"),
    [
        (mirror.simplex, -1.0),
        (mirror.simplex, np.nan),
        (mirror.simplex, np.inf),
        (mirror.box, (2.0, 1.0)),
        (mirror.box, (-2.0, -1.0)),
        (mirror.box, (np.nan, 1.0)),
    ],
)
def test_refuses_nonsense(call, theta):
    with pytest.raises(ValueError, match="found"):
        call(Y, theta)
    assert np.all(np.isnan(jax.jit(call)(Y, theta)))


@pytest.mark.parametrize("geometry", ["Kullback-Leibler", "Euclidean"])
def test_fixed_point_of_mirror_descent(geometry):
    # min over the simplex of 1/2 ||x - theta||^2 is the Euclidean projection of theta, whatever the geometry.
    from implicitdiff.projection.simplex import simplex

    theta = jnp.array([0.5, 0.3, -0.9, 0.6])
    x = simplex(theta)
    assert (x == 0).sum() == 1
    mirror_map, projection = {
        "Kullback-Leibler": (mirror.log, mirror.simplex),
        "Euclidean": (mirror.identity, simplex),
    }[geometry]

    def T(x, theta):
        return projection(mirror_map(x) - 0.3 * (x - theta), None)

    np.testing.assert_allclose(T(x, theta), x, atol=1e-15)
    jacobian = jax.jacobian(lambda theta: implicit_fixed_point(T, x, theta))(theta)
    np.testing.assert_allclose(jacobian, jax.jacobian(simplex)(theta), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_krylov_methods_where_x_goes_down_to_the_smallest_numbers(dtype):
    rng = np.random.default_rng(0)
    Q = rng.standard_normal((12, 20))
    Q, b, c = (jnp.asarray(array) for array in (Q @ Q.T / 20, *rng.standard_normal((2, 12, 5))))
    f = lambda x, b: 0.5 * jnp.vdot(x, Q.astype(x.dtype) @ x) - jnp.vdot(b, x)
    solver = solvers.ProjectedGradient(f, lambda v, _: projection.simplex(v), 0.2, maxiter=20_000, tol=1e-13)
    x, pull = jax.vjp(lambda b: solver.run(jnp.full_like(b, 0.2), b, None)[0], b)
    expected = pull(c)[0]
    # What mirror descent leaves in the place of zeros.
    x = jnp.where(x > 0, x, 10 ** -jnp.asarray(rng.uniform(12, 37, x.shape))).astype(dtype)
    T = optimality.mirror_descent(f, mirror.simplex, mirror.log, 1.0)
    for method in (krylov.CG(), krylov.MINRES()):
        solution = lambda b, method=method: implicit_fixed_point(T, x, b, None, adjoint=Implicit(linear_solver=method))
        b, c = b.astype(dtype), c.astype(dtype)
        for found in (jax.vjp(solution, b)[1](c)[0], jax.jvp(solution, (b,), (c,))[1]):  # the Jacobian is symmetric
            np.testing.assert_allclose(found, expected, atol=100 * jnp.finfo(dtype).eps ** 0.9)
