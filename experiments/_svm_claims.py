"""What `svm` found, beside what the paper claims."""

import numpy as np

from . import _svm as svm
from ._results import Results
from ._svm import DEFAULT, KINDS


def claims(results: Results, rows: list[dict], used: list[dict], losses: dict, on_real: dict) -> None:
    """The paper's claims, in numbers."""
    main = [row for row in rows if row["solver"] == row["condition"] == svm.PROJECTED]
    for kind in KINDS[1:]:
        ratio = {row["p"]: row[f"ratio {kind}"] for row in main if np.isfinite(row[f"ratio {kind}"])}
        p, values = np.array(list(ratio)), np.array(list(ratio.values()))
        slope = float(np.polyfit(np.log(p), values, 1)[0]) if len(p) > 1 else np.nan
        goals = [ratio.get(q, 0.0) >= goal for q, goal in ((1000, 1.5), (10_000, 2.5))]
        good = [*goals, slope > 0, bool(np.all(values > 1))]
        results.claim(
            f"Implicit is faster than {kind}, by a ratio that grows with p (1.5 at 1,000, about 3 at 10,000).",
            "reproduced" if all(good) else "partly" if values[-1] > 1 else "not reproduced",
            ", ".join(f"{value:.2f} at {q:,}" for q, value in ratio.items())
            + (f"; {slope:+.2f} for each factor e of p." if len(p) > 1 else "."),
        )
    other = "; ".join(f"{kind}: " + ", ".join(f"{row[f'MB {kind}']:.0f}" for row in used) for kind in KINDS[1:])
    for kind in [kind for kind in (KINDS[0], DEFAULT) if f"MB {kind}" in used[0]]:
        megabytes = [row[f"MB {kind}"] for row in used]
        results.claim(
            f"Memory of {kind} does not grow with the number of inner steps.",
            "reproduced" if max(megabytes) < 1.05 * min(megabytes) else "not reproduced",
            f"{min(megabytes):.1f} to {max(megabytes):.1f} MB at {', '.join(str(row['inner steps']) for row in used)} "
            f"steps ({other} MB).",
        )
    by_solver = {s: abs(losses[s, "implicit"][-1] / losses[s, "unrolled"][-1] - 1) for s, _ in losses}
    last = np.array([values[-1] for values in losses.values()])
    same(
        results, "Implicit and unrolled reach the same validation loss within 1 %, with every solver.",
        by_solver | {"all of them": np.max(last) / np.min(last) - 1},
    )  # fmt: skip
    if on_real:
        by_name = {name: abs(on_real[name, KINDS[0]][-1] / on_real[name, KINDS[1]][-1] - 1) for name, _ in on_real}
        same(results, "The same on real data, with the projected gradient.", by_name)
    wrong = [row for row in rows if not row["true error"] <= 0.01 * abs(row["true gradient"])]
    shown = [row for row in wrong if not row["estimated error"] <= 0.01 / 3 * abs(row["true gradient"])]
    results.claim(
        "Hyper-gradients that are over 1 % wrong are shown by the estimated error, or are NaN.",
        "reproduced" if len(shown) == len(wrong) else "partly" if shown else "not reproduced",
        f"{len(wrong)} of {len(rows)} are over 1 % wrong, {len(shown)} of them are estimated at over 0.33 % or NaN.",
    )


def same(results: Results, claim: str, gaps: dict[str, float]) -> None:
    """Whether all gaps are below 1 %; NaN is not."""
    good = np.array(list(gaps.values())) < 0.01
    results.claim(
        claim, "reproduced" if good.all() else "partly" if good.any() else "not reproduced",
        "; ".join(f"{name}: {gap:.2%} apart" for name, gap in gaps.items()) + ".",
    )  # fmt: skip
