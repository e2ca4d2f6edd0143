"""The examples that the documentation shows run, and check their own results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error", "MPLCONFIGDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, path, "--quick"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
