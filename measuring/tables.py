"""Tables of results. A table is a list of rows, each a dict from column to value.

The JSON file of a topic keeps every digit: a table is stored as its columns and its rows, one row a line. JSON knows no
NaN and no infinity, so they are stored as the strings "nan", "inf" and "-inf". The page of a topic shows Markdown with
three or four digits, and only the columns that a reader needs.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
NOT_FINITE = ("nan", "inf", "-inf")


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The columns in the order in which they first appear."""
    return list(dict.fromkeys(column for row in rows for column in row))


def pack(rows: Sequence[Row]) -> dict[str, list]:
    """The columns, and the rows as lists; a value that a row lacks is None."""
    columns = columns_of(rows)
    return {"columns": columns, "rows": [[row.get(column) for column in columns] for row in rows]}


def unpack(table: Mapping[str, list]) -> list[dict[str, Any]]:
    """The rows of a stored table, with numbers for "nan" and "inf", and without the values that are missing."""
    number = lambda value: float(value) if value in NOT_FINITE else value  # noqa: E731
    return [
        {column: number(value) for column, value in zip(table["columns"], row, strict=True) if value is not None}
        for row in table["rows"]
    ]


def save(path: Path, content: Any) -> None:
    """Write JSON: nested like the content, lists of numbers and strings on one line."""
    path.write_text(_json(_plain(content), "") + "\n", encoding="utf-8")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    """Python's own types in place of NumPy's scalars and of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any, indent: str) -> str:
    deeper = indent + " "
    if isinstance(value, dict) and value:
        items = [f"{deeper}{json.dumps(key)}: {_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(deeper + _json(item, deeper) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None, digits: int = 4) -> str:
    """A table in Markdown; `columns` chooses among those of the rows."""
    columns = columns_of(rows) if columns is None else list(columns)
    cells = [columns, *([text(row.get(column, ""), digits) for column in columns] for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    lines.insert(1, "|" + "---|" * len(columns))
    return "\n".join(lines)


def text(value: Any, digits: int = 4) -> str:
    """A cell: a float in a few digits, without an exponent up to ten million."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return f"{value:,.0f}" if 10.0 ** (digits - 1) <= abs(value) < 1e7 else f"{value:.{digits}g}"
    if value is None:
        return ""
    return str(value).replace("|", "\\|")
