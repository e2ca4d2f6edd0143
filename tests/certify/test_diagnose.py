"""Each fault, planted, is named by the report; and nothing is said of what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf
from implicitdiff.certify import VERDICTS, diagnose

RANDOM = np.random.default_rng(1)
X = jnp.asarray(RANDOM.standard_normal((20, 4)))
Y = X @ jnp.array([1.0, -1.0, 0.5, 2.0]) + 0.1 * RANDOM.standard_normal(20)


def ridge(x, weight, y):
    return 0.5 * jnp.sum((X @ x - y) ** 2) + 0.5 * weight * jnp.sum(x**2)


def solve(weight, y):
    return jnp.linalg.solve(X.T @ X + weight * jnp.eye(4), X.T @ y)


F = idf.optimality.stationary(ridge)
EXACT = solve(0.5, Y)


def test_what_is_right_is_fine():
    report = diagnose(F, EXACT, 0.5, Y, solver=solve)
    assert report.verdict == "fine"
    A = np.asarray(X.T @ X + 0.5 * np.eye(4))
    sizes = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose([report.largest, report.smallest], sizes[[0, -1]], rtol=1e-10)
    np.testing.assert_allclose(report.condition_number, np.linalg.cond(A), rtol=1e-10)
    assert report.symmetric
    assert report.definite == "positive"
    assert (report.linear_solver, report.linear_steps, report.size) == ("LU", None, 4)
    assert report.comparison.difference < 1e-6
    text = str(report)
    for words in ("stationary(ridge)", "float64[4]", "float64[20]", "condition", "LU", "verdict", "fine"):
        assert words in text
    assert max(map(len, text.splitlines())) < 250


def test_stopped_early():
    report = diagnose(F, EXACT + 0.02, 0.5, Y)
    assert report.verdict == "stopped early"
    np.testing.assert_allclose(report.distance, 0.04, rtol=1e-6)
    assert "tolerance" in report.mend


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, w, y: x @ (X.T @ X) - 2 * X.T @ y + w * x,
        lambda x, w, y: X.T @ (X @ x - y) - 40 * w * x,
        lambda x, w, y: X.T @ (X @ x - jnp.roll(y, 1)) + w * x,
    ],
)
def test_wrong_F(wrong):
    report = diagnose(wrong, EXACT, 0.5, Y)
    assert report.verdict == "wrong F"
    assert "does not belong" in report.explanation


def test_wrong_F_that_is_satisfied_shows_beside_the_solver():
    swapped = lambda x, y2, w2: X.T @ (X @ x - Y) + 0.5 * x + 0 * (jnp.sum(y2) + w2)  # does not know its parameters
    assert diagnose(swapped, EXACT, Y, 0.5, solver=lambda y, w: solve(w, y)).verdict == "wrong derivative"


def test_solution_that_is_not_unique():
    wide = X[:2]
    G = idf.optimality.stationary(lambda x, y: 0.5 * jnp.sum((wide @ x - y) ** 2))
    x = jnp.linalg.lstsq(wide, Y[:2])[0]
    report = diagnose(G, x, Y[:2])
    assert report.verdict == "singular"
    assert "ridge" in report.mend


def test_ill_conditioned():
    for dtype, smallest in ((jnp.float64, -13.5), (jnp.float32, -5.0)):
        scales = jnp.logspace(0, smallest, 4, dtype=dtype)
        report = diagnose(lambda x, b: scales * x - b, jnp.ones(4, dtype), scales)
        assert report.verdict == "ill-conditioned"
    assert "float64" in VERDICTS["ill-conditioned"][1]


def test_kinks():
    Q = jnp.linalg.qr(X)[0]
    f = lambda x, y: 0.5 * jnp.sum((Q @ x - y) ** 2)
    correlations = Q.T @ Y
    weight = jnp.sort(jnp.abs(correlations))[1]  # exactly at the threshold of one coefficient
    T = idf.optimality.proximal_gradient(f, idf.prox.lasso, 0.5)
    soft = lambda w: jnp.sign(correlations) * jnp.maximum(jnp.abs(correlations) - w, 0)
    assert diagnose(T, soft(weight), Y, weight).verdict == "kink"
    report = diagnose(T, soft(0.97 * weight), Y, 0.97 * weight)
    assert report.verdict == "fine"
    nearest = jnp.min(jnp.abs(jnp.abs(correlations) - 0.97 * weight))
    assert 0.3 <= report.kink / nearest <= 6
    # The same as a KKT system: a bound that is only just active.
    K = idf.optimality.kkt(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), None, lambda x, _: -x)
    b = jnp.array([1.0, 0.0, -1.0])
    at_kink = jnp.maximum(b, 0), None, jnp.maximum(-b, 0)
    report = diagnose(K, at_kink, b, None, None)
    assert report.verdict == "kink"
    assert report.kink == 0
    b = jnp.array([1.0, 0.5, -1.0])
    report = diagnose(K, (jnp.maximum(b, 0), None, jnp.maximum(-b, 0)), b, None, None)
    assert (report.verdict, report.kink) == ("fine", 0.5)


def van_der_waals(V, P, T):
    return P - 8 * T / (3 * V - 1) + 3 / V**2


def test_smooth_critical_point_is_singular_and_no_kink():
    double, single = jnp.float64, jnp.float32
    for G, x, verdict, unit, dtype in (
        (lambda V: van_der_waals(V, 1.0, 1.0), 1.0, "singular", 1.0, double),
        (lambda V: van_der_waals(V, 1.0, 1.0), 1.0, "singular", 1e-9, single),
        (lambda V: van_der_waals(V / 7, 1.0, 1.0), 7.0, "singular", 1e9, double),  # the derivative is noise, not 0
        (lambda x: 4 * (x - 3) ** 3, 3.0, "singular", 1e-9, double),
        (lambda x: jnp.cos(x) - 1, 0.0, "singular", 1.0, double),
        (lambda x: jax.nn.relu(x - 1), 1.0, "kink", 1e-9, double),
        (lambda x: x + jnp.abs(x) / 2, 0.0, "kink", 1e9, single),
    ):
        found = diagnose(lambda x, t, G=G, unit=unit: unit * (G(x) - t), jnp.asarray(x, dtype), jnp.asarray(0, dtype))
        assert found.verdict == verdict


def test_degenerate_convex_programs():
    cones = [idf.convex.NonNegative(3)]
    F = idf.optimality.conic_normal_map(cones)
    rows = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for P, b, verdict in (
        (jnp.eye(2), jnp.array([0.5, 2.0, 3.0]), "fine"),
        (jnp.eye(2), jnp.array([1.0, 2.0, 3.0]), "kink"),  # only just active
        (jnp.zeros((2, 2)), jnp.ones(3), "singular"),  # a redundant row: multipliers are not unique
    ):
        found = idf.convex.solve_conic(P, -jnp.ones(2), rows, b, cones)
        report = diagnose(F, (found.x, found.dual - found.slack), P, -jnp.ones(2), rows, b)
        assert report.verdict == verdict


def test_not_finite():
    assert diagnose(F, EXACT.at[1].set(jnp.nan), 0.5, Y).verdict == "not finite"
    assert diagnose(lambda x, a: jnp.sqrt(x) - a, jnp.zeros(2), jnp.zeros(2)).verdict == "not finite"


def test_linear_solve_that_does_not_converge():
    stopping = idf.Implicit(linear_solver=idf.krylov.CG(max_steps=1), symmetric=True)
    report = diagnose(F, EXACT, 0.5, Y, adjoint=stopping)
    assert report.verdict == "linear solve"
    assert report.distance < 1e-12  # the solver has not stopped early
    assert report.linear_solver == "CG"
    assert report.linear_residual > 1e-3


def test_large_problem_without_a_matrix():
    n = 800
    d = jnp.linspace(1.0, 5.0, n)
    G = idf.optimality.stationary(lambda x, b: 0.5 * jnp.sum(d * x**2) - b @ x, positive_definite=True)
    b = jnp.cos(jnp.arange(n) * 1.0)
    report = diagnose(G, b / d, b)
    assert report.verdict == "fine"
    np.testing.assert_allclose([report.largest, report.smallest], [5, 1], rtol=0.1)
    assert report.linear_solver == "CG"
    assert 5 < report.linear_steps < 100
    assert report.definite is None
    assert diagnose(lambda x, b: d * x - b, b / d, b).linear_solver == "BiCGStab"  # nothing is known of it


def test_wrong_use():
    with pytest.raises(TypeError, match="no entries"):
        diagnose(lambda x, a: x * a, jnp.zeros(0), 1.0)
    with pytest.raises(TypeError, match="positional"):
        diagnose(F, EXACT, 0.5)
    assert isinstance(jax.tree.leaves(diagnose(F, EXACT, 0.5, Y).error)[0], float)
