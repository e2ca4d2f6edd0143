"""The support vector machine of the paper: hyper-gradients against a linear system on the support, and the quick run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _svm as svm
from experiments._results import Results
from experiments.svm import run
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problem():
    """Small data in float64, and the solution of the dual by many steps of projected gradient."""
    data = svm.Data(*(jnp.asarray(array, float) for array in svm.synthetic(40, 60, 30, 0)))
    method = svm.solver(svm.PROJECTED, data, 6000, None)
    return data, method.run(svm.start(data), 1.3, None)[0]


def on_support(data, x, theta):
    """Derivative of the outer loss in log theta, by NumPy, from the equations of the face that x lies in.

    On the support: G (x - Y) + theta Y = nu 1 in each row, and the rows of x sum to one.
    """
    X, Y, x = np.asarray(data.X), np.asarray(data.Y), np.asarray(x)
    rows, columns = np.nonzero(x)
    gram = X @ X.T
    H = gram[np.ix_(rows, rows)] * (columns[:, None] == columns)
    sums = (np.arange(len(x))[:, None] == rows).astype(float)
    K = np.block([[H, sums.T], [sums, np.zeros((len(x), len(x)))]])
    dx = np.zeros_like(x)
    dx[rows, columns] = np.linalg.solve(K, np.append(-Y[rows, columns], np.zeros(len(x))))[: len(rows)]
    W, dW = X.T @ (Y - x) / theta, -X.T @ dx / theta - X.T @ (Y - x) / theta**2
    X_val = np.asarray(data.X_val)
    return theta * np.sum((X_val @ W - np.asarray(data.Y_val)) * (X_val @ dW))


def test_solution_is_the_paper_s_dual(problem):
    """No feasible direction is downhill for theta/2 |W|^2 + <x, Y>, as the paper writes it."""
    data, x = problem
    theta = 1.3
    dual = lambda x: theta / 2 * jnp.sum((data.X.T @ (data.Y - x) / theta) ** 2) + jnp.sum(x * data.Y)
    gradient = jax.grad(dual)(x)
    # The Frank-Wolfe gap bounds the distance from the minimum.
    assert 0 <= float(jnp.sum(x * gradient) - jnp.sum(jnp.min(gradient, axis=1))) < 1e-6
    np.testing.assert_allclose(x.sum(1), 1)
    assert float(x.min()) >= 0


@pytest.mark.parametrize("of", [svm.PROJECTED, svm.MIRROR])
def test_conditions_at_the_solution(problem, of):
    data, x = problem
    lam = jnp.log(1.3)
    known = svm.judged(of)(x, lam, data)
    expected = on_support(data, x, 1.3)
    np.testing.assert_allclose(known["gradient"], expected, rtol=1e-5)
    assert known["residual"] < 1e-6
    assert known["linear"] < 1e-8
    assert known["error"] < 1e-4 * abs(expected)


def test_finite_differences(problem):
    data, x = problem
    found = svm.truth(data, float(np.log(1.3)))
    assert found.residual <= 1e-11
    np.testing.assert_allclose(found.gradient, on_support(data, x, 1.3), rtol=1e-4)


@pytest.mark.parametrize("name", [svm.PROJECTED, svm.BLOCKS, svm.MIRROR])
def test_solvers(problem, name):
    """Each solver approaches the solution, and so do implicit and both kinds of unrolled derivatives."""
    data, x = problem
    steps = 4000 if name == svm.MIRROR else 1500
    lam = jnp.log(1.3)
    expected = on_support(data, x, 1.3)
    for loss in (
        svm.implicit(name, svm.PROJECTED, steps),
        svm.unrolled(name, steps),
        svm.unrolled_conditionally(name, steps),
    ):
        (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(lam, data)
        np.testing.assert_allclose(found, x, atol=0.1 if name == svm.MIRROR else 1e-4)
        # Mirror descent with the paper's steps does not get there: see the experiment.
        np.testing.assert_allclose(gradient, expected, rtol=0.5 if name == svm.MIRROR else 1e-3)


def test_estimate_shows_an_early_stop(problem):
    data, x = problem
    lam, expected = jnp.log(1.3), on_support(problem[0], x, 1.3)
    early, _ = svm.solver(svm.PROJECTED, data, 30, None).run(svm.start(data), 1.3, None)
    known = svm.judged(svm.PROJECTED)(early, lam, data)
    error = abs(float(known["gradient"]) - expected)
    assert error > 1e-3 * abs(expected)
    assert 1 / 3 < known["error"] / error < 3


def test_quick(tmp_path):
    results = Results("svm", tmp_path, dict(quick=True, seed=0))
    run(results, True, 0)
    results.close()
    record = load(results.path)
    statuses = {claim["claim"]: claim["status"] for claim in record["claims"]}
    assert statuses["Memory of implicit does not grow with the number of inner steps."] == "reproduced"
    assert (
        statuses["Implicit and unrolled reach the same validation loss within 1 %, with every solver."] == "reproduced"
    )
    for name in ("runtime", "memory", "loss"):
        assert (tmp_path / f"svm-{name}.png").stat().st_size > 1000
    row = unpack(record["tables"]["errors"])[0]
    # Enough steps here: the derivative is that of finite differences, to the precision of float32.
    np.testing.assert_allclose(row["gradient implicit"], row["true gradient"], rtol=1e-3)
    assert row["optimality residual"] < 1e-3
    few, many = unpack(record["tables"]["memory"])
    assert few["MB implicit"] == many["MB implicit"]
    assert many["MB unrolled"] > 3 * few["MB unrolled"]  # for four times the steps


@pytest.mark.parametrize(("load", "shape"), [(svm.tissues, (94, 500, 7)), (svm.digits, (600, 64, 10))])
def test_real_data(load, shape):
    data = load(0)
    assert (*data.X.shape, data.Y.shape[1]) == shape
    np.testing.assert_allclose(np.linalg.norm(data.X_val, axis=1), 1, rtol=1e-5)
    # Both halves hold each class in the same share.
    np.testing.assert_allclose(data.Y.mean(0), data.Y_val.mean(0), atol=0.02)
