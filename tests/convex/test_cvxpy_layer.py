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
    least_squares, logistic_regression, entropy_maximisation, lml_projection, semidefinite_program, lqr,
    optimal_transport, signal_denoising,
]  # fmt: skip


@pytest.mark.parametrize("make", EXAMPLES)
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
    got = jax.jvp(lambda *values: layer(*values)[0], primals, tangents)[1]
    scale = np.max(np.abs(expected))
    assert scale > 1e-3
    np.testing.assert_allclose(got, expected, atol=5e-4 * scale)
    pulled = jax.jit(jax.grad(lambda *values: jnp.sum(layer(*values)[0] ** 2), argnums=tuple(range(len(values)))))(
        *primals
    )
    dotted = sum(np.sum(g * t) for g, t in zip(pulled, d, strict=True))
    np.testing.assert_allclose(dotted, np.sum(2 * solved(*values) * expected), rtol=2e-3, atol=5e-4 * scale)


def test_batches_by_leading_axis_and_by_vmap():
    random = np.random.default_rng(0)
    problem, parameters, variables, values = least_squares(random)
    layer = CvxpyLayer(problem, parameters, variables)
    bs = random.standard_normal((3, 5))
    (x,) = layer(values[0], bs)
    assert x.shape == (3, 3)
    np.testing.assert_allclose(x[1], layer(values[0], bs[1])[0], atol=1e-10)
    np.testing.assert_allclose(jax.vmap(lambda b: layer(values[0], b)[0])(bs), x, atol=1e-10)


def test_wrong_use():
    x, a, b = cp.Variable(2), cp.Parameter(), cp.Parameter()
    with pytest.raises(ValueError, match="DPP"):
        CvxpyLayer(cp.Problem(cp.Minimize(a * b * cp.sum_squares(x))), [a, b], [x])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a) + b * cp.sum(x)))
    with pytest.raises(ValueError, match="not in the list"):
        CvxpyLayer(problem, [a], [x])
    with pytest.raises(ValueError, match="attributes"):
        CvxpyLayer(problem, [a, b], [cp.Variable(3)])
    layer = CvxpyLayer(problem, [a, b], [x])
    with pytest.raises(ValueError, match="2 values"):
        layer(1.0)
    with pytest.raises(ValueError, match="shape"):
        layer(jnp.ones((2, 2)), 1.0)
    np.testing.assert_allclose(layer(1.0, 2.0)[0], [0.0, 0.0], atol=1e-7)
