"""Every solver behind `solve_qp` and `solve_conic`, by name, against Clarabel and the optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf
from implicitdiff.convex import (
    Exponential,
    NonNegative,
    PositiveSemidefinite,
    Power,
    SecondOrder,
    Zero,
    solve_conic,
    solve_qp,
)

# How many digits the solution has with the settings that we choose: HiGHS regularises P by 1e-7, OSQP is first order.
ACCURACY = {
    "clarabel": 1e-8,
    "scs": 1e-7,
    "osqp": 1e-6,
    "proxqp": 1e-7,
    "piqp": 1e-6,
    "highs": 1e-5,
    "daqp": 1e-8,
    "quadprog": 1e-8,
}
PACKAGES = {"scs": ["scs"], "highs": ["qpsolvers", "highspy"], "proxqp": ["qpsolvers", "proxsuite"], "clarabel": []}
# Those that always say why a program has no solution; the others may say that they failed (4).
EXACT = ("clarabel", "scs", "osqp")


def installed(name):
    for package in PACKAGES.get(name, ["qpsolvers", name]):
        pytest.importorskip(package)


def program():
    """A program with a known solution: x and the multipliers were chosen first, and the data made for them."""
    random = np.random.default_rng(4)
    x, nu = random.standard_normal(6), np.array([1.0, -2.0])
    lam, slack = np.array([0.5, 2.0, 1.0, 0, 0, 0, 0]), np.array([0, 0, 0, 1.0, 0.5, 2.0, 3.0])
    A, G, L = (random.standard_normal((rows, 6)) for rows in (2, 7, 4))
    P = L.T @ L + 0.1 * np.eye(6)
    return (P, -P @ x - A.T @ nu - G.T @ lam, A, A @ x, G, G @ x + slack), (x, nu, lam, slack)


@pytest.mark.parametrize("name", ACCURACY)
def test_quadratic_programs(name):
    installed(name)
    data, (x, nu, lam, slack) = program()
    found = solve_qp(*data, solver=name)
    assert found.status == 0
    assert (found.ineq_dual >= 0).all()
    assert (found.slack >= 0).all()
    for got, expected in zip(found[:4], (x, nu, lam, slack), strict=True):
        np.testing.assert_allclose(got, expected, atol=ACCURACY[name])
    # The derivative of the active set: Px + q + A'nu + G1'lam = 0, Ax = b, G1 x = h1.
    rows = np.vstack([data[2], data[4][:3]])
    K = np.block([[data[0], rows.T], [rows, np.zeros((5, 5))]])
    direction = np.arange(6.0)
    expected = np.linalg.solve(K, np.append(-direction, np.zeros(5)))[:6]
    moving = lambda q: solve_qp(data[0], q, *data[2:], solver=name).x
    np.testing.assert_allclose(
        jax.jvp(moving, [jnp.asarray(data[1])], [direction])[1], expected, atol=10 * ACCURACY[name]
    )


@pytest.mark.parametrize("name", ACCURACY)
@pytest.mark.filterwarnings("ignore:OSQP exited:UserWarning")
def test_programs_without_a_solution(name):
    installed(name)
    row = np.ones((1, 2))
    contradiction, unit = np.vstack([row, -row]), (np.eye(2), np.ones(2))
    programs = [
        dict(zip("PqGh", (*unit, contradiction, np.array([-1.0, -1.0])), strict=True)),
        dict(zip("PqAb", (*unit, contradiction, np.array([-1.0, -1.0])), strict=True)),
        dict(zip("PqGh", (None, -unit[1], -row, np.zeros(1)), strict=True)),
    ]
    for data, reason in zip(programs, (2, 2, 3), strict=True):
        if name == "quadprog" and data["P"] is None:
            continue  # wants P positive definite, and says so by an exception of its own
        found = solve_qp(**data, solver=name, raise_on_failure=False)
        assert int(found.status) in ((reason,) if name in EXACT else (reason, 4))
        assert np.isnan(found.x).all()


CONES = {  # in an order that is not that of SCS, whose layout of matrices differs from ours
    "quadratic": [PositiveSemidefinite(4), SecondOrder(4), Zero(1), SecondOrder(3), PositiveSemidefinite(2)],
    "with exponential": [Exponential(), PositiveSemidefinite(3), NonNegative(2), Exponential(), Zero(1)],
}


@pytest.mark.parametrize("cones", CONES.values(), ids=CONES)
def test_scs_on_every_cone(cones):
    pytest.importorskip("scs")
    random = np.random.default_rng(1)
    v = random.standard_normal(sum(cone.size for cone in cones))
    z = np.asarray(idf.projection.cones.product_dual(v, cones))
    s, A, x = z - v, random.standard_normal((v.size, 20)), random.standard_normal(20)
    P = np.diag(random.uniform(0.5, 2, 20))
    data = P, -P @ x - A.T @ z, A, A @ x + s  # of which x is the solution, and z the multiplier
    found, clarabel = solve_conic(*data, cones, solver="scs"), solve_conic(*data, cones)
    assert found.status == clarabel.status == 0
    for got, other, expected in zip(found, clarabel, (x, z, s), strict=False):
        np.testing.assert_allclose(got, expected, atol=1e-6)
        np.testing.assert_allclose(other, expected, atol=1e-6)


def test_what_a_solver_cannot_do():
    one = np.ones((3, 2)), np.ones(3)
    for name in ("osqp", "scs"):
        installed(name)
        cone = Power(0.5) if name == "scs" else SecondOrder(3)
        with pytest.raises(ValueError, match="cone"):
            solve_conic(np.eye(2), np.ones(2), *one, [cone], solver=name)
    with pytest.raises(ValueError, match="clarabel, scs"):
        solve_conic(np.eye(2), np.ones(2), *one, [Zero(3)], solver="no such")
