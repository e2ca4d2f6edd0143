"""SciPy's solvers whatever the units are: solutions, multipliers, derivatives and verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from implicitdiff import solvers

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((20, 4)) * [1.0, 2.0, 0.5, 1.0]
Y = X @ [1.0, -0.5, 0.3, 0.8] + 0.1 * RANDOM.standard_normal(20)
SCALES = [1e-12, 1e-6, 1.0, 1e6, 1e12]


def logistic(x, t):
    return jnp.sum(jnp.logaddexp(0.0, X @ x) - 0.3 * (X @ x)) + 0.5 * t * jnp.sum(x**2)


def solution(t):
    x = jnp.zeros(4)
    for _ in range(20):
        x = x - jnp.linalg.solve(jax.hessian(logistic)(x, t), jax.grad(logistic)(x, t))
    return x


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "trust-exact", "CG"])
@pytest.mark.parametrize("of", ["objective", "unknowns"])
def test_units_of_a_minimum(of, method, scale):
    f, unit = (lambda x, t: scale * logistic(x, t), 1.0) if of == "objective" else (
        lambda x, t: logistic(x / scale, t), scale
    )  # fmt: skip
    solver = solvers.scipy_minimize(f, method, on_unconverged="raise")
    x, slope = jax.jvp(lambda t: solver.run(jnp.full(4, 0.1 * unit), t)[0], (2.0,), (1.0,))
    expected = jax.jvp(solution, (2.0,), (1.0,))
    np.testing.assert_allclose(x / unit, expected[0], atol=1e-6)
    np.testing.assert_allclose(slope / unit, expected[1], atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["minimize", "least squares"])
@pytest.mark.parametrize("of", ["objective", "unknowns"])
def test_units_in_a_box(of, kind, scale):
    s, unit = (scale, 1.0) if of == "objective" else (1.0, scale)
    residuals = lambda x, y: s * (X @ (x / unit) - y)
    if kind == "minimize":
        solver = solvers.scipy_minimize(lambda x, y: jnp.sum(residuals(x, y) ** 2), bounds=True, on_unconverged="raise")
    else:
        solver = solvers.scipy_least_squares(residuals, bounds=True, on_unconverged="raise")
    low, high = np.full(4, -0.1), np.array([0.9, 1.0, 1.0, 0.5])
    run = lambda y: solver.run(jnp.zeros(4), y, (unit * low, unit * high))[0] / unit
    exact = lambda y: scipy.optimize.lsq_linear(X, y, (low, high), "bvls", tol=1e-15).x
    x, slope = jax.jvp(run, (jnp.asarray(Y),), (jnp.cos(jnp.arange(20.0)),))
    np.testing.assert_allclose(x, exact(Y), atol=1e-9)
    d, h = np.cos(np.arange(20.0)), 1e-5
    expected = (exact(Y + h * d) - exact(Y - h * d)) / (2 * h)
    assert 0 < np.sum(expected == 0) < 4
    np.testing.assert_allclose(slope, expected, atol=1e-8)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "COBYLA", "COBYQA"])
def test_units_of_a_constraint(method):
    """Min |z - 1|^2 with z_1 <= cap, of which the second is not active."""
    cap = jnp.array([0.5, 2.0])
    for unit in (1e-12, 1e-4, 1.0, 1e4, 1e12):
        ineq = lambda z, cap, u=unit: u * (z - cap)
        solver = solvers.scipy_minimize(lambda z, _: jnp.sum((z - 1.0) ** 2), method, ineq=ineq, on_unconverged="raise")
        run = lambda cap, solver=solver: solver.run(jnp.zeros(2), None, None, cap)[0]
        found = run(cap)
        np.testing.assert_allclose(found.z, [0.5, 1.0], atol=1e-9)
        np.testing.assert_allclose(found.lam * unit, [1.0, 0.0], atol=1e-9)
        J = jax.jacobian(run)(cap)
        np.testing.assert_allclose(J.z, [[1.0, 0.0], [0.0, 0.0]], atol=1e-9)
        np.testing.assert_allclose(J.lam * unit, [[-2.0, 0.0], [0.0, 0.0]], atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("of", ["objective", "unknowns", "equation"])
def test_units_of_a_program(of, scale):
    """Problem 71 of Hock and Schittkowski."""
    s, u, e = (scale if of == name else 1.0 for name in ("objective", "unknowns", "equation"))
    f = lambda z, t: s * (t * z[0] * z[3] / u**2 * (z[0] + z[1] + z[2]) / u + z[2] / u)
    eq = lambda z, c: e * (jnp.sum((z / u) ** 2)[None] - c)
    ineq = lambda z, c: c - jnp.prod(z / u)
    solver = solvers.scipy_minimize(f, eq=eq, ineq=ineq, bounds=True, on_unconverged="raise")
    run = lambda c: solver.run(u * jnp.array([1.0, 5.0, 5.0, 1.0]), 1.0, c, 25.0, (u, 5 * u))[0]
    (z, nu, lam), slope = jax.jvp(run, (40.0,), (1.0,))
    np.testing.assert_allclose(z / u, [1.0, 4.742999637, 3.821149984, 1.379408293], atol=1e-8)
    np.testing.assert_allclose(nu * e / s, [0.1614686], rtol=1e-6)
    np.testing.assert_allclose(lam / s, 0.5522937, rtol=1e-6)
    reference = solvers.scipy_minimize(lambda z, t: f(u * z, t) / s, eq=lambda z, c: eq(u * z, c) / e,
                                       ineq=lambda z, c: ineq(u * z, c), bounds=True)  # fmt: skip
    at = lambda c: reference.run(jnp.array([1.0, 5.0, 5.0, 1.0]), 1.0, c, 25.0, (1.0, 5.0))[0].z
    np.testing.assert_allclose(slope.z / u, (at(40.001) - at(39.999)) / 2e-3, atol=1e-6)


@pytest.mark.parametrize("cost", [1e-8, 1.0, 1e4, 1e8])
def test_costs_that_are_large_beside_slacks(cost):
    """Dispatch: at load 1 every limit is 1e-3 away, and no multiplier of a limit is there."""
    f = lambda z, _: cost * jnp.sum(jnp.array([1.0, 2.0, 4.0]) * z**2)
    limits = jnp.array([4.0, 2.0, 1.0]) / 7 + 1e-3
    solver = solvers.scipy_minimize(f, eq=lambda z, load: jnp.sum(z)[None] - load, ineq=lambda z, top: z - top)
    run = lambda load: solver.run(jnp.full(3, 1 / 3), None, load, limits)[0]
    np.testing.assert_allclose(jax.jacobian(run)(1.0).z, np.array([4.0, 2.0, 1.0]) / 7, atol=1e-9)
    np.testing.assert_array_equal(run(1.0).lam, np.zeros(3))
    # beyond 1 + 3e-3 there is none left but the last
    np.testing.assert_allclose(jax.jacobian(run)(1.0023).z, [0.0, 2 / 3, 1 / 3], atol=1e-9)


@pytest.mark.parametrize("kind", ["minimize", "least squares", "root"])
def test_float32_is_as_precise_as_its_dtype(kind):
    x32, t = np.zeros(4, np.float32), np.float32(2.0)
    if kind == "least squares":
        solver = solvers.scipy_least_squares(lambda x, t: jnp.append(X @ x - Y, jnp.sqrt(t) * x))
        expected = np.linalg.solve(X.T @ X + 2 * np.eye(4), X.T @ Y)
    else:
        solver = solvers.scipy_minimize(logistic) if kind == "minimize" else solvers.scipy_root(jax.grad(logistic))
        expected = solution(2.0)
    x, state = solver.run(x32, t)
    assert x.dtype == np.float32
    assert state.converged
    np.testing.assert_allclose(x, expected, rtol=2e-7)


def test_amplitudes_of_a_thousandth_in_float32():
    t = jnp.linspace(0.0, 1.0, 30, dtype=jnp.float32)
    model = lambda x: x[0] * jnp.exp(-2 * t) + x[1] * t
    y = model(jnp.array([2e-3, 1e-3], jnp.float32)) + jnp.float32(1e-5) * jnp.sin(40 * t)
    solver = solvers.scipy_least_squares(lambda x, y: model(x) - y, bounds=True)
    J = jax.jacobian(lambda y: solver.run(jnp.full(2, 1e-3, jnp.float32), y, (0.0, 1.0))[0])(y)
    A = np.stack([np.exp(-2 * np.asarray(t, np.float64)), np.asarray(t, np.float64)], 1)
    np.testing.assert_allclose(J, np.linalg.pinv(A), atol=1e-5)
