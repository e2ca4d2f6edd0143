"""The results in the repository: the pages are those of the JSON files, and nothing that they name is missing."""

from pathlib import Path

import pytest

from benchmarks._pages import page as benchmark_page
from experiments._page import DISCUSSION
from experiments._page import page as experiment_page
from experiments._report import read
from measuring.tables import load, unpack

ROOT = Path(__file__).parents[2]
EXPERIMENTS, BENCHMARKS = (sorted((ROOT / part).glob("*.json")) for part in ("docs/results", "benchmarks/results"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(path):
    assert read(path).problems == []
    record, page = load(path), path.with_suffix(".md").read_text(encoding="utf-8")
    discussion = DISCUSSION.search(page)
    assert page == experiment_page(record, discussion[0]), "python -m experiments pages --out docs/results"
    for figure in record["figures"]:
        assert (path.parent / f"{path.stem}-{figure}.png").is_file()
        assert page.count(f"({path.stem}-{figure}.png)") == 1
    for table in record["tables"].values():
        assert set(table["shown"] or ()) <= set(table["columns"])
        assert unpack(table)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark(path):
    topic, page = load(path), path.with_suffix(".md").read_text(encoding="utf-8")
    assert page == benchmark_page(topic), "python -m benchmarks --pages"
    assert all((path.parent / file).is_file() for file in topic["figures"])
    assert all(unpack(table) for table in topic["tables"])
    assert f"[{path.stem}]({path.stem}.md)" in (path.parent / "README.md").read_text(encoding="utf-8")


def test_nothing_is_left_of_what_is_no_topic():
    for stored in (EXPERIMENTS, BENCHMARKS):
        names = {path.stem for path in stored}
        others = [path for path in stored[0].parent.iterdir() if path.stem.partition("-")[0] not in names]
        assert [path.name for path in others if path.name not in ("README.md", "quick")] == []
