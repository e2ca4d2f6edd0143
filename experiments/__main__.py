"""`python -m experiments NAME`: run an experiment, or gather the results of all (`report`, `pages`)."""

import argparse
import importlib
from pathlib import Path

import jax

from ._page import rewrite
from ._report import report
from ._results import Results

EXPERIMENTS = {
    "ridge_jacobian": "errors of Jacobians against the error of the solution (Figure 3 of the paper)",
    "svm": "regularisation of a multiclass support vector machine: run time, memory, loss (Figure 4 of the paper)",
    "distillation": "ten images that replace MNIST as a training set (experiment 2 of the paper)",
    "dictionary": "task-driven dictionaries for survival from gene expression (experiment 3 of the paper)",
    "molecular": "how a packing of soft spheres moves with a diameter (experiment 4 of the paper)",
    "guarantees": "error estimates, bounds and diagnoses on random problems, against the true errors",
    "tuning": "hyper-parameters of five models: bilevel.minimize against grid search",
    "hyper_cleaning": "wrong training labels of digits, found by one weight for each example",
    "feature_lasso": "a lasso with one weight for each of thousands of genes",
    "deep_equilibrium": "a network that is a fixed point, trained with five derivatives",
    "control": "the cost of a controller, learned from its behaviour through quadratic programs (20 systems)",
}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument(
        "name", nargs="?", choices=[*EXPERIMENTS, "all", "report", "pages"], metavar="NAME", help="see --list"
    )
    parser.add_argument("--list", action="store_true", help="show the experiments")
    parser.add_argument("--quick", action="store_true", help="small sizes, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for results (default: results)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.list or options.name is None:
        for name, what in EXPERIMENTS.items():
            print(f"{name:<16} {what}")
        print(f"{'all':<16} all of these")
        print(f"{'report':<16} make one HTML page of the results in a folder")
        print(f"{'pages':<16} write the pages of the results in a folder again, from their JSON files")
        return
    if options.name == "report":
        print(f"report in {report(options.out)}")
        return
    if options.name == "pages":
        rewrite(options.out)
        return
    jax.config.update("jax_enable_x64", True)
    for name in EXPERIMENTS if options.name == "all" else [options.name]:
        results = Results(name, options.out, dict(quick=options.quick, seed=options.seed))
        importlib.import_module(f"experiments.{name}").run(results, options.quick, options.seed)
        results.close()
        print(f"results in {results.path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
