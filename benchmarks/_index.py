"""The README of a folder of results: what was measured where, and the targets that are missed."""

from pathlib import Path
from typing import Any

from measuring.tables import load, markdown

VARIES = ("date", "commit", "load", "quick")  # shown for each topic, or not at all
HEADINGS = {"missed": "Where it loses", "not measured": "Not measured"}
COLUMNS = ("claim", "measured", "quartiles", "target")


def write_index(folder: Path) -> None:
    """Write README.md from the JSON files of the topics."""
    topics = [load(path) for path in sorted(folder.glob("*.json"))]
    claims = [claim | {"topic": _link(topic["topic"])} for topic in topics for claim in topic["claims"]]
    met = sum(claim["verdict"] == "met" for claim in claims)
    parts = [
        "# Results of the benchmark",
        "Written by `python -m benchmarks`. The page of a topic has all its targets and tables, and the JSON file "
        "beside it every number. A ratio of times is the median of the ratios within a round, given with its "
        "quartiles; a target is the largest value that meets it.",
    ]
    if any(topic["machine"]["quick"] for topic in topics):
        parts.append("**From a quick run of small problems: it shows that the benchmark works, not how fast it is.**")
    commits = {topic["machine"]["commit"] for topic in topics}
    if len(commits) > 1 or any("dirty" in commit for commit in commits):
        parts.append(
            "The topics were measured at different commits, named below, and some of them with uncommitted "
            "changes; they are to be measured again at one clean commit."
        )
    parts += [
        f"{met} of {len(claims)} targets are met.",
        "## Topics",
        markdown([_line(topic) for topic in topics]),
        "## Machine",
        _machine(topics),
    ]
    for verdict, heading in HEADINGS.items():
        rows = [claim for claim in claims if claim["verdict"] == verdict]
        if rows:
            parts += [f"## {heading}", markdown(rows, ("topic", *COLUMNS), digits=3)]
        elif verdict == "missed":
            parts += [f"## {heading}", "No target is missed."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _link(name: str) -> str:
    return f"[{name}]({name}.md)"


def _line(topic: dict[str, Any]) -> dict[str, Any]:
    met, total = sum(claim["verdict"] == "met" for claim in topic["claims"]), len(topic["claims"])
    return {
        "topic": _link(topic["topic"]),
        "what": topic["title"],
        "targets met": f"{met} of {total}" if total else "",
        "seconds": round(topic["seconds"]),
        "date": topic["machine"]["date"],
        "commit": topic["machine"]["commit"],
    }


def _machine(topics: list[dict[str, Any]]) -> str:
    """What is the same for all topics is said once; topics that differ are named."""
    lines = []
    for key in dict.fromkeys(key for topic in topics for key in topic["machine"] if key not in VARIES):
        where: dict[str, list[str]] = {}
        for topic in topics:
            where.setdefault(str(topic["machine"].get(key, "unknown")), []).append(topic["topic"])
        common = max(where, key=lambda value: len(where[value]))
        rest = "".join(f" ({value}: {', '.join(names)})" for value, names in where.items() if value != common)
        lines.append(f"{key} {common}{rest}")
    return ", ".join(lines)
