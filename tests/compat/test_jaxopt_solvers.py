"""The solvers under JAXopt's names: minima, conventions, and derivatives against closed forms and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff.compat.jaxopt as jaxopt

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4))
Y = X @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.3 * RNG.standard_normal(40)
DATA = (X, Y)


def ridge(w, lam, data):
    return 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2) + 0.5 * lam * jnp.sum(w**2)


def exact(lam):
    return np.linalg.solve(X.T @ X / 40 + lam * np.eye(4), X.T @ Y / 40)


SMOOTH = ["GradientDescent", "LBFGS", "BFGS", "NonlinearCG"]


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_solvers_at_default_tolerance_have_right_derivatives(name):
    solver = getattr(jaxopt, name)(ridge)
    solution = lambda lam: solver.run(jnp.zeros(4), lam, data=DATA).params
    params, state = solver.run(jnp.zeros(4), 0.1, data=DATA)
    np.testing.assert_allclose(params, exact(0.1), atol=2e-3)
    assert state.converged
    assert state.error <= solver.tol
    assert solver.l2_optimality_error(params, 0.1, DATA) <= 1e-3
    first = (exact(0.1 + 1e-5) - exact(0.1 - 1e-5)) / 2e-5
    second = (exact(0.1 + 1e-3) - 2 * exact(0.1) + exact(0.1 - 1e-3)) / 1e-6
    reverse, forward, hessian = jax.jit(
        lambda lam: (jax.jacrev(solution)(lam), jax.jacfwd(solution)(lam), jax.jacfwd(jax.jacrev(solution))(lam))
    )(0.1)
    np.testing.assert_allclose(reverse, first, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(forward, first, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(hessian, second, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", SMOOTH)
def test_init_state_and_update_iterate_under_jit(name):
    solver = getattr(jaxopt, name)(ridge, tol=1e-4)

    @jax.jit
    def iterate(params):
        step = jaxopt.OptStep(params, solver.init_state(params, 0.1, DATA))
        return jax.lax.fori_loop(0, 30, lambda _, s: solver.update(s.params, s.state, 0.1, data=DATA), step)

    params, state = iterate(jnp.zeros(4))
    np.testing.assert_allclose(params, exact(0.1), atol=1e-4)
    assert state.iter_num == 30


def by_differences(run, theta, h=1e-5):
    moved = lambda s: jax.tree.map(lambda a: a + s, theta)
    return (run(moved(h)) - run(moved(-h))) / (2 * h)


least_squares, projection, prox = jaxopt.objective.least_squares, jaxopt.projection, jaxopt.prox
ENTROPY = jaxopt.MirrorDescent.make_projection_grad(lambda y, s: s * jax.nn.softmax(y), jnp.log)
COMPOSITE = {
    "lasso": (lambda **k: jaxopt.ProximalGradient(least_squares, prox.prox_lasso, **k), 0.2),
    "elastic net": (lambda **k: jaxopt.ProximalGradient(least_squares, prox.prox_elastic_net, **k), (0.2, 0.5)),
    "coordinates": (lambda **k: jaxopt.BlockCoordinateDescent(least_squares, prox.prox_elastic_net, **k), (0.2, 0.5)),
    "ball": (lambda **k: jaxopt.ProjectedGradient(least_squares, projection.projection_l2_ball, **k), 0.8),
    "fixed step": (lambda **k: jaxopt.ProximalGradient(least_squares, prox.prox_lasso, stepsize=0.3, **k), 0.2),
}


@pytest.mark.parametrize("name", COMPOSITE)
def test_composite_solvers_at_default_tolerance(name):
    make, theta = COMPOSITE[name]
    solver, tight = make(), make(tol=1e-12, maxiter=5000)
    start = jnp.ones(4) / 4
    exactly = jax.jit(lambda theta: tight.run(start, theta, data=DATA).params)
    want = by_differences(exactly, theta)
    found = lambda theta: solver.run(start, theta, data=DATA).params
    params, reverse, forward = jax.jit(lambda t: (found(t), jax.jacrev(found)(t), jax.jacfwd(found)(t)))(theta)
    np.testing.assert_allclose(params, exactly(theta), atol=3e-3)
    np.testing.assert_allclose(sum(jax.tree.leaves(reverse)), want, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(sum(jax.tree.leaves(forward)), want, rtol=2e-4, atol=1e-6)


def test_elastic_net_is_that_of_its_conventions():
    lam, gamma = 0.1, 3.0
    solver = jaxopt.ProximalGradient(least_squares, prox.prox_elastic_net, tol=1e-10, maxiter=5000)
    w = solver.run(jnp.zeros(4), (lam, gamma), DATA).params
    gradient = X.T @ (X @ w - Y) / 40 + lam * gamma * w
    assert np.all(np.abs(gradient[w == 0]) <= lam)
    np.testing.assert_allclose(gradient[w != 0], -lam * np.sign(w[w != 0]), atol=1e-8)


def test_mirror_descent_on_the_simplex():
    solver = jaxopt.MirrorDescent(lambda x, y: 0.5 * jnp.sum((x - y) ** 2), ENTROPY, 0.5, tol=1e-9, maxiter=2000)
    y = jnp.array([0.5, 0.3, 0.2])
    run = lambda y: solver.run(jnp.ones(3) / 3, 1.0, y).params
    np.testing.assert_allclose(run(y), y, atol=1e-7)
    np.testing.assert_allclose(jax.jacrev(run)(y), np.eye(3) - 1 / 3, atol=1e-6)


def test_a_box():
    scale = jnp.arange(1.0, 5.0)
    solver = jaxopt.LBFGSB(lambda x, c: jnp.sum(scale * (x - c) ** 2), tol=1e-6)
    run = lambda upper: solver.run(jnp.zeros(4), (0.0, upper), c=jnp.array([-1.0, 0.5, 2.0, 0.2])).params
    np.testing.assert_allclose(run(1.0), [0.0, 0.5, 1.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(run)(1.0), [0.0, 0.0, 1.0, 0.0], atol=1e-12)


def quartic(x, c):
    return jnp.sum((x - c) ** 2 + 0.1 * (x - c) ** 4), {"sum": jnp.sum(x)}


def test_unrolled_iterations_aux_and_value_and_grad():
    c = jnp.array([1.0, -0.5])
    solver = jaxopt.GradientDescent(quartic, has_aux=True, tol=1e-8, maxiter=60, implicit_diff=False)
    state = solver.run(jnp.zeros(2), c).state
    np.testing.assert_allclose(state.aux["sum"], 0.5, atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(lambda c: solver.run(jnp.zeros(2), c).params)(c), np.eye(2), atol=1e-5)
    both = jax.value_and_grad(quartic, has_aux=True)
    for options in (dict(fun=both, value_and_grad=True), dict(fun=quartic, value_and_grad=both)):
        again = jaxopt.LBFGS(**options, has_aux=True, tol=1e-8).run(jnp.zeros(2), c).params
        np.testing.assert_allclose(again, c, atol=1e-6)


@pytest.mark.parametrize("name", ["GradientDescent", "LBFGS"])
def test_without_jit_the_function_may_be_numpy(name):
    seen = []

    def both(x, c):
        seen.append(np.asarray(x))
        return np.sum((seen[-1] - np.asarray(c)) ** 2), 2 * (seen[-1] - np.asarray(c))

    solver = getattr(jaxopt, name)(both, value_and_grad=True, jit=False, tol=1e-6)
    np.testing.assert_allclose(solver.run(jnp.zeros(2), np.array([1.0, 2.0])).params, [1.0, 2.0], atol=1e-6)
    assert len(seen) > 2
    smooth = getattr(jaxopt, name)(lambda x, c: jnp.sum((x - c) ** 2), jit=False, tol=1e-6)
    assert np.allclose(jax.jacrev(lambda c: smooth.run(jnp.zeros(2), c).params)(jnp.ones(2)), np.eye(2))


def test_what_has_no_effect_warns_and_what_does_not_converge_says_so():
    with pytest.warns(UserWarning, match="maxls has no effect"):
        jaxopt.LBFGS(ridge, maxls=3)
    with pytest.warns(UserWarning, match="method has no effect"):
        jaxopt.NonlinearCG(ridge, method="fletcher-reeves")
    with pytest.warns(RuntimeWarning, match="GradientDescent did not converge after 2 iterations"):
        state = jaxopt.GradientDescent(ridge, maxiter=2).run(jnp.zeros(4), 0.1, DATA).state
    with pytest.raises(AttributeError, match="num_fun_eval"):
        _ = state.num_fun_eval


def test_verbose_prints_each_iteration(capfd):
    jaxopt.GradientDescent(ridge, verbose=True).run(jnp.zeros(4), 0.1, DATA)
    jax.effects_barrier()
    assert "GradientDescent: iteration 2, error" in capfd.readouterr().out


def test_a_warm_start_from_a_former_result():
    solver = jaxopt.LBFGS(ridge, tol=1e-6)
    assert solver.run(solver.run(jnp.zeros(4), 0.1, DATA), 0.1, DATA).state.iter_num <= 2
