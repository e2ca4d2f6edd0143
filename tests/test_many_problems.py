"""Ten thousand small problems at once, under vmap and lax.map: against closed forms, and a bad one harms no other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import implicitdiff as idf

COUNT, N = 10_000, 5
RANDOM = np.random.default_rng(0)


def well_conditioned(*shape):
    return RANDOM.uniform(-1, 1, (*shape, N, N)) / 2 + 2 * np.eye(N)


def batched_solve(matrices, vectors):
    return np.linalg.solve(matrices, vectors[..., None])[..., 0]


def transposed(matrices):
    return np.swapaxes(matrices, -1, -2)


X, V = RANDOM.standard_normal((2, COUNT, N))
A = well_conditioned(COUNT)
P = (A + transposed(A)) / 2  # eigenvalues from about 1 to 4


def cubic(x, A, b):
    return A @ x + x**3 - b


def of_root(A, b, x, v):
    return v @ idf.implicit_root(cubic, x, A, b)


def roots(A, x, v):
    """Arguments of `of_root`, the Jacobian of `cubic`, and the gradients in A and b."""
    b = (A @ x[..., None])[..., 0] + x**3
    jacobian = A + 3 * x[..., None] ** 2 * np.eye(N, dtype=A.dtype)
    return (A, b, x, v), jacobian


def gradients_of_root(jacobian, x, v):
    u = batched_solve(transposed(jacobian), v)
    return -u[:, :, None] * x[:, None, :], u


def test_roots():
    arguments, jacobian = roots(A, X, V)
    value, found = jax.jit(jax.vmap(jax.value_and_grad(of_root, argnums=(0, 1))))(*arguments)
    np.testing.assert_allclose(value, np.sum(X * V, 1), rtol=1e-12, atol=1e-12)
    for got, want in zip(found, gradients_of_root(jacobian, X, V), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_roots_in_float32():
    single = [np.asarray(part, np.float32) for part in (A, X, V)]
    arguments, jacobian = roots(*single)
    found = jax.jit(jax.vmap(jax.grad(of_root, argnums=(0, 1))))(*arguments)
    for got, want in zip(found, gradients_of_root(jacobian.astype(float), X, V), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_singular_problem_is_nan_alone():
    bad, matrices, x = 17, A.copy(), X.copy()
    matrices[bad], x[bad] = 1.0, 0.0  # a Jacobian of rank one
    arguments, jacobian = roots(matrices, x, V)
    found = np.asarray(jax.jit(jax.vmap(jax.grad(of_root, argnums=1)))(*arguments))
    assert np.isnan(found[bad]).all()
    rest = np.arange(COUNT) != bad
    expected = batched_solve(transposed(jacobian[rest]), V[rest])
    np.testing.assert_allclose(found[rest], expected, rtol=1e-10, atol=1e-12)


def quadratic(x, P, q):
    return 0.5 * x @ P @ x - q @ x


def test_lasso():
    """On the support it is a linear system; off it, the gradient of the smooth part is at most the weight."""
    solver = idf.solvers.ProximalGradient(lambda x, data: quadratic(x, *data), idf.prox.lasso, tol=1e-11)

    def of_lasso(q, weight, P, v):
        x, state = solver.run(jnp.zeros(N), (P, q), weight)
        return v @ x, (x, state.converged)

    weight = np.full(COUNT, 0.8)
    program = jax.jit(jax.vmap(jax.value_and_grad(of_lasso, argnums=(0, 1), has_aux=True)))
    (_, (x, converged)), (slope_q, slope_weight) = program(2 * X, weight, P, V)
    assert converged.all()
    support, sign = np.asarray(x) != 0, np.sign(x)
    assert 0.3 < support.mean() < 0.9
    on = support[:, :, None] * support[:, None, :] * P + ~support[:, :, None] * np.eye(N)
    np.testing.assert_allclose(x, batched_solve(on, support * (2 * X - 0.8 * sign)), atol=1e-9)
    assert np.all(np.abs((P @ np.asarray(x)[..., None])[..., 0] - 2 * X) <= 0.8 + 1e-9)
    u = batched_solve(on, support * V)
    np.testing.assert_allclose(slope_q, u, atol=1e-9)
    np.testing.assert_allclose(slope_weight, -np.sum(u * sign, 1), atol=1e-9)


def descent(q, P, v):
    solver = idf.solvers.GradientDescent(quadratic, stepsize=0.2, tol=1e-11, maxiter=300)
    x, state = solver.run(jnp.zeros(N), P, q)
    return v @ x, (x, state.converged)


def test_problems_that_do_not_converge():
    """One too flat for the iterations allowed, one unbounded, one that is NaN from the start."""
    matrices, q = P.copy(), X.copy()
    slow, unbounded, invalid = 3, 5_000, 9_999
    matrices[slow] = np.diag(np.logspace(-9, 0, N))
    matrices[unbounded] = -np.eye(N)
    q[invalid] = np.nan
    program = jax.jit(jax.vmap(jax.value_and_grad(descent, has_aux=True)))
    (_, (x, converged)), slope = program(q, matrices, V)
    rest = np.ones(COUNT, bool)
    rest[[slow, unbounded, invalid]] = False
    np.testing.assert_array_equal(converged, rest)
    np.testing.assert_allclose(np.asarray(x)[rest], batched_solve(P[rest], X[rest]), atol=1e-10)
    np.testing.assert_allclose(np.asarray(slope)[rest], batched_solve(P[rest], V[rest]), rtol=1e-9, atol=1e-12)
    assert np.isnan(slope[invalid]).all()


def whole_space(v, *_):
    return v


UNBOUNDED = {
    "line search": lambda f: idf.solvers.GradientDescent(f),
    "fixed step": lambda f: idf.solvers.GradientDescent(f, 0.5),
    "proximal": lambda f: idf.solvers.ProximalGradient(lambda x, _: f(x), whole_space),
    "projected": lambda f: idf.solvers.ProjectedGradient(lambda x, _: f(x), whole_space),
    "mirror": lambda f: idf.solvers.MirrorDescent(lambda x, _: f(x), whole_space, whole_space, 0.5),
    "blocks": lambda f: idf.solvers.BlockCoordinateDescent(lambda x, _: f(x), whole_space, 0.5),
    "LBFGS": lambda f: idf.solvers.LBFGS(f),
    "NonlinearCG": lambda f: idf.solvers.NonlinearCG(f),
    "optax": lambda f: idf.solvers.optax_solver(f, optax.sgd(0.5)),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_an_unbounded_problem_does_not_converge(name):
    """Where f overflows and its gradient does not, a gradient relative to f would be 0: solved, it seems."""
    solver = UNBOUNDED[name](lambda x: -0.5 * x @ x - jnp.sum(x))
    judges_by_value = name not in ("mirror", "blocks")
    with pytest.warns(RuntimeWarning, match="unbounded below" if judges_by_value else "did not converge"):
        _, state = solver.run(jnp.zeros(2))
    assert not state.converged
    assert np.isnan(state.error) == judges_by_value


def test_quadratic_programs():
    """The linear system of the active constraints, which the multipliers name, for solution and gradient."""
    G, h = RANDOM.standard_normal((COUNT, 4, N)), RANDOM.uniform(0.1, 0.5, (COUNT, 4))

    def of_qp(q, h, P, G, v):
        found = idf.convex.solve_qp(P, -q, G=G, h=h, solver="jax", raise_on_failure=False)
        return v @ found.x, found

    program = jax.jit(jax.vmap(jax.value_and_grad(of_qp, argnums=(0, 1), has_aux=True)))
    (_, found), (slope_q, slope_h) = program(3 * X, h, P, G, V)
    assert np.all(found.status == 0)
    multipliers, slack = np.asarray(found.ineq_dual), np.asarray(found.slack)
    active = multipliers > slack
    assert np.all(multipliers >= 0)
    assert np.all(slack >= 0)
    assert 0.1 < active.mean() < 0.6
    chosen = active[:, :, None] * G
    system = np.block([[P, transposed(chosen)], [chosen, ~active[:, :, None] * np.eye(4)]])
    expected = batched_solve(system, np.concatenate([3 * X, active * h], 1))
    np.testing.assert_allclose(np.concatenate([found.x, multipliers], 1), expected, atol=1e-8)
    sure = np.min(np.maximum(multipliers, slack), 1) > 1e-4  # elsewhere next to a kink
    assert sure.mean() > 0.99
    slopes = batched_solve(system, np.concatenate([V, np.zeros((COUNT, 4))], 1))
    np.testing.assert_allclose(np.asarray(slope_q)[sure], slopes[sure, :N], atol=1e-7)
    np.testing.assert_allclose(np.asarray(slope_h)[sure], (active * slopes[:, N:])[sure], atol=1e-7)


@pytest.mark.parametrize("problem", ["root", "descent"])
def test_lax_map_in_batches(problem):
    """The same values and gradients as vmap, in a fraction of the memory; the gradient of a sum over it as well."""
    if problem == "root":
        function, arguments = lambda b, A, x, v: of_root(A, b, x, v), (roots(A, X, V)[0][1], A, X, V)
    else:
        function, arguments = lambda *args: descent(*args)[0], (X, P, V)
    each = jax.value_and_grad(function)

    def mapped(*arguments):
        return lax.map(lambda a: each(*a), arguments, batch_size=1_000)

    def of_sum(b, *others):
        return jnp.sum(lax.map(lambda a: function(*a), (b, *others), batch_size=1_000))

    programs = [jax.jit(f).lower(*arguments).compile() for f in (jax.vmap(each), mapped, jax.grad(of_sum))]
    expected, found, through = (program(*arguments) for program in programs)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(through, expected[1], rtol=1e-12, atol=1e-14)
    at_once, in_batches, of_all = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert in_batches < 0.2 * at_once
    assert of_all < at_once
