"""How a packing of soft spheres moves when the diameter of half of them grows (experiment 4 of the paper).

128 spheres in a periodic box in the plane, half of diameter 1 and half of diameter 0.6, are relaxed from 40 random
starts by FIRE: x*(theta) is a minimum of the energy, and dx*/dtheta is one Jacobian-vector product, a linear solve
with the Hessian by BiCGSTAB. The box, filled to 0.98, stays as it is. The Hessian is singular: the two translations
cost no energy, nor does moving a sphere without contacts. The right-hand side has no component there (the forces sum
to zero, and a sphere without contacts feels none), so a Krylov method that starts from zero finds the solution that
has none either. The factorisation that `Implicit()` would choose for 256 unknowns gives NaN, as it does for every
singular matrix.

The competitor is the derivative through the steps of FIRE. It is finite but arbitrary for a sphere without contacts,
whose position the energy does not determine; errors are therefore also given without such spheres. Both are compared
with central differences of positions that are relaxed again, after the mean over the spheres has been removed.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import bicgstab
from matplotlib.collections import EllipseCollection
from tqdm import tqdm

import implicitdiff as idf

from ._results import COLOURS, Results
from ._soft_spheres import (
    Descent,
    Judgement,
    Spheres,
    centred,
    errors,
    fire,
    judge,
    norms,
    own_fire,
    relax,
    spheres,
)
from ._verdicts import Claim, graded, of_count

THETA = 0.6
USUAL = 300  # the number of steps of FIRE in the example of jax-md
CLOSE = 0.01  # relative error
WITHIN = (
    "dtype",
    "steps",
    "median largest force",
    "implicit within 1 %",
    "implicit median error",
    "implicit NaN",
    "unrolled within 1 %",
    "unrolled median error",
    "unrolled within 1 %, spheres with contacts",
)


@cache
def bicgstab_adjoint(dtype) -> idf.Implicit:
    """BiCGSTAB with a tolerance close to the precision; at a minimum it ends within 200 steps."""
    tol = 1e-10 if dtype == jnp.float64 else 1e-5
    return idf.Implicit(linear_solver=lambda matvec, b: bicgstab(matvec, b, tol=tol, maxiter=500)[0])


@cache
def sensitivity(system: Spheres, adjoint: idf.Implicit) -> Callable:
    """(x, theta) -> dx*/dtheta at each of the positions x (starts, number, 2), and the relative residual."""
    F = idf.optimality.stationary(system.energy)

    def at(x, theta):
        one = jnp.ones_like(theta)
        derivative = idf.root_jvp(F, x, (theta,), (one,), adjoint=adjoint)
        moved = lambda x_dot: jnp.linalg.norm(jax.jvp(F, (x, theta), (x_dot, one))[1])  # noqa: E731
        return derivative, moved(derivative) / moved(jnp.zeros_like(x))

    return jax.jit(jax.vmap(at, (0, None)))


class Path(NamedTuple):
    """Positions, their unrolled derivative and the largest force at regular intervals, (starts, times, ...)."""

    steps: np.ndarray
    positions: jax.Array
    unrolled: jax.Array
    force: np.ndarray


def descend(descent: Descent, starts, theta, steps: int, every: int) -> Path:
    """FIRE from each start, and its derivative in forward mode, which stores no steps."""

    def path(start, theta):
        def some(state, _):
            state = lax.fori_loop(0, every, lambda _, s: descent.step(s, theta), state)
            return state, (state.position, jnp.max(jnp.abs(state.force)))

        return lax.scan(some, descent.start(start, theta), None, length=steps // every)[1]

    @partial(jax.vmap, in_axes=(0, None))
    def along(start, theta):
        (positions, force), (tangent, _) = jax.jvp(partial(path, start), (theta,), (jnp.ones_like(theta),))
        return positions, tangent, force

    positions, tangent, force = jax.jit(along)(starts, theta)
    return Path(np.arange(every, steps + 1, every), positions, tangent, np.asarray(force))


class Comparison(NamedTuple):
    """Both derivatives along the paths in one precision; `times` holds the indices of the implicit ones."""

    path: Path
    truth: Judgement
    times: list[int]
    implicit: list[np.ndarray]
    touching: np.ndarray  # spheres with a contact at the end

    def rows(self, dtype: str) -> list[dict[str, Any]]:
        rows = []
        for time, implicit in zip(self.times, self.implicit, strict=True):
            row: dict[str, Any] = {"dtype": dtype, "steps": int(self.path.steps[time]), "starts": len(implicit)}
            row["median largest force"] = float(np.median(self.path.force[:, time]))
            for name, found in (("implicit", implicit), ("unrolled", self.path.unrolled[:, time])):
                error = errors(found, self.truth.derivative)
                row[f"{name} within 1 %"] = int(np.sum(error < CLOSE))
                row[f"{name} median error"] = float(np.median(error))
                row[f"{name} NaN"] = int(np.sum(~np.isfinite(error)))
                among = errors(found, self.truth.derivative, self.touching)
                row[f"{name} within 1 %, spheres with contacts"] = int(np.sum(among < CLOSE))
            rows.append(row)
        return rows


def compare(system: Spheres, descent: Descent, starts, steps: list[int], every: int) -> Comparison:
    """Paths in the precision of the starts, implicit derivatives after these numbers of steps, central differences."""
    theta = jnp.asarray(THETA, starts.dtype)
    path = descend(descent, starts, theta, steps[-1], every)
    times = [step // every - 1 for step in steps]
    differentiate = sensitivity(system, bicgstab_adjoint(starts.dtype))
    progress = tqdm(times, desc=f"molecular, implicit, {starts.dtype}", unit="time", disable=None)
    implicit = [np.asarray(differentiate(path.positions[:, time], theta)[0]) for time in progress]
    end = path.positions[:, -1]
    touching = np.any(jax.vmap(system.contacts, (0, None))(end, theta), axis=-1)
    return Comparison(path, judge(system, end, float(theta)), times, implicit, np.asarray(touching))


def run(results: Results, quick: bool, seed: int) -> None:
    """Both precisions from the same starts, then other linear solvers and the other relaxation."""
    number, count = (32, 4) if quick else (128, 40)
    steps = [100, USUAL, 1000] if quick else [100, 200, USUAL, 500, 750, 1000, 1500]
    system = spheres(number, THETA)
    descent = fire(system)
    results.settings |= dict(solver=descent.name, spheres=number, starts=count)
    print(f"{number} spheres, {count} starts, relaxed by {descent.name}")
    starts = system.starts(jax.random.key(seed), count)
    found = {name: compare(system, descent, starts.astype(name), steps, 50) for name in ("float64", "float32")}
    rows = {name: comparison.rows(name) for name, comparison in found.items()}
    results.table("within", [row for part in rows.values() for row in part], WITHIN)

    double = found["float64"]
    x, theta = double.path.positions[:, -1], jnp.asarray(THETA)
    ends = double.implicit[-1], double.path.unrolled[:, -1]
    implicit, unrolled = (errors(J, double.truth.derivative) for J in ends)
    sizes = norms(double.truth.derivative)
    each = [
        {
            "start": i,
            "steps to force 1e-10": first_below(double.path, i, 1e-10),
            "spheres without contact": int(np.sum(~double.touching[i])),
            "l1 norm": float(sizes[i]),
            "implicit error": float(implicit[i]),
            "unrolled error": float(unrolled[i]),
            "width of differences": float(double.truth.width[i]),
            "kink within": bool(double.truth.kink[i]),
        }
        for i in range(count)
    ]
    results.table("starts", each, ())
    results.table("linear_solvers", linear_solvers(system, x, theta, double.truth, quick))
    rival = own_minima(system, starts) if descent.name != own_fire(system).name else None
    draw_norms(results, found)
    draw_packing(results, system, np.asarray(x), double, rows)
    results.claim(*claims(rows, double.truth, rival))


def first_below(path: Path, start: int, force: float) -> int | str:
    below = path.steps[path.force[start] < force]
    return int(below[0]) if len(below) else f"not in {path.steps[-1]}"


def linear_solvers(system: Spheres, x, theta, truth: Judgement, quick: bool) -> list[dict[str, Any]]:
    """The same derivative by other linear solvers; none of them is told that the system is singular."""
    adjoints = {
        "BiCGSTAB of jax.scipy": bicgstab_adjoint(x.dtype),
        "krylov.MINRES()": idf.Implicit(linear_solver=idf.krylov.MINRES()),
        "krylov.CG()": idf.Implicit(linear_solver=idf.krylov.CG()),
        "the default: LU": idf.Implicit(),
    }
    rows = []
    for name in list(adjoints)[:: 3 if quick else 1]:
        derivative, residual = sensitivity(system, adjoints[name])(x, theta)
        error = errors(derivative, truth.derivative)
        rows.append(
            {
                "linear solver": name,
                "starts": len(x),
                "NaN": int(np.sum(~np.isfinite(error))),
                "within 1 %": int(np.sum(error < CLOSE)),
                "largest relative residual": float(np.max(residual)),
            }
        )
    return rows


def own_minima(system: Spheres, starts) -> tuple[int, int]:
    """The number of starts within 1 % after our own FIRE has relaxed them, and the number of starts."""
    theta = jnp.asarray(THETA)
    x = jax.jit(jax.vmap(lambda x: relax(own_fire(system), x, theta)[0]))(starts)
    error = errors(sensitivity(system, bicgstab_adjoint(x.dtype))(x, theta)[0], judge(system, x, THETA).derivative)
    return int(np.sum(error < CLOSE)), len(x)


def draw_norms(results: Results, found: dict[str, Comparison]) -> None:
    """The l1 norm of both derivatives against the number of steps, a line for each start."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
    for row, (dtype, comparison) in zip(axes, found.items(), strict=True):
        path, truth = comparison.path, norms(comparison.truth.derivative)
        curves = {
            "implicit": (path.steps[comparison.times], np.stack([norms(J) for J in comparison.implicit], axis=1)),
            "unrolled": (path.steps, norms(path.unrolled)),
        }
        for axis, (name, (steps, values)) in zip(row, curves.items(), strict=True):
            axis.axhspan(truth.min(), truth.max(), color="#bbbbbb", alpha=0.4, lw=0, label="central differences, range")
            axis.semilogy(
                steps, values.T, color=COLOURS[name], lw=0.7, alpha=0.7, marker="." if name == "implicit" else ""
            )
            axis.axvline(USUAL, color="black", ls=":", lw=1)
            axis.set_title(f"{name}, {dtype}")
        row[0].set_ylabel("l1 norm of dx*/dtheta")
    axes[0, 0].legend(frameon=False, loc="upper right")
    for axis in axes[1]:
        axis.set_xlabel(f"steps of FIRE (dotted: the usual {USUAL})")
    results.figure("norms", figure)


def draw_packing(results: Results, system: Spheres, x: np.ndarray, double: Comparison, rows) -> None:
    """The packing of the start with the median norm, with arrows; the share of right derivatives against the steps."""
    size = norms(double.truth.derivative)
    chosen = int(np.argsort(size)[len(size) // 2])
    position, arrow = np.mod(x[chosen], system.side), centred(double.implicit[-1][chosen])
    diameters = np.asarray(system.diameters(jnp.asarray(THETA)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained", width_ratios=(1, 1.1))
    shifts = system.side * np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)])
    images = (position + shifts[:, None]).reshape(-1, 2)
    moves = np.tile(diameters < 1, len(shifts))
    left.add_collection(
        EllipseCollection(
            np.tile(diameters, len(shifts)),
            np.tile(diameters, len(shifts)),
            0,
            units="xy",
            offsets=images,
            transOffset=left.transData,
            facecolors=np.where(moves[:, None], [[0.99, 0.85, 0.7]], [[0.87, 0.9, 0.94]]),
            edgecolors="#888888",
            linewidths=0.4,
        )
    )
    scale = 0.15 * system.side / np.quantile(np.linalg.norm(arrow, axis=1), 0.98)
    left.quiver(*position.T, *(scale * arrow).T, angles="xy", scale_units="xy", scale=1, width=0.004, color="black")
    left.set(xlim=(0, system.side), ylim=(0, system.side), aspect="equal", xlabel="x (large diameters)")
    left.set(ylabel="y (large diameters)", title=f"arrows: {scale:.2g} dx*/dtheta; orange spheres grow")
    left.grid(False)
    for dtype, part in rows.items():
        for name in ("implicit", "unrolled"):
            percent = [100 * row[f"{name} within 1 %"] / row["starts"] for row in part]
            right.plot(
                [row["steps"] for row in part],
                percent,
                "-o" if dtype == "float64" else "--s",
                ms=4,
                color=COLOURS[name],
                label=f"{name}, {dtype}",
            )
    right.axvline(USUAL, color="black", ls=":", lw=1)
    right.set(
        xlabel=f"steps of FIRE (dotted: the usual {USUAL})",
        ylabel="starts within 1 % of central differences (%)",
        ylim=(-3, 103),
    )
    right.legend(frameon=False, loc="center right")
    results.figure("packing", figure)


def claims(rows, truth: Judgement, rival: tuple[int, int] | None) -> Iterator[Claim]:
    """The claims of the paper, in numbers."""
    at = {dtype: {row["steps"]: row for row in part} for dtype, part in rows.items()}
    double, single, last, count = at["float64"], at["float32"], max(at["float64"]), len(truth.width)
    implicit, unrolled = "implicit within 1 %", "unrolled within 1 %"
    yield Claim(
        "The implicit derivative is within 1 % of central differences of re-relaxed positions on every start.",
        of_count(double[last][implicit], count),
        f"{double[last][implicit]} of {count} after {last} steps, float64.",
    )
    ours, theirs = double[USUAL][implicit], double[USUAL][unrolled]
    yield Claim(
        f"Through {USUAL} unrolled steps of FIRE, the usual number, the derivative often has not converged.",
        graded(theirs < count / 2, theirs < count),
        f"Unrolled is within 1 % on {theirs} of {count}, implicit at the same positions on {ours}.",
    )
    counts = {steps: (row[unrolled], row[implicit]) for steps, row in double.items() if steps > USUAL}
    held = double[last][f"{unrolled}, spheres with contacts"]
    yield Claim(
        "More steps do not help the unrolled derivative.",
        graded(counts[last][0] < count / 2, counts[1000][0] < count / 2),
        "Within 1 %, unrolled and implicit: "
        + ", ".join(f"{u} and {i} after {s}" for s, (u, i) in counts.items())
        + f"; unrolled {held} at the end where spheres without contacts are left out.",
    )
    yield Claim(
        "In float32 the implicit derivative is within 1 % as well.",
        of_count(single[last][implicit], count),
        f"{single[last][implicit]} of {count} after {last} steps; unrolled {single[last][unrolled]}.",
    )
    off = float(np.max(np.abs(truth.slope - truth.partial) / np.abs(truth.partial)))
    yield Claim(
        "Energies need no implicit derivative (Danskin).",
        graded(off < 1e-5, off < 1e-3),
        f"The partial derivative is within {off:.0e} of central differences of the relaxed energies on all starts.",
    )
    if rival is not None:
        yield Claim(
            "Any solver: own FIRE in the place of jax-md's.", of_count(*rival), f"{rival[0]} of {rival[1]} within 1 %."
        )
