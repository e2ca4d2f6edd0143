"""The experiments in their quick versions."""

import numpy as np
import pytest

from experiments import guarantees
from experiments.__main__ import main
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


def test_ridge_jacobian(tmp_path):
    main(["ridge_jacobian", "--quick", "--out", str(tmp_path)])
    record = load(tmp_path / "ridge_jacobian.json")
    # A Newton step makes the derivative of ridge regression exact: there is no slope to measure.
    assert [claim["status"] for claim in record["claims"][:4]] == ["reproduced"] * 3 + ["vacuous"]
    assert record["settings"] == {"quick": True, "seed": 0}
    for name in ("-jacobian_error.png", ".md"):
        assert (tmp_path / f"ridge_jacobian{name}").stat().st_size > 100
    # The numbers of the paper's figure, from its formulas: |x - x*|, implicit, unrolled, bound after 10 steps.
    row = next(row for row in unpack(record["tables"]["ridge"]) if row["steps"] == 10)
    np.testing.assert_allclose(
        [row[k] for k in ("solution", "implicit", "unrolled", "bound")], [1.07, 4.93, 17.9, 9.85], rtol=5e-3
    )


@pytest.mark.parametrize("name", ["lasso", "planted: another F", "planted: not unique", "planted: on a kink"])
def test_guarantees(name):
    rows = [guarantees.examine(name, seed) for seed in range(3)]
    counts = guarantees.summary(rows)
    assert counts["unflagged"] == counts["bounds_broken"] == 0
    assert counts["within_factor_3"] == counts["measurable"]
    verdicts = {row["verdict"] for row in rows}
    expected = {"another F": {"wrong F"}, "not unique": {"singular"}, "on a kink": {"kink"}}
    fault = name.removeprefix("planted: ")
    assert verdicts == expected[fault] if fault in expected else verdicts & {"fine", "stopped early"}


def test_command_line(capsys):
    main(["--list"])
    assert "ridge_jacobian" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no such thing"])


def test_hyper_cleaning(tmp_path):
    main(["hyper_cleaning", "--quick", "--out", str(tmp_path)])
    record = load(tmp_path / "hyper_cleaning.json")
    assert record["claims"][0]["status"] == "reproduced"
    assert (tmp_path / "hyper_cleaning-weights.png").stat().st_size > 1000
