"""The solvers: right solutions and derivatives, one word between implicit and unrolled, every transformation."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest
from sklearn.linear_model import Lasso

import implicitdiff as idf
from implicitdiff import mirror, optimality, projection, prox, solvers
from implicitdiff.solvers._iterative import IterativeSolver

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((20, 5))
Y = RANDOM.standard_normal(20)
L = np.linalg.norm(X, 2) ** 2


def least_squares(x, y):
    return 0.5 * jnp.sum((X @ x - y) ** 2)


def ridge(x, t):
    return least_squares(x, Y) + 0.5 * t * jnp.sum(x**2)


def ridge_solution(t):
    return jnp.linalg.solve(X.T @ X + t * jnp.eye(5), X.T @ Y)


TIGHT = dict(tol=1e-11, maxiter=5000)
composite = solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), X)

# Each: the solver, and run(solver, theta) for a scalar theta to x of five entries whose closed form is the ridge.
RIDGE = {
    "gradient descent": (lambda **o: solvers.GradientDescent(ridge, **TIGHT | o), (lambda t: (t,))),
    "gradient descent, fixed step": (lambda **o: solvers.GradientDescent(ridge, 1 / (L + 3), **TIGHT | o), (lambda t: (t,))),
    "not accelerated": (lambda **o: solvers.GradientDescent(ridge, 1 / (L + 3), False, **TIGHT | o), (lambda t: (t,))),
    "proximal gradient": (lambda **o: solvers.ProximalGradient(least_squares, prox.ridge, **TIGHT | o), (lambda t: (Y, t))),
    "projected gradient": (
        lambda **o: solvers.ProjectedGradient(ridge, lambda v, _: v, **TIGHT | o), (lambda t: (t, None))
    ),
    "mirror descent": (
        lambda **o: solvers.MirrorDescent(ridge, lambda y, _: y, mirror.identity, 1 / (L + 3), **TIGHT | o), (lambda t: (t, None))
    ),
    "block coordinate descent": (
        lambda **o: solvers.BlockCoordinateDescent(composite, prox.ridge, **TIGHT | o), (lambda t: (Y, t))
    ),
    "block coordinate descent, any f": (
        lambda **o: solvers.BlockCoordinateDescent(ridge, prox.none, 1 / (np.sum(X**2, 0) + 3), **TIGHT | o), (lambda t: (t,))
    ),
    "fixed point": (
        lambda **o: solvers.FixedPointIteration(optimality.gradient_descent(ridge, 1 / (L + 3)), **TIGHT | o), (lambda t: (t,))
    ),
    "Anderson": (
        lambda **o: solvers.AndersonAcceleration(optimality.gradient_descent(ridge, 1 / (L + 3)), **TIGHT | o), (lambda t: (t,))
    ),
    "Newton": (lambda **o: solvers.Newton(jax.grad(ridge), **TIGHT | o), (lambda t: (t,))),
    "optax": (lambda **o: solvers.optax_solver(ridge, optax.lbfgs(), **TIGHT | o), (lambda t: (t,))),
}  # fmt: skip


@pytest.mark.parametrize("name", RIDGE)
def test_solution_and_derivatives_in_every_transformation(name):
    make, args = RIDGE[name]
    solver = make()
    run = lambda t: solver.run(jnp.zeros(5), *args(t))[0]
    t = 2.0
    x, state = jax.jit(lambda t: solver.run(jnp.zeros(5), *args(t)))(t)
    np.testing.assert_allclose(x, ridge_solution(t), atol=1e-9)
    assert state.converged
    assert 0 < state.iteration < 5000
    assert state.error <= 1e-11
    slope = jax.jacobian(ridge_solution)(t)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(run))(t), slope, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacrev(run))(t), slope, atol=1e-9)
    loss = lambda f: lambda t: jnp.sum(f(t) ** 3)
    np.testing.assert_allclose(jax.jit(jax.hessian(loss(run)))(t), jax.hessian(loss(ridge_solution))(t), rtol=1e-6)
    ts = jnp.array([0.5, 3.0])
    many, states = jax.jit(jax.vmap(lambda t: solver.run(jnp.zeros(5), *args(t))))(ts)
    np.testing.assert_allclose(many, jax.vmap(ridge_solution)(ts), atol=1e-9)
    # each stops on its own: as often as when run alone
    alone = [solver.run(jnp.zeros(5), *args(t))[1].iteration for t in ts]
    assert np.all(np.abs(states.iteration - np.array(alone)) <= 2)


def unrolled(name, maxiter):
    make, args = RIDGE[name]
    if name == "optax":  # the line search of its L-BFGS is a while_loop
        make = lambda **o: solvers.optax_solver(ridge, optax.sgd(1 / (L + 3)), **TIGHT | o)
    solver = make(adjoint=idf.Unrolled(), maxiter=maxiter)
    reversible = solver.__dict__.get("stepsize", 1) is not None  # a line search is a while_loop
    return lambda t: solver.run(jnp.zeros(5), *args(t))[0], reversible


@pytest.mark.parametrize("name", RIDGE)
def test_unrolled_by_one_word(name):
    run, reversible = unrolled(name, {"Newton": 4, "Anderson": 60}.get(name, 400))
    derivative = jax.jacrev if reversible else jax.jacfwd
    np.testing.assert_allclose(jax.jit(derivative(run))(2.0), jax.jacobian(ridge_solution)(2.0), atol=1e-5)


SHORT = ("gradient descent, fixed step", "fixed point", "Newton")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in SHORT else [pytest.mark.slow]) for n in RIDGE])
def test_unrolled_in_every_transformation(name):
    """The derivative of a few iterations, far from the solution: that of their step sizes and momenta is in it."""
    run, reversible = unrolled(name, 2 if name == "Newton" else 5)
    loss = lambda t: jnp.sum(run(t) ** 3)
    hessian = jax.hessian(loss) if reversible else jax.jacfwd(jax.jacfwd(loss))

    @jax.jit
    @jax.vmap
    def everything(t):
        x = run(t)
        J = jax.jacfwd(run)(t)
        return x, J, 3 * jnp.sum(x**2 * J), hessian(t)

    t, h = jnp.array([0.5, 3.0]), 1e-4
    _, J, _, H = everything(t)
    (x0, _, g0, _), (x1, _, g1, _) = everything(t - h), everything(t + h)
    np.testing.assert_allclose(J, (x1 - x0) / (2 * h), atol=1e-8 * np.max(np.abs(J)))
    np.testing.assert_allclose(H, (g1 - g0) / (2 * h), rtol=1e-7)


def test_unrolled_keeps_no_copy_of_the_data_for_each_iteration():
    """The reverse mode of a `lax.cond` in the loop would, where the program reads the data as constants."""
    data = jnp.asarray(RANDOM.standard_normal((200, 50)))  # 80 kB
    f = lambda x, t: 0.5 * jnp.sum((data @ x) ** 2) + 0.5 * t * jnp.sum((x - 1) ** 2)
    solver = solvers.GradientDescent(f, 1e-3, tol=0.0, maxiter=100, adjoint=idf.Unrolled())
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(solver.run(jnp.zeros(50), t)[0])))
    assert 0 < gradient.lower(2.0).compile().memory_analysis().temp_size_in_bytes < 10 * data.nbytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact(IterativeSolver):
    """One iteration finds the solution a, where the derivative of another one is NaN."""

    class State(NamedTuple):
        iteration: jax.Array
        error: jax.Array
        converged: jax.Array

    def init_state(self, init, a):
        return self.State(jnp.int32(0), jnp.inf, jnp.array(False))

    def update(self, x, state, a):
        return a + 0.0 * jnp.sqrt(jnp.abs(x - a)), self.State(state.iteration + 1, 0.0, jnp.array(True))

    def own_condition(self, state):
        raise NotImplementedError


def test_unrolled_drops_what_comes_after_the_end():
    run = lambda a: Exact(maxiter=5, adjoint=idf.Unrolled()).run(jnp.zeros(2), a)
    assert run(jnp.ones(2))[1].iteration == 1
    for derivative in (jax.jacrev, jax.jacfwd):
        np.testing.assert_array_equal(derivative(lambda a: run(a)[0])(jnp.ones(2)), np.eye(2))


def test_unrolled_quasi_newton_steps():
    """Forward only: optax divides by zero behind a `where`, so that reverse mode is NaN, as JAXopt's was."""
    solver = solvers.optax_solver(ridge, optax.lbfgs(), adjoint=idf.Unrolled(), maxiter=5)
    run = lambda t: solver.run(jnp.zeros(5), t)[0]
    both = jax.jit(lambda t: (run(t), jax.jacfwd(run)(t)))
    h = 1e-4
    expected = (both(2 + h)[0] - both(2 - h)[0]) / (2 * h)
    np.testing.assert_allclose(both(2.0)[1], expected, atol=1e-8 * np.max(np.abs(expected)))


def test_the_linear_solver_is_the_one_asked_for():
    """JAXopt's ProjectedGradient ignored it."""
    calls = []

    def direct(matvec, b):
        calls.append(b.shape)
        return jnp.linalg.solve(jax.vmap(matvec, out_axes=1)(jnp.eye(b.size)), b)

    adjoint = idf.Implicit(linear_solver=direct)
    solver = solvers.ProjectedGradient(least_squares, projection.simplex, **TIGHT, adjoint=adjoint)
    other = solvers.ProjectedGradient(least_squares, projection.simplex, **TIGHT)
    got, expected = (jax.jacobian(lambda s, r=r: r.run(jnp.ones(5) / 5, Y, s)[0])(1.0) for r in (solver, other))
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert (5,) in calls


@pytest.mark.parametrize("adjoint", [idf.OneStep(), idf.Neumann(5), idf.Neumann(500)])
def test_approximate_adjoints(adjoint):
    T = optimality.gradient_descent(ridge, 1 / (L + 3))
    solver = solvers.FixedPointIteration(T, adjoint=adjoint, **TIGHT)
    got = jax.jacobian(lambda t: solver.run(jnp.zeros(5), t)[0])(2.0)
    x = ridge_solution(2.0)
    M, b = jax.jacobian(lambda x: T(x, 2.0))(x), jax.jacobian(lambda t: T(x, t))(2.0)
    expected, term = 0.0, b
    for _ in range(adjoint.terms):
        expected, term = expected + term, M @ term
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_another_condition_than_the_solvers_own():
    simplex = solvers.ProjectedGradient(least_squares, projection.simplex, **TIGHT)
    step = float(1 / L)
    other = solvers.ProjectedGradient(
        least_squares, projection.simplex, **TIGHT,
        condition=optimality.mirror_descent(least_squares, mirror.simplex, mirror.log, step),
    )  # fmt: skip
    run = lambda solver: lambda s: solver.run(jnp.ones(5) / 5, Y, s)[0]
    np.testing.assert_allclose(jax.jacobian(run(other))(1.0), jax.jacobian(run(simplex))(1.0), atol=1e-7)
    root = solvers.GradientDescent(ridge, **TIGHT, condition=optimality.root(jax.grad(ridge)))
    got = jax.jacobian(lambda t: root.run(jnp.zeros(5), t)[0])(2.0)
    np.testing.assert_allclose(got, jax.jacobian(ridge_solution)(2.0), atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "fn"),
    [
        (optx.BFGS(1e-10, 1e-10), ridge),
        (optx.Newton(1e-10, 1e-10), jax.grad(ridge)),
        (optx.LevenbergMarquardt(1e-10, 1e-10), lambda x, t: jnp.append(X @ x - Y, jnp.sqrt(t) * x)),
        (optx.FixedPointIteration(1e-12, 1e-12), lambda x, t: x - jax.grad(ridge)(x, t) / (L + 3)),
    ],
    ids=["minimiser", "root", "least squares", "fixed point"],
)
def test_optimistix(solver, fn):
    adapted = solvers.optimistix_solver(fn, solver)
    x, state = adapted.run(jnp.zeros(5), 2.0)
    np.testing.assert_allclose(x, ridge_solution(2.0), atol=1e-7)
    assert state.converged
    run = lambda t: adapted.run(jnp.zeros(5), t)[0]
    for derivative in (jax.jacfwd, jax.jacrev, lambda f: jax.jit(jax.jacrev(f))):
        np.testing.assert_allclose(derivative(run)(2.0), jax.jacobian(ridge_solution)(2.0), atol=1e-7)
    many = jax.vmap(jax.jacfwd(run))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many[1], jax.jacobian(ridge_solution)(2.0), atol=1e-7)
    early = solvers.optimistix_solver(fn, solver, max_steps=1, on_unconverged="ignore")
    assert not early.run(jnp.ones(5), 2.0)[1].converged


def test_stopping_early_is_said_and_can_be_refused():
    solver = solvers.GradientDescent(ridge, maxiter=3, on_unconverged="ignore")
    state = solver.run(jnp.zeros(5), 2.0)[1]
    assert not state.converged
    assert state.iteration == 3
    assert state.error > 1e-3
    strict = solvers.GradientDescent(ridge, maxiter=3, adjoint=idf.Implicit(residual_tol=1e-6), on_unconverged="ignore")
    assert np.isnan(jax.jacobian(lambda t: strict.run(jnp.zeros(5), t)[0])(2.0)).all()


def test_nan_ends_the_loop_and_shows():
    solver = solvers.GradientDescent(lambda x, t: jnp.sum(jnp.sqrt(x - 1) * t), 0.1)
    with pytest.warns(RuntimeWarning, match="not finite"):
        state = solver.run(jnp.zeros(2), 1.0)[1]
    assert not state.converged
    assert state.iteration < 3


def test_warm_start_and_dtypes_and_pytrees():
    f = lambda x, t: jnp.sum((x["a"] - t) ** 2) + jnp.sum((x["b"] + x["a"][0]) ** 2)
    solver = solvers.GradientDescent(f, tol=1e-5)
    init = dict(a=np.zeros(2, np.float32), b=jnp.zeros((), jnp.float32))
    x, state = solver.run(init, np.float32(1.5))
    assert {leaf.dtype for leaf in jax.tree.leaves(x)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(x["b"], -1.5, atol=1e-4)
    _, again = solver.run(x, np.float32(1.5))
    assert again.iteration < state.iteration
    J = jax.jacobian(lambda t: solver.run(init, t)[0])(np.float32(1.5))
    np.testing.assert_allclose(J["b"], -1.0, atol=1e-5)


def test_closed_over_arrays_are_differentiated():
    def solution(t):
        solver = solvers.GradientDescent(lambda x: ridge(x, t), **TIGHT)
        return solver.run(jnp.zeros(5))[0]

    expected = jax.jacobian(ridge_solution)(2.0)
    for derivative in (jax.jacfwd, jax.jacrev, lambda f: jax.jit(jax.jacrev(f))):
        np.testing.assert_allclose(derivative(solution)(2.0), expected, atol=1e-9)


def test_eager_calls_compile_once():
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    try:
        for k in range(4):
            solver = solvers.ProximalGradient(lambda x, y: 0.5 * jnp.sum((X @ x - y) ** 2), prox.lasso)
            jax.grad(lambda w, s=solver: jnp.sum(s.run(jnp.zeros(5), Y, w)[0]))(1.0 + k)
            if k == 1:
                compilations.clear()  # the first calls compile
        assert not compilations
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_zero_column_and_steps_of_coordinate_descent():
    """JAXopt's coordinate descent is NaN on a zero column, and takes steps n times too small."""
    A = np.column_stack([X, np.zeros(20)])
    f = solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), A)
    solver = solvers.BlockCoordinateDescent(f, prox.lasso, tol=1e-10, maxiter=300)
    x, state = solver.run(jnp.ones(6), Y, 1.5)
    expected = Lasso(1.5 / 20, fit_intercept=False, tol=1e-14).fit(A, Y)
    np.testing.assert_allclose(x, expected.coef_, atol=1e-9)
    assert state.iteration <= 3 * expected.n_iter_
    assert x[5] == 0
    assert np.isfinite(jax.jacobian(lambda w: solver.run(jnp.ones(6), Y, w)[0])(1.5)).all()
    with pytest.raises(ValueError, match="stepsizes"):
        solvers.BlockCoordinateDescent(ridge, prox.none).run(jnp.zeros(5), 1.0)


def test_blocks_of_coordinate_descent_are_rows():
    k = 3
    Z = RANDOM.standard_normal((20, k))
    f = solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), X)
    scales = jnp.linspace(0.5, 1.5, 5)
    solver = solvers.BlockCoordinateDescent(
        f, lambda v, s, _: projection.simplex(v, s), per_block=True, tol=1e-11, maxiter=3000
    )
    x, state = solver.run(jnp.ones((5, k)) / k, Z, scales)
    assert state.converged
    np.testing.assert_allclose(x.sum(1), scales, rtol=1e-12)
    whole = solvers.ProjectedGradient(
        lambda x, y: f(x, y), lambda v, s: projection.simplex(v, s), tol=1e-11, maxiter=20_000
    )
    np.testing.assert_allclose(x, whole.run(x, Z, scales)[0], atol=1e-9)
    J, K = (jax.jacobian(lambda s, r=r: r.run(x, Z, s)[0])(scales) for r in (solver, whole))
    np.testing.assert_allclose(J, K, atol=1e-7)


def test_progress_shows_iteration_and_error(capfd):
    solver = solvers.GradientDescent(ridge, 1e-4, False, maxiter=200, progress=True, on_unconverged="ignore")
    jax.block_until_ready(solver.run(jnp.zeros(5), 1.0))
    jax.effects_barrier()
    shown = capfd.readouterr().err
    assert "GradientDescent" in shown
    assert "200/200" in shown
    assert "error" in shown


def test_wrong_use():
    with pytest.raises(TypeError, match="optimistix"):
        solvers.optimistix_solver(ridge, object())
    with pytest.raises(TypeError, match="scalar"):
        solvers.GradientDescent(lambda x, t: x).run(jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match="no condition"):
        solvers.GradientDescent(ridge, adjoint=idf.Unrolled(), progress=True).run(jnp.zeros(5), 1.0)


def test_nan_in_the_data_is_nan_in_the_solution():
    """Also of methods that never leave a point where f is NaN, and under jit."""

    def f(x, t):
        return jnp.sum(jnp.cosh(x) - t * x)

    def G(x, t):
        return jnp.sinh(x) - t

    methods = [
        solvers.GradientDescent(f), solvers.LBFGS(f), solvers.NonlinearCG(f), solvers.GaussNewton(G),
        solvers.LevenbergMarquardt(G), solvers.Newton(G), solvers.Broyden(G),
    ]  # fmt: skip
    data = jnp.array([1.0, jnp.nan, 2.0])

    @jax.jit
    def run(data):
        return [jax.value_and_grad(lambda t, s=s: jnp.sum(s.run(jnp.zeros(3), t)[0]))(data) for s in methods]

    for value, gradient in run(data):
        assert np.isnan(value)
        assert np.all(np.isnan(gradient))
