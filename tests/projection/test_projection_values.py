"""The value of each projection: against exact references, a solver, and where arithmetic is at its limits."""

import numpy as np
import pytest
from projection_cases import CASES, CONVEX, run


@pytest.mark.rounding
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(name):
    case, rng = CASES[name], np.random.default_rng(1)
    for size in (0.1, 1.0, 1.0, 1.0, 10.0, 100.0):
        v = size * rng.normal(size=case.shape)
        expected = case.reference(v, case.theta)
        np.testing.assert_allclose(run(name, v, case.theta), expected, rtol=0, atol=1e-13 * (1 + size))
        # In float32 the parameters are rounded too.
        v = np.float32(v)
        x = run(name, v, case.theta)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, case.reference(np.float64(v), case.theta), rtol=0, atol=4e-6 * (0.3 + size))


@pytest.mark.parametrize("name", [name for name in CONVEX if CASES[name].set])
def test_agrees_with_clarabel(name):
    cvxpy = pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    case = CASES[name]
    v = 2 * np.random.default_rng(2).normal(size=case.shape)
    x = cvxpy.Variable(case.shape, symmetric=name == "semidefinite")
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - v)), case.set(x, case.theta))
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    np.testing.assert_allclose(run(name, v, case.theta), x.value, atol=2e-5)
