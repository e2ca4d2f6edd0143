"""SciPy's solvers, with derivatives, also under jit and vmap.

The functions of the problem are written in JAX; SciPy gets them with their gradients, in float64 where the platform has
it, and in units of the problem's own, for its tolerances and first steps are absolute numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree, Scalar

from .. import optimality
from .._adjoint import Adjoint
from .._decorators import stop
from .._fixed_point import as_root
from .._host import host_solver
from .._precision import full_precision
from .._root import attach
from . import _scipy_minimum as minimum
from ._on_host import flat_box, flat_start, jitted, packed
from ._scipy_minimum import Solution as Solution
from ._state import Result, State, floating, solved_to
from ._unconverged import OnUnconverged, check_policy, settle


@dataclasses.dataclass(frozen=True)
class ScipySolver:
    """A SciPy solver whose result is differentiable: what the functions of this module return.

    Attributes:
        solve: `solve(init, *args)` to (x, iterations, error, value), in NumPy.
        condition: what x satisfies.
        shape: `shape(init, *args)`, what `solve` returns for x, as a pytree of `jax.ShapeDtypeStruct`.
        adjoint: how the derivative is computed.
        on_unconverged: what happens to a result that is no solution.
    """

    solve: Callable
    condition: Callable
    shape: Callable
    adjoint: Adjoint | None = None
    on_unconverged: OnUnconverged = "warn"

    def __post_init__(self):
        """Check the policy."""
        check_policy(self.on_unconverged)

    def run(self, init: PyTree, *args: Any) -> Result:
        """Solve from `init`.

        Args:
            init: where to start, a pytree of real arrays; with constraints also a former `Solution`.
            *args: what the problem depends on; see the function that made this solver.

        Returns:
            (x, state); x is differentiable in args and in what the functions close over. `state.error` is the residual
            of the condition relative to the sizes in the problem, `state.converged` whether that is at most 5e-7 (on a
            platform without float64 2e-3), whatever SciPy says, `state.value` that of the objective.

        Raises:
            RuntimeError: x is no solution, with `on_unconverged="raise"`.
        """
        x, state, F, _ = self.solved(init, *args)
        return Result(attach(F, x, args, {}, self.adjoint), state)

    @full_precision
    def solved(self, init: PyTree, *args: Any) -> tuple[PyTree, State, Callable, tuple]:
        """(x, state, F, args) with F(x, *args) = 0; nothing is attached to x."""
        init, fixed = stop(floating(init.z if isinstance(init, Solution) else init)), stop(args)
        shape = jax.eval_shape(self.shape, init, *fixed)
        dtype = jnp.result_type(float)
        scalars = [jax.ShapeDtypeStruct((), kind) for kind in (jnp.int32, dtype, dtype)]
        x, iterations, error, value = stop(host_solver(self.solve, (shape, *scalars))(init, *packed(fixed)))
        state = State(iterations, error, error <= solved_to(dtype), value)
        remedy = (
            "Look at the problem (is there a solution, is it bounded, are the functions finite and smooth?), start "
            "closer to it, bring the unknowns to one size, or choose another method or more iterations in options."
        )
        return settle(x, state, self.on_unconverged, "SciPy", remedy), state, as_root(self.condition), args


def scipy_minimize(
    f: Callable[..., Scalar],
    method: str | None = None,
    *,
    bounds: bool = False,
    eq: Callable | None = None,
    ineq: Callable | None = None,
    tol: float = 1e-9,
    options: dict | None = None,
    callback: Callable[[PyTree], Any] | None = None,
    adjoint: Adjoint | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> ScipySolver:
    """A minimum found by `scipy.optimize.minimize`: free, in a box, or under equations and inequalities.

    - free: `run(init, *args)` minimises f(x, *args).
    - `bounds=True`: `run(init, theta_f, (lower, upper))` minimises f(x, theta_f) over the box; each side is a pytree
      like x, one number for all, or None.
    - with eq or ineq: `run(init, theta_f, theta_eq, theta_ineq)` minimises f(z, theta_f) subject to
      eq(z, theta_eq) = 0 and ineq(z, theta_ineq) <= 0 and returns a `Solution` (z, nu, lam), all of it differentiable.
      With `bounds=True` the box comes last: `run(init, theta_f, theta_eq, theta_ineq, (lower, upper))`.

    SciPy is given the problem in units of its own (see `Objective.units`), so that its result does not depend on the
    user's. With constraints or bounds, which of them are active is told from multipliers and slacks in such units, and
    Newton steps on the conditions of Karush, Kuhn and Tucker bring unknowns and multipliers to full precision.
    Multipliers are NaN, and so are the derivatives, where these conditions are not met, or where the gradients of the
    active constraints are linearly dependent, so that they are not determined.

    Args:
        f: smooth function in JAX.
        method: SciPy's name, any that takes what there is (with constraints also "trust-constr", "COBYLA", "COBYQA");
            None for L-BFGS-B, with constraints for SLSQP. It gets gradients and Hessians of f and of the constraints
            where it makes use of them.
        bounds: whether there is a box.
        eq: equations `eq(z, theta_eq)`, a pytree of arrays, or None.
        ineq: inequalities `ineq(z, theta_ineq)`, a pytree of arrays, or None.
        tol: handed to SciPy.
        options: handed to SciPy, beside our own defaults (for L-BFGS-B `ftol=0`, `gtol=tol` and 10,000 iterations).
        callback: `callback(x)` on the host after each iteration; not with eq or ineq.
        adjoint: how the derivative is computed.
        on_unconverged: what happens to a result that is no solution: "warn" when called eagerly, "nan", "raise" (also
            under jit) or "ignore".

    Returns:
        A solver with `run`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda z, c: jnp.sum((z - c) ** 2)
        >>> solver = idf.solvers.scipy_minimize(f, eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, b: -z)
        >>> z = lambda s: solver.run(jnp.ones(2), jnp.array([2.0, -1.0]), s, None)[0].z
        >>> print(z(1.0).round(3) + 0.0, jax.jacobian(z)(1.0).round(3) + 0.0)
        [1. 0.] [1. 0.]
    """
    condition = minimum.condition(f, eq, ineq, bounds)
    if eq is None and ineq is None:
        solve = minimum.free(minimum.Objective(f), (method or "L-BFGS-B").lower(), bounds, tol, options, callback)
        own = condition if bounds else optimality.stationary(f)
        return ScipySolver(solve, own, _like_init, adjoint, on_unconverged)
    if callback is not None:
        raise ValueError("scipy_minimize: a callback is for minima without constraints other than a box.")
    solve, shape = minimum.constrained(f, (method or "SLSQP").lower(), eq, ineq, bounds, tol, options)
    return ScipySolver(solve, condition, shape, adjoint, on_unconverged)


def scipy_root(
    G: Callable[..., PyTree],
    method: str = "hybr",
    *,
    tol: float = 1e-12,
    options: dict | None = None,
    adjoint: Adjoint | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> ScipySolver:
    """A root of G(x, *args) found by `scipy.optimize.root`: `run(init, *args)`.

    SciPy gets x in units of its size at the start, and each equation divided by its gradient there. `state.error` is
    the length of Newton's step from x relative to x (beyond 500 unknowns the norm of G beside that at the start).

    Args:
        G: equations in JAX, a pytree like x.
        method: SciPy's name; "hybr" and "lm" get the Jacobian.
        tol: handed to SciPy.
        options: handed to SciPy.
        adjoint: how the derivative is computed.
        on_unconverged: what happens to a result that is no solution; see `scipy_minimize`.

    Returns:
        A solver with `run`.

    Example:
        >>> import jax, implicitdiff as idf
        >>> solver = idf.solvers.scipy_root(lambda x, a: x**2 - a)
        >>> print(jax.grad(lambda a: solver.run(1.0, a)[0])(4.0).round(6))
        0.25
    """
    value, jacobian = jitted(G), jitted(G, jax.jacobian)

    def solve(init, *args):
        from scipy.optimize import root

        start, layout = flat_start(init, args, (G,))
        at = lambda x: value(x, layout, args)  # noqa: E731
        J = lambda x: jacobian(x, layout, args)  # noqa: E731
        dense = start.size <= minimum.DENSE
        unit = float(np.linalg.norm(start) / np.sqrt(max(start.size, 1))) or 1.0
        first = float(np.linalg.norm(at(start))) or 1.0
        rows = np.linalg.norm(J(start), axis=1) * unit if dense else np.full(start.size, first)
        rows = np.where(np.isfinite(rows) & (rows > 0), rows, first)
        jac = (lambda y: J(unit * y) * (unit / rows)[:, None]) if method in ("hybr", "lm") else None
        found = root(lambda y: at(unit * y) / rows, start / unit, method=method, jac=jac, tol=tol, options=options)
        x, iterations = found.x * unit, found.get("nit", found.get("nfev", 0))
        if not dense:
            return layout(x), iterations, np.linalg.norm(at(x)) / first, np.linalg.norm(at(x))
        return layout(x), iterations, _newton_error(at(x), J(x), x, start), np.linalg.norm(at(x))

    return ScipySolver(solve, optimality.root(G), _like_init, adjoint, on_unconverged)


def _newton_error(G: np.ndarray, J: np.ndarray, x: np.ndarray, start: np.ndarray) -> float:
    """The largest entry of Newton's step relative to that of x; of G relative to its row's, where J is singular."""
    if not (np.isfinite(G).all() and np.isfinite(J).all()):
        return np.inf
    unit = np.maximum(np.abs(x), 1e-2 * np.abs(start))
    unit = np.maximum(unit, 1e-6 * np.max(unit, initial=0.0))
    unit = np.where(unit > 0, unit, 1.0)
    rows = np.linalg.norm(J * unit, axis=1)
    rows = np.where(rows > 0, rows, 1.0)
    try:
        step = np.linalg.solve(J * unit / rows[:, None], G / rows)
    except np.linalg.LinAlgError:
        step = G / rows
    return float(np.max(np.abs(step), initial=0.0))


# rho(z) of SciPy's robust losses: the cost is 1/2 sum_i C^2 rho((r_i / C)^2).
_LOSSES: dict[str, Callable] = {
    "linear": lambda z: z,
    "soft_l1": lambda z: 2 * z / (1 + jnp.sqrt(1 + z)),
    "huber": lambda z: jnp.where(z <= 1, z, 2 * jnp.sqrt(jnp.where(z <= 1, 1.0, z)) - 1),
    "cauchy": jnp.log1p,
    "arctan": jnp.arctan,
}


def scipy_least_squares(
    residuals: Callable[..., PyTree],
    method: str = "trf",
    *,
    bounds: bool = False,
    tol: float = 1e-12,
    options: dict | None = None,
    adjoint: Adjoint | None = None,
    on_unconverged: OnUnconverged = "warn",
) -> ScipySolver:
    """A minimum of 1/2 |residuals(x, *args)|^2 found by `scipy.optimize.least_squares`.

    `run(init, *args)`, or with `bounds=True` `run(init, theta_f, (lower, upper))` over a box. With `loss` and `f_scale`
    in options the minimum is that of SciPy's robust loss, 1/2 sum_i C^2 rho((r_i / C)^2), and so is the derivative.

    Args:
        residuals: function in JAX to a pytree of real arrays.
        method: SciPy's name.
        bounds: whether there is a box.
        tol: SciPy's ftol, xtol and gtol.
        options: further arguments of `scipy.optimize.least_squares`.
        adjoint: how the derivative is computed.
        on_unconverged: what happens to a result that is no solution; see `scipy_minimize`.

    Returns:
        A solver with `run`.

    Raises:
        ValueError: options with a loss that is no name of SciPy's, or with `jac`, `bounds`, `args` or `kwargs`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = idf.solvers.scipy_least_squares(lambda x, y: jnp.exp(x * t) - y)
        >>> x, state = solver.run(0.0, jnp.exp(0.7 * t))
        >>> print(f"{x:.3f}")
        0.700
    """
    options = minimum.merged({"ftol": tol, "xtol": tol, "gtol": tol, "loss": "linear", "f_scale": 1.0}, options)
    if taken := sorted({"jac", "bounds", "args", "kwargs", "x0", "fun", "method"} & set(options)):
        raise ValueError(f"scipy_least_squares: {taken} cannot be in options; see the arguments of run.")
    loss, C = options.pop("loss"), options.pop("f_scale")
    if not isinstance(loss, str) or loss not in _LOSSES:
        raise ValueError(f"scipy_least_squares: loss must be one of {sorted(_LOSSES)}, found {loss!r}.")

    def f(x: PyTree, *args: Any) -> Array:
        r = ravel_pytree(residuals(x, *args))[0]
        return 0.5 * jnp.sum(r**2) if loss == "linear" else 0.5 * C**2 * jnp.sum(_LOSSES[loss]((r / C) ** 2))

    objective, functions = minimum.Objective(f), minimum.Functions(f)
    value, jacobian = jitted(residuals), jitted(residuals, jax.jacobian)

    def solve(init, *args):
        from scipy.optimize import least_squares

        box, args = minimum.split_box(args) if bounds else (None, args)
        start, layout = flat_start(init, args, (residuals,))
        low, high = flat_box(box, init) if bounds else (-np.inf, np.inf)
        x, iterations, error, value_there = np.clip(start, low, high), 0, np.inf, np.nan
        for _ in range(minimum.RUNS):
            u, v = objective.units(x, layout, args)
            w = np.sqrt(v)
            found = least_squares(
                lambda y, u=u, w=w: value(u * y, layout, args) / w, x / u,
                lambda y, u=u, w=w: jacobian(u * y, layout, args) * (u / w), (low / u, high / u), method=method,
                loss=loss, f_scale=C / w, **options,
            )  # fmt: skip
            iterations += int(found.nfev)
            last, x = x, np.clip(found.x * u, low, high)
            error, value_there = objective.error(x, start, layout, args, low, high)
            if error <= solved_to(np.float64) or not np.isfinite(error) or not np.any(x != last) or not found.success:
                break
        if bounds:
            x, error, value_there = minimum.in_box(
                functions, objective, x, start, layout, (*args, None, None)[:3], low, high
            )
        return layout(x), iterations, error, value_there

    own = minimum.condition(f, None, None, True) if bounds else optimality.stationary(f)
    return ScipySolver(solve, own, _like_init, adjoint, on_unconverged)


def _like_init(init: PyTree, *args: Any) -> PyTree:
    del args
    return init
