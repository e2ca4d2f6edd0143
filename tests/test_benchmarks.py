"""The frame of `python -m benchmarks`: what is measured is told, what fails does not take the rest with it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # where benchmarks/ lies, however pytest was started

from benchmarks import __main__ as command
from benchmarks._harness import Times, interleave, ready
from benchmarks._index import write_index
from benchmarks._pages import content, page, write
from benchmarks._report import Claim, Plot, Report, Table, largest, timing_rows
from measuring.tables import load, unpack

TIMES = Times(
    {"ours": np.array([1.0, 2.0, 4.0, 9.0]), "peer": np.array([2.0, 4.0, 8.0, 6.0])},
    {"absent": "absent is not installed"},
)
REPORT = Report(
    [
        Table("small", timing_rows(TIMES, {"ours": 1e-12}, "ours"), "A note."),
        Table("long", [{"n": n, "error": np.inf} for n in range(100)], on_page=False),
    ],
    [
        Claim.of_times("ours / peer", TIMES, "ours", "peer", 0.6),
        Claim.of_times("peer / ours", TIMES, "peer", "ours", 1.1),
        Claim.of_times("ours / absent", TIMES, "ours", "absent", 1.0),
        Claim("error", float("nan"), 1e-8),
    ],
    [Plot("size", "Time", "n", "seconds", {"ours": ([1, 10], [1, 2], [1, 1], [2, 3]), "jaxopt": ([1, 10], [0, 4])})],
)
WHERE = dict(date="2026-01-01", commit="abc", cpu="a cpu", load=[0.0], quick=False)


def test_ratios_are_taken_within_rounds():
    ratio = TIMES.ratio("ours", "peer")
    assert ratio.median == 0.5  # of (0.5, 0.5, 0.5, 1.5): the disturbed round does not count
    assert (ratio.low, ratio.high) == (0.5, 0.75)
    assert TIMES.minimum("ours") == 1.0


def test_verdicts():
    assert [claim.verdict for claim in REPORT.claims] == ["met", "missed", "not measured", "missed"]
    assert REPORT.claims[2].row()["quartiles"] == "absent is not installed"


def test_a_missing_competitor_is_a_row_with_its_reason():
    assert REPORT.tables[0].rows[-1] == {"what": "absent", "error": "absent is not installed"}
    assert np.isnan(TIMES.ratio("ours", "absent").median)
    assert TIMES.fastest(["absent", "peer"]) == "peer"


def test_ready_tells_what_raises_without_paths():
    def start(competitor):
        def run():
            if isinstance(competitor, Exception):
                raise competitor
            return competitor

        return run

    absent, broken = ModuleNotFoundError("no", name="absent.part"), OSError("no /home/me/lib/x.so\nhere")
    runs, missing = ready({"ours": 1.0, "absent": absent, "broken": broken}, start)
    assert missing == {"absent": "absent is not installed", "broken": "OSError: no x.so"}
    times = interleave(runs, budget=0.0, least=3, missing=missing)
    assert times.seconds["ours"].shape == (3,)
    assert times.missing == missing


def test_files_of_a_topic(tmp_path):
    pytest.importorskip("matplotlib")
    for stale in ("one-old.png", "one_more-old.png"):
        (tmp_path / stale).touch()
    write(tmp_path, "one", "One topic.", REPORT, WHERE, 3.0)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"one.md", "one.json", "one-targets.png", "one-size.png", "one_more-old.png"}
    small, long = (unpack(table) for table in load(tmp_path / "one.json")["tables"])
    assert [row["what"] for row in small] == ["ours", "peer", "absent"]
    assert small[-1] == {"what": "absent", "error": "absent is not installed"}
    assert long == [{"n": n, "error": np.inf} for n in range(100)]
    page = (tmp_path / "one.md").read_text()
    assert "![one: targets](one-targets.png)" in page
    assert page.index("ours / peer") < page.index("one-targets.png") < page.index("### small")
    assert "### long" not in page
    assert "The tables of long are only there." in page


def test_index_has_the_missed_targets_first(tmp_path):
    pytest.importorskip("matplotlib")
    write(tmp_path, "one", "One topic.", REPORT, WHERE, 3.0)
    write(tmp_path, "two", "Another.", REPORT, WHERE | dict(commit="def", cpu="other"), 4.0)
    write_index(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "2 of 8 targets are met" in page
    assert "cpu a cpu (other: two)" in page
    assert page.index("Where it loses") < page.index("| peer / ours") < page.index("Not measured")
    assert "measured at different commits" in page
    assert "| ours / peer" not in page  # a target that is met is on the page of its topic


def test_a_failure_does_not_lose_the_others(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    package = tmp_path / "topics"
    package.mkdir()
    for name, body in {
        "absent": "import no_such_peer",
        "broken": "def measure(quick): raise ValueError('broken')",
        "sound": "from benchmarks._report import Report, Table\n"
        "def measure(quick): return Report([Table('t', [dict(a=quick)])], [])",
    }.items():
        (package / f"{name}.py").write_text(f'"""The title of {name}."""\n{body}\n')
    import benchmarks

    monkeypatch.setattr(benchmarks, "__path__", [str(package)])
    monkeypatch.setattr(command, "here", benchmarks.__path__)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--out", str(tmp_path / "out")])
    assert command.main() == 1
    shown = capsys.readouterr()
    assert "skipped: absent: no_such_peer is not installed" in shown.out
    assert "FAILED: broken: ValueError: broken" in shown.out
    assert json.loads((tmp_path / "out/sound.json").read_text())["machine"]["quick"] is True
    assert "[sound](sound.md)" in (tmp_path / "out/README.md").read_text()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "sound", "--out", str(tmp_path / "out")])
    assert command.main() == 0
    assert "The title of sound" in capsys.readouterr().out


def test_nan_and_nothing_miss_a_target():
    assert largest([1.0, 3.0, 2.0]) == 3.0
    for values in ([1.0, float("nan"), 2.0], [float("nan"), 1.0], []):
        assert Claim("largest error", largest(values), 1e9).verdict == "missed"


def test_many_small_tables_are_shown_as_one():
    tables = [Table(f"n = {n}", [{"what": "ours", "ms": n}, {"what": "peer", "ms": 2 * n}], "Note.") for n in range(20)]
    shown = page(content("one", "One.", Report([*tables, Table("other", [{"a": 1}])], []), WHERE, 1.0))
    assert shown.count("Note.") == shown.count("| case | what | ms |") == 1
    assert "| n = 7 | peer | 14 |" in shown
    assert "### n =" not in shown
    assert "### other" in shown
