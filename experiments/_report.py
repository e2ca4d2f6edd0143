"""One HTML page of all results: `python -m experiments report`. What is missing or cannot be read is named on it."""

import base64
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from measuring.tables import load, text, unpack

from ._page import about, circumstances, measured

STATUSES = {"reproduced": "good", "partly": "part", "not reproduced": "bad", "vacuous": "none"}
KEYS = ("settings", "seconds", "date", "commit", "machine", "versions", "figures", "tables")
FOLD = 12  # rows; a longer table is folded


class Published(NamedTuple):
    """A number of the paper: experiment, quantity, value, and words by which our claims about it are found."""

    experiment: str
    quantity: str
    value: str
    words: tuple[str, ...]


SOURCE = (
    "Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022 (arXiv:2105.15183); the values were "
    "written down from memory of the paper and from its authors' code, and not checked against its text."
)
PUBLISHED = (
    Published(
        "ridge_jacobian",
        "error of the Jacobian, ridge regression (Figure 3)",
        "implicit under the bound of Theorem 1 and under unrolled at every number of steps",
        ("ridge", "under"),
    ),
    Published(
        "svm",
        "time of an outer step, unrolled / implicit, p up to 10,000 features (Figure 4)",
        "implicit faster, and the more so the larger p is",
        ("faster",),
    ),
    Published("svm", "memory", "unrolled runs out of 16 GB for p of 2,000 and more", ("memory",)),
    Published("svm", "validation loss reached", "the same for implicit and unrolled", ("validation loss",)),
    Published(
        "distillation",
        "time of 4,000 outer steps on a CPU",
        "1 h 55 implicit, 8 h 05 unrolled: 4 times faster",
        ("faster",),
    ),
    Published("distillation", "images", "the same by both", ("images", "same")),
    Published(
        "dictionary",
        "test AUC, task-driven dictionary learning with 10 atoms (another data set)",
        "73.2 ± 2.1 % with 100 times fewer variables than l2 regression (72.4 ± 2.8 %); l1 regression 71.6 ± 2.0 %, "
        "dictionary learning and l2 regression 68.3 ± 2.3 %",
        ("AUC", "fewer"),
    ),
    Published("molecular", "derivative through unrolled FIRE, 40 starts", "often does not converge", ("unrolled",)),
    Published("molecular", "implicit derivative, 40 starts", "converges", ("re-relaxed",)),
)


class Found(NamedTuple):
    """What an experiment left: its record, None where it cannot be read, and what is wrong with it."""

    name: str
    folder: Path
    record: dict[str, Any] | None
    problems: list[str]


def report(out: Path) -> Path:
    """Gather what the experiments left in `out` into out/report.html, a page that needs no other file."""
    out = Path(out)
    known = {path.stem: about(path.stem)[0] for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}
    order = {name: number for number, name in enumerate(known)}
    found = [read(path) for path in out.glob("*.json")]
    found.sort(key=lambda entry: (order.get(entry.name, len(order)), entry.name))
    ran = {entry.name for entry in found}
    missing = [name for name in known if name not in ran]
    body = [
        "<h1>Results of the experiments</h1>",
        _headline(found, missing, known),
        "<h2>Beside the paper</h2>",
        _beside_the_paper(found),
        *(_section(entry, known.get(entry.name, "")) for entry in found),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>implicitdiff: results</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{''.join(body)}\n</main></body></html>\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def read(path: Path) -> Found:
    """The JSON file of an experiment, checked."""
    name, folder = path.stem, path.parent
    try:
        record = load(path)
    except (ValueError, OSError) as error:
        return Found(name, folder, None, [f"{path.name} cannot be read: {error}"])
    if not isinstance(record, dict):
        return Found(name, folder, None, [f"{path.name} holds no record."])
    problems = []
    if record.get("experiment") != name:
        problems.append(f"{path.name} is that of the experiment {record.get('experiment')!r}.")
    claims = record.get("claims")
    good = isinstance(claims, list) and all(
        isinstance(c, dict) and {"claim", "status", "found"} <= c.keys() for c in claims
    )
    if not good:
        problems.append(f"The claims in {path.name} cannot be read.")
        record["claims"] = []
    elif not claims:
        problems.append(f"{path.name} has no claims.")
    unknown = {str(c["status"]) for c in record["claims"]} - STATUSES.keys()
    if unknown:
        problems.append(f"Unknown status of a claim: {', '.join(sorted(unknown))}.")
    problems += [f"{path.name} says nothing of: {key}." for key in KEYS if key not in record]
    return Found(name, folder, record, problems)


def _headline(found: list[Found], missing: list[str], known: dict[str, str]) -> str:
    total: Counter = Counter()
    rows = []
    for entry in found:
        name = f'<a href="#{escape(entry.name)}">{escape(entry.name)}</a>'
        if entry.record is None:
            rows.append([name, _pill("bad", "broken record"), "", "", ""])
            continue
        counts = Counter(str(claim["status"]) for claim in entry.record["claims"])
        total += counts
        statuses = [*STATUSES, *(status for status in counts if status not in STATUSES)]
        pills = " ".join(_pill(STATUSES.get(s, "none"), f"{counts[s]} {s}") for s in statuses if counts[s])
        settings = entry.record.get("settings")
        quick = isinstance(settings, dict) and settings.get("quick")
        version = _pill("part", "quick: small sizes") if quick else "full"
        flaw = _pill("bad", "problems") if entry.problems else ""
        machine = escape(str(entry.record.get("machine", "not recorded")))
        rows.append([name, f"{pills} {flaw}", version, _duration(entry.record.get("seconds")), machine])
    rows += [[escape(name), _pill("none", "did not run"), "", "", ""] for name in missing]
    counted = ", ".join(f"{total[status]} {status}" for status in STATUSES)
    ran = f"{len(found)} experiments ran, {len(missing)} of {len(known)} experiments did not run."
    what = f"<p>{sum(total.values())} claims: {counted}. {ran}</p>"
    return what + _table(["experiment", "claims", "version", "time", "machine"], rows)


def _beside_the_paper(found: list[Found]) -> str:
    rows = []
    for item in PUBLISHED:
        entries = [entry for entry in found if item.experiment in entry.name and entry.record is not None]
        ours = [
            f"<p>{_status(claim)} {escape(str(claim['claim']))} {escape(str(claim['found']))}{_quick_note(entry)}</p>"
            for entry in entries
            if entry.record is not None
            for claim in entry.record["claims"]
            if all(word.lower() in f"{claim['claim']} {claim['found']}".lower() for word in item.words)
        ]
        nothing = "no claim of ours speaks of it" if entries else "did not run"
        here = "".join(ours) or _pill("none", nothing)
        rows.append([escape(item.experiment), escape(item.quantity), escape(item.value), here])
    return _table(["experiment", "quantity", "paper", "here"], rows) + f'<p class="note">Paper: {escape(SOURCE)}</p>'


def _quick_note(entry: Found) -> str:
    settings = entry.record.get("settings") if entry.record else None
    return " (quick version)" if isinstance(settings, dict) and settings.get("quick") else ""


def _section(entry: Found, title: str) -> str:
    parts = [
        f'<section id="{escape(entry.name)}"><h2>{escape(entry.name)}</h2>',
        f"<p>{escape(title)}</p>" if title else "",
    ]
    parts += [f'<p class="problem">{escape(problem)}</p>' for problem in entry.problems]
    record = entry.record or {}
    claims = [
        f"<li>{_status(claim)} {escape(str(claim['claim']))} <span>{escape(str(claim['found']))}</span></li>"
        for claim in record.get("claims", [])
    ]
    parts += [f'<ul class="claims">{"".join(claims)}</ul>' if claims else ""]
    parts += [_picture(entry, figure) for figure in record.get("figures", ())]
    parts += [_stored_table(name, table) for name, table in record.get("tables", {}).items()]
    if not entry.problems:
        parts.append(f'<p class="note">{escape(measured(record))} {escape(circumstances(record))}</p>')
    return "".join(parts) + "</section>\n"


def _picture(entry: Found, figure: str) -> str:
    path, name = entry.folder / f"{entry.name}-{figure}.png", escape(figure)
    if not path.is_file():
        return f'<p class="problem">The figure {name} is missing.</p>'
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


def _stored_table(name: str, table: dict[str, Any]) -> str:
    rows, title = unpack(table), escape(name.replace("_", " "))
    if not rows:
        return f'<p class="problem">The table {title} is empty.</p>'
    columns = table["columns"]
    cells = ([escape(text(row.get(column))) for column in columns] for row in rows)
    numbers = _table([escape(column) for column in columns], cells)
    if len(rows) > FOLD or table["shown"] == []:
        return f"<details><summary>{title}, {len(rows)} rows</summary>{numbers}</details>"
    return f"<h3>{title}</h3>{numbers}"


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A table whose cells are HTML."""
    head = "".join(f"<th>{cell}</th>" for cell in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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
details { margin: .8rem 0 } summary { cursor: pointer; color: #14549c }
@media print { body { font-size: 11px } main { max-width: none; padding: 0 } .scroll { overflow: visible }
  tr, li { break-inside: avoid } .pill { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
