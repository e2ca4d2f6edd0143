"""Stored tables: what comes back from the JSON file is what was measured."""

import json

import numpy as np
import pytest

from measuring.tables import load, markdown, pack, save, unpack

ROWS = [
    {"what": "a | b", "n": np.int64(3), "error": np.float32(0.25), "good": np.bool_(True)},
    {"what": "c", "n": 12_345, "error": np.inf, "why": "absent"},
    {"what": "d", "n": -1, "error": float("nan"), "good": False},
]


def test_values_come_back(tmp_path):
    path = tmp_path / "topic.json"
    save(path, {"tables": {"one": pack(ROWS), "none": pack([])}, "pi": np.pi})
    # Strict JSON, which has no NaN and no infinity, with a row on a line.
    stored = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored == load(path)
    assert stored["pi"] == np.pi
    assert '["c", 12345, "inf", null, "absent"]' in path.read_text()
    rows = unpack(stored["tables"]["one"])
    assert np.isnan(rows[2].pop("error"))
    assert rows == [
        {"what": "a | b", "n": 3, "error": 0.25, "good": True},
        {"what": "c", "n": 12_345, "error": np.inf, "why": "absent"},
        {"what": "d", "n": -1, "good": False},
    ]
    assert unpack(stored["tables"]["none"]) == []


def test_markdown_rounds_and_escapes():
    lines = markdown([{"x": 1234.5678, "y": 1 / 3, "z": "a|b"}, {"x": 1.5e8, "y": -0.0}], ["z", "x", "y"]).splitlines()
    assert lines == ["| z | x | y |", "|---|---|---|", "| a\\|b | 1,235 | 0.3333 |", "|  | 1.5e+08 | -0 |"]
