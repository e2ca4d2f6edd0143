"""The command line: `python -m benchmarks [--quick] [--list] [--only NAME ...] [--out DIR]`."""

import argparse
import importlib
import pkgutil
import time
from pathlib import Path

import jax

from . import __path__ as here
from ._report import machine, markdown, write


def topics() -> dict:
    """The modules of this package without an underscore, by name: a new file is a new topic."""
    names = sorted(module.name for module in pkgutil.iter_modules(here) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"benchmarks.{name}") for name in names}


def main() -> None:
    found = topics()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare implicitdiff with its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller problems and fewer rounds")
    parser.add_argument("--list", action="store_true", help="list the topics and stop")
    parser.add_argument("--only", nargs="+", choices=found, metavar="NAME", help="these topics only")
    parser.add_argument("--out", type=Path, default=Path(here[0]) / "results", help="folder for the results")
    options = parser.parse_args()
    titles = {name: module.__doc__.splitlines()[0] for name, module in found.items()}
    if options.list:
        for name, title in titles.items():
            print(f"{name:14} {title}")
        return
    claims = []
    for name in options.only or found:
        start, where = time.perf_counter(), machine()
        report = found[name].measure(options.quick)
        write(options.out, name, titles[name], report, where | dict(quick=options.quick))
        print(markdown(titles[name], report))
        print(f"({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
        claims += [(name, claim) for claim in report.claims]
    met = sum(claim.verdict == "met" for _, claim in claims)
    print(f"{met} of {len(claims)} targets met; tables in {options.out}")
    for name, claim in claims:
        if claim.verdict != "met":
            print(f"  missed: {name}: {claim.what}: {claim.measured:.3g}, target {claim.target:g}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
