"""CVXPY problems as layers: the examples people know, against CVXPY's own solutions and finite differences."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicitdiff.convex import CvxpyLayer


def least_squares(random):
    x, A, b = cp.Variable(3), cp.Parameter((5, 3)), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + 0.1 * cp.sum_squares(x)))
    return problem, [A, b], [x], [random.standard_normal((5, 3)), random.standard_normal(5)]


def logistic_regression(random):
    X, y = random.standard_normal((12, 2)), np.sign(random.standard_normal(12))
    w, weight = cp.Variable(2), cp.Parameter(nonneg=True)
    loss = cp.sum(cp.logistic(cp.multiply(-y, X @ w)))
    return cp.Problem(cp.Minimize(loss + weight * cp.sum_squares(w))), [weight], [w], [0.5]


def entropy_maximisation(random):
    x, A, b = cp.Variable(5), cp.Parameter((2, 5)), cp.Parameter(2)
    value = random.standard_normal((2, 5))
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x))), [A @ x == b, cp.sum(x) == 1])
    return problem, [A, b], [x], [value, value @ np.full(5, 0.2) + 0.05]


def lml_projection(random):
    """Limited multi-label projection: k of n."""
    x, c = cp.Variable(4), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(-c @ x - cp.sum(cp.entr(x)) - cp.sum(cp.entr(1 - x))), [cp.sum(x) == 2])
    return problem, [c], [x], [random.standard_normal(4)]


def semidefinite_program(random):
    X, C, b = cp.Variable((3, 3), symmetric=False), cp.Parameter((3, 3)), cp.Parameter(2)
    B = [np.eye(3), np.diag([1.0, 0, 0])]
    constraints = [X >> 0, X == X.T] + [cp.trace(M @ X) == b[i] for i, M in enumerate(B)]
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X) + 0.1 * cp.sum_squares(X)), constraints)
    S = random.standard_normal((3, 3))
    return problem, [C, b], [X], [S + S.T, np.array([1.0, 0.3])]


def lqr(_):
    """A few steps of linear control with a bound on the input."""
    A, B = np.array([[1.0, 0.2], [0.0, 1.0]]), np.array([[0.0], [0.2]])
    x, u = cp.Variable((2, 5)), cp.Variable((1, 4))
    start, root = cp.Parameter(2), cp.Parameter((2, 2))
    constraints = [x[:, 0] == start, x[:, 1:] == A @ x[:, :4] + B @ u, cp.abs(u) <= 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(root @ x) + 0.5 * cp.sum_squares(u)), constraints)
    return problem, [start, root], [u], [np.array([1.0, 0.5]), np.array([[1.0, 0.1], [0.0, 0.7]])]


def optimal_transport(random):
    P, C, a = cp.Variable((3, 4)), cp.Parameter((3, 4)), cp.Parameter(3)
    regularised = cp.sum(cp.multiply(C, P)) - 0.3 * cp.sum(cp.entr(P))
    problem = cp.Problem(cp.Minimize(regularised), [cp.sum(P, 1) == a, cp.sum(P, 0) == np.full(4, 0.25)])
    return problem, [C, a], [P], [random.random((3, 4)), np.array([0.2, 0.3, 0.5])]


def signal_denoising(random):
    x, y, weight = cp.Variable(8), cp.Parameter(8), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y) + weight * cp.tv(x)))
    return problem, [y, weight], [x], [np.repeat([0.0, 1.0], 4) + 0.1 * random.standard_normal(8), 0.2]


EXAMPLES = [
    least_squares,
    logistic_regression,
    entropy_maximisation,
    lml_projection,
    semidefinite_program,
    lqr,
    optimal_transport,
    signal_denoising,
]


@pytest.mark.parametrize("make", [EXAMPLES[0], *(pytest.param(make, marks=pytest.mark.slow) for make in EXAMPLES[1:])])
def test_examples(make):
    random = np.random.default_rng(0)
    problem, parameters, variables, values = make(random)
    layer = CvxpyLayer(problem, parameters, variables)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    problem.solve("CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    solved = jax.jit(lambda *values: layer(*values)[0])
    np.testing.assert_allclose(solved(*values), variables[0].value, atol=2e-6)

    d = [random.standard_normal(np.shape(value)) for value in values]
    if make is semidefinite_program:
        d[0] = d[0] + d[0].T
    if make is optimal_transport:
        d[1] = d[1] - d[1].mean()
    h = 5e-3  # Clarabel is precise to 1e-7 on curved cones
    moved = lambda s: solved(*(value + s * t for value, t in zip(values, d, strict=True)))
    expected = (moved(-2 * h) - 8 * moved(-h) + 8 * moved(h) - moved(2 * h)) / (12 * h)
    primals, tangents = tuple(map(jnp.asarray, values)), tuple(map(jnp.asarray, d))
    got = jax.jit(lambda *ends: jax.jvp(solved, *ends)[1])(primals, tangents)
    scale = np.max(np.abs(expected))
    assert scale > 1e-3
    np.testing.assert_allclose(got, expected, atol=5e-4 * scale)
    pulled = jax.jit(jax.grad(lambda *values: jnp.sum(layer(*values)[0] ** 2), argnums=tuple(range(len(values)))))(
        *primals
    )
    dotted = sum(np.sum(g * t) for g, t in zip(pulled, d, strict=True))
    np.testing.assert_allclose(dotted, np.sum(2 * solved(*values) * expected), rtol=2e-3, atol=5e-4 * scale)


def flat_constraints(random):
    """Equations and inequalities in both directions, a scalar, vectors and a matrix; to be maximised."""
    x, Z, p, U = cp.Variable(3), cp.Variable((2, 3)), cp.Parameter(3), cp.Parameter((2, 3))
    constraints = [2 * x[0] + x[1] == 4, x >= p, Z <= U, Z.T >= U.T - 1, x[2] <= Z[0, 0], cp.sum(Z, 1) == 3]
    goal = cp.sum_squares(x - [5, -1, 4]) + cp.sum_squares(Z - np.array([[2, 1, -5], [-5, 3, 1]]))
    return cp.Problem(cp.Maximize(-goal), constraints), [p, U], [random.random(3), 1 + random.random((2, 3))]


def quadratic_cones(random):
    """Norms, second-order cones one by one and in columns; symmetric variables and parameters, matrix inequalities."""
    t, x, S = cp.Variable(), cp.Variable(3), cp.Parameter((3, 3), symmetric=True)
    X, Y, c = cp.Variable((3, 3), PSD=True), cp.Variable((2, 2), symmetric=True), cp.Parameter(3)
    constraints = [
        cp.norm(x) <= 1,
        cp.SOC(t, x[:2] - 2),
        cp.SOC(c, X),
        X << 0.45 * np.eye(3),
        Y >> S[:2, :2],
        cp.PSD(Y - np.eye(2)),
    ]
    goal = cp.sum_squares(x - c) + t**2 + 2 * t + cp.sum_squares(X - S) + cp.sum_squares(Y)
    S_value = random.standard_normal((3, 3))
    return (
        cp.Problem(cp.Minimize(goal), constraints),
        [S, c],
        [S_value + S_value.T + np.eye(3), 0.3 + 0.2 * random.random(3)],
    )


def curved_cones(random):
    """Exponential cones and what is built on them, and a power cone."""
    x, y, p = cp.Variable((2, 2)), cp.Variable(3), cp.Parameter((2, 2), pos=True)
    constraints = [cp.ExpCone(x, 1 + 0 * x, p), cp.log(y[0]) >= p[0, 0], cp.PowCone3D(y[1], y[2], 3 * p[1, 1], 0.3)]
    goal = cp.sum_squares(x - 2) + cp.sum_squares(y)
    return cp.Problem(cp.Minimize(goal), constraints), [p], [1 + random.random((2, 2))]


@pytest.mark.parametrize(
    "make", [flat_constraints, pytest.param(quadratic_cones, marks=pytest.mark.slow), curved_cones]
)
def test_dual_values(make):
    random = np.random.default_rng(2)
    problem, parameters, values = make(random)
    outputs = [*problem.variables(), *problem.constraints]
    layer = CvxpyLayer(problem, parameters=parameters, variables=outputs)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    problem.solve("CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    solved = jax.jit(layer)
    found = solved(*values)
    for got, output in zip(found, outputs, strict=True):
        expected = output.value if isinstance(output, cp.Variable) else output.dual_value
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert a.shape == np.shape(b)
            np.testing.assert_allclose(a, b, atol=5e-6)
        assert max(np.max(np.abs(a)) for a in jax.tree.leaves(got)) > 1e-2  # an active constraint

    d = [random.standard_normal(np.shape(value)) for value in values]
    if make is quadratic_cones:
        d[0] = d[0] + d[0].T
    h = 5e-3
    ends = [solved(*(value + k * h * t for value, t in zip(values, d, strict=True))) for k in (-2, -1, 1, 2)]
    expected = jax.tree.map(lambda a, b, c, d: (a - 8 * b + 8 * c - d) / (12 * h), *ends)
    got = jax.jit(lambda *ends: jax.jvp(solved, *ends)[1])(tuple(map(jnp.asarray, values)), tuple(map(jnp.asarray, d)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), got, expected)


def test_batches_by_leading_axis_and_by_vmap():
    random = np.random.default_rng(0)
    problem, parameters, variables, values = least_squares(random)
    layer = CvxpyLayer(problem, parameters, variables)
    bs = random.standard_normal((3, 5))
    (x,) = layer(values[0], bs)
    assert x.shape == (3, 3)
    np.testing.assert_allclose(x[1], layer(values[0], bs[1])[0], atol=1e-10)
    np.testing.assert_allclose(jax.vmap(lambda b: layer(values[0], b)[0])(bs), x, atol=1e-10)


def test_attributes():
    """CVXPY replaces what has attributes by smaller variables and parameters."""
    random = np.random.default_rng(0)
    M = random.standard_normal((3, 3))
    kinds = [
        ("PSD", M @ M.T),
        ("NSD", -M @ M.T),
        ("symmetric", M + M.T),
        ("diag", np.diag([1.0, 2.0, 3.0])),
        ("nonpos", -(M**2)),
    ]
    x, ys = cp.Variable(3, nonneg=True), [cp.Variable((3, 3), **{name: True}) for name, _ in kinds]
    parameters = [cp.Parameter((3, 3), **{name: True}) for name, _ in kinds]
    c = cp.Parameter(3)
    goal = cp.sum_squares(x - c) + sum(
        cp.sum_squares(y - p - np.diag([1.0, -1.0, 1.0])) for y, p in zip(ys, parameters, strict=True)
    )
    values = [*(value for _, value in kinds), random.standard_normal(3)]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(goal)), [*parameters, c], [*ys, x])
    found = jax.jit(layer)(*values)
    shifted = [value + np.diag([1.0, -1.0, 1.0]) for value in values[:-1]]
    eigen, Q = zip(*(np.linalg.eigh(part) for part in shifted[:2]), strict=True)
    psd, nsd = ((Q[i] * clip(eigen[i], 0)) @ Q[i].T for i, clip in enumerate((np.maximum, np.minimum)))
    expected = [psd, nsd, shifted[2], shifted[3], np.minimum(shifted[4], 0), np.maximum(values[-1], 0)]
    for got, projected in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, projected, atol=1e-5)
    # Of a symmetric parameter the symmetric part counts, of a diagonal one the diagonal.
    W = random.standard_normal((3, 3))
    inner = lambda *values: sum(jnp.vdot(W, y) for y in layer(*values)[2:4])
    gradients = jax.jit(jax.grad(inner, argnums=(2, 3)))(*values)
    np.testing.assert_allclose(gradients[0], (W + W.T) / 2, atol=1e-6)
    np.testing.assert_allclose(gradients[1], np.diag(np.diag(W)), atol=1e-6)


def test_solver_args_as_in_cvxpylayers():
    random = np.random.default_rng(0)
    problem, parameters, variables, values = lqr(random)
    layer = CvxpyLayer(problem, parameters=parameters, variables=variables, solver_args={"eps": 1e-2})
    exact = layer(*values, solver_args={"eps": 1e-12})[0]
    rough = layer(*values, solver_args={"max_iter": 1}, raise_on_failure=False)[0]
    assert np.isnan(rough).all()  # Clarabel stopped after an iteration: the settings reach it
    np.testing.assert_allclose(layer(*values, tol_feas=1e-12)[0], exact, atol=0.1)
    with pytest.raises(ValueError, match="how to differentiate"):
        layer(*values, solver_args={"mode": "lsqr"})
    with pytest.raises(ValueError, match="eps"):
        layer(*values, solver_args={"solve_method": "piqp", "eps": 1e-3})
    pytest.importorskip("scs")
    by_scs = layer(*values, solver_args={"solve_method": "SCS", "eps": 1e-9, "max_iters": 5000})[0]
    np.testing.assert_allclose(by_scs, exact, atol=1e-6)


def test_wrong_use():
    x, a, b = cp.Variable(2), cp.Parameter(), cp.Parameter()
    with pytest.raises(ValueError, match="DPP"):
        CvxpyLayer(cp.Problem(cp.Minimize(a * b * cp.sum_squares(x))), [a, b], [x])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a) + b * cp.sum(x)))
    with pytest.raises(ValueError, match="not in the list"):
        CvxpyLayer(problem, [a], [x])
    with pytest.raises(ValueError, match="not among the variables"):
        CvxpyLayer(problem, [a, b], [cp.Variable(3)])
    with pytest.raises(ValueError, match="not a constraint of the problem"):
        CvxpyLayer(problem, [a, b], [x >= 0])
    layer = CvxpyLayer(problem, [a, b], [x])
    with pytest.raises(ValueError, match="2 values"):
        layer(1.0)
    with pytest.raises(ValueError, match="shape"):
        layer(jnp.ones((2, 2)), 1.0)
    np.testing.assert_allclose(layer(1.0, 2.0)[0], [0.0, 0.0], atol=1e-7)
