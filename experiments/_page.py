"""The page of an experiment, made from its JSON file and the docstring of its module.

A section "Discussion" is written by hand: whoever has read the numbers says there what they mean. It is kept when the
page is written again.
"""

import ast
import re
from pathlib import Path
from typing import Any

from measuring.tables import load, markdown, unpack

DISCUSSION = re.compile(r"^## Discussion\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def about(name: str) -> tuple[str, str]:
    """The first line of the docstring of experiments/NAME.py, and the rest of it."""
    path = Path(__file__).parent / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    title, _, rest = (text or name).partition("\n")
    return title.rstrip("."), rest.strip()


def write_page(path: Path, record: dict[str, Any]) -> bool:
    """Write the page, and keep the discussion of a page that is there already; returns whether there was one."""
    kept = DISCUSSION.search(path.read_text(encoding="utf-8")) if path.exists() else None
    path.write_text(page(record, kept[0] if kept else ""), encoding="utf-8")
    return kept is not None


def rewrite(folder: Path) -> None:
    """Write the pages again from the JSON files, with their discussions."""
    for path in folder.glob("*.json"):
        write_page(path.with_suffix(".md"), load(path))


def page(record: dict[str, Any], discussion: str = "") -> str:
    """The page in Markdown: what was done, the claims, the discussion, figures and tables."""
    name = record["experiment"]
    title, text = about(name)
    parts = [f"# `{name}`: {title}", text, measured(record), "## Claims"]
    parts += ["\n".join(f"- **{claim['status']}**: {claim['claim']} {claim['found']}" for claim in record["claims"])]
    parts += [discussion.strip()]
    parts += ["## Figures"] if record["figures"] else []
    parts += [f"![{figure.replace('_', ' ')}]({name}-{figure}.png)" for figure in record["figures"]]
    tables = [_table(*item) for item in record["tables"].items() if item[1]["shown"] != []]
    parts += ["## Tables", *tables] if tables else []
    parts += [_stored(name, record["tables"]), circumstances(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def measured(record: dict[str, Any]) -> str:
    """When, at which state of the code, and how long it took."""
    quick = " **The quick version, with small sizes.**" if record["settings"].get("quick") else ""
    return f"Measured on {record['date']} at commit {record['commit']}, in {record['seconds']:.0f} s.{quick}"


def circumstances(record: dict[str, Any]) -> str:
    """Settings, machine and versions."""
    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items() if key != "quick")
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    return f"Settings: {settings}. Machine: {record['machine']}. Versions: {versions}."


def _table(name: str, table: dict[str, Any]) -> str:
    return f"### {name.replace('_', ' ')}\n\n{markdown(unpack(table), table['shown'])}"


def _stored(name: str, tables: dict[str, dict[str, Any]]) -> str:
    """What only the JSON file has."""
    left_out = [table.replace("_", " ") for table, content in tables.items() if content["shown"] == []]
    shorter = [table.replace("_", " ") for table, content in tables.items() if content["shown"]]
    more = [f"the tables {', '.join(left_out)}"] if left_out else []
    more += [f"more columns of {', '.join(shorter)}"] if shorter else []
    return f"[{name}.json]({name}.json) has all numbers{', and '.join(['', *more])}."
