"""`python -m experiments NAME`: run an experiment, or `report` to gather the results of all."""

import argparse
import importlib
from pathlib import Path

import jax

from ._results import Results

EXPERIMENTS = {
    "ridge_jacobian": "errors of Jacobians against the error of the solution (Figure 3 of the paper)",
    "guarantees": "estimates, bounds and verdicts on random problems against the truth",
    "hyper_cleaning": "wrong training labels found by one weight an example, digits",
}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*EXPERIMENTS, "all"], metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="show the experiments")
    parser.add_argument("--quick", action="store_true", help="a version of seconds")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for results (default: results)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.list or options.name is None:
        for name, what in EXPERIMENTS.items():
            print(f"{name:<16} {what}")
        return
    jax.config.update("jax_enable_x64", True)
    for name in EXPERIMENTS if options.name == "all" else [options.name]:
        results = Results(name, options.out, dict(quick=options.quick, seed=options.seed))
        importlib.import_module(f"experiments.{name}").run(results, options.quick, options.seed)
        results.close()
        print(f"results in {results.folder}")


if __name__ == "__main__":
    main()
