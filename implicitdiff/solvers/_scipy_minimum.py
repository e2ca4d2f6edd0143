"""Minima by SciPy: the problem in units of its own, the verdict on the result, and the condition that it satisfies."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._program import name_of
from ..optimality._condition import Condition
from ..optimality.kkt import complementarity_margin, inner
from ..optimality.stationary import gradient
from ._active_set import Found, Local, Program
from ._on_host import Layout, flat_box, flat_start, jitted, of_flat, probe, spread
from ._state import relative_gradient, solved_to

# Problems of more unknowns are not given a dense Hessian.
DENSE = 500
# Where a run ends too early because the first units were far from those of the solution, it is taken up again.
RUNS = 4


# The start is of size 1 in the units that SciPy sees; who is this far away will not come back.
FAR = 1e8


class Diverged(Exception):  # noqa: N818
    """Raised out of SciPy at a point where the search is given up."""


def run(minimize: Callable[..., Any], **options: Any) -> tuple[np.ndarray, int, bool]:
    """Where SciPy ended, after how many iterations, and whether another start, in other units, may go on."""
    try:
        found = minimize(**options)
    except Diverged as end:
        return np.asarray(end.args[0], np.float64), 0, True
    # Not where its iterations were used up, or where it found no feasible point.
    return found.x, int(found.get("nit", found.nfev)), bool(found.success) or "ABNORMAL" in str(found.message)


class Solution(NamedTuple):
    """A constrained minimum z, and the multipliers nu of the equations and lam >= 0 of the inequalities, or None."""

    z: PyTree
    nu: PyTree
    lam: PyTree


class Units(NamedTuple):
    """x = origin-free unknowns times `x`; the objective divided by `f`."""

    x: float
    f: float


def condition(f: Callable, eq: Callable | None, ineq: Callable | None, bounds: bool) -> Condition:
    """The conditions of a minimum under constraints, as the solvers on the host leave it.

    Multipliers of inactive inequalities are zero, and unknowns on a bound equal it: that, and no comparison of numbers
    in different units, tells what is active. Both are out of the Lagrangian, so that the Jacobian is symmetric.
    """
    constrained = eq is not None or ineq is not None

    def parts(x, args):
        if constrained:
            z, nu, lam = x
            return z, nu, lam, *args[:2], args[2] if bounds else None
        return x, None, None, None, None, args[0] if bounds else None

    def F(x: PyTree, theta_f: Any = None, *args: Any) -> PyTree:
        z, nu, lam, theta_eq, theta_ineq, box = parts(x, args)
        settled, fixed, at = z, None, None
        if bounds:
            low, high = spread(box, z)
            fixed = jax.tree.map(lambda v, a, b: (v <= a) | (v >= b), z, low, high)
            at = jax.tree.map(lambda v, a, b: jnp.where(v <= a, a, b), z, low, high)
            settled = jax.tree.map(jnp.where, fixed, at, z)
        active = jax.tree.map(lambda m: m > 0, lam)

        def lagrangian(z: PyTree) -> Array:
            value = f(z, theta_f)
            if eq is not None:
                value = value + inner(nu, eq(z, theta_eq))
            if ineq is not None:
                weights = jax.tree.map(lambda a, m: jnp.where(a, m, 0), active, lam)
                value = value + inner(weights, ineq(z, theta_ineq))
            return value

        slope = gradient(lagrangian, settled)
        if bounds:
            slope = jax.tree.map(lambda on, g, v, b: jnp.where(on, v - b, g), fixed, slope, z, at)
        if not constrained:
            return slope
        equations = None if eq is None else eq(settled, theta_eq)
        last = None if ineq is None else jax.tree.map(jnp.where, active, ineq(settled, theta_ineq), lam)
        return Solution(slope, equations, last)

    def margin(x: PyTree, theta_f: Any = None, *args: Any) -> Array:
        z, _, lam, _, theta_ineq, _ = parts(x, args)
        return complementarity_margin(lam, None if ineq is None else ineq(z, theta_ineq))

    of = f"scipy_minimize({name_of(f)})"
    return Condition(F, of, symmetric=True, is_root=True, margin=margin if ineq is not None else None)


class Objective:
    """F with the derivatives that SciPy's methods make use of, in units of the problem."""

    def __init__(self, f: Callable):
        """`f(x, *args)` to a scalar."""
        self.f = f
        self.slope = jitted(f, jax.value_and_grad, scalar=True)
        self.hessian = jitted(f, jax.hessian, scalar=True)
        self.probe = jitted(f, probe, scalar=True)

    def units(self, x: np.ndarray, layout: Layout, args: tuple) -> Units:
        """The size of x, or else of Newton's step, and the curvature of f in such units."""
        _, g, Hg = self.probe(x, layout, args)
        slope, curvature = float(np.linalg.norm(g)), float(np.linalg.norm(Hg))
        size = float(np.linalg.norm(x)) / np.sqrt(max(x.size, 1))
        size = size or (slope / curvature if curvature > 0 else 1.0)
        size = size if np.isfinite(size) and size > 0 else 1.0
        value = max(curvature * size**2, slope * size)
        return Units(size, value if np.isfinite(value) and value > 0 else 1.0)

    def arguments(self, method: str, layout: Layout, args: tuple, units: Units) -> dict[str, Any]:
        """Arguments of `scipy.optimize.minimize`: it warns of derivatives that a method does not use."""
        u, v = units

        def fun(y):
            # SciPy would follow an objective that is not bounded below, or is NaN, for minutes.
            if not np.max(np.abs(y), initial=0.0) < FAR:
                raise Diverged(y)
            value, g = self.slope(u * y, layout, args)
            if np.isnan(value):
                raise Diverged(y)
            return value / v, g * (u / v)

        if method in ("nelder-mead", "powell", "cobyla", "cobyqa"):
            return {"fun": lambda y: fun(y)[0]}
        result: dict[str, Any] = {"fun": fun, "jac": True}
        if method in ("trust-constr", "newton-cg", "dogleg", "trust-ncg", "trust-krylov", "trust-exact"):
            result["hess"] = lambda y: self.hessian(u * y, layout, args) * (u**2 / v)
        return result

    def error(self, x, start, layout: Layout, args: tuple, low: Any = -np.inf, high: Any = np.inf):
        """The relative size of the gradient of f at x, in a box of the projected one; and f(x)."""
        value, g, Hg = self.probe(x, layout, args)
        curvature = np.linalg.norm(Hg)
        step = 1 / curvature if curvature > 0 else 1.0
        slope = (x - np.clip(x - step * g, low, high)) / step if np.any(np.isfinite([low, high])) else g
        sizes = [np.linalg.norm(part) for part in (slope, x, x - start)]
        return float(relative_gradient(sizes[0], curvature, sizes[1], sizes[2], value, np)), float(value)


def merged(defaults: dict[str, Any], options: dict | None) -> dict[str, Any]:
    """The defaults with the user's options, whatever the case of their names."""
    names = {name.lower(): name for name in defaults}
    return defaults | {names.get(name.lower(), name): value for name, value in (options or {}).items()}


def defaults(method: str, tol: float) -> dict[str, Any]:
    """Options under which a method goes on until `tol` is met."""
    if method == "l-bfgs-b":
        return {"maxiter": 10_000, "maxfun": 100_000, "gtol": tol, "ftol": 0.0}
    return {"maxiter": 1000} if method in ("slsqp", "trust-constr", "cobyla", "cobyqa") else {}


def refined(functions: "Functions", x: np.ndarray, start: np.ndarray, layout: Layout, args: tuple, low, high) -> Found:
    """The last Newton steps; args are theta_f, theta_eq and theta_ineq."""
    counts = functions.counts(x, layout, args)

    def local(z, nu, lam):
        nu, lam = (np.zeros(k) if v is None else v for k, v in zip(counts, (nu, lam), strict=True))
        return functions.local(z, layout, nu, lam, args)

    return Program(local, x, start, np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)).refined(x)


class Functions:
    """Objective and constraints at a point, all at once."""

    def __init__(self, f: Callable, eq: Callable | None = None, ineq: Callable | None = None):
        """`f(x, theta_f)`, `eq(x, theta_eq)` and `ineq(x, theta_ineq)`."""
        self.constraints = [g if g is None else lambda x, *args, g=g, k=k: g(x, args[k])
                            for k, g in ((1, eq), (2, ineq))]  # fmt: skip
        parts = [of_flat(lambda x, *args: f(x, args[0]), scalar=True), *[
            (lambda x, *_: jnp.zeros(0, x.dtype)) if g is None else of_flat(g) for g in self.constraints
        ]]  # fmt: skip

        # Called with theta_f, theta_eq and theta_ineq; to see whether all of it can be traced.
        self.whole = lambda x, *args: [
            f(x, args[0]), *[g(x, *args) for g in self.constraints if g is not None]
        ]  # fmt: skip

        @partial(jax.jit, static_argnums=1)
        def compiled(z, layout, nu, lam, args):
            value, equations, inequalities = (lambda z, g=g: g(z, layout, args) for g in parts)
            lagrangian = lambda z: value(z) + nu @ equations(z) + lam @ inequalities(z)  # noqa: E731
            results: list = list(jax.value_and_grad(value)(z))
            results.append(jax.hessian(lagrangian)(z))
            for g in (equations, inequalities):
                results += [g(z), jax.jacobian(g)(z)]
            return Local(*results)

        self.compiled = compiled

    def local(self, *args) -> Local:
        """The program at z, with the Hessian of the Lagrangian."""
        return Local(*(np.asarray(part, np.float64) for part in self.compiled(*args)))

    def counts(self, x: np.ndarray, layout: Layout, args: tuple) -> tuple[int, int]:
        """The numbers of equations and of inequalities."""
        sizes = [
            0 if g is None else jax.eval_shape(partial(of_flat(g), layout=layout, args=args), x).size
            for g in self.constraints
        ]
        return sizes[0], sizes[1]


def free(
    objective: Objective, method: str, bounds: bool, tol: float, options: dict | None, callback: Callable | None = None
) -> Callable:
    """`solve(init, *args)` by a method without constraints other than a box."""
    functions = Functions(objective.f)

    def solve(init, *args):
        from scipy.optimize import Bounds, minimize

        box, args = split_box(args) if bounds else (None, args)
        start, layout = flat_start(init, args, (objective.f,))
        low, high = flat_box(box, init) if bounds else (-np.inf, np.inf)
        x, iterations, extra = np.clip(start, low, high), 0, merged(defaults(method, tol), options)
        error, value = np.inf, np.nan
        for _ in range(RUNS):
            units = objective.units(x, layout, args)
            y, steps, again = run(
                minimize, x0=x / units.x, method=method, tol=tol, options=extra,
                bounds=Bounds(low / units.x, high / units.x) if bounds else None,
                callback=callback and (lambda y, *_, unit=units.x: callback(layout(y * unit))),
                **objective.arguments(method, layout, args, units),
            )  # fmt: skip
            iterations += steps
            last, x = x, np.clip(y * units.x, low, high)
            error, value = objective.error(x, start, layout, args, low, high)
            if error <= solved_to(np.float64) or not np.isfinite(error) or not np.any(x != last) or not again:
                break
        if bounds:
            x, error, value = in_box(functions, objective, x, start, layout, (*args, None, None)[:3], low, high)
        return layout(x), iterations, error, value

    return solve


def in_box(functions: Functions, objective: Objective, x, start, layout: Layout, args: tuple, low, high):
    """X with its entries on the bounds told from those between, its error, and f(x)."""
    if x.size <= DENSE:
        found = refined(functions, x, start, layout, args, low, high)
        return found.z, found.error, found.value
    _, g, Hg = objective.probe(x, layout, args[:1])
    curvature = np.linalg.norm(Hg)
    moved = x - g / curvature if curvature > 0 else x
    x = np.where(moved <= low, low, np.where(moved >= high, high, x))
    return x, *objective.error(x, start, layout, args[:1], low, high)


def split_box(args: tuple) -> tuple[Any, tuple]:
    """The last of run's arguments, which is the box, and the others."""
    return (args[-1] if args[1:] else None), args[: max(len(args) - 1, 1)]


def constrained(f, method: str, eq, ineq, bounds: bool, tol: float, options: dict | None) -> tuple[Callable, Callable]:
    """`solve(init, theta_f, theta_eq, theta_ineq, box)` by a method with constraints, and the shapes of its result."""
    objective, functions = Objective(f), Functions(f, eq, ineq)
    sides = {
        name: (jitted(g), jitted(g, jax.jacobian), jitted(_weighted(g), jax.hessian, scalar=True))
        for name, g in (("eq", eq), ("ineq", ineq))
        if g is not None
    }

    def shape(init, theta_f=None, theta_eq=None, theta_ineq=None, box=None):
        del theta_f, box
        nu = None if eq is None else eq(init, theta_eq)
        return Solution(init, nu, None if ineq is None else ineq(init, theta_ineq))

    def constraints(layout, args, units, at):
        from scipy.optimize import NonlinearConstraint

        result: list[Any] = []
        for (name, (value, jacobian, curvature)), theta in zip(sides.items(), args, strict=True):
            # Each row divided by its gradient at the start: SciPy compares them with one tolerance.
            size = np.linalg.norm(jacobian(at, layout, (theta,)), axis=1) * units.x
            row = 1 / np.where(np.isfinite(size) & (size > 0), size, 1.0)
            c = lambda y, g=value, t=theta, r=row: r * g(units.x * y, layout, (t,))  # noqa: E731
            J = lambda y, g=jacobian, t=theta, r=row: (r * units.x)[:, None] * g(units.x * y, layout, (t,))  # noqa: E731
            if method == "trust-constr":
                H = lambda y, v, g=curvature, t=theta, r=row: units.x**2 * g(units.x * y, layout, (t, r * v))  # noqa: E731
                result.append(NonlinearConstraint(c, 0.0 if name == "eq" else -np.inf, 0.0, J, H))
            else:
                sign = 1.0 if name == "eq" else -1.0  # SciPy's inequalities are >= 0
                signed = [lambda y, g=g, s=sign: s * g(y) for g in (c, J)]
                result.append({"type": name, "fun": signed[0], "jac": signed[1]})
        return result

    def solve(init, theta_f=None, theta_eq=None, theta_ineq=None, box=None):
        from scipy.optimize import Bounds, minimize

        args = theta_f, theta_eq, theta_ineq
        used = [theta for theta, g in ((theta_eq, eq), (theta_ineq, ineq)) if g is not None]
        start, layout = flat_start(init, args, (functions.whole,))
        low, high = flat_box(box, init) if bounds else (-np.inf, np.inf)
        x, iterations, best = np.clip(start, low, high), 0, None
        for _ in range(RUNS):
            units = objective.units(x, layout, args[:1])
            y, steps, again = run(
                minimize, x0=x / units.x, method=method, tol=tol, options=merged(defaults(method, tol), options),
                bounds=Bounds(low / units.x, high / units.x) if bounds else None,
                constraints=constraints(layout, used, units, x), **objective.arguments(method, layout, args[:1], units),
            )  # fmt: skip
            iterations += steps
            last, x = x, y * units.x
            if not np.isfinite(x).all():
                break
            here = refined(functions, x, start, layout, args, low, high)
            best = here if best is None or here.error < best.error else best
            if best.error <= solved_to(np.float64) or not np.any(x != last) or not again:
                break
        like = jax.eval_shape(shape, layout(x), *args)
        if best is None:
            best = Found.unknown(x, functions.counts(x, layout, args))
        unsolved = np.nan if best.error > solved_to(np.float64) else 1.0
        nu, lam = (
            None
            if part is None
            else flat_start(jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), part))[1](v * unsolved)
            for part, v in ((like.nu, best.nu), (like.lam, best.lam))
        )
        return Solution(layout(best.z), nu, lam), iterations, best.error, best.value

    return solve, shape


def _weighted(g: Callable) -> Callable:
    """v'g(z, theta), whose Hessian in z SciPy's trust-constr asks for."""
    return lambda z, theta, v: jnp.vdot(v, ravel_pytree(g(z, theta))[0])
