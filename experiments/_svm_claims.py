"""What `svm` found, beside what the paper claims."""

from collections.abc import Iterator

import numpy as np

from . import _svm as svm
from ._svm import DEFAULT, KINDS
from ._verdicts import Claim, Status, graded, of_cases

GOALS = {1000: 1.5, 10_000: 2.5}  # the ratio of times that the paper shows at this p, with some room


def claims(rows: list[dict], used: list[dict], losses: dict, on_real: dict) -> Iterator[Claim]:
    """The paper's claims, in numbers."""
    main = [row for row in rows if row["solver"] == row["condition"] == svm.PROJECTED]
    for kind in KINDS[1:]:
        ratio = {row["p"]: row[f"ratio {kind}"] for row in main if np.isfinite(row[f"ratio {kind}"])}
        yield Claim(
            f"Implicit is faster than {kind}, by a ratio that grows with p (1.5 at 1,000, about 3 at 10,000).",
            *faster(ratio),
        )
    other = "; ".join(f"{kind}: " + ", ".join(f"{row[f'MB {kind}']:.0f}" for row in used) for kind in KINDS[1:])
    steps = ", ".join(str(row["inner steps"]) for row in used)
    for kind in [kind for kind in (KINDS[0], DEFAULT) if f"MB {kind}" in used[0]]:
        megabytes = [row[f"MB {kind}"] for row in used]
        yield Claim(
            f"Memory of {kind} does not grow with the number of inner steps.",
            of_cases(after < 1.05 * megabytes[0] for after in megabytes[1:]),
            f"{min(megabytes):.1f} to {max(megabytes):.1f} MB at {steps} steps ({other} MB).",
        )
    by_solver = {s: abs(losses[s, "implicit"][-1] / losses[s, "unrolled"][-1] - 1) for s, _ in losses}
    last = np.array([values[-1] for values in losses.values()])
    yield Claim(
        "Implicit and unrolled reach the same validation loss within 1 %, with every solver.",
        *same(by_solver | {"all of them": np.max(last) / np.min(last) - 1}),
    )
    if on_real:
        by_name = {name: abs(on_real[name, KINDS[0]][-1] / on_real[name, KINDS[1]][-1] - 1) for name, _ in on_real}
        yield Claim("The same on real data, with the projected gradient.", *same(by_name))
    wrong = [row for row in rows if not row["true error"] <= 0.01 * abs(row["true gradient"])]
    shown = [not row["estimated error"] <= 0.01 / 3 * abs(row["true gradient"]) for row in wrong]
    yield Claim(
        "Hyper-gradients that are over 1 % wrong are shown by the estimated error, or are NaN.",
        of_cases(shown),
        f"{len(wrong)} of {len(rows)} are over 1 % wrong; {sum(shown)} of them are estimated at over 0.33 % or NaN.",
    )


def faster(ratio: dict[int, float]) -> tuple[Status, str]:
    """Whether unrolled / implicit is above 1 at every p, grows with p, and reaches the paper's values."""
    if not ratio:
        return "vacuous", "Nothing was timed."
    p, values = np.array(list(ratio)), np.array(list(ratio.values()))
    slope = float(np.polyfit(np.log(p), values, 1)[0]) if len(p) > 1 else np.nan
    reached = [ratio.get(q, 0.0) >= goal for q, goal in GOALS.items()]
    status = graded(all(reached) and slope > 0 and bool(np.all(values > 1)), bool(values[-1] > 1))
    growth = f"; {slope:+.2f} for each factor e of p." if len(p) > 1 else "."
    return status, ", ".join(f"{value:.2f} at {q:,}" for q, value in ratio.items()) + growth


def same(gaps: dict[str, float]) -> tuple[Status, str]:
    """Whether all gaps are below 1 %; NaN is not."""
    status = of_cases(gap < 0.01 for gap in gaps.values())
    return status, "; ".join(f"{name}: {gap:.2%} apart" for name, gap in gaps.items()) + "."
