"""The page of all results: what is there is on it, what is missing or broken is named, nothing is loaded from elsewhere."""

import html
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

from experiments._report import _experiments, report
from experiments._results import Results


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
    results.claim("Five < six & <b>seven</b>.", status, "Found 5 < 6.")
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    results.figure("line", figure)
    results.close()
    return results.folder


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
    assert "2 claims: 1 reproduced, 0 partly, 1 not reproduced." in text
    assert "quick: small sizes" in text
    assert page.count("<img ") == 2
    assert "0.03333" in text and "0.03333333" not in text  # noqa: PT018
    # The long table is folded, the short one is not.
    assert re.search(r"<summary>errors, 40 rows</summary>", page)
    assert page.count("<h3>errors</h3>") == 1


def test_what_is_missing_is_named(tmp_path):
    leave(tmp_path, "ridge_jacobian")
    _, text = read(tmp_path)
    absent = set(_experiments()) - {"ridge_jacobian"}
    assert {"molecular", "guarantees", "hyper_cleaning"} <= absent
    for name in absent:
        assert f"{name} did not run" in text
    assert f"{len(absent)} of {len(absent) + 1} experiments did not run" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "There is no record.json"),
        ('{"experiment": "guar', "record.json cannot be read"),
        ("[1, 2]", "record.json holds no record"),
        ('{"experiment": "guarantees", "claims": [{"claim": 1}]}', "claims in record.json cannot be read"),
        ('{"experiment": "other", "claims": []}', "is that of the experiment 'other'"),
        ('{"experiment": "guarantees", "claims": []}', "record.json has no claims"),
        ('{"experiment": "guarantees", "claims": []}', "says nothing of: machine"),
        (
            '{"experiment": "guarantees", "claims": [{"claim": "c", "status": "<i>won", "found": "f"}]}',
            "Unknown status of a claim: <i>won",
        ),
        (b"\xff\xfe\x00", "record.json cannot be read"),
    ],
)
def test_what_is_broken_is_named(tmp_path, content, problem):
    leave(tmp_path, "ridge_jacobian")
    folder = tmp_path / "guarantees"
    folder.mkdir()
    if content is not None:
        (folder / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "empty.csv").touch()
    (folder / "<odd> name.csv").write_text("a,b\n<script>,2\n")
    page, text = read(tmp_path)
    assert problem in text
    assert html.escape(problem) in page or "'" in problem
    assert "The table empty is empty." in text
    assert "Five < six" in text  # the other one is whole


def test_nothing_ran(tmp_path):
    page, text = read(tmp_path / "not there")
    assert "0 claims" in text
    assert "did not run" in page
