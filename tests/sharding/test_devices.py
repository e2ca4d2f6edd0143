"""Sharded arrays on eight devices of the host, in one process; and several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = [
    "conjugate gradients",
    "MINRES",
    "BiCGStab",
    "GMRES",
    "solver and gradient",
    "lasso",
    "pytree",
    "small systems",
    "explicit mesh",
    "data in shards",
    "memory",
    "minimize",
    "shard_map",
    "host solvers",
    "lanes",
]


@pytest.fixture(scope="module")
def outcomes():
    run = subprocess.run([sys.executable, HERE / "eight_devices.py"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return dict(map(json.loads, run.stdout.splitlines()))


def test_all_checks_ran(outcomes):
    assert list(outcomes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices(outcomes, name):
    assert outcomes[name] is None, outcomes[name]


@pytest.mark.slow
def test_four_processes():
    example = HERE.parent.parent / "examples" / "multi_process.py"
    run = subprocess.run([sys.executable, example, "--processes", "4"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "4 processes with 500 samples each" in run.stdout
