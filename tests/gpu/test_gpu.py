"""The mechanism, the catalogue and the solvers on a GPU, in float32 and float64, against closed forms on the host.

`make test-gpu` runs them, and IMPLICITDIFF_TEST_PLATFORM=cpu checks the tests themselves without a GPU.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import optimistix as optx
import pytest
import scipy.optimize

import implicitdiff as idf
from implicitdiff import mirror, optimality, prox, solvers

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("projection", "prox")]
from projection_cases import CASES as PROJECTIONS
from prox_cases import CASES as PROXES

pytestmark = pytest.mark.gpu

HOST, DEVICE = jax.devices("cpu")[0], jax.devices()[0]
# The errors allowed, relative to the largest entry: TF32 products alone are wrong by 1e-3.
DTYPES = {"float32": 5e-5, "float64": 1e-10}
RANDOM = np.random.default_rng(0)
N = 24
ROTATION = np.linalg.qr(RANDOM.standard_normal((N, N)))[0]
SYMMETRIC = ROTATION @ np.diag(np.linspace(1, 5, N)) @ ROTATION.T
GENERAL = np.diag(np.linspace(2, 4, N)) + 0.2 * RANDOM.standard_normal((N, N))
X = RANDOM.standard_normal(N)
DATA, TARGET = RANDOM.standard_normal((40, 6)), RANDOM.standard_normal(40)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def close(found, expected, tolerance):
    """Every leaf on the device, of its dtype, and near what is expected."""
    for leaf, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.devices() == {DEVICE}
        scale = max(1.0, np.max(np.abs(reference), initial=0.0))
        np.testing.assert_allclose(leaf, reference, rtol=0, atol=tolerance * scale)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


METHODS = {
    "default": (GENERAL, None),
    "default, positive definite": (SYMMETRIC, None),
    "LU": (GENERAL, lx.LU()),
    "Cholesky": (SYMMETRIC, lx.Cholesky()),
    "CG": (SYMMETRIC, idf.krylov.CG()),
    "MINRES": (SYMMETRIC, idf.MINRES()),
    "GMRES": (GENERAL, idf.krylov.GMRES()),
    "BiCGStab": (GENERAL, idf.krylov.BiCGStab()),
    "lineax CG": (SYMMETRIC, lx.CG(1e-6, 1e-6)),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_linear_solver_in_every_mode(name, dtype):
    """F = A x + x^3 / 10 - theta: the derivative is (A + 3/10 diag(x^2))^-1."""
    A, linear_solver = METHODS[name]
    tolerance = 1e-4 if name == "lineax CG" else DTYPES[dtype]
    adjoint = idf.Implicit(linear_solver=linear_solver, positive_definite=A is SYMMETRIC)
    matrix, x, theta = cast((A, X, A @ X + X**3 / 10), dtype)

    def solution(theta, matrix, x):
        return idf.implicit_root(lambda x, t: matrix @ x + x**3 / 10 - t, x, theta, adjoint=adjoint)

    inverse = np.linalg.inv(A + 0.3 * np.diag(X**2))
    value = jax.jit(solution)(theta, matrix, x)
    assert value.dtype == dtype
    close(value, X, 1e-6)
    for derivative in (jax.jacfwd, jax.jacrev):
        close(jax.jit(derivative(solution))(theta, matrix, x), inverse, tolerance)
    close(jax.jacrev(solution)(theta, matrix, x), inverse, tolerance)
    # The second derivative of the sum of x, from that of F: -0.6 sum_i (A^-T 1)_i x_i dx_i dx_i'.
    hessian = jax.jit(jax.hessian(lambda t, *rest: jnp.sum(solution(t, *rest))))(theta, matrix, x)
    close(hessian, -0.6 * inverse.T @ np.diag(inverse.sum(0) * X) @ inverse, 10 * tolerance)


def test_vmap_over_many_small_problems(dtype):
    a = RANDOM.uniform(1, 3, (1000, 3, 3)) + 5 * np.eye(3)
    x, tolerance = RANDOM.standard_normal((1000, 3)), DTYPES[dtype]
    solve = jax.jit(jax.vmap(jax.jacrev(lambda t, a, x: idf.implicit_root(lambda x, t: a @ x - t, x, t))))
    close(solve(*cast((np.einsum("kij,kj->ki", a, x), a, x), dtype)), np.linalg.inv(a), tolerance)
    close(jax.lax.map(lambda at: solve(*(v[None] for v in at))[0], cast((x, a, x), dtype)), np.linalg.inv(a), tolerance)


@pytest.mark.parametrize("declared", [True, None])
def test_large_and_matrix_free(declared, dtype):
    """Ridge regression with more features than a matrix would have room for; closed form by Woodbury's formula."""
    n, theta = 20_000, 2.0
    data, target = RANDOM.standard_normal((50, n)) / np.sqrt(n), RANDOM.standard_normal(50)
    inverse = lambda v: (v - data.T @ np.linalg.solve(theta * np.eye(50) + data @ data.T, data @ v)) / theta
    x = inverse(data.T @ target)
    rows, y, solution = cast((data, target, x), dtype)

    def energy(x, theta):
        return 0.5 * jnp.sum((rows @ x - y) ** 2) + 0.5 * theta * jnp.sum(x**2)

    F = optimality.stationary(energy, positive_definite=declared)
    got = jax.jit(jax.grad(lambda t: jnp.sum(idf.implicit_root(F, solution, t) ** 2)))(jnp.asarray(theta, dtype))
    close(got, -2 * x @ inverse(x), DTYPES[dtype])


def test_failures_show(dtype):
    zeros = jnp.zeros(3, dtype)
    singular = jax.jacrev(lambda t: idf.implicit_root(lambda x, t: jnp.sum(x) * jnp.ones(3) - t, zeros, t))(zeros)
    assert np.isnan(singular).all()
    early = idf.Implicit(linear_solver=idf.krylov.CG(max_steps=2), positive_definite=True)
    matrix = jnp.asarray(SYMMETRIC, dtype)
    solve = lambda t: idf.implicit_root(lambda x, t: matrix @ x - t, t, t, adjoint=early)
    assert np.isnan(jax.jit(jax.jacfwd(solve))(jnp.ones(N, dtype))).all()


def both(f, dtype, *args):
    """The value and the product with the transposed Jacobian: on the device, and on the host in float64."""

    def value_and_product(v, *args):
        value, pull = jax.vjp(lambda v: f(v, *args), v)
        return value, pull(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))[0]

    compiled = jax.jit(value_and_product)
    with jax.default_device(HOST):
        expected = compiled(*cast(args, "float64"))
    return compiled(*jax.device_put(cast(args, dtype), DEVICE)), expected


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections(name, dtype):
    case = PROJECTIONS[name]
    point = np.random.default_rng(1).standard_normal(case.shape)
    close(*both(case.project, dtype, point, case.theta), {"float32": 2e-4, "float64": 1e-8}[dtype])


@pytest.mark.parametrize("name", PROXES)
def test_proximal_operators(name, dtype):
    case = PROXES[name]
    point = np.random.default_rng(2).standard_normal(case.shape)
    close(*both(lambda v, t: case.prox(v, t, 1.0), dtype, point, case.theta), {"float32": 1e-4, "float64": 1e-8}[dtype])


MIRRORS = {
    "simplex": (lambda y: mirror.simplex(y, 1.5), (5,)),
    "transport": (lambda y: mirror.transport(y, (jnp.full(3, 1 / 3), jnp.full(4, 1 / 4))), (3, 4)),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_mirror_projections(name, dtype):
    project, shape = MIRRORS[name]
    close(*both(project, dtype, RANDOM.standard_normal(shape)), {"float32": 1e-4, "float64": 1e-8}[dtype])


def least_squares(x, y):
    return 0.5 * jnp.sum((jnp.asarray(DATA, x.dtype) @ x - jnp.asarray(TARGET, x.dtype) * y) ** 2)


def ridge(x, theta):
    return least_squares(x, 1.0) + 0.5 * theta * jnp.sum(x**2)


def ridge_solution(theta):
    return np.linalg.solve(DATA.T @ DATA + theta * np.eye(6), DATA.T @ TARGET)


STEP = 1 / (np.linalg.norm(DATA, 2) ** 2 + 3)
COMPOSITE = solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - jnp.asarray(TARGET, u.dtype) * y) ** 2), DATA)
SOLVERS = {
    "gradient descent": lambda **o: (solvers.GradientDescent(ridge, **o), lambda t: (t,)),
    "proximal gradient": lambda **o: (solvers.ProximalGradient(least_squares, prox.ridge, **o), lambda t: (1.0, t)),
    "projected gradient": lambda **o: (solvers.ProjectedGradient(ridge, lambda v, _: v, **o), lambda t: (t, None)),
    "mirror descent": lambda **o: (
        solvers.MirrorDescent(ridge, lambda y, _: y, mirror.identity, STEP, **o),
        lambda t: (t, None),
    ),
    "block coordinate descent": lambda **o: (
        solvers.BlockCoordinateDescent(COMPOSITE, prox.ridge, **o),
        lambda t: (1.0, t),
    ),
    "fixed point": lambda **o: (
        solvers.FixedPointIteration(optimality.gradient_descent(ridge, STEP), **o),
        lambda t: (t,),
    ),
    "Anderson": lambda **o: (
        solvers.AndersonAcceleration(optimality.gradient_descent(ridge, STEP), **o),
        lambda t: (t,),
    ),
    "Newton": lambda **o: (solvers.Newton(jax.grad(ridge), **o), lambda t: (t,)),
    "optax": lambda **o: (solvers.optax_solver(ridge, optax.lbfgs(), **o), lambda t: (t,)),
    "optimistix": lambda **o: (
        solvers.optimistix_solver(ridge, optx.BFGS(rtol=o["tol"], atol=o["tol"]), max_steps=o["maxiter"]),
        lambda t: (t,),
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name, dtype):
    steps = name in ("fixed point", "Anderson", "mirror descent", "block coordinate descent")  # not gradients
    solver, args = SOLVERS[name](tol={"float32": 1e-5 if steps else 1e-4, "float64": 1e-10}[dtype], maxiter=2000)
    run = lambda t: solver.run(jnp.zeros(6, dtype), *args(t))[0]
    theta, h = jnp.asarray(2.0, dtype), 1e-5
    tolerance = {"float32": 1e-3, "float64": 1e-8}[dtype]
    close(jax.jit(run)(theta), ridge_solution(2.0), tolerance)
    slope = (ridge_solution(2 + h) - ridge_solution(2 - h)) / (2 * h)
    for derivative in (jax.jacfwd, jax.jacrev):
        close(jax.jit(derivative(run))(theta), slope, tolerance)


def test_unrolled(dtype):
    run = lambda t: solvers.GradientDescent(ridge, STEP, maxiter=300, adjoint=idf.Unrolled()).run(
        jnp.zeros(6, dtype), t
    )[0]
    h = 1e-5
    slope = (ridge_solution(2 + h) - ridge_solution(2 - h)) / (2 * h)
    close(jax.jit(jax.jacrev(run))(jnp.asarray(2.0, dtype)), slope, 1e-4)


CONDITIONS = {
    "gradient_descent": lambda f: optimality.gradient_descent(f, STEP),
    "proximal_gradient": lambda f: optimality.proximal_gradient(f, prox.none, STEP),
    "projected_gradient": lambda f: optimality.projected_gradient(f, lambda v, _: v, STEP),
    "mirror_descent": lambda f: optimality.mirror_descent(f, lambda y, _: y, mirror.identity, STEP),
    "block_proximal_gradient": lambda f: optimality.block_proximal_gradient(f, prox.none, STEP),
    "newton_minimum": optimality.newton_minimum,
    "stationary": optimality.stationary,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(name, dtype):
    condition = CONDITIONS[name](ridge)
    x, h = cast(ridge_solution(2.0), dtype), 1e-5
    more = () if name in ("gradient_descent", "newton_minimum", "stationary") else (None,)
    attach = idf.implicit_root if name == "stationary" else idf.implicit_fixed_point
    got = jax.jit(jax.jacrev(lambda t: attach(condition, x, t, *more)))(jnp.asarray(2.0, dtype))
    close(got, (ridge_solution(2 + h) - ridge_solution(2 - h)) / (2 * h), DTYPES[dtype] * 10)


@pytest.mark.parametrize("solver", ["jax", "clarabel"])
def test_quadratic_programs(solver, dtype):
    """The projection of -q onto the simplex."""
    q = np.array([0.3, -1.0, 0.2, -0.9])
    one = np.ones((1, 4))
    eye, negative, row, ones, zeros = cast((np.eye(4), -np.eye(4), one, np.ones(1), np.zeros(4)), dtype)
    solve = lambda q: idf.convex.solve_qp(eye, q, row, ones, negative, zeros, solver=solver).x
    x = np.array([0.0, 0.55, 0.0, 0.45])
    support = np.array([0.0, 1.0, 0.0, 1.0])
    close(jax.jit(solve)(jnp.asarray(q, dtype)), x, 1e-5)
    jacobian = np.outer(support, support) / 2 - np.diag(support)
    close(jax.jit(jax.jacrev(solve))(jnp.asarray(q, dtype)), jacobian, 1e-4)


def test_a_solver_on_the_host(dtype):
    def on_host(theta):
        found = scipy.optimize.minimize(
            lambda x: float(np.sum((x**2 - theta) ** 2)), np.ones(3), method="BFGS", tol=1e-12
        )
        return found.x.astype(dtype)

    call = idf.host_solver(on_host, jax.ShapeDtypeStruct((3,), dtype))
    solve = idf.custom_root(lambda x, t: x**2 - t, has_init=False)(call)
    theta = jnp.asarray([1.0, 2.0, 3.0], dtype)
    close(jax.jit(jax.jacrev(solve))(theta), np.diag(0.5 / np.sqrt([1.0, 2.0, 3.0])), 1e-4)


def test_a_bilevel_problem(dtype):
    """The mean of a scaled squared distance to y is theta y / (1 + theta): it is z / 2 at theta = 1 for y = z."""
    z = jnp.arange(1.0, 4.0, dtype=dtype)
    inner = solvers.GradientDescent(lambda x, t: jnp.sum(t * (x - z) ** 2 + x**2), tol=1e-5)
    result = idf.bilevel.minimize(
        lambda x, t: jnp.sum((x - z / 2) ** 2), inner, jnp.asarray(0.5, dtype), x0=jnp.zeros(3, dtype), tol=1e-4
    )
    assert result.theta.dtype == dtype
    np.testing.assert_allclose(result.theta, 1.0, atol=1e-3)


def test_error_estimates(dtype):
    F = optimality.stationary(ridge)
    x = cast(ridge_solution(2.0) + 1e-3, dtype)
    estimate = idf.certify.error_estimate(F, x, jnp.asarray(2.0, dtype))
    np.testing.assert_allclose(estimate.distance, 1e-3 * 6**0.5, rtol=1e-2)
