"""The README of a folder of results: what was measured where, and all targets, the missed ones first."""

import json
from pathlib import Path
from typing import Any

from ._report import grid

VARIES = ("date", "commit", "load", "quick")  # said for each topic, or not at all
HEADINGS = {"missed": "Where it loses", "not measured": "Not measured", "met": "Targets met"}
COLUMNS = ("claim", "measured", "spread", "target")


def write_index(folder: Path) -> None:
    topics = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    claims = [claim | {"topic": topic["topic"]} for topic in topics for claim in topic["claims"]]
    count = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in HEADINGS}
    parts = ["# Results of the benchmark"]
    parts.append("Written by `python -m benchmarks`. A ratio of times is the median of the ratios within a round, its "
                 "spread are their quartiles; a target is the largest value that meets it.")  # fmt: skip
    if any(topic["machine"]["quick"] for topic in topics):
        parts.append("**From a quick run, of small problems and few rounds: that it works, not how fast it is.**")
    parts.append(f"{count['met']} of {len(claims)} targets are met.")
    parts += ["## Topics", grid([_line(topic) for topic in topics]), "## Machine", _machine(topics)]
    for verdict, heading in HEADINGS.items():
        rows = [{"topic": _link(claim["topic"]), **{column: claim[column] for column in COLUMNS}}
                for claim in claims if claim["verdict"] == verdict]  # fmt: skip
        if rows:
            parts += [f"## {heading}", grid(rows)]
        elif verdict == "missed":
            parts += [f"## {heading}", "No target is missed."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def _link(name: str) -> str:
    return f"[{name}]({name}.md)"


def _line(topic: dict[str, Any]) -> dict[str, Any]:
    met, all_ = sum(claim["verdict"] == "met" for claim in topic["claims"]), len(topic["claims"])
    return {"topic": _link(topic["topic"]), "what": topic["title"], "targets met": f"{met} of {all_}" if all_ else "",
            "seconds": round(topic["seconds"]), "date": topic["machine"]["date"],
            "commit": topic["machine"]["commit"]}  # fmt: skip


def _machine(topics: list[dict[str, Any]]) -> str:
    """What is the same for all topics once, the rest with the topics."""
    lines = []
    for key in dict.fromkeys(key for topic in topics for key in topic["machine"] if key not in VARIES):
        where: dict[str, list[str]] = {}
        for topic in topics:
            where.setdefault(str(topic["machine"].get(key, "unknown")), []).append(topic["topic"])
        common = max(where, key=lambda value: len(where[value]))
        rest = "".join(f" ({value}: {', '.join(names)})" for value, names in where.items() if value != common)
        lines.append(f"{key} {common}{rest}")
    return ", ".join(lines)
