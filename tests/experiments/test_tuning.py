"""Hyper-parameters by grid and by bilevel.minimize: the losses of the table against closed forms."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from experiments import tuning
from experiments.__main__ import main
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


def test_quick(tmp_path):
    main(["tuning", "--quick", "--out", str(tmp_path)])
    record = load(tmp_path / "tuning.json")
    assert record["claims"][0]["status"] == "reproduced"
    assert (tmp_path / "tuning-losses.png").stat().st_size > 1000
    row = unpack(record["tables"]["tuning"])[0]
    sets = tuning.data(load_diabetes, True, 0)
    (X, y), (V, w) = sets.train, sets.validation
    H, c = X.T @ X / len(y), X.T @ y / len(y)
    loss = lambda t: 0.5 * np.mean((V @ np.linalg.solve(H + t * np.eye(10), c) - w) ** 2)
    np.testing.assert_allclose(
        row["validation loss, grid"], min(map(loss, np.geomspace(tuning.LOW, tuning.HIGH, 4))), rtol=1e-4
    )
    fine = min(map(loss, np.geomspace(tuning.LOW, tuning.HIGH, 4001)))
    np.testing.assert_allclose(row["validation loss, bilevel"], fine, rtol=1e-4)
