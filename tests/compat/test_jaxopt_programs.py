"""Quadratic programs, batches and SciPy under JAXopt's names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicitdiff.compat.jaxopt as jaxopt

RNG = np.random.default_rng(0)
L = RNG.standard_normal((4, 4))
Q, c = L @ L.T + np.eye(4), RNG.standard_normal(4)
A, b = RNG.standard_normal((1, 4)), np.array([0.3])
G = RNG.standard_normal((3, 4))


def unconstrained():
    return -np.linalg.solve(Q, c)


h = G @ unconstrained() + np.array([-0.2, 1.0, 2.0])  # the first is violated there, the others are not


def kkt(Q, c, A, b, G, h):
    """The solution with the first inequality active, by one linear system."""
    rows, sides = jnp.concatenate([A, G[:1]]), jnp.concatenate([b, h[:1]])
    whole = jnp.block([[Q, rows.T], [rows, jnp.zeros((2, 2))]])
    x = jnp.linalg.solve(whole, jnp.concatenate([-c, sides]))
    return x[:4], x[4:5], x[5:]


def forms():
    """The solver and its parameters as functions of (c, h)."""
    dense = lambda c, h: dict(params_obj=(Q, c), params_eq=(A, b), params_ineq=(G, h))
    products = jaxopt.OSQP(matvec_Q=lambda s, x: s * (Q @ x), matvec_A=lambda _, x: A @ x, matvec_G=lambda M, x: M @ x)
    fun = jaxopt.OSQP(fun=lambda x, c: 0.5 * x @ Q @ x + c @ x + 3.0)
    return {
        "OSQP": (jaxopt.OSQP(), dense),
        "CvxpyQP": (jaxopt.CvxpyQP(), lambda c, h: dict(init_params=None, **dense(c, h))),
        "products": (products, lambda c, h: dict(params_obj=(1.0, c), params_eq=(None, b), params_ineq=(G, h))),
        "fun": (fun, lambda c, h: dict(dense(c, h), params_obj=c, init_params=jaxopt.base.KKTSolution(jnp.zeros(4)))),
    }


@pytest.mark.parametrize("name", ["OSQP", "CvxpyQP", "products", "fun"])
def test_programs_in_every_form(name):
    solver, parameters = forms()[name]
    run = lambda c, h: solver.run(**parameters(c, h)).params
    found = run(c, h)
    primal, nu, lam = kkt(Q, c, A, b, G, h)
    assert lam[0] > 0.01
    np.testing.assert_allclose(found.primal, primal, atol=1e-9)
    np.testing.assert_allclose(found.dual_eq, nu, atol=1e-9)
    np.testing.assert_allclose(found.dual_ineq, [lam[0], 0.0, 0.0], atol=1e-9)
    want = jax.jacobian(lambda c, h: kkt(Q, c, A, b, G, h)[0], argnums=(0, 1))(c, h)
    for jacobian in (jax.jacrev, jax.jacfwd):
        got = jacobian(lambda c, h: run(c, h).primal, argnums=(0, 1))(c, h)
        np.testing.assert_allclose(got[0], want[0], atol=1e-8)
        np.testing.assert_allclose(got[1], want[1], atol=1e-8)
    call = parameters(c, h)
    call.pop("init_params", None)
    assert solver.l2_optimality_error(found, **call) < 1e-8


def test_a_box_with_an_equation_and_infinite_sides():
    rows = jnp.asarray(np.concatenate([A, G]))
    lower = lambda s: jnp.array([0.3 + s, -jnp.inf, -jnp.inf, -jnp.inf])
    upper = lambda s: jnp.array([0.3 + s, *h])
    run = lambda s: jaxopt.BoxOSQP().run(params_obj=(Q, c), params_eq=rows, params_ineq=(lower(s), upper(s)))
    params, state = run(0.0)
    primal, nu, lam = kkt(Q, c, A, b, G, h)
    np.testing.assert_allclose(params.primal[0], primal, atol=1e-9)
    np.testing.assert_allclose(params.primal[1], rows @ primal, atol=1e-9)
    np.testing.assert_allclose(params.dual_eq, [nu[0], lam[0], 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(params.dual_ineq[0] - params.dual_ineq[1], params.dual_eq)
    assert state.status == jaxopt.BoxOSQP.SOLVED
    assert state.error < 1e-8
    want = jax.jacobian(lambda s: kkt(Q, c, A, b + s, G, h)[0])(0.0)
    np.testing.assert_allclose(jax.jit(jax.jacrev(lambda s: run(s).params.primal[0]))(0.0), want, atol=1e-8)


def test_infeasible_programs_have_a_status_or_raise():
    never = dict(params_obj=(Q, c), params_ineq=(jnp.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]), jnp.array([-1.0, -1.0])))
    params, state = jaxopt.OSQP().run(**never)
    assert state.status == jaxopt.BoxOSQP.PRIMAL_INFEASIBLE
    assert np.isnan(params.primal).all()
    for solver in (jaxopt.OSQP(jit=False), jaxopt.CvxpyQP()):
        with pytest.raises(ValueError, match="infeasible"):
            solver.run(None, **never)


def test_equations_alone_with_pytrees_and_dependent_rows():
    rows = np.concatenate([A, 2 * A])  # dependent
    solver = jaxopt.EqualityConstrainedQP(
        matvec_Q=lambda _, x: {"a": 2 * x["a"], "b": 4 * x["b"]},
        matvec_A=lambda M, x: M @ jnp.concatenate([x["a"], x["b"]]),
    )
    D = np.diag([2.0, 2.0, 4.0, 4.0])

    def run(c):
        return solver.run(params_obj=(None, {"a": c[:2], "b": c[2:]}), params_eq=(rows, np.array([0.3, 0.6]))).params

    def exact(c):
        whole = jnp.block([[D, A.T], [A, jnp.zeros((1, 1))]])
        return jnp.linalg.solve(whole, jnp.concatenate([-c, b]))[:4]

    flat = lambda c: jnp.concatenate([run(c).primal["a"], run(c).primal["b"]])
    np.testing.assert_allclose(flat(c), exact(c), atol=1e-10)
    np.testing.assert_allclose(jax.jacrev(flat)(c), jax.jacrev(exact)(c), atol=1e-9)
    np.testing.assert_allclose(A.T @ (run(c).dual_eq @ np.array([1.0, 2.0]))[None] + D @ flat(c) + c, 0.0, atol=1e-9)


def test_options_of_admm_warn_and_unrolled_programs_are_refused():
    with pytest.warns(UserWarning, match="rho_start has no effect"):
        jaxopt.OSQP(rho_start=1.0)
    with pytest.raises(NotImplementedError, match="leave implicit_diff=True"):
        jaxopt.BoxOSQP(implicit_diff=False)


def batches():
    rng = np.random.default_rng(1)
    while True:
        X = rng.standard_normal((20, 3))
        yield X, X @ np.array([1.0, -1.0, 2.0])


def loss(w, data):
    return jnp.mean((data[0] @ w - data[1]) ** 2), jnp.sum(w)


@pytest.mark.parametrize("name", ["OptaxSolver", "PolyakSGD", "ArmijoSGD"])
def test_steps_on_batches(name):
    args = (optax.adam(0.05),) if name == "OptaxSolver" else ()
    seen = []

    def pre_update(params, state, data):
        seen.append(len(data))
        return params, state

    solver = getattr(jaxopt, name)(loss, *args, has_aux=True, maxiter=300, pre_update=pre_update)
    params, state = solver.run_iterator(jnp.zeros(3), batches())
    np.testing.assert_allclose(params, [1.0, -1.0, 2.0], atol=0.02)
    assert state.iter_num == 300
    assert seen
    np.testing.assert_allclose(state.aux, 2.0, atol=0.05)


def test_unrolled_steps_have_the_derivative_of_the_steps():
    steps = jaxopt.OptaxSolver(lambda x, a: 0.5 * (x - a) ** 2, optax.sgd(0.5), maxiter=3, tol=0.0)
    slope = 1 - 0.5**3
    np.testing.assert_allclose(jax.grad(lambda a: steps.run(0.0, a).params)(1.0), slope)
    np.testing.assert_allclose(jax.jacfwd(lambda a: steps.run(0.0, a).params)(1.0), slope)


def test_scipy_with_boxes_keywords_and_a_callback():
    seen = []
    f = lambda x, *, center: (jnp.sum((x - center) ** 2 + 0.1 * (x - center) ** 4), None)
    solver = jaxopt.ScipyMinimize(fun=f, method="BFGS", has_aux=True, callback=lambda x: seen.append(np.asarray(x)))
    center = jnp.array([3.0, -1.0])
    np.testing.assert_allclose(solver.run(jnp.ones(2), center=center).params, center, atol=1e-6)
    np.testing.assert_allclose(seen[-1], center, atol=1e-3)
    boxed = jaxopt.ScipyBoundedMinimize(fun=f, method="l-bfgs-b", has_aux=True)
    box = (jnp.zeros(2), jnp.full(2, 2.0))
    run = lambda center: boxed.run(jnp.ones(2), box, center=center).params
    np.testing.assert_allclose(run(center), [2.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(run)(jnp.array([1.0, 5.0])), np.diag([1.0, 0.0]), atol=1e-8)
    assert boxed.l2_optimality_error(run(center), box, center=center) < 1e-6
    fit = jaxopt.ScipyBoundedLeastSquares(fun=lambda x, a: x - a, loss="huber")
    assert fit.l2_optimality_error(fit.run(jnp.ones(2), box, center).params, box, center) < 1e-6
