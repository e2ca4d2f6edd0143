"""What SciPy's solvers say of a result, and what becomes of one that is no solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from implicitdiff import solvers

SQUARE = lambda z, c: jnp.sum((z - c) ** 2)

# Each: what makes the solver, and the arguments of run. None has a solution that is found.
FAILING = {
    "too few iterations": (lambda **o: solvers.scipy_minimize(
        lambda x, t: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (t - x[:-1]) ** 2), options=dict(MAXITER=1), **o
    ), (jnp.array([-1.2, 1.0, 3.0]), 1.0)),
    "unbounded": (lambda **o: solvers.scipy_minimize(lambda x, t: t * jnp.sum(x), **o), (jnp.zeros(2), 1.0)),
    "unbounded with constraints": (
        lambda **o: solvers.scipy_minimize(lambda x, t: t * jnp.sum(x), ineq=lambda x, _: x - 1, **o),
        (jnp.zeros(2), 1.0, None, None),
    ),
    "infeasible": (
        lambda **o: solvers.scipy_minimize(SQUARE, eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, _: z, options=dict(maxiter=50), **o),
        (jnp.ones(2), 0.0, 3.0, None),
    ),
    "NaN in the data": (lambda **o: solvers.scipy_minimize(SQUARE, **o), (jnp.zeros(2), jnp.nan)),
    "NaN in the data of a program": (
        lambda **o: solvers.scipy_minimize(SQUARE, ineq=lambda z, s: z - s, **o), (jnp.zeros(2), 1.0, None, jnp.nan),
    ),
    "no root": (lambda **o: solvers.scipy_root(lambda x, a: x**2 + a, **o), (jnp.ones(2), 1.0)),
    "too few steps": (lambda **o: solvers.scipy_least_squares(
        lambda x, t: jnp.stack([10 * (x[1] - x[0] ** 2), t - x[0]]), options=dict(max_nfev=2), **o
    ), (jnp.array([-1.2, 1.0]), 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.filterwarnings("ignore:.*:scipy.optimize.OptimizeWarning", "ignore:overflow", "ignore:invalid value")
def test_failures_are_said(name):
    make, args = FAILING[name]
    with pytest.warns(RuntimeWarning, match="SciPy did not converge"):
        state = make().run(*args)[1]
    assert not state.converged
    assert not state.error <= 1e-5
    poisoned, state = make(on_unconverged="nan").run(*args)
    assert not state.converged
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(poisoned))
    with pytest.raises(RuntimeError, match="SciPy did not converge"):
        make(on_unconverged="raise").run(*args)


@pytest.mark.parametrize("name", ["too few iterations", "NaN in the data of a program", "no root"])
def test_failures_are_said_under_jit(name):
    make, args = FAILING[name]
    run = lambda t: make(on_unconverged="nan").run(args[0], t, *args[2:])[0]
    both = jax.jit(lambda t: (run(t), jax.jacobian(run)(t)))(args[1])
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(both))
    with pytest.raises(Exception, match="SciPy did not converge"):
        jax.block_until_ready(jax.jit(make(on_unconverged="raise").run)(*args))
    assert not jax.jit(make().run)(*args)[1].converged


@pytest.mark.parametrize("reach", [1.0, 1e3])
def test_dependent_gradients_have_no_multipliers(reach):
    """A planar arm of two links stretched to its target: the equations' gradients are parallel."""
    tip = lambda q, p: (
        reach * jnp.array([jnp.cos(q[0]) + jnp.cos(q[0] + q[1]), jnp.sin(q[0]) + jnp.sin(q[0] + q[1])]) - p
    )
    solver = solvers.scipy_minimize(lambda q, _: jnp.sum(q**2), eq=tip, on_unconverged="ignore")
    run = lambda p: solver.run(jnp.array([0.3, 0.4]), None, p, None)[0]
    edge = reach * jnp.array([2 * np.cos(0.5), 2 * np.sin(0.5)])
    assert np.isnan(jax.jacobian(run)(edge).z).all()
    assert np.isfinite(jax.jacobian(run)(0.9 * edge).z).all()


def test_duplicated_constraints_have_no_multipliers():
    for solver, args in (
        (solvers.scipy_minimize(SQUARE, ineq=lambda z, b: jnp.stack([z[0] - b, 2 * z[0] - 2 * b])), (None, 0.5)),
        (solvers.scipy_minimize(SQUARE, eq=lambda z, b: jnp.stack([z[0] - b, 3 * z[0] - 3 * b])), (0.5, None)),
    ):
        found = solver.run(jnp.zeros(2), 1.0, *args)[0]
        np.testing.assert_allclose(found.z, [0.5, 1.0], atol=1e-6)
        assert np.isnan(found.lam if args[0] is None else found.nu).all()


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_robust_losses_are_in_the_condition(loss):
    """Against finite differences of SciPy itself, with outliers."""
    t = np.linspace(0.0, 1.0, 15)
    y = np.exp(0.7 * t) + 0.05 * np.sin(20 * t)
    y[[3, 8]] += 2.0
    solver = solvers.scipy_least_squares(
        lambda x, y: jnp.exp(x * t) - y, options=dict(loss=loss, f_scale=0.2), on_unconverged="raise"
    )
    exact = lambda y: scipy.optimize.least_squares(
        lambda x: np.exp(x * t) - y, 0.5, loss=loss, f_scale=0.2, ftol=1e-15, xtol=1e-15, gtol=1e-15
    ).x[0]  # fmt: skip
    run = lambda y: solver.run(0.5, y)[0]
    np.testing.assert_allclose(run(jnp.asarray(y)), exact(y), atol=1e-7)
    d, h = np.cos(3 * t), 1e-4
    expected = (exact(y + h * d) - exact(y - h * d)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(run, (jnp.asarray(y),), (jnp.asarray(d),))[1], expected, atol=1e-5)


def test_options_that_least_squares_refuses():
    for options in (dict(loss=lambda z: z), dict(loss="tukey"), dict(bounds=(0, 1)), dict(jac="3-point")):
        with pytest.raises(ValueError, match="scipy_least_squares"):
            solvers.scipy_least_squares(lambda x: x, options=options)


@pytest.mark.parametrize("options", [None, dict(maxiter=10_000), dict(MaxIter=5000, maxcor=5)])
@pytest.mark.parametrize("method", ["L-BFGS-B", "l-bfgs-b"])
def test_options_add_to_the_defaults(method, options):
    f = lambda x, t: jnp.sum(jnp.cosh(x - t * jnp.arange(1.0, 6.0)) * jnp.arange(1.0, 6.0)) + jnp.sum(x) ** 2
    x = solvers.scipy_minimize(f, method, options=options).run(jnp.zeros(5), 0.3)[0]
    step = jnp.linalg.solve(jax.hessian(f)(x, 0.3), jax.grad(f)(x, 0.3))
    assert np.max(np.abs(step)) < 1e-8


def test_sides_of_a_box():
    """None is no bound; a side may be a number or like x, also where x is a pytree; to forget the box is an error."""
    f = lambda x, c: jnp.sum((x["a"] - c) ** 2) + jnp.sum((x["b"] + c) ** 2)
    init = dict(a=jnp.zeros(2), b=jnp.zeros(()))
    solver = solvers.scipy_minimize(f, bounds=True)
    for box, expected in (
        ((None, 2.0), (2.0, -3.0)), ((-1.0, None), (3.0, -1.0)), ((None, None), (3.0, -3.0)),
        ((dict(a=None, b=-2.0), dict(a=jnp.array([1.0, 9.0]), b=None)), ([1.0, 3.0], -2.0)),
    ):  # fmt: skip
        x = solver.run(init, 3.0, box)[0]
        np.testing.assert_allclose(x["a"], np.broadcast_to(expected[0], 2), atol=1e-9)
        np.testing.assert_allclose(x["b"], expected[1], atol=1e-9)
    assert jax.grad(lambda top: jnp.sum(solver.run(init, 3.0, (None, top))[0]["a"]))(2.0) == 2.0
    for args in ((3.0,), (3.0, None), (3.0, 1.0), (3.0, (dict(a=0.0), 1.0))):
        with pytest.raises(TypeError, match="bounds=True"):
            solver.run(init, *args)
    with pytest.raises(TypeError, match="bounds=True"):
        solvers.scipy_minimize(lambda x, c: f(x, c), eq=lambda x, _: x["b"][None], bounds=True).run(
            init, 3.0, None, None
        )


def test_a_box_of_many_unknowns():
    """Beyond 500 no Hessian is formed."""
    c = jnp.linspace(-1.0, 2.0, 600)
    solver = solvers.scipy_minimize(lambda x, c: jnp.sum(jnp.cosh(x - c)), bounds=True, on_unconverged="raise")
    x, push = jax.jvp(lambda c: solver.run(jnp.zeros(600), c, (0.0, 1.0))[0], (c,), (jnp.ones(600),))
    np.testing.assert_allclose(x, jnp.clip(c, 0, 1), atol=1e-6)
    np.testing.assert_allclose(push, (c > 0) & (c < 1), atol=1e-6)


def test_typed_keys_are_arguments():
    f = lambda x, key: jnp.sum((x - jax.random.normal(key, (3,))) ** 2)
    key = jax.random.key(0)
    for run in (solvers.scipy_minimize(f).run, jax.jit(solvers.scipy_minimize(f).run)):
        np.testing.assert_allclose(run(jnp.zeros(3), key)[0], jax.random.normal(key, (3,)), atol=1e-7)


def test_eager_calls_compile_once():
    compilations = []
    solver = solvers.scipy_minimize(SQUARE, eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, _: -z)
    box = solvers.scipy_minimize(SQUARE, bounds=True)
    calls = lambda k: [
        jax.jacobian(lambda c: solver.run(jnp.ones(3) / 3, c, 1.0 + k, None)[0].z)(jnp.arange(3.0) / 5),
        jax.jacobian(lambda c: box.run(jnp.ones(3) / 3, c, (0.0, 1.0 + k))[0])(jnp.arange(3.0) / 5),
    ]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    try:
        calls(0.0)
        first = len(compilations)
        compilations.clear()
        calls(0.5)
        assert not compilations
        assert first < 60  # the conditions are not run operation by operation
    finally:
        jax.monitoring.clear_event_listeners()


def test_the_result_is_a_named_pair():
    result = solvers.scipy_minimize(SQUARE).run(jnp.zeros(2), 1.0)
    x, state = result
    assert result.x is x is result.params
    assert result.state is state
    np.testing.assert_allclose(state.value, 0.0, atol=1e-12)
