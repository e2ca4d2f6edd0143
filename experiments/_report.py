"""One page of all results: `python -m experiments report`. What is missing or cannot be read is named on it."""

import ast
import base64
import csv
import json
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

STATUSES = {"reproduced": "good", "partly": "part", "not reproduced": "bad"}
FOLD = 12  # tables with more rows are folded
SVG_LIMIT = 600_000  # bytes; larger drawings are shown as PNG


class Published(NamedTuple):
    """A number of the paper: the experiment, the quantity, its value, and words of our claims that speak of it."""

    experiment: str
    quantity: str
    value: str
    words: tuple[str, ...]


SOURCE = (
    "Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022 (arXiv:2105.15183); the values were "
    "written down from memory of the paper and from its authors' code, not checked against its text."
)
PUBLISHED = (
    Published("ridge_jacobian", "error of the Jacobian, ridge regression (Figure 3)",
              "implicit under the bound of Theorem 1 and under unrolled at every number of steps", ("ridge", "under")),
    Published("svm", "time of an outer step, unrolled / implicit, p up to 10,000 features (Figure 4)",
              "implicit faster, the more so the larger p", ("faster",)),
    Published("svm", "memory", "unrolled out of 16 GB for p of 2,000 and more", ("memory",)),
    Published("svm", "validation loss reached", "the same for implicit and unrolled", ("validation loss",)),
    Published("distillation", "time of 4,000 outer steps on a CPU", "1 h 55 implicit, 8 h 05 unrolled: 4 times faster",
              ("faster",)),
    Published("distillation", "images", "the same by both", ("images", "same")),
    Published("dictionary", "test AUC, task-driven dictionary learning with 10 atoms (another data set)",
              "73.2 ± 2.1 %, with 100 times fewer variables than l2 72.4 ± 2.8 %, l1 71.6 ± 2.0 %, dictionary learning "
              "and l2 68.3 ± 2.3 %", ("AUC", "fewer")),
    Published("molecular", "derivative through unrolled FIRE, 40 starts", "often does not converge", ("unrolled",)),
    Published("molecular", "implicit derivative, 40 starts", "converges", ("re-relaxed",)),
)  # fmt: skip


class Found(NamedTuple):
    """The folder of an experiment: its record, which is None where there is none to be read, and what is wrong."""

    name: str
    folder: Path
    record: dict[str, Any] | None
    problems: list[str]


def report(out: Path) -> Path:
    """Gather what the experiments left in `out` into out/report.html, a page that needs no other file."""
    out = Path(out)
    known = _experiments()
    folders = sorted(path for path in out.iterdir() if path.is_dir()) if out.is_dir() else []
    order = {name: number for number, name in enumerate(known)}
    found = sorted((read(folder) for folder in folders), key=lambda f: (order.get(f.name, len(order)), f.name))
    ran = {entry.name for entry in found}
    missing = [name for name in known if name not in ran]
    body = [
        "<h1>Results of the experiments</h1>", _headline(found, missing, known),
        "<h2>Beside the paper</h2>", _beside_the_paper(found),
        *(_section(entry, known.get(entry.name, "")) for entry in found),
    ]  # fmt: skip
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>implicitdiff: results</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{''.join(body)}\n</main></body></html>\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def read(folder: Path) -> Found:
    """The record of a folder, checked."""
    path = folder / "record.json"
    if not path.is_file():
        return Found(
            folder.name, folder, None, ["There is no record.json: not an experiment, or one that did not end."]
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return Found(folder.name, folder, None, [f"record.json cannot be read: {error}"])
    if not isinstance(record, dict):
        return Found(folder.name, folder, None, ["record.json holds no record."])
    problems = []
    if record.get("experiment") != folder.name:
        problems.append(f"record.json is that of the experiment {record.get('experiment')!r}.")
    claims = record.get("claims")
    good = isinstance(claims, list) and all(
        isinstance(c, dict) and {"claim", "status", "found"} <= c.keys() for c in claims
    )
    if not good:
        problems.append("The claims in record.json cannot be read.")
        record["claims"] = []
    elif not claims:
        problems.append("record.json has no claims.")
    unknown = {str(c["status"]) for c in record["claims"]} - STATUSES.keys()
    if unknown:
        problems.append(f"Unknown status of a claim: {', '.join(sorted(unknown))}.")
    problems += [f"record.json says nothing of: {key}." for key in ("settings", "seconds", "machine", "versions")
                 if key not in record]  # fmt: skip
    return Found(folder.name, folder, record, problems)


def _experiments() -> dict[str, str]:
    """The experiments of this package, and the first line that each says of itself."""
    lines = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[path.stem] = text.splitlines()[0] if text else ""
    return lines


def _headline(found: list[Found], missing: list[str], known: dict[str, str]) -> str:
    total: Counter = Counter()
    rows = []
    for entry in found:
        name = f'<a href="#{escape(entry.name)}">{escape(entry.name)}</a>'
        if entry.record is None:
            absent = not (entry.folder / "record.json").exists()
            rows.append([name, _pill("none", "no record") if absent else _pill("bad", "broken record"), "", "", ""])
            continue
        counts = Counter(str(claim["status"]) for claim in entry.record["claims"])
        total += counts
        pills = " ".join(_pill(STATUSES.get(s, "none"), f"{counts[s]} {s}") for s in [*STATUSES, *(counts - Counter(
            {status: counts[status] for status in STATUSES}))] if counts[s])  # fmt: skip
        settings = entry.record.get("settings")
        quick = isinstance(settings, dict) and settings.get("quick")
        version = _pill("part", "quick: small sizes") if quick else "full"
        flaw = _pill("bad", "problems") if entry.problems else ""
        rows.append([name, f"{pills} {flaw}", version, _duration(entry.record.get("seconds")),
                     escape(str(entry.record.get("machine", "not recorded")))])  # fmt: skip
    rows += [[escape(name), _pill("none", "did not run"), "", "", ""] for name in missing]
    counted = ", ".join(f"{total[status]} {status}" for status in STATUSES)
    ran = f"{len(found)} folders, {len(missing)} of {len(known)} experiments did not run."
    what = f"<p>{sum(total.values())} claims: {counted}. {ran}</p>"
    return what + _table(["experiment", "claims", "version", "time", "machine"], rows)


def _beside_the_paper(found: list[Found]) -> str:
    rows = []
    for item in PUBLISHED:
        entries = [entry for entry in found if item.experiment in entry.name and entry.record is not None]
        ours = [
            f"<p>{_status(claim)} {escape(str(claim['claim']))} {escape(str(claim['found']))}{_quick_note(entry)}</p>"
            for entry in entries if entry.record is not None for claim in entry.record["claims"]
            if all(word.lower() in f"{claim['claim']} {claim['found']}".lower() for word in item.words)
        ]  # fmt: skip
        nothing = "no claim of ours speaks of it" if entries else "did not run"
        rows.append([escape(item.experiment), escape(item.quantity), escape(item.value),
                     "".join(ours) or _pill("none", nothing)])  # fmt: skip
    return _table(["experiment", "quantity", "paper", "here"], rows) + f'<p class="note">Paper: {escape(SOURCE)}</p>'


def _quick_note(entry: Found) -> str:
    settings = entry.record.get("settings") if entry.record else None
    return " (quick version)" if isinstance(settings, dict) and settings.get("quick") else ""


def _section(entry: Found, about: str) -> str:
    parts = [
        f'<section id="{escape(entry.name)}"><h2>{escape(entry.name)}</h2>',
        f"<p>{escape(about)}</p>" if about else "",
    ]
    parts += [f'<p class="problem">{escape(problem)}</p>' for problem in entry.problems]
    record = entry.record or {}
    claims = [f"<li>{_status(claim)} {escape(str(claim['claim']))} <span>{escape(str(claim['found']))}</span></li>"
              for claim in record.get("claims", [])]  # fmt: skip
    parts += [f'<ul class="claims">{"".join(claims)}</ul>' if claims else ""]
    parts += [_picture(path) for path in _pictures(entry.folder)]
    parts += [_file_table(path) for path in sorted(entry.folder.glob("*.csv"))]
    parts += [
        f"<h3>{escape(path.stem)}</h3><pre>{escape(path.read_text(encoding='utf-8', errors='replace'))}</pre>"
        for path in sorted(entry.folder.glob("*.md")) if not path.with_suffix(".csv").exists()
    ]  # fmt: skip
    if entry.record is not None:
        details = {
            "time": _duration(record.get("seconds")),
            "machine": record.get("machine"),
            "python": record.get("python"),
        }
        for key in ("settings", "versions"):
            if isinstance(record.get(key), dict):
                details |= record[key]
        parts.append("<details><summary>settings and versions</summary>" + _table(
            ["", ""], [[escape(str(k)), escape(str(v))] for k, v in details.items()]) + "</details>")  # fmt: skip
    return "".join(parts) + "</section>\n"


def _pictures(folder: Path) -> list[Path]:
    """One file for each figure: the drawing in vectors unless it is large."""
    chosen = {path.stem: path for path in sorted(folder.glob("*.png"))}
    chosen |= {p.stem: p for p in folder.glob("*.svg") if p.stat().st_size < SVG_LIMIT or p.stem not in chosen}
    return [chosen[name] for name in sorted(chosen)]


def _picture(path: Path) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.stem)
    return f'<figure><img alt="{name}" src="data:image/{kind};base64,{data}"><figcaption>{name}</figcaption></figure>'


def _file_table(path: Path) -> str:
    name = escape(path.stem.replace("_", " "))
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.reader(file))
    if not rows:
        return f'<p class="problem">The table {name} is empty.</p>'
    numbers = _table([escape(cell) for cell in rows[0]], ([escape(_short(cell)) for cell in row] for row in rows[1:]))
    if len(rows) - 1 > FOLD:
        return f"<details><summary>{name}, {len(rows) - 1} rows</summary>{numbers}</details>"
    return f"<h3>{name}</h3>{numbers}"


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _short(cell: str) -> str:
    """Four digits of a float, anything else as it is."""
    try:
        return cell if cell.lstrip("+-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell


def _status(claim: dict[str, Any]) -> str:
    return _pill(STATUSES.get(str(claim["status"]), "none"), str(claim["status"]))


def _pill(kind: str, text: str) -> str:
    return f'<b class="pill {kind}">{escape(text)}</b>'


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "not recorded"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


STYLE = """
:root { color-scheme: light }
body { background: #fff; color: #222; font: 15px/1.45 system-ui, sans-serif; margin: 0 }
main { max-width: 1040px; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.6rem; margin: 0 0 .5rem } h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } section { border-top: 1px solid #ccc; margin-top: 2.5rem }
a { color: #14549c } p { margin: .4rem 0 } .note, figcaption { color: #555; font-size: .85rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid #ddd }
th { background: #f3f3f3 } td p { margin: 0 0 .4rem }
.pill { border-radius: .6rem; padding: 0 .5rem; font-size: .8rem; white-space: nowrap; font-weight: 600 }
.good { background: #d5efd9; color: #14532d } .part { background: #fdeebf; color: #6b4700 }
.bad { background: #f9d6d5; color: #7f1d1d } .none { background: #e4e4e4; color: #444 }
.claims { list-style: none; padding: 0 } .claims li { margin: .35rem 0 } .claims span { color: #444 }
.problem { background: #f9d6d5; padding: .4rem .7rem }
figure { margin: 1rem 0; break-inside: avoid } img { max-width: 100% }
details { margin: .8rem 0 } summary { cursor: pointer; color: #14549c } pre { overflow-x: auto; background: #f6f6f6 }
@media print { body { font-size: 11px } main { max-width: none; padding: 0 } .scroll { overflow: visible }
  tr, li { break-inside: avoid } .pill { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
