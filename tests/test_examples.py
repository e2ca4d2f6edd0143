"""The examples that the documentation shows run, and check their own results; so does the code in README.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


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
    if path.stem == "multi_device":
        assert "on 8 devices" in run.stdout


def test_readme_shows_the_demo_as_it_is():
    assert README[0] in (ROOT / "examples" / "demo.py").read_text()


def test_readme_code_runs():
    names = {}
    for code in README[1:]:
        exec(code, names)
    A, b, weight = names["A"], names["b"], 0.1

    def solution(weight):
        return np.linalg.solve(A.T @ A + weight * np.eye(5), A.T @ b)

    # d/dw (A'A + w I)^-1 A'b = -(A'A + w I)^-1 x
    expected = -np.linalg.solve(A.T @ A + weight * np.eye(5), solution(weight))
    np.testing.assert_allclose(names["jacobian"], expected, rtol=1e-6)
    np.testing.assert_allclose(names["slope"], 0.5 / 2**0.5, rtol=1e-6)
    h = 1e-3
    squares = [np.sum(solution(w) ** 2) for w in (weight - h, weight, weight + h)]
    np.testing.assert_allclose(names["hessian"], (squares[0] - 2 * squares[1] + squares[2]) / h**2, rtol=1e-4)
    # z = (1.5, 0.5, 0): the first is at its cap, what it gives up the two others share
    np.testing.assert_allclose(names["z"], [1.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(names["sensitivity"], [1.0, -0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(names["estimate"].distance, 1e-3 * 5**0.5, rtol=1e-3)
    assert names["found"].message.startswith("converged")
    assert names["found"].history.loss[-1] < names["found"].history.loss[0]
