"""optax with an iterator of batches: the derivative is that of the whole problem, or of the steps, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicitdiff as idf
from implicitdiff import optimality, solvers

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.standard_normal((24, 3)), RANDOM.standard_normal(24)
T = 0.7


def ridge(x, t, batch):
    A, b = batch
    return 0.5 * jnp.mean((A @ x - b) ** 2) + 0.5 * t * jnp.sum(x**2)


def hessian(t):
    return X.T @ X / 24 + t * jnp.eye(3)


def solution(t):
    return jnp.linalg.solve(hessian(t), X.T @ Y / 24)


def epochs(count):
    """Three batches an epoch, drawn without replacement: the mean of their gradients is that of the whole."""
    random = np.random.default_rng(1)
    for _ in range(count):
        order = random.permutation(24)
        for part in (order[:8], order[8:16], order[16:]):
            yield X[part], Y[part]


WHOLE = optimality.stationary(lambda x, t: ridge(x, t, (X, Y)))
DECAYED = optax.sgd(lambda k: 1 / (k + 4))


def solver(**options):
    return solvers.optax_solver(ridge, DECAYED, **dict(condition=WHOLE) | options)


def test_the_derivative_is_that_of_the_whole_problem():
    run = lambda t: solver().run_iterator(jnp.zeros(3), epochs(60), t)[0]
    x, state = solver().run_iterator(jnp.zeros(3), epochs(60), T)
    assert state.iteration == 180
    off = x - solution(T)
    assert 1e-6 < np.linalg.norm(off) < 0.02
    np.testing.assert_allclose(state.error, np.linalg.norm(hessian(T) @ off), rtol=1e-9)
    assert not state.converged
    assert solver(tol=0.1).run_iterator(jnp.zeros(3), epochs(60), T)[1].converged
    # The condition is (X'X / n + t) x - X'y / n: its implicit derivative at any x, by hand, and how far that is off.
    slope = jax.jacobian(solution)(T)
    for derivative in (jax.jacfwd, jax.jacrev):
        got = derivative(run)(T)
        np.testing.assert_allclose(got, -np.linalg.solve(hessian(T), x), rtol=1e-10)
        assert np.linalg.norm(got - slope) <= np.linalg.norm(np.linalg.inv(hessian(T)), 2) * np.linalg.norm(off)
    polished = solver(adjoint=idf.Implicit(polish=1))
    got = jax.jacrev(lambda t: polished.run_iterator(jnp.zeros(3), epochs(60), t)[0])(T)
    np.testing.assert_allclose(got, slope, rtol=1e-9)
    many = jax.vmap(jax.jacrev(run))(jnp.array([0.2, T]))
    np.testing.assert_allclose(many[1], -np.linalg.solve(hessian(T), x), rtol=1e-9)


def test_without_a_condition_there_is_no_derivative():
    run = lambda t: solver(condition=None).run_iterator(jnp.zeros(3), epochs(1), t)
    assert not run(T)[1].converged
    for derivative in (jax.jacfwd, jax.jacrev, lambda f: jax.vmap(jax.jacfwd(f))):
        with pytest.raises(TypeError, match="stationary"):
            derivative(lambda t: run(t)[0])(jnp.full(2, T) if derivative not in (jax.jacfwd, jax.jacrev) else T)
    closed_over = lambda t: solvers.optax_solver(lambda x, b: ridge(x, t, b), DECAYED).run_iterator(
        jnp.zeros(3), epochs(1)
    )
    with pytest.raises(TypeError, match="stationary"):
        jax.grad(lambda t: jnp.sum(closed_over(t)[0]))(T)
    in_batches = lambda t: solvers.optax_solver(lambda x, b: ridge(x, T, b), DECAYED).run_iterator(
        jnp.zeros(3), ((A, t * b) for A, b in epochs(1))
    )
    with pytest.raises(TypeError, match="stationary"):
        jax.grad(lambda t: jnp.sum(in_batches(t)[0]))(T)
    # what does not depend on it has its derivative
    assert jax.grad(lambda t: t * jnp.sum(run(jax.lax.stop_gradient(t))[0]))(T) == jnp.sum(run(T)[0])


def test_what_f_and_the_condition_close_over():
    def run(t):
        whole = optimality.stationary(lambda x: ridge(x, t, (X, Y)))
        made = solvers.optax_solver(lambda x, b: ridge(x, t, b), DECAYED, condition=whole)
        return made.run_iterator(jnp.zeros(3), epochs(60))[0]

    np.testing.assert_allclose(jax.jacrev(run)(T), -np.linalg.solve(hessian(T), run(T)), rtol=1e-10)


def test_unrolled_by_one_word():
    run = lambda t: solver(condition=None, adjoint=idf.Unrolled()).run_iterator(jnp.zeros(3), epochs(4), t)[0]
    h = 1e-5
    expected = (run(T + h) - run(T - h)) / (2 * h)
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(run)(T), expected, rtol=1e-7)


def test_the_steps_are_those_of_optax_and_compile_once():
    compilations = []
    batches = list(epochs(3))
    x, adam = jnp.zeros(3), optax.adam(0.1)
    inner = adam.init(x)
    for batch in batches:
        updates, inner = adam.update(jax.grad(ridge)(x, T, batch), inner)
        x = optax.apply_updates(x, updates)
    for k in range(3):
        fresh = lambda x, t, batch: ridge(x, t, batch)
        run = lambda maxiter, t: solvers.optax_solver(fresh, adam, maxiter=maxiter).run_iterator(
            np.zeros(3), batches, t
        )
        got, state = run(1000, T + k * (k - 2))
        if k == 0:
            jax.monitoring.register_event_duration_secs_listener(
                lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
            )
    jax.monitoring.clear_event_listeners()
    assert not compilations
    np.testing.assert_allclose(got, x, rtol=1e-12)
    assert state.iteration == 9
    supply = iter(batches)
    made = solvers.optax_solver(ridge, adam, maxiter=4)
    assert made.run_iterator(jnp.zeros(3), supply, T)[1].iteration == 4
    assert len(list(supply)) == 5  # none was drawn in vain


def test_progress_and_wrong_use(capfd):
    solver(progress=True, maxiter=6).run_iterator(jnp.zeros(3), epochs(60), T)
    jax.effects_barrier()
    shown = capfd.readouterr().err
    assert "OptaxSolver" in shown
    assert "6/6" in shown
    with pytest.raises(TypeError, match="under jit"):
        jax.jit(lambda t: solver().run_iterator(jnp.zeros(3), epochs(1), t)[0])(T)
    exhausted = epochs(0)
    with pytest.raises(ValueError, match="no batch"):
        solver().run_iterator(jnp.zeros(3), exhausted, T)
    with pytest.raises(ValueError, match="no condition"):
        solver(adjoint=idf.Unrolled()).run_iterator(jnp.zeros(3), epochs(1), T)
