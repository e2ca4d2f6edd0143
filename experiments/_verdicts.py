"""What became of a claim. Every verdict is a function of numbers, and each of the four can come out.

A claim of which no case could be examined is vacuous, not reproduced: all of nothing is true. NaN is never a success.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Status = Literal["reproduced", "partly", "not reproduced", "vacuous"]


class Claim(NamedTuple):
    """One claim of the paper or of our own, what became of it, and the numbers that say so."""

    claim: str
    status: Status
    found: str


def graded(fully: bool, partly: bool) -> Status:
    """From whether the whole claim holds, and whether a weaker one does."""
    return "reproduced" if fully else "partly" if partly else "not reproduced"


def of_cases(holds: Iterable[bool]) -> Status:
    """From whether the claim holds in each case: in all, in some, in none of them, or there are none."""
    cases = [bool(case) for case in holds]
    return graded(all(cases), any(cases)) if cases else "vacuous"


def of_count(good: int, count: int, part: float = 0.9) -> Status:
    """From the number of cases in which a claim about all of them holds; `part` is the share that "partly" needs."""
    return graded(good == count, good >= part * count) if count else "vacuous"
