"""How a topic is stored: NAME.json with every number, NAME.md for readers, and NAME-*.png for each figure."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from measuring.tables import load, markdown, pack, save, unpack

from ._plots import figures
from ._report import Report

DIGITS = 3
MANY = 8  # tables with the same columns that are shown as one
LEGEND = (
    "A target is the largest value that meets it. Of two times, `measured` is the median of the ratios within a round, "
    "given with its quartiles, and `ratio of minima` is the ratio of the shortest times."
)


def content(
    name: str, title: str, report: Report, where: dict[str, Any], seconds: float, images: Sequence[str] = ()
) -> dict[str, Any]:
    """What NAME.json holds; `images` are the files of the figures."""
    return dict(
        topic=name,
        title=title,
        seconds=round(seconds, 1),
        machine=where,
        claims=[claim.row() for claim in report.claims],
        figures=list(images),
        tables=[
            dict(title=table.title, note=table.note, on_page=table.on_page, **pack(table.rows))
            for table in report.tables
        ],
    )


def page(topic: dict[str, Any]) -> str:
    """NAME.md, made from NAME.json: the targets, the figures, and the tables."""
    parts = [f"# {topic['title'].rstrip('.')}", _when(topic)]
    if topic["claims"]:
        parts += ["## Targets", LEGEND, markdown(topic["claims"], digits=DIGITS)]
    parts += [f"![{_alt(file)}]({file})" for file in topic["figures"]]
    stored = [table["title"] for table in topic["tables"] if not table["on_page"]]
    if len(stored) < len(topic["tables"]):
        parts.append("## Tables")
    shown = [table for table in topic["tables"] if table["on_page"]]
    for (_, note), group in groupby(shown, key=lambda table: (table["columns"], table["note"])):
        parts += _tables(list(group), note)
    more = f" The tables of {'; '.join(stored)} are only there." if stored else ""
    parts += [f"[{topic['topic']}.json]({topic['topic']}.json) has all numbers.{more}", _circumstances(topic)]
    return "\n\n".join(parts) + "\n"


def _tables(tables: list[dict[str, Any]], note: str) -> list[str]:
    """Tables with the same columns; many of them are one table, with their titles in the first column."""
    notes = [note] if note else []
    if len(tables) < MANY:
        return [
            part
            for table in tables
            for part in (f"### {table['title']}", *notes, markdown(unpack(table), digits=DIGITS))
        ]
    rows = [{"case": table["title"]} | row for table in tables for row in unpack(table)]
    return [*notes, markdown(rows, ["case", *tables[0]["columns"]], digits=DIGITS)]


def _when(topic: dict[str, Any]) -> str:
    where = topic["machine"]
    quick = " **A quick run of small problems: it shows that the benchmark works, not how fast the library is.**"
    return f"Measured on {where['date']} at commit {where['commit']}, in {topic['seconds']:.0f} s." + (
        quick if where["quick"] else ""
    )


def _circumstances(topic: dict[str, Any]) -> str:
    said = ("date", "commit", "quick")
    return "Machine and versions: " + ", ".join(f"{k} {v}" for k, v in topic["machine"].items() if k not in said) + "."


def _alt(file: str) -> str:
    return file.removesuffix(".png").replace("-", ": ", 1).replace("-", " ")


def write(folder: Path, name: str, title: str, report: Report, where: dict[str, Any], seconds: float) -> None:
    """Store a topic in place of what an earlier run left of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-*.png"):  # no name of a topic has a hyphen
        old.unlink()
    drawings = {f"{name}-{re.sub(r'[^A-Za-z0-9_]+', '-', part)}.png": draw for part, draw in figures(title, report)}
    topic = content(name, title, report, where, seconds, list(drawings))
    save(folder / f"{name}.json", topic)
    (folder / f"{name}.md").write_text(page(topic), encoding="utf-8")
    for file, draw in drawings.items():
        draw(folder / file)


def rewrite(folder: Path) -> None:
    """Write the pages again from the JSON files."""
    for path in folder.glob("*.json"):
        path.with_suffix(".md").write_text(page(load(path)), encoding="utf-8")
