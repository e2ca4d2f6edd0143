"""Program after program until the time is over."""

import collections
import sys
import time

import numpy as np

from .derivatives import MODES, WAYS, Finding, differences, examine
from .pieces import Piece
from .programs import draw


def one(
    seed: int, case: int, pieces: list[Piece] | None = None, way: str | None = None
) -> tuple[str, list[Finding], int] | None:
    """A program in words, its findings, and how many derivatives were compared; None if it is ill-conditioned."""
    rng = np.random.default_rng([seed, case])
    program = draw(rng, pieces)
    dtype = "float32" if rng.uniform() < 0.3 else "float64"
    drawn = str(rng.choice(list(WAYS), p=[0.05, 0.05, 0.9]))
    way = way or drawn
    names = set(rng.permutation([f"{outer}-{inner}" for outer in MODES for inner in MODES])[:2])
    third, differenced = rng.uniform(size=2) < 0.2
    answer = examine(program, dtype, way, names, third and way != "eager")
    if answer is None:
        return None
    findings, count = answer
    if differenced and (error := differences(program)) > 1e-6:
        findings.append(Finding("differences", f"the reference itself is off by {error:.2g}"))
    return f"{program}, {dtype}, {way}", findings, count


def run(seed: int, seconds: float, only: int | None = None) -> int:
    """Try programs for so long; return 1 where one failed."""
    end, tally = time.monotonic() + seconds, collections.Counter()
    case = 0 if only is None else only
    while case == only if only is not None else time.monotonic() < end:
        # Known even if the process dies in a compiler.
        print(f"\rprogram {case} ", end="", file=sys.stderr, flush=True)
        try:
            answer = one(seed, case)
        except KeyboardInterrupt:
            break
        tally["programs"] += 1
        if answer is None:
            tally["ill-conditioned"] += 1
        else:
            words, findings, count = answer
            tally["derivatives"] += count
            if only is not None:
                print(words)
            if findings:
                tally["failed"] += 1
                print(f"\nFAILED: python -m fuzz programs --seed {seed} --case {case}\n  {words}")
                for finding in findings:
                    print(f"  {finding}", flush=True)
        case += 1
    print(f"\n{dict(tally)}, seed {seed}")
    return int(tally["failed"] > 0)
