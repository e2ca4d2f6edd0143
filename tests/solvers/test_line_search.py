"""Gradient methods: the step lengthens again, units do not matter, and what is lost in rounding is not converged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

import implicitdiff as idf
from implicitdiff import projection, prox, solvers

RANDOM = np.random.default_rng(3)
X, Y = RANDOM.standard_normal((20, 5)), RANDOM.standard_normal(20)


def test_the_step_lengthens_again():
    x, state = solvers.GradientDescent(lambda x: jnp.sum(jnp.cosh(x)), tol=1e-3).run(jnp.array([8.0, -7.0]))
    assert state.converged
    assert state.iteration <= 30
    np.testing.assert_allclose(x, 0.0, atol=1e-3)
    for start in (15.0, 20.0, -30.0):
        x, state = solvers.GradientDescent(lambda x: jnp.exp(x) + jnp.exp(-x)).run(start)
        assert state.converged
        assert state.iteration <= 100
        np.testing.assert_allclose(x, 0.0, atol=1e-5)
    # in a set, and with a proximal operator
    f = lambda x, _: jnp.sum(jnp.cosh(x - 1.0))
    for solver, theta in (
        (solvers.ProjectedGradient(f, projection.box), (-20.0, 0.5)), (solvers.ProximalGradient(f, prox.lasso), np.sinh(0.5)),
    ):  # fmt: skip
        x, state = solver.run(jnp.array([15.0, -12.0]), None, theta)
        assert state.converged
        assert state.iteration <= 100
        np.testing.assert_allclose(x, 0.5, atol=1e-5)


def in_units(scale, unit):
    """Each solver for one problem whose objective is times `scale`, in unknowns times `unit`."""
    f = lambda x, t: scale * (jnp.sum((X @ (x / unit) - Y) ** 2) + t * jnp.sum((x / unit) ** 2))
    smooth = lambda x, _: scale * 0.5 * jnp.sum((X @ (x / unit) - Y) ** 2)
    step = unit**2 / scale / 120
    options = dict(tol=1e-9, maxiter=5000, on_unconverged="raise")
    free = (lambda t: (t,)), lambda t: jnp.linalg.solve(X.T @ X + t * jnp.eye(5), X.T @ Y)
    lasso = (lambda t: (None, scale / unit * t)), None
    return {
        "gradient descent": (solvers.GradientDescent(f, **options), *free),
        "fixed step": (solvers.GradientDescent(f, step, **options), *free),
        "plain": (solvers.GradientDescent(f, accelerated=False, **options), *free),
        "fixed point": (solvers.FixedPointIteration(idf.optimality.gradient_descent(f, step), **options), *free),
        "Anderson": (solvers.AndersonAcceleration(idf.optimality.gradient_descent(f, step), **options), *free),
        "Newton": (solvers.Newton(jax.grad(f), **options), *free),
        "lasso": (solvers.ProximalGradient(smooth, prox.lasso, **options), *lasso),
        "coordinate descent": (
            solvers.BlockCoordinateDescent(
                solvers.Composite(lambda u, _: scale * 0.5 * jnp.sum((u - Y) ** 2), X / unit, smoothness=scale),
                prox.lasso, **options,
            ), *lasso,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", in_units(1.0, 1.0))
def test_units(name):
    expected = Lasso(2.0 / 20, fit_intercept=False, tol=1e-14).fit(X, Y).coef_
    slope = (Lasso(2.01 / 20, fit_intercept=False, tol=1e-14).fit(X, Y).coef_ - expected) / 0.01
    iterations = []
    for scale, unit in ((1.0, 1.0), (1e-12, 1.0), (1e12, 1.0), (1.0, 1e-12), (1.0, 1e12)):
        solver, args, exact = in_units(scale, unit)[name]
        run = lambda t, s=solver, a=args, u=unit: s.run(jnp.ones(5) * u, *a(t))
        x, state = run(2.0)
        J = jax.jacobian(lambda t, run=run: run(t)[0])(2.0)
        iterations.append(int(state.iteration))
        np.testing.assert_allclose(x / unit, expected if exact is None else exact(2.0), atol=1e-7)
        np.testing.assert_allclose(J / unit, slope if exact is None else jax.jacobian(exact)(2.0), atol=1e-6)
    assert max(iterations) <= 1.2 * min(iterations) + 5


def test_a_step_that_is_lost_in_rounding_is_not_converged():
    """Float32 parameters beside float64 data: the gradient is not zero, whatever the step."""
    data = jnp.asarray(RANDOM.standard_normal((30, 2))).at[:, 0].add(30.0)
    f = lambda x, t: jnp.sum((data @ x - t) ** 2)
    exact = jnp.linalg.lstsq(data, jnp.full(30, 3.0))[0]
    solver = solvers.GradientDescent(f, maxiter=20_000, on_unconverged="ignore")
    x, state = solver.run(jnp.zeros(2, jnp.float32), 3.0)
    assert not state.converged or np.allclose(x, exact, atol=1e-2)
    assert state.error > 0
    state = solvers.GradientDescent(lambda x: jnp.sum((x - 3.0) ** 2), 1e-12, on_unconverged="ignore").run(
        jnp.ones(2, jnp.float32)
    )[1]
    assert not state.converged
    assert state.error > 0.1


def test_complex_unknowns():
    A = jnp.array([[2.0, 1j], [-1j, 3.0]])
    f = lambda x, b: jnp.real(jnp.vdot(x, A @ x)) / 2 - jnp.real(jnp.vdot(b, x))
    b = jnp.array([1.0 + 2j, -1j])
    for options in (dict(), dict(stepsize=0.2), dict(accelerated=False)):
        x, state = solvers.GradientDescent(f, tol=1e-9, **options).run(jnp.zeros(2, complex), b)
        assert state.converged
        np.testing.assert_allclose(x, jnp.linalg.solve(A, b), atol=1e-8)
    with pytest.raises(TypeError, match="AndersonAcceleration is for real x"):
        solvers.AndersonAcceleration(lambda x: x / 2).run(jnp.zeros(2, complex))


def test_leaves_of_two_dtypes_and_typed_keys():
    def f(x, key):
        return jnp.sum((x["a"] - jax.random.normal(key, (2,))) ** 2) + jnp.sum((x["b"] - x["a"][0]) ** 2)

    init = dict(a=jnp.zeros(2, jnp.float32), b=jnp.zeros(()))
    key = jax.random.key(1)
    for solver in (
        solvers.GradientDescent(f, tol=1e-5), solvers.GradientDescent(f, 0.1, tol=1e-5),
        solvers.FixedPointIteration(idf.optimality.gradient_descent(f, 0.1), tol=1e-5),
        solvers.MirrorDescent(lambda x, k: f(x, k), lambda y, _: y, idf.mirror.identity, 0.1, tol=1e-5),
    ):  # fmt: skip
        x, state = solver.run(init, key)
        assert state.converged
        assert {k: v.dtype.name for k, v in x.items()} == dict(a="float32", b="float64")
        np.testing.assert_allclose(x["a"], jax.random.normal(key, (2,)), atol=1e-4)


def test_what_users_bring():
    """Keywords, aux, a gradient of their own, a schedule, a callback."""
    f = lambda x, a, shift=0.0: jnp.sum((x - a - shift) ** 2)
    run = lambda a, s, **o: solvers.GradientDescent(f, **o).run(jnp.zeros(2), a, shift=s)
    x, state = run(1.0, 0.5)
    np.testing.assert_allclose(x, 1.5, atol=1e-6)
    assert state.value < 1e-10
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(run(1.0, s)[0]))(0.5), 2.0, rtol=1e-6)
    told = []
    with_aux = lambda x, a: (jnp.sum((x - a) ** 2), dict(twice=2 * x))
    both = lambda x, a: ((jnp.sum((x - a) ** 2), dict(twice=2 * x)), 2 * (x - a))
    for solver in (
        solvers.GradientDescent(with_aux, has_aux=True, callback=lambda i, e: told.append((i, e))),
        solvers.GradientDescent(both, has_aux=True, value_and_grad=True),
        solvers.GradientDescent(with_aux, lambda k: 0.3 / (1 + 0.1 * k), has_aux=True),
    ):
        result = solver.run(jnp.zeros(2), 1.5)
        np.testing.assert_allclose(result.params, 1.5, atol=1e-5)
        np.testing.assert_allclose(result.state.aux["twice"], 3.0, atol=1e-5)
        np.testing.assert_allclose(jax.jacobian(lambda a, s=solver: s.run(jnp.zeros(2), a)[0])(1.5), 1.0, rtol=1e-6)
    jax.effects_barrier()
    assert told
    assert told[-1][1] <= 1e-6


@pytest.mark.parametrize("stepsize", [0.0, -1.0])
def test_steps_that_are_not_positive(stepsize):
    f = lambda x, _: jnp.sum(x**2)
    for make in (
        lambda s: solvers.GradientDescent(f, s), lambda s: solvers.ProximalGradient(f, prox.lasso, s),
        lambda s: solvers.ProjectedGradient(f, projection.simplex, s), lambda s: solvers.Newton(jax.grad(f), s),
        lambda s: solvers.MirrorDescent(f, lambda y, _: y, idf.mirror.identity, s),
        lambda s: solvers.BlockCoordinateDescent(f, prox.none, s),
        lambda s: solvers.AndersonAcceleration(lambda x: x, mixing=s),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be positive"):
            make(stepsize)


def test_the_policy_for_what_did_not_converge():
    f = lambda x, t: jnp.sum((X @ x - Y) ** 2) + t * jnp.sum(x**2)
    run = lambda t, policy: solvers.GradientDescent(f, maxiter=2, on_unconverged=policy).run(jnp.zeros(5), t)
    with pytest.warns(RuntimeWarning, match="GradientDescent did not converge after 2 iterations.*Raise maxiter"):
        assert not run(1.0, "warn")[1].converged
    with pytest.warns(RuntimeWarning, match="did not converge"):
        jax.grad(lambda t: jnp.sum(run(t, "warn")[0]))(1.0)
    x, J = jax.jit(lambda t: (run(t, "nan")[0], jax.jacobian(lambda t: run(t, "nan")[0])(t)))(1.0)
    assert np.isnan(x).all()
    assert np.isnan(J).all()
    with pytest.raises(RuntimeError, match="Raise maxiter"):
        run(1.0, "raise")
    with pytest.raises(Exception, match="Raise maxiter"):
        jax.block_until_ready(jax.jit(lambda t: run(t, "raise")[0])(1.0))
    np.testing.assert_array_equal(run(1.0, "ignore")[0], jax.jit(lambda t: run(t, "warn")[0])(1.0))
    with pytest.raises(ValueError, match="on_unconverged"):
        run(1.0, "no")


def test_blocks_say_what_is_theirs():
    """Three rows and three columns: which of them the weights belong to is not in their shape."""
    A = jnp.asarray(RANDOM.standard_normal((20, 3)))
    Z = jnp.asarray(RANDOM.standard_normal((20, 3)))
    f = solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), A)
    weights = jnp.array([0.5, 2.0, 5.0])
    for per_block, spread in ((True, weights[:, None]), (False, weights)):
        run = lambda w, p=per_block: solvers.BlockCoordinateDescent(f, prox.lasso, per_block=p, tol=1e-10).run(
            jnp.zeros((3, 3)), Z, w
        )[0]
        whole = solvers.ProximalGradient(f, prox.lasso, tol=1e-10, maxiter=10_000)
        at = lambda w, s=spread: whole.run(jnp.zeros((3, 3)), Z, jnp.broadcast_to(w * s, (3, 3)))[0]
        np.testing.assert_allclose(run(weights), at(1.0), atol=1e-7)
        np.testing.assert_allclose(jax.jvp(run, (weights,), (weights,))[1], jax.jvp(at, (1.0,), (1.0,))[1], atol=1e-6)
    with pytest.raises(ValueError, match="per_block"):
        solvers.BlockCoordinateDescent(f, prox.lasso, per_block=dict(w=True)).run(jnp.zeros((3, 3)), Z, weights)
