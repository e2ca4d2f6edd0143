"""The command line: `python -m benchmarks [--quick] [--list] [--only NAME ...] [--pages] [--out DIR]`."""

import argparse
import ast
import gc
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

import jax

from . import __path__ as here
from ._harness import reason
from ._index import write_index
from ._machine import machine
from ._pages import content, page, rewrite, write
from ._report import Claim

RESULTS = Path(here[0]) / "results"


def topics() -> dict[str, str]:
    """Name and title of each module of this package without an underscore: a new file is a new topic.

    The modules are not imported here: the libraries that one of them needs may be missing, and the others should run.
    """
    files = sorted(path for path in Path(here[0]).glob("*.py") if not path.name.startswith("_"))
    return {path.stem: _title(path) for path in files}


def _title(path: Path) -> str:
    """The first line of the docstring."""
    try:
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    except SyntaxError as error:  # reported as a failure when the topic is run
        return f"({error})"


def main() -> int:
    found = topics()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare implicitdiff with its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller problems and fewer rounds")
    parser.add_argument("--list", action="store_true", help="list the topics and stop")
    parser.add_argument(
        "--only", nargs="+", choices=found, metavar="NAME", help="run these topics only, and print their pages"
    )
    parser.add_argument("--pages", action="store_true", help="write the pages again from the stored results, and stop")
    parser.add_argument("--out", type=Path, help="folder for the results (benchmarks/results, or quick/ in it)")
    options = parser.parse_args()
    out = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    if options.list:
        for name, title in found.items():
            print(f"{name:16} {title}")
        return 0
    if options.pages:
        rewrite(out)
        write_index(out)
        return 0
    claims: list[tuple[str, Claim]] = []
    skipped: list[str] = []
    failed: list[str] = []
    names = options.only or list(found)
    begin = time.perf_counter()
    for number, name in enumerate(names, 1):
        expected = _expected(out, name, options.quick)
        print(f"[{number}/{len(names)}] {name}{expected} ... ", end="", file=sys.stderr, flush=True)
        jax.clear_caches()  # so that no topic profits from what another one has compiled
        gc.collect()
        start, where = time.perf_counter(), machine() | dict(quick=options.quick)
        try:
            report = importlib.import_module(f"benchmarks.{name}").measure(options.quick)
            seconds = time.perf_counter() - start
            write(out, name, found[name], report, where, seconds)
            write_index(out)
        except Exception as error:
            ours = str(getattr(error, "name", "")).startswith(("benchmarks", "implicitdiff"))
            if isinstance(error, ModuleNotFoundError) and not ours:
                skipped.append(f"{name}: {reason(error)}")
                print("skipped:", reason(error), file=sys.stderr)
            else:
                failed.append(f"{name}: {reason(error)}")
                print("failed:", file=sys.stderr)
                traceback.print_exc()
            continue
        met = sum(claim.verdict == "met" for claim in report.claims)
        print(
            f"{seconds:.0f} s, {met} of {len(report.claims)} targets met; {time.perf_counter() - begin:.0f} s so far",
            file=sys.stderr,
            flush=True,
        )
        if options.only:
            print(page(content(name, found[name], report, where, seconds)), flush=True)
        claims += [(name, claim) for claim in report.claims]
    met = sum(claim.verdict == "met" for _, claim in claims)
    print(f"{met} of {len(claims)} targets met; tables in {out}")
    for name, claim in claims:
        if claim.verdict != "met":
            print(f"  {claim.verdict}: {name}: {claim.what}: {claim.measured:.3g}, target {claim.target:g}")
    for line in skipped:
        print(f"  skipped: {line}")
    for line in failed:
        print(f"  FAILED: {line}")
    return 1 if failed else 0


def _expected(out: Path, name: str, quick: bool) -> str:
    """How long the topic took last time, if there is a stored result."""
    path = out / f"{name}.json"
    if not path.exists():
        return ""
    last = json.loads(path.read_text())
    return f", {last['seconds']:.0f} s last time" if last["machine"]["quick"] == quick else ""


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
