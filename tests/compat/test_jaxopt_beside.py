"""Class by class, the same calls as JAXopt's own: parameters, iterations, states, Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from beside import original

import implicitdiff.compat.jaxopt as ours

theirs = original()
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4))
DATA = (X, X @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.3 * RNG.standard_normal(40))
t = np.linspace(0.0, 2.0, 15)
DECAY = 1.3 * np.exp(-0.7 * t) + 0.02 * RNG.standard_normal(15)
A3 = jnp.array([0.1, 0.2, 0.3])


def smooth(x, a):
    return jnp.sum(jnp.cosh(x) - a * x) + jnp.sum(x) ** 2 / 5


def decay(x, y):
    return x[0] * jnp.exp(-x[1] * t) - y


def image(x, a):
    return 0.5 * jnp.tanh(x[::-1]) + a


def equations(x, a):
    return x + 0.1 * jnp.sin(x[::-1]) - a


def quadratic(x, a):
    return jnp.sum((x - a) ** 2 * jnp.array([1.0, 2.0, 3.0]))


def entropy(jaxopt):
    projection_grad = jaxopt.MirrorDescent.make_projection_grad(lambda y, s: s * jax.nn.softmax(y), jnp.log)
    return jaxopt.MirrorDescent(lambda x, y: jnp.sum((x - y) ** 2), projection_grad, 0.5, tol=1e-6)


ZERO, CLOSE, PAIR = jnp.zeros(3), dict(tol=1e-7, maxiter=5000), jnp.ones(2)
# Each: the solver from either package, the start, the parameter that is differentiated, further arguments.
CASES = {
    "GradientDescent": (lambda j: j.GradientDescent(smooth, **CLOSE), ZERO, A3, {}),
    "GradientDescent, step": (lambda j: j.GradientDescent(smooth, stepsize=0.3, **CLOSE), ZERO, A3, {}),
    "LBFGS": (lambda j: j.LBFGS(smooth, **CLOSE), ZERO, A3, {}),
    "BFGS": (lambda j: j.BFGS(smooth, **CLOSE), ZERO, A3, {}),
    "NonlinearCG": (lambda j: j.NonlinearCG(smooth, **CLOSE), ZERO, A3, {}),
    "LBFGSB": (
        lambda j: j.LBFGSB(smooth, **CLOSE), ZERO, A3, {"bounds": (jnp.full(3, -0.005), jnp.full(3, 0.15))}
    ),
    "GaussNewton": (lambda j: j.GaussNewton(decay), PAIR, DECAY, {}),
    "LevenbergMarquardt": (lambda j: j.LevenbergMarquardt(decay, tol=1e-7), PAIR, DECAY, {}),
    "FixedPointIteration": (lambda j: j.FixedPointIteration(image, **CLOSE), ZERO, A3, {}),
    "AndersonAcceleration": (lambda j: j.AndersonAcceleration(image, **CLOSE), ZERO, A3, {}),
    "AndersonWrapper": (
        lambda j: j.AndersonWrapper(j.GradientDescent(smooth, stepsize=0.3, acceleration=False, **CLOSE)), ZERO, A3, {}
    ),
    "Bisection": (lambda j: j.Bisection(lambda x, a: x**3 - a, 0.0, 3.0), None, 2.0, {}),
    "Broyden": (lambda j: j.Broyden(equations, tol=1e-7), ZERO, A3, {}),
    "OptaxSolver": (lambda j: j.OptaxSolver(smooth, optax.sgd(0.3), implicit_diff=True, **CLOSE), ZERO, A3, {}),
    "PolyakSGD": (lambda j: j.PolyakSGD(quadratic, implicit_diff=True, **CLOSE), ZERO, A3, {}),
    "ArmijoSGD": (lambda j: j.ArmijoSGD(quadratic, implicit_diff=True, **CLOSE), ZERO, A3, {}),
    "ArmijoSGD, goldstein": (
        lambda j: j.ArmijoSGD(quadratic, reset_option="goldstein", momentum=0.2, implicit_diff=True, **CLOSE),
        ZERO, A3, {},
    ),
    "ProximalGradient": (
        lambda j: j.ProximalGradient(j.objective.least_squares, j.prox.prox_lasso, **CLOSE),
        jnp.zeros(4), 0.2, {"data": DATA},
    ),
    "ProximalGradient, elastic net": (
        lambda j: j.ProximalGradient(j.objective.least_squares, lambda x, p, s=1.0: j.prox.prox_elastic_net(
            x, (0.2, p), s), **CLOSE), jnp.zeros(4), 0.5, {"data": DATA},
    ),
    "ProjectedGradient": (
        lambda j: j.ProjectedGradient(j.objective.least_squares, j.projection.projection_l1_ball, **CLOSE),
        jnp.zeros(4), 1.5, {"data": DATA},
    ),
    "MirrorDescent": (entropy, jnp.ones(3) / 3, 1.0, {"y": jnp.array([0.5, 0.3, 0.1])}),
    "BlockCoordinateDescent": (
        lambda j: j.BlockCoordinateDescent(j.objective.least_squares, j.prox.prox_lasso, tol=1e-9, maxiter=5000),
        jnp.zeros(4), 0.2, {"data": DATA},
    ),
    "ScipyMinimize": (lambda j: j.ScipyMinimize(fun=smooth, method="BFGS", tol=1e-9), ZERO, A3, {}),
    "ScipyRootFinding": (lambda j: j.ScipyRootFinding(optimality_fun=equations, method="hybr"), ZERO, A3, {}),
    "ScipyLeastSquares": (lambda j: j.ScipyLeastSquares(fun=decay, method="trf"), PAIR, DECAY, {}),
}  # fmt: skip


@pytest.mark.slow  # most of the time is JAXopt's compilation
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*callback.*")
def test_the_same_call(name):
    make, start, theta, kwargs = CASES[name]

    def of(jaxopt):
        solver = make(jaxopt)
        run = lambda theta: solver.run(
            start,
            *([kwargs["bounds"]] if "bounds" in kwargs else []),
            theta,
            **{k: v for k, v in kwargs.items() if k != "bounds"},
        )
        params, state = run(theta)
        return params, state, jax.jacrev(lambda theta: run(theta).params)(theta), solver, run

    params, state, jacobian, *_ = of(theirs)
    own, own_state, own_jacobian, solver, run = of(ours)
    np.testing.assert_allclose(own, params, atol=2e-5)
    np.testing.assert_allclose(own_jacobian, jacobian, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(jax.jacfwd(lambda theta: run(theta).params)(theta), own_jacobian, atol=1e-10)
    if name.startswith("Scipy"):
        assert own_state.success
        assert own_state.success == state.success
    else:
        assert own_state.error <= solver.tol
        assert 0 < own_state.iter_num <= 2 * state.iter_num + 5
