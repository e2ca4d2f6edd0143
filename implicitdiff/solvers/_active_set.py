"""Which constraints are active at an approximate minimum, with which multipliers, and the last Newton steps.

In NumPy. Everything is compared in units of the problem's own: unknowns in those of the solution, constraints divided
by the norm of their gradient (so that a slack is a distance), the objective by its curvature (so that a multiplier is
the distance by which its constraint pushes the minimum). Only then can a multiplier be compared with a slack.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# So many steps, at most: near a solution Newton's method needs three or four.
STEPS = 15
# Slacks beyond this share of the size of the solution are not looked at.
NEARBY = 0.1
# Gradients of active constraints whose least singular value is below do not determine the multipliers.
DEPENDENT = 1e-6


class Local(NamedTuple):
    """A program at one point: objective, its gradient, the Lagrangian's Hessian, constraints and their Jacobians."""

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    eq: np.ndarray
    eq_jacobian: np.ndarray
    ineq: np.ndarray
    ineq_jacobian: np.ndarray


class Found(NamedTuple):
    """The refined point z, multipliers, the largest residual of the scaled conditions, and the value at z."""

    z: np.ndarray
    nu: np.ndarray
    lam: np.ndarray
    error: float
    value: float

    @classmethod
    def unknown(cls, z: np.ndarray, counts: tuple[int, int], value: float = np.nan) -> "Found":
        """The point itself: it is no solution."""
        return cls(z, np.full(counts[0], np.nan), np.full(counts[1], np.nan), np.inf, value)


class _Scaled(NamedTuple):
    """The program in scaled units: equations first, then inequalities, then bounds, all of gradient one."""

    z: np.ndarray
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    rows: np.ndarray
    constants: np.ndarray
    sizes: np.ndarray


class Program:
    """min f subject to eq = 0, ineq <= 0 and low <= z <= high, near a point at which its units are taken."""

    def __init__(self, local: Callable[..., Local], z: np.ndarray, start: np.ndarray, low, high):
        """`local(z, nu, lam)` evaluates the program; `start` is where its solver started."""
        self.local, self.low, self.high = local, low, high
        self.unit = np.maximum(np.abs(z), 1e-2 * np.abs(start))
        largest = np.max(self.unit, initial=0.0)
        self.unit = np.maximum(self.unit, 1e-6 * largest) if largest > 0 else np.ones_like(z)
        first = local(z, None, None)
        self.equations, self.inequalities = first.eq.size, first.ineq.size
        self.bounded = np.flatnonzero(np.isfinite(low)), np.flatnonzero(np.isfinite(high))
        curvature = np.linalg.norm(first.hessian * self.unit[:, None] * self.unit, 2)
        self.force = max(curvature, float(np.linalg.norm(first.gradient * self.unit))) or 1.0

    def at(self, z: np.ndarray, multipliers: np.ndarray | None = None, sizes: np.ndarray | None = None) -> _Scaled:
        """The scaled program at z; the Hessian is that of the Lagrangian with these scaled multipliers."""
        nu = lam = None
        if multipliers is not None and sizes is not None:
            nu, lam = self.split(multipliers, sizes)
        here = self.local(z, nu, lam)
        lower, upper = self.bounded
        eye = np.eye(z.size)
        jacobian = np.concatenate([here.eq_jacobian, here.ineq_jacobian]) * self.unit
        sizes = np.linalg.norm(jacobian, axis=1)
        sizes = np.where(sizes > 0, sizes, 1.0)
        rows = np.concatenate([jacobian / sizes[:, None], -eye[lower], eye[upper]])
        constants = np.concatenate([
            np.concatenate([here.eq, here.ineq]) / sizes,
            (self.low - z)[lower] / self.unit[lower], (z - self.high)[upper] / self.unit[upper],
        ])  # fmt: skip
        gradient = here.gradient * self.unit / self.force
        hessian = here.hessian * self.unit[:, None] * self.unit / self.force
        return _Scaled(z, float(here.value), gradient, hessian, rows, constants, sizes)

    def split(self, multipliers: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Multipliers of equations and of inequalities in the units of the problem; those of bounds are left out."""
        own = multipliers[: sizes.size] * self.force / sizes
        return own[: self.equations], own[self.equations :]

    def residual(self, at: _Scaled, multipliers: np.ndarray) -> float:
        """The largest residual of the conditions of Karush, Kuhn and Tucker, in scaled units."""
        count = self.equations
        complementary = np.minimum(multipliers[count:], -at.constants[count:])
        parts = at.gradient + at.rows.T @ multipliers, at.constants[:count], complementary
        largest = np.max(np.abs(np.concatenate(parts)), initial=0.0)
        return float(largest) if np.isfinite(largest) else np.inf

    def active(self, at: _Scaled, multipliers: np.ndarray) -> np.ndarray:
        """Equations, and the inequalities with more multiplier than slack."""
        return np.concatenate([
            np.ones(self.equations, bool), multipliers[self.equations :] > -at.constants[self.equations :]
        ])  # fmt: skip

    def first_multipliers(self, at: _Scaled) -> np.ndarray:
        """Least-squares multipliers, those of inequalities not negative and the smaller the more slack there is.

        An interior method ends at some distance from the boundary, so that no threshold on the slack tells what is
        active.
        """
        from scipy.optimize import lsq_linear

        slack = np.maximum(-at.constants, 0.0)
        slack[: self.equations] = 0.0
        chosen = np.flatnonzero(slack < NEARBY)
        multipliers = np.zeros(slack.size)
        if chosen.size:
            A = np.concatenate([at.rows[chosen].T, np.diag(slack[chosen])])
            b = np.concatenate([-at.gradient, np.zeros(chosen.size)])
            low = np.where(chosen < self.equations, -np.inf, 0.0)
            multipliers[chosen] = lsq_linear(A, b, (low, np.inf), tol=1e-14).x
        return multipliers

    def step(self, at: _Scaled, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Newton's step of z and the multipliers, were these constraints the active ones."""
        n, rows = at.z.size, at.rows[active]
        matrix = np.block([[at.hessian, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
        right = -np.concatenate([at.gradient, at.constants[active]])
        try:
            solution = np.linalg.solve(matrix, right)
        except np.linalg.LinAlgError:
            solution = np.linalg.lstsq(matrix, right, rcond=None)[0]
        multipliers = np.zeros(active.size)
        multipliers[active] = solution[n:]
        return solution[:n], multipliers

    def refined(self, z: np.ndarray) -> Found:
        """Newton steps on the conditions, with the active constraints that multipliers and slacks tell."""
        z = np.clip(z, self.low, self.high)
        at = self.at(z)
        if not all(np.isfinite(part).all() for part in at):
            return Found.unknown(z, (self.equations, self.inequalities), at.value)
        multipliers = self.first_multipliers(at)
        best, failures = (self.residual(at, multipliers), at, multipliers), 0
        for _ in range(STEPS):
            at = self.at(at.z, multipliers, at.sizes)
            d, multipliers = self.step(at, self.active(at, multipliers))
            at = self.at(at.z + self.unit * d)
            if not np.isfinite(multipliers).all() or not all(np.isfinite(part).all() for part in at):
                break
            error = self.residual(at, multipliers)
            failures = 0 if error < best[0] else failures + 1
            if error < best[0]:
                best = error, at, multipliers
            if failures == 2:
                break
        error, at, multipliers = best
        active = self.active(at, multipliers)
        nu, lam = self.split(np.where(active, multipliers, 0.0), at.sizes)
        singular = np.linalg.svd(at.rows[active], compute_uv=False) if active.any() else np.ones(1)
        if np.sum(active) > z.size or singular[-1] < DEPENDENT * singular[0]:
            nu, lam = nu * np.nan, lam * np.nan
        return Found(self._on_bounds(at.z, active), nu, lam, error, at.value)

    def _on_bounds(self, z: np.ndarray, active: np.ndarray) -> np.ndarray:
        lower, upper = self.bounded
        ends = active[self.equations + self.inequalities :]
        z = z.copy()
        z[lower[ends[: lower.size]]] = self.low[lower[ends[: lower.size]]]
        z[upper[ends[lower.size :]]] = self.high[upper[ends[lower.size :]]]
        return np.clip(z, self.low, self.high)
