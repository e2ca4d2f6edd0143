"""L-BFGS and the solvers over optimistix: solution, derivatives in every mode, units, boxes, verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicitdiff as idf
from implicitdiff import solvers

RANDOM = np.random.default_rng(7)
X, Y = RANDOM.standard_normal((20, 4)), RANDOM.standard_normal(20)


def logistic(x, t):
    return jnp.sum(jnp.logaddexp(0.0, X @ x) - 0.3 * (X @ x)) + 0.5 * t * jnp.sum(x**2)


def curve(x, t):
    return jnp.append(jnp.sinh(0.3 * (X @ x)) - Y, jnp.sqrt(t) * x)


def newton(f, t):
    x = jnp.zeros(4)
    for _ in range(30):
        x = x - jnp.linalg.solve(jax.hessian(f)(x, t), jax.grad(f)(x, t))
    return x


SQUARES = lambda x, t: 0.5 * jnp.sum(curve(x, t) ** 2)
NAMED = {
    "LBFGS": (lambda f=logistic, **o: solvers.LBFGS(f, **dict(tol=1e-10) | o), logistic),
    "BFGS": (lambda f=logistic, **o: solvers.BFGS(f, **o), logistic),
    "NonlinearCG": (lambda f=logistic, **o: solvers.NonlinearCG(f, **o), logistic),
    "GaussNewton": (lambda f=curve, **o: solvers.GaussNewton(f, **o), SQUARES),
    "LevenbergMarquardt": (lambda f=curve, **o: solvers.LevenbergMarquardt(f, **o), SQUARES),
    "Dogleg": (lambda f=curve, **o: solvers.Dogleg(f, **o), SQUARES),
}


@pytest.mark.parametrize("name", NAMED)
def test_solution_and_derivatives_in_all_units(name):
    """Objective or residuals times s, unknowns times u: one program for all of them, in both modes."""
    make, f = NAMED[name]
    of = logistic if f is logistic else curve
    solver = make(lambda x, theta: theta[1] * of(x / theta[2], theta[0]), on_unconverged="ignore")

    @jax.jit
    @jax.vmap
    def everything(s, u):
        run = lambda t: solver.run(0.1 * u * jnp.ones(4), (t, s, u))[0] / u
        state = solver.run(0.1 * u * jnp.ones(4), (2.0, s, u))[1]
        return *jax.jvp(run, (2.0,), (1.0,)), jax.jacrev(run)(2.0), state.converged, state.iteration

    scales = jnp.array([[1.0, 1.0], [1e-12, 1.0], [1e12, 1.0], [1.0, 1e-12], [1.0, 1e12], [1e-6, 1e6]]).T
    x, forward, backward, converged, iterations = everything(*scales)
    assert converged.all()
    assert np.all((iterations > 0) & (iterations < 100))
    exact, slope = jax.jvp(lambda t: newton(f, t), (2.0,), (1.0,))
    for k in range(6):
        np.testing.assert_allclose(x[k], exact, atol=1e-6)
        np.testing.assert_allclose(forward[k], slope, atol=1e-6)
        np.testing.assert_allclose(backward[k], slope, atol=1e-6)


def test_second_derivatives():
    solver = solvers.LBFGS(logistic, tol=1e-10)
    at = lambda t: jax.jvp(lambda t: newton(logistic, t), (t,), (1.0,))[1].sum()
    got = jax.jit(jax.hessian(lambda t: jnp.sum(solver.run(jnp.full(4, 0.1), t)[0])))(2.0)
    np.testing.assert_allclose(got, (at(2.0 + 1e-4) - at(2.0 - 1e-4)) / 2e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["LBFGS", "BFGS", "LevenbergMarquardt"])
def test_float32_aux_keywords_and_unrolled(name):
    make, f = NAMED[name]
    of = logistic if f is logistic else curve
    exact = newton(f, 2.0)
    with_aux = lambda x, *, t: (of(x, t), dict(double=2 * x))
    solver = make(with_aux, has_aux=True, tol=1e-5, on_unconverged="raise")
    x, state = solver.run(np.full(4, 0.1, np.float32), t=jnp.float32(2.0))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, exact, atol=1e-3)
    np.testing.assert_allclose(state.aux["double"], 2 * x, atol=1e-3)
    J = jax.grad(lambda t: solver.run(np.full(4, 0.1, np.float32), t=t)[0][0])(jnp.float32(2.0))
    slope = jax.jvp(lambda t: newton(f, t), (2.0,), (1.0,))[1]
    np.testing.assert_allclose(J, slope[0], rtol=5e-3)
    if name == "LBFGS":
        return  # unrolled below
    unrolled = make(of, adjoint=idf.Unrolled(), maxiter=25)
    got = jax.jacrev(lambda t: unrolled.run(jnp.full(4, 0.1), t)[0])(2.0)
    np.testing.assert_allclose(got, slope, atol=1e-4)


UNROLLED = {
    "GradientDescent": lambda o: solvers.GradientDescent(logistic, **o),
    "LBFGS": lambda o: solvers.LBFGS(logistic, **o),
    "Broyden": lambda o: solvers.Broyden(jax.grad(logistic), **o),
}


@pytest.mark.parametrize("name", UNROLLED)
def test_a_few_iterations_are_differentiated_with_their_line_search(name):
    """Far from the solution, in both modes, against differences of what was iterated."""
    solver = UNROLLED[name](dict(adjoint=idf.Unrolled(), maxiter=3, tol=0.0))
    run = lambda t: solver.run(jnp.zeros(4), t)[0]

    @jax.jit
    def everything(t, h):
        high, low = jax.lax.map(run, jnp.array([t + h, t - h]))
        return (high - low) / (2 * h), jax.jvp(run, (t,), (1.0,))[1], jax.grad(lambda t: run(t) @ jnp.arange(4.0))(t)

    difference, forward, backward = everything(2.0, 1e-6)
    np.testing.assert_allclose(forward, difference, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(backward, forward @ np.arange(4.0), rtol=1e-10)


def test_broyden():
    """A system of two leaves in two units, from values to derivatives, under vmap; where it fails it says so."""
    u, v = 1e-9, 1e9

    def G(x, t):
        a, b = x["a"] / u, x["b"] / v
        return {"a": 1e6 * (a**3 + b - t), "b": 1e-6 * (b - jnp.sin(a) - 1)}

    solver = solvers.Broyden(G, tol=1e-12)

    @jax.jit
    @jax.vmap
    def both(t):
        run = lambda t: solver.run({"a": 0.9 * u, "b": 1.8 * v}, t)
        (x, state), (slope, _) = jax.jvp(lambda t: tuple(run(t)), (t,), (1.0,))
        return x["a"] / u, slope["a"] / u, state

    t = jnp.array([2.5, 3.0, 3.5])
    a, slope, state = both(t)
    assert state.converged.all()
    assert np.all(state.iteration < 15)
    np.testing.assert_allclose(a**3 + np.sin(a) + 1, t, rtol=1e-12)
    np.testing.assert_allclose(slope, 1 / (3 * a**2 + np.cos(a)), rtol=1e-10)
    x32, state = solvers.Broyden(lambda x, t: x**2 - t).run(jnp.float32(1.5), jnp.float32(2.0))
    assert x32.dtype == jnp.float32
    np.testing.assert_allclose(x32, np.sqrt(2), rtol=1e-5)
    for G, start in (
        (lambda x: x**2 + 1, 0.5),  # no root
        (lambda x: x**2 - 1, 0.0),  # a singular Jacobian
        (lambda x: x * jnp.nan, 1.0),
    ):
        with pytest.warns(RuntimeWarning, match="did not converge"):
            assert not solvers.Broyden(G, maxiter=50).run(start)[1].converged
    with pytest.raises(TypeError, match="real x"):
        solvers.Broyden(lambda x: x).run(1j)


def test_lbfgs_in_a_box():
    """Against bounded-variable least squares, whatever the units."""
    low, high = np.full(4, -0.1), np.array([0.05, 1.0, 1.0, 1.0])
    exact = lambda y: scipy.optimize.lsq_linear(X, y, (low, high), "bvls", tol=1e-15).x
    d, h = np.cos(np.arange(20.0)), 1e-5
    slope = (exact(Y + h * d) - exact(Y - h * d)) / (2 * h)
    assert 0 < np.sum(slope == 0) < 4
    f = lambda x, y, s, u: s * jnp.sum((X @ (x / u) - y) ** 2)
    solver = solvers.LBFGS(f, bounds=True, tol=1e-10, on_unconverged="ignore")

    def both(s, u):
        run = lambda y: solver.run(3.0 * u * jnp.ones(4), y, s, u, (u * low, u * high))[0] / u
        return jax.jvp(run, (jnp.asarray(Y),), (jnp.asarray(d),))

    x, got = jax.jit(jax.vmap(both))(*jnp.array([[1.0, 1.0], [1e-12, 1.0], [1e12, 1.0], [1.0, 1e-12], [1.0, 1e12]]).T)
    np.testing.assert_allclose(x, np.broadcast_to(exact(Y), (5, 4)), atol=1e-8)
    np.testing.assert_allclose(got, np.broadcast_to(slope, (5, 4)), atol=1e-7)
    solver = solvers.LBFGS(lambda x, c: jnp.sum(jnp.cosh(x - c)), bounds=True)
    J = jax.jit(jax.jacrev(lambda top: solver.run(jnp.zeros(3), jnp.arange(3.0), (None, top))[0]))(1.5)
    np.testing.assert_allclose(J, [0.0, 0.0, 1.0], atol=1e-9)
    with pytest.raises(TypeError, match="bounds=True"):
        solver.run(jnp.zeros(3), jnp.arange(3.0))


def test_lbfgs_on_rosenbrock_and_far_starts():
    f = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    x, state = solvers.LBFGS(f, tol=1e-9).run(jnp.array([-1.2, 1.0] * 5))
    np.testing.assert_allclose(x, 1.0, atol=1e-6)
    assert state.iteration < 100
    for start in (20.0, -30.0):
        x, state = solvers.LBFGS(lambda x: jnp.exp(x) + jnp.exp(-x)).run(start)
        np.testing.assert_allclose(x, 0.0, atol=1e-6)
        assert state.iteration < 60


@pytest.mark.parametrize("name", ["LBFGS", "LBFGS in a box", "BFGS", "LevenbergMarquardt"])
def test_failures_are_said(name):
    cases = {
        "NaN": (lambda x, t: t * jnp.nan * x, 1.0), "few": (lambda x, t: jnp.exp(3 * x) - t * x, 1.0),
    }  # fmt: skip
    for kind, (r, t) in cases.items():
        f = r if name == "LevenbergMarquardt" else (lambda x, t, r=r: jnp.sum(r(x, t) ** 2))
        make = getattr(solvers, name.split()[0])
        options = dict(maxiter=1 if kind == "few" else 50) | (dict(bounds=True) if "box" in name else {})
        args = (jnp.ones(2), t, *([(-9.0, 9.0)] if "box" in name else []))
        with pytest.warns(RuntimeWarning, match="did not converge"):
            assert not make(f, **options).run(*args)[1].converged
        assert np.isnan(make(f, on_unconverged="nan", **options).run(*args)[0]).all()
        with pytest.raises(RuntimeError, match="did not converge"):
            make(f, on_unconverged="raise", **options).run(*args)


def test_bisection():
    G = lambda x, a: x**3 - a
    solver = solvers.Bisection(G, 0.0, 10.0, tol=1e-14)
    a = jnp.array([2.0, 27.0, 1e-9, 0.0, 1000.0])  # roots inside and at the ends
    np.testing.assert_allclose(solver.run(jnp.zeros(5), a)[0], np.cbrt(a), atol=1e-12)
    push = jax.jvp(lambda a: solver.run(jnp.zeros(2), a)[0], (a[:2],), (jnp.ones(2),))[1]
    np.testing.assert_allclose(push[:2], np.cbrt(a)[:2] / (3 * a[:2]), rtol=1e-10)
    many = jax.jit(jax.vmap(jax.grad(lambda a: solver.run(jnp.zeros(()), a)[0])))(a[:2])
    np.testing.assert_allclose(many, push[:2], rtol=1e-10)
    x32, state = solvers.Bisection(G, 0.0, 10.0, tol=0.0).run(jnp.float32(0.0), jnp.float32(2.0))
    assert state.converged
    np.testing.assert_allclose(x32, np.cbrt(2.0), rtol=3e-7)
    for unit in (1e-12, 1e12):
        scaled = solvers.Bisection(lambda x, a, u=unit: (x / u) ** 3 - a, 0.0, 10 * unit, tol=1e-12)
        np.testing.assert_allclose(scaled.run(0.0, 2.0)[0] / unit, np.cbrt(2.0), rtol=1e-11)
    with pytest.warns(RuntimeWarning, match="not finite"):
        assert not solvers.Bisection(G, 2.0, 10.0).run(0.0, 1.0)[1].converged


def test_optimistix_takes_options():
    import optimistix as optx

    solver = solvers.optimistix_solver(
        lambda x, a: x**3 - a, optx.Bisection(rtol=1e-10, atol=1e-10), dict(lower=0.0, upper=10.0)
    )
    np.testing.assert_allclose(jax.grad(lambda a: solver.run(1.0, a)[0])(8.0), 1 / 12, rtol=1e-6)
