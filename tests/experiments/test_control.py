"""Inverse control against simulation, SciPy's bounded least squares, and the formulas of linear regression."""

import warnings

import jax
import numpy as np
import pytest
import scipy.optimize

from experiments import _inverse_control as ic
from experiments import control
from experiments._results import Results
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


@pytest.fixture
def plant():
    return ic.random_plant(np.random.default_rng(0), 5)


def simulate(plant, start, inputs):
    states = [start]
    for u in inputs:
        states.append(plant.F @ states[-1] + plant.B @ u)
    return np.array(states)


def plan_by_scipy(plant, log_weights, start):
    """The same program as bounded least squares over stacked residuals, by an active-set method."""
    size = plant.forced.shape[1]
    w = np.sqrt(np.tile(np.exp(log_weights[: ic.STATES]), size // ic.INPUTS))
    r = np.sqrt(np.tile(np.append(1.0, np.exp(log_weights[ic.STATES :])), size // ic.INPUTS))
    A = np.vstack([w[:, None] * plant.forced, np.diag(r)])
    b = np.append(-w * (plant.free @ start), np.zeros(size))
    return scipy.optimize.lsq_linear(A, b, (-ic.BOUND, ic.BOUND), method="bvls", tol=1e-14).x


def test_cost_is_that_of_a_simulation(plant):
    random = np.random.default_rng(1)
    log_weights, start = random.standard_normal(ic.WEIGHTS), random.standard_normal(ic.STATES)
    P, q = map(np.asarray, ic.cost(plant, log_weights, start))
    at_rest = ic.cost_of(log_weights, simulate(plant, start, np.zeros((5, 2))), np.zeros((5, 2)))
    u = random.standard_normal(10)
    spent = ic.cost_of(log_weights, simulate(plant, start, u.reshape(5, 2)), u.reshape(5, 2))
    assert u @ P @ u / 2 + q @ u + at_rest == pytest.approx(spent, rel=1e-12)


@pytest.mark.parametrize("solver", ["jax", "clarabel"])
def test_plans_and_their_derivative(plant, solver):
    random = np.random.default_rng(2)
    log_weights, starts = random.standard_normal(ic.WEIGHTS), 6 * random.standard_normal((3, ic.STATES))
    plans = ic.by_qp(solver)
    of_scipy = lambda w: np.array([plan_by_scipy(plant, w, start) for start in starts])
    expected = of_scipy(log_weights)
    assert np.any(np.abs(expected) == ic.BOUND)
    np.testing.assert_allclose(plans(plant, log_weights, starts), expected, atol=1e-7)
    J = jax.jacobian(plans, argnums=1)(plant, log_weights, starts)
    steps = 1e-6 * np.eye(ic.WEIGHTS)
    differences = np.stack([(of_scipy(log_weights + h) - of_scipy(log_weights - h)) / 2e-6 for h in steps], axis=-1)
    np.testing.assert_allclose(J, differences, atol=1e-6)


def test_least_squares_and_its_standard_errors():
    """On a linear model one step ends at the solution, with the covariance of linear regression."""
    random = np.random.default_rng(3)
    A, b = random.standard_normal((50, 5)), 0.1 * random.standard_normal(50)
    fit = ic.learn(lambda w: (A @ w - b, A), np.zeros(5), 0.1, maxiter=50)
    np.testing.assert_allclose(fit.log_weights, np.linalg.lstsq(A, b, rcond=None)[0], atol=1e-8)
    np.testing.assert_allclose(fit.deviation, 0.1 * np.sqrt(np.diag(np.linalg.inv(A.T @ A))), rtol=1e-10)


def test_drive_is_a_simulation(plant):
    plans = lambda plant, w, starts: np.tile([0.5, -0.25], (len(starts), 5))
    starts = np.random.default_rng(4).standard_normal((2, ic.STATES))
    states, inputs = ic.drive(plans, plant, None, starts, 3)
    np.testing.assert_allclose(states[:, 1], simulate(plant, starts[1], np.tile([0.5, -0.25], (3, 1))), rtol=1e-12)
    assert inputs.shape == (3, 2, ic.INPUTS)


def test_quick(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cvxpylayers, where it is installed
        results = Results("control", tmp_path, dict(quick=True, seed=0))
        control.run(results, quick=True, seed=0)
    results.close()
    record = load(results.path)
    assert record["claims"][0]["status"] == record["claims"][3]["status"] == "reproduced"
    tables = {name: unpack(table) for name, table in record["tables"].items()}
    errors = {row["backend"]: row["worst error of the gradient"] for row in tables["gradients"]}
    assert max(error for name, error in errors.items() if not name.startswith("cvxpylayers")) < 1e-5
    assert {row["noise"] for row in tables["systems"]} == set(control.NOISES)
    assert all(row["largest error of a weight"] < 1e-5 for row in tables["systems"] if row["noise"] == 0)
    assert (results.folder / "control-overview.png").stat().st_size > 1000
