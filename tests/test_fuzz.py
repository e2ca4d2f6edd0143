"""A slice of `make fuzz`, which must find nothing, and wrong rules, which it must find."""

import sys
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # where fuzz/ lies, however pytest was started

from fuzz import exact, run_programs, run_systems
from fuzz.evaluate import evaluated
from fuzz.pieces import PIECES, Piece
from implicitdiff import Implicit, _dense


@pytest.mark.parametrize("case", [1, 5, 6])
def test_random_programs(case):
    words, findings, count = run_programs.one(5, case, way="traced")
    assert not findings, words
    assert count >= 7


def test_random_systems(monkeypatch):
    monkeypatch.setitem(run_systems.METHODS, "default", run_systems.METHODS["default"]._replace(sizes=(8,)))
    tally, wrong = run_systems.batch(0, 0, "default")
    assert not wrong
    assert sum(tally.values()) == 2 * len(run_systems.families.ALL)
    assert sum(count for key, count in tally.items() if key[3] == "right") > 20


# What must be found


@jax.custom_jvp
def sine(v):
    return jnp.sin(v)


sine.defjvps(lambda t, out, v: -t * jnp.cos(v))


def test_a_wrong_rule_in_F_is_found():
    # g and h both have it. In h it changes both sides of the equation alike, in g it does not.
    words, findings, _ = run_programs.one(5, 11, [Piece("sine", sine, jnp.sin)], "traced")
    assert {"jvp", "vjp", "jacfwd", "jacrev"} <= {finding.check for finding in findings}, words


@pytest.fixture
def planted(monkeypatch):
    """Put something else in the place of what is right, and forget what was traced with either."""

    def forget():
        jax.clear_caches()
        run_systems.compiled.cache_clear()

    def plant(rule, owner=Implicit, name="tangent"):
        monkeypatch.setattr(owner, name, rule)
        forget()

    yield plant
    monkeypatch.undo()
    forget()


def test_a_wrong_sign_in_the_library_is_found(planted):
    right = Implicit.tangent
    planted(lambda *args: [-leaf for leaf in right(*args)])
    _, findings, _ = run_programs.one(5, 11, way="traced")
    assert {"jvp", "vjp", "jacfwd", "jacrev"} <= {finding.check for finding in findings}


def test_a_derivative_that_is_dropped_in_the_second_order_is_found(planted):
    right = Implicit.tangent
    stopped = jax.lax.stop_gradient
    planted(lambda self, F, x, theta, dot: right(self, F, stopped(x), theta, dot))
    _, findings, _ = run_programs.one(5, 1, way="traced")
    names = {finding.check for finding in findings}
    assert names
    assert all("-" in name or "third" in name for name in names)


def test_systems_that_are_not_checked_are_found(monkeypatch, planted):
    monkeypatch.setitem(run_systems.METHODS, "default", run_systems.METHODS["default"]._replace(sizes=(8,)))
    planted(np.inf, _dense, "LARGEST_ERROR")
    _, wrong = run_systems.batch(0, 0, "default")
    assert any("forward" in words for words in wrong)


# What it rests on


def test_exact_solutions():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 9):
        A, b = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-9, 9, n), rng.standard_normal(n)
        A[0] *= 1e9
        x = exact.solve(A, b)
        rows = [[Fraction(v) for v in row] for row in A]
        # Rounding x is all that was lost: A x - b in rational numbers.
        for row, right in zip(rows, b, strict=True):
            terms = [a * Fraction(v) for a, v in zip(row, x, strict=True)]
            assert abs(sum(terms) - Fraction(right)) <= Fraction(2.0**-53) * sum(map(abs, terms))
    assert exact.solve(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), np.ones(3)) is None
    A = rng.standard_normal((20, 20))
    np.testing.assert_allclose(exact.solve_long(A, A @ np.ones(20)), exact.solve(A, A @ np.ones(20)), rtol=1e-12)


def test_a_gauge_is_told_from_an_error():
    A, b = np.diag([1.0, 1, 0]), np.array([1.0, 2, 0])
    for found, least, answer in (
        ([1, 2, 0], True, True),
        ([1, 2, 1], True, False),
        ([1, 2, 1], False, True),
        ([1, 3, 0], False, False),
    ):
        assert run_systems.gauge(A, b, np.array(found, float), 2e-16, least) == answer
    assert not run_systems.gauge(A, np.ones(3), np.array([1.0, 1, 0]), 2e-16, False)  # inconsistent
    assert not run_systems.gauge(np.diag([1, 1, 1e-9]), b, b, 2e-16, True)  # ill-conditioned only


def test_programs_run_operation_by_operation_as_compiled():
    """One function of all pieces, its value and a derivative, in both dtypes."""
    pieces = [piece for piece in PIECES if piece.modes == "both"]

    def run(v):
        # Random numbers and the host are no business of NumPy's.
        parts = [jax.jvp(p.reference, (v,), (jnp.cos(v),)) for p in pieces]
        return jnp.stack([jnp.stack(part) for part in parts])

    v = np.array([0.31, -0.52, 0.73, 0.14])
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-4)):
        a = evaluated(run)(jnp.asarray(v, dtype))
        assert a.dtype == dtype
        b = np.asarray(jax.jit(run)(jnp.asarray(v, dtype)))
        for piece, found, expected in zip(pieces, a, b, strict=True):
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=piece.name)
