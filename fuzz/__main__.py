"""The command line: `python -m fuzz [programs|systems] [--seconds S] [--seed N] [--case N]`."""

import argparse
import sys

import jax

from . import run_programs, run_systems


def main() -> int:
    """Run what is asked for; the exit status is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Look for wrong derivatives.")
    parser.add_argument("what", nargs="?", choices=["programs", "systems"], help="else half of the time each")
    parser.add_argument("--seconds", type=float, default=600, help="how long to look, 600 by default")
    parser.add_argument("--seed", type=int, default=0, help="other seeds look at other problems; 0 by default")
    parser.add_argument("--case", type=int, help="one program, or one batch of systems, as a report names it")
    args = parser.parse_args()
    if args.case is not None and args.what is None:
        parser.error("--case is the number of a program or of a batch of systems: name one of these, too")
    jax.config.update("jax_enable_x64", True)
    runs = {"programs": run_programs.run, "systems": run_systems.run}
    chosen = [args.what] if args.what else list(runs)
    return max([runs[name](args.seed, args.seconds / len(chosen), args.case) for name in chosen])


if __name__ == "__main__":
    sys.exit(main())
