"""The page of all results: what is there is on it, what is missing or broken is named, nothing is loaded from elsewhere."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import experiments
from experiments._report import report
from experiments._results import Results
from experiments._verdicts import Claim


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps links, sources and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.sources, self.links, self.words = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "srcset", "data")]
        self.links += [value for key, value in attrs if key == "href"]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def leave(out, name, quick=False, rows=3, status="reproduced"):
    results = Results(name, out, dict(quick=quick, seed=0))
    results.table("errors", [{"steps": i, "error": 10.0**-i / 3} for i in range(rows)])
    results.table("long", [{"n": n} for n in range(rows)], ())
    results.claim(Claim("Five < six & <b>seven</b>.", status, "Found 5 < 6."))
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    results.figure("line", figure)
    results.close()


def read(out):
    path = report(out)
    page = path.read_text()
    reader = Reader(page)
    assert reader.open == []
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert all(link.startswith("#") for link in reader.links)
    assert "url(" not in page and "@import" not in page  # noqa: PT018
    return page, reader.text


def test_complete(tmp_path):
    leave(tmp_path, "ridge_jacobian")
    leave(tmp_path, "molecular", quick=True, rows=40, status="not reproduced")
    page, text = read(tmp_path)
    assert "<b>seven</b>" not in page
    assert text.count("Five < six & <b>seven</b>.") == 2
    assert "2 claims: 1 reproduced, 0 partly, 1 not reproduced, 0 vacuous." in text
    assert "quick: small sizes" in text
    assert page.count("<img ") == 2
    assert "0.03333" in text and "0.03333333" not in text  # noqa: PT018
    # The long table is folded, the short one is not.
    assert re.search(r"<summary>errors, 40 rows</summary>", page)
    assert page.count("<h3>errors</h3>") == 1


def test_what_is_missing_is_named(tmp_path):
    leave(tmp_path, "ridge_jacobian")
    _, text = read(tmp_path)
    absent = {path.stem for path in Path(experiments.__file__).parent.glob("[!_]*.py")} - {"ridge_jacobian"}
    assert {"molecular", "guarantees", "hyper_cleaning"} <= absent
    for name in absent:
        assert f"{name} did not run" in text
    assert f"{len(absent)} of {len(absent) + 1} experiments did not run" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"experiment": "guar', "guarantees.json cannot be read"),
        ("[1, 2]", "guarantees.json holds no record"),
        ('{"experiment": "guarantees", "claims": [{"claim": 1}]}', "claims in guarantees.json cannot be read"),
        ('{"experiment": "other", "claims": []}', "is that of the experiment 'other'"),
        ('{"experiment": "guarantees", "claims": []}', "guarantees.json has no claims"),
        ('{"experiment": "guarantees", "claims": []}', "says nothing of: machine"),
        (
            '{"experiment": "guarantees", "claims": [{"claim": "c", "status": "<i>won", "found": "f"}]}',
            "Unknown status of a claim: <i>won",
        ),
        (b"\xff\xfe\x00", "guarantees.json cannot be read"),
    ],
)
def test_what_is_broken_is_named(tmp_path, content, problem):
    leave(tmp_path, "ridge_jacobian")
    (tmp_path / "guarantees.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    page, text = read(tmp_path)
    assert problem in text
    assert html.escape(problem) in page or "'" in problem
    assert "Five < six" in text  # the other one is whole


def test_odd_names_and_empty_tables(tmp_path):
    leave(tmp_path, "ridge_jacobian")
    path = tmp_path / "ridge_jacobian.json"
    record = json.loads(path.read_text())
    record["tables"] |= {
        "empty": {"shown": None, "columns": [], "rows": []},
        "<odd> name": {"shown": None, "columns": ["a", "b"], "rows": [["<script>", "nan"]]},
    }
    record["figures"].append("lost")
    path.write_text(json.dumps(record))
    _, text = read(tmp_path)
    assert "The table empty is empty." in text
    assert "The figure lost is missing." in text
    assert "<odd> name" in text
    assert "<script> nan" in text


def test_page(tmp_path, capsys):
    """The page of one experiment: what is shown of the tables, and what is kept of a page that is there."""
    leave(tmp_path, "guarantees", status="vacuous")
    path = tmp_path / "guarantees.md"
    page = path.read_text()
    assert page.startswith("# `guarantees`: Error estimates")
    assert "- **vacuous**: Five < six & <b>seven</b>. Found 5 < 6." in page
    assert "![line](guarantees-line.png)" in page
    assert "| 1 | 0.03333 |" in page
    assert "has all numbers, and the tables long." in page
    assert "### long" not in page
    discussion = "## Discussion\n\nRead by hand.\n\n"
    path.write_text(page.replace("## Figures", discussion + "## Figures"))
    leave(tmp_path, "guarantees")
    assert "read it again" in capsys.readouterr().out
    page = path.read_text()
    assert page.count(discussion) == page.count("![line]") == 1
    assert page.index("reproduced") < page.index("Discussion") < page.index("![line]") < page.index("## Tables")


def test_nothing_ran(tmp_path):
    page, text = read(tmp_path / "not there")
    assert "0 claims" in text
    assert "did not run" in page
