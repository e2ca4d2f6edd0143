"""Twelve of the hundred programs of `benchmarks/convex_programs.py`, two of each kind, solution and derivative."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
sys.path.append(str(Path(__file__).parents[2]))  # where benchmarks/ lies, however pytest was started

from benchmarks.convex_programs import (
    KINDS,
    by_differences,
    check,
    control,
    of_active_set,
    random_program,
)

SIZES = [(10, 4, 30), (40, 8, 100)]
HORIZONS = [(2, 1, 4), (4, 2, 10)]


@pytest.mark.parametrize("kind", [*KINDS, "control"])
@pytest.mark.parametrize("size", [0, 1], ids=["small", "large"])
def test_solution_and_both_modes(kind, size):
    random = np.random.default_rng(1)
    program = control(*HORIZONS[size], random) if kind == "control" else KINDS[kind](*SIZES[size], random)
    found = check(program)
    assert found["status"] == 0
    # A multiplier and a slack of zero both: interior-point methods come close only like the root of their tolerance.
    assert found["error of x"] < (1e-4 if kind == "weakly active" else 1e-8)
    assert found["forward"] < 1e-6
    assert found["reverse"] < 1e-6


def test_units_do_not_matter():
    """Variables and rows in units from 1e-4 to 1e4: the same program, and no excuse for another derivative."""
    n, p, m = SIZES[0]
    random = np.random.default_rng(0)
    found = check(random_program(n, p, m, random, *(10.0 ** random.uniform(-4, 4, k) for k in (n, p + m))))
    assert found["error of x"] < 1e-8
    assert found["forward"] < 1e-6
    assert found["reverse"] < 1e-6


def test_the_judges_agree():
    """The equations of the active set, and differences of solutions, where only vectors move and x is linear in them."""
    program = KINDS["sparse"](*SIZES[0], np.random.default_rng(1))
    still = tuple(part if part.ndim == 1 else np.zeros_like(part) for part in program.tangents)
    program = program._replace(tangents=still)
    np.testing.assert_allclose(by_differences(program), of_active_set(program), atol=1e-6)
