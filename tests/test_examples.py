"""The longer examples run, and check their own results; so does the code in README.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# The others, in cells, are the tutorials of the documentation: building it runs them.
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if "\n# %%\n" not in path.read_text())
README, PRINTED = re.findall(r"```(?:python|output)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    # As in pyproject.toml: another process may still be writing what this one looks for in the shared cache.
    warnings = "error,ignore:Error reading persistent compilation cache entry:UserWarning"
    environment = os.environ | {"PYTHONWARNINGS": warnings, "MPLCONFIGDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, path, "--quick"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


def test_readme_code_runs_and_prints_what_it_says(capsys):
    names = {}
    exec(README, names)
    assert capsys.readouterr().out == PRINTED
    A, b, weight = names["A"], names["b"], 0.1
    # d/dw (A'A + w I)^-1 A'b = -(A'A + w I)^-1 x
    M = A.T @ A + weight * np.eye(5)
    expected = -np.linalg.solve(M, np.linalg.solve(M, A.T @ b))
    np.testing.assert_allclose(jax.jacobian(names["ridge"], argnums=1)(None, weight), expected, rtol=1e-6)
