"""Names, options and files that the pages and the README mention exist."""

import inspect
import re
from functools import reduce
from pathlib import Path

import pytest
from test_pages import PAGES, ROOT

import implicitdiff as idf

TEXTS = {path.stem if path.parent.name == "docs" else f"{path.parent.name}/{path.stem}": path for path in PAGES}
TEXTS["README"] = ROOT / "README.md"


@pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
def test_names_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bidf\.([A-Za-z_][\w.]*\w)", text)):
        if not name.endswith(".X"):  # any solver
            reduce(getattr, name.split("."), idf)
    for name in set(re.findall(r"\{(?:func|class|mod)\}`[^`]*?~?implicitdiff\.([\w.]+)>?`", text)):
        reduce(getattr, name.split("."), idf)


@pytest.mark.parametrize("path", TEXTS.values(), ids=TEXTS)
def test_options_exist(path):
    for options in re.findall(r"Implicit\(([^()`]*)", path.read_text(encoding="utf-8")):
        for option in re.findall(r"(\w+)=", options):
            assert option in inspect.signature(idf.Implicit).parameters


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_version_is_the_same_everywhere():
    version = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in Path(ROOT / "CHANGELOG.md").read_text()


def test_a_name_without_a_docstring_is_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import api_pages

    assert api_pages.without_docstring() == []
    monkeypatch.setattr(idf.prox.lasso, "__doc__", None)
    assert api_pages.without_docstring() == ["implicitdiff.prox.lasso"]
