"""SciPy's solvers, with derivatives, also under jit and vmap.

The functions of the problem are written in JAX; SciPy gets them with their gradients.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import optimality, projection
from .._adjoint import Adjoint
from .._decorators import stop
from .._host import host_solver
from .._precision import full_precision
from .._root import as_root, attach
from ._iterative import floating


class ScipyState(NamedTuple):
    """Attributes: iterations; the norm of the condition's residual at x; whether SciPy reports success."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


class Solution(NamedTuple):
    """A constrained minimum z, and the multipliers nu of the equations and lam >= 0 of the inequalities, or None."""

    z: PyTree
    nu: PyTree
    lam: PyTree


@dataclasses.dataclass(frozen=True)
class ScipySolver:
    """A SciPy solver whose result is differentiable: what the functions of this module return.

    Attributes:
        solve: `solve(init, *args)` to (x, iterations, success), in NumPy.
        condition: what x satisfies: a root condition or a fixed-point map.
        shape: `shape(init, *args)`, what `solve` returns for x, as a pytree of `jax.ShapeDtypeStruct`.
        adjoint: how the derivative is computed.
    """

    solve: Callable
    condition: Callable
    shape: Callable
    adjoint: Adjoint | None = None

    def run(self, init: PyTree, *args: Any) -> tuple[PyTree, ScipyState]:
        """Solve from `init`.

        Args:
            init: where to start, a pytree of real arrays.
            *args: what the problem depends on; see the function that made this solver.

        Returns:
            (x, state); x is differentiable in args and in what the functions close over.
        """
        x, state, F, _ = self.solved(init, *args)
        return attach(F, x, args, {}, self.adjoint), state

    @full_precision
    def solved(self, init: PyTree, *args: Any) -> tuple[PyTree, ScipyState, Callable, tuple]:
        """(x, state, F, args) with F(x, *args) = 0; nothing is attached to x."""
        init, fixed = stop(floating(init)), stop(args)
        shape = jax.eval_shape(self.shape, init, *fixed)
        scalars = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
        x, iterations, success = host_solver(self.solve, (shape, *scalars))(init, *fixed)
        F = as_root(self.condition)
        error = jnp.linalg.norm(ravel_pytree(F(stop(x), *fixed))[0])
        return stop(x), ScipyState(iterations, stop(error), success), F, args


def scipy_minimize(
    f: Callable[..., Scalar],
    method: str | None = None,
    *,
    bounds: bool = False,
    eq: Callable | None = None,
    ineq: Callable | None = None,
    tol: float = 1e-9,
    options: dict | None = None,
    adjoint: Adjoint | None = None,
) -> ScipySolver:
    """A minimum found by `scipy.optimize.minimize`: free, in a box, or under equations and inequalities.

    - free: `run(init, *args)` minimises f(x, *args).
    - `bounds=True`: `run(init, theta_f, (lower, upper))` minimises f(x, theta_f) over the box.
    - with eq or ineq: `run(init, theta_f, theta_eq, theta_ineq)` minimises f(z, theta_f) subject to
      eq(z, theta_eq) = 0 and ineq(z, theta_ineq) <= 0 and returns a `Solution` (z, nu, lam), all of it differentiable.
      The multipliers are those of the constraints that are active at SciPy's z; Newton steps on the conditions of
      Karush, Kuhn and Tucker bring both to full precision.

    Args:
        f: smooth function in JAX.
        method: SciPy's name, any that takes what there is (with constraints also "trust-constr", "COBYLA", "COBYQA");
            None for L-BFGS-B, with constraints for SLSQP. It gets gradients and Hessians of f and of the constraints
            where it makes use of them.
        bounds: whether there is a box.
        eq: equations `eq(z, theta_eq)`, a pytree of arrays, or None.
        ineq: inequalities `ineq(z, theta_ineq)`, a pytree of arrays, or None.
        tol: handed to SciPy.
        options: handed to SciPy.
        adjoint: how the derivative is computed.

    Returns:
        A solver with `run`; `state.converged` is SciPy's success.

    Raises:
        ValueError: bounds together with eq or ineq.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda z, c: jnp.sum((z - c) ** 2)
        >>> solver = idf.solvers.scipy_minimize(f, eq=lambda z, s: jnp.sum(z)[None] - s, ineq=lambda z, b: -z)
        >>> z = lambda s: solver.run(jnp.ones(2), jnp.array([2.0, -1.0]), s, None)[0].z
        >>> print(z(1.0).round(3) + 0.0, jax.jacobian(z)(1.0).round(3) + 0.0)
        [1. 0.] [1. 0.]
    """
    if eq is None and ineq is None:
        return _unconstrained(f, method or "L-BFGS-B", bounds, tol, options, adjoint)
    if bounds:
        raise ValueError("scipy_minimize: with eq or ineq, write bounds as inequalities (ineq).")
    return _constrained(f, method or "SLSQP", eq, ineq, tol, options, adjoint)


def scipy_root(
    G: Callable[..., PyTree],
    method: str = "hybr",
    *,
    tol: float = 1e-12,
    options: dict | None = None,
    adjoint: Adjoint | None = None,
) -> ScipySolver:
    """A root of G(x, *args) found by `scipy.optimize.root`: `run(init, *args)`.

    Args:
        G: equations in JAX, a pytree like x.
        method: SciPy's name; "hybr" and "lm" get the Jacobian.
        tol: handed to SciPy.
        options: handed to SciPy.
        adjoint: how the derivative is computed.

    Returns:
        A solver with `run`.

    Example:
        >>> import jax, implicitdiff as idf
        >>> solver = idf.solvers.scipy_root(lambda x, a: x**2 - a)
        >>> print(jax.grad(lambda a: solver.run(1.0, a)[0])(4.0).round(6))
        0.25
    """
    value, jacobian = _jitted(G), _jitted(G, jax.jacobian)

    def solve(init, *args):
        from scipy.optimize import root

        start, unravel = _flat_start(init)
        jac = (lambda x: jacobian(x, unravel, args)) if method in ("hybr", "lm") else None
        found = root(lambda x: value(x, unravel, args), start, method=method, jac=jac, tol=tol, options=options)
        return unravel(found.x), found.get("nit", found.get("nfev", 0)), found.success

    return ScipySolver(solve, optimality.root(G), _like_init, adjoint)


def scipy_least_squares(
    residuals: Callable[..., PyTree],
    method: str = "trf",
    *,
    bounds: bool = False,
    tol: float = 1e-12,
    options: dict | None = None,
    adjoint: Adjoint | None = None,
) -> ScipySolver:
    """A minimum of 1/2 |residuals(x, *args)|^2 found by `scipy.optimize.least_squares`.

    `run(init, *args)`, or with `bounds=True` `run(init, theta_f, (lower, upper))` over a box.

    Args:
        residuals: function in JAX to a pytree of real arrays.
        method: SciPy's name.
        bounds: whether there is a box.
        tol: SciPy's ftol, xtol and gtol.
        options: further arguments of `scipy.optimize.least_squares`.
        adjoint: how the derivative is computed.

    Returns:
        A solver with `run`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = idf.solvers.scipy_least_squares(lambda x, y: jnp.exp(x * t) - y)
        >>> x, state = solver.run(0.0, jnp.exp(0.7 * t))
        >>> print(f"{x:.3f}")
        0.700
    """

    def f(x: PyTree, *args: Any) -> Array:
        return 0.5 * jnp.sum(ravel_pytree(residuals(x, *args))[0] ** 2)

    value, jacobian = _jitted(residuals), _jitted(residuals, jax.jacobian)

    def solve(init, *args):
        from scipy.optimize import least_squares

        start, unravel = _flat_start(init)
        extra = dict(options or {})
        if bounds:
            args, box = args[:1], _box(args[1], init)
            extra["bounds"], start = box, np.clip(start, *box)
        found = least_squares(
            lambda x: value(x, unravel, args), start, lambda x: jacobian(x, unravel, args), method=method,
            ftol=tol, xtol=tol, gtol=tol, **extra,
        )  # fmt: skip
        return unravel(found.x), found.nfev, found.success

    return ScipySolver(solve, _minimum(f, bounds), _like_init, adjoint)


def _minimum(f: Callable, bounds: bool) -> Callable:
    return optimality.projected_gradient(f, projection.box) if bounds else optimality.stationary(f)


def _objective(f: Callable, method: str) -> Callable[..., dict[str, Any]]:
    """F with the derivatives that SciPy's method makes use of: it warns of others."""
    slope, hessian = _jitted(f, jax.value_and_grad), _jitted(f, jax.hessian)

    def arguments(unravel, args) -> dict[str, Any]:
        if method.lower() in ("nelder-mead", "powell", "cobyla", "cobyqa"):
            return {"fun": lambda x: slope(x, unravel, args)[0]}
        result: dict[str, Any] = {"fun": lambda x: slope(x, unravel, args), "jac": True}
        if method.lower() in ("trust-constr", "newton-cg", "dogleg", "trust-ncg", "trust-krylov", "trust-exact"):
            result["hess"] = lambda x: hessian(x, unravel, args)
        return result

    return arguments


def _unconstrained(f, method, bounds, tol, options, adjoint) -> ScipySolver:
    objective = _objective(f, method)

    def solve(init, *args):
        from scipy.optimize import Bounds, minimize

        start, unravel = _flat_start(init)
        box = None
        if bounds:
            args, box = args[:1], Bounds(*_box(args[1], init))
        extra = {"maxiter": 10_000, "gtol": tol, "ftol": 0.0} if method == "L-BFGS-B" and options is None else options
        found = minimize(x0=start, method=method, bounds=box, tol=tol, options=extra, **objective(unravel, args))
        return unravel(found.x), found.get("nit", found.nfev), found.success

    return ScipySolver(solve, _minimum(f, bounds), _like_init, adjoint)


def _constrained(f, method, eq, ineq, tol, options, adjoint) -> ScipySolver:
    # Multipliers may be zero where a constraint just touches: the product form would be singular there.
    condition = optimality.kkt(f, eq, ineq, "natural")
    objective, slope = _objective(f, method), _jitted(f, jax.value_and_grad)
    given = {name: g for name, g in (("eq", eq), ("ineq", ineq)) if g is not None}
    sides = {name: (_jitted(g), _jitted(g, jax.jacobian)) for name, g in given.items()}
    curvatures = {name: _jitted(_weighted(g), jax.hessian) for name, g in given.items()}

    def shape(init, theta_f=None, theta_eq=None, theta_ineq=None):
        del theta_f
        nu = None if eq is None else eq(init, theta_eq)
        return Solution(init, nu, None if ineq is None else ineq(init, theta_ineq))

    @jax.jit
    def newton(x, args):
        flat, unravel = ravel_pytree(x)
        residual = lambda flat: ravel_pytree(condition(unravel(flat), *args))[0]  # noqa: E731
        return unravel(flat - jnp.linalg.solve(jax.jacobian(residual)(flat), residual(flat))), residual(flat)

    def solve(init, theta_f=None, theta_eq=None, theta_ineq=None):
        from scipy.optimize import NonlinearConstraint, minimize

        start, unravel = _flat_start(init)
        thetas = {"eq": (theta_eq,), "ineq": (theta_ineq,)}
        constraints: list[Any] = []
        for name, functions in sides.items():
            value, jacobian = (lambda x, g=g, n=name: g(x, unravel, thetas[n]) for g in functions)
            if method.lower() == "trust-constr":
                curvature = lambda x, v, n=name: curvatures[n](x, unravel, (*thetas[n], v))  # noqa: E731
                low = 0.0 if name == "eq" else -np.inf
                constraints.append(NonlinearConstraint(value, low, 0.0, jacobian, curvature))
            else:
                sign = 1.0 if name == "eq" else -1.0  # SciPy's inequalities are >= 0
                signed = [lambda x, g=g, s=sign: s * g(x) for g in (value, jacobian)]
                constraints.append({"type": name, "fun": signed[0], "jac": signed[1]})
        found = minimize(
            x0=start, method=method, constraints=constraints, tol=tol,
            options=options if options is not None else {"maxiter": 1000}, **objective(unravel, (theta_f,)),
        )  # fmt: skip
        z = found.x
        gradient = slope(z, unravel, (theta_f,))[1]
        multipliers = _multipliers(z, gradient, sides, thetas, unravel)
        like = shape(unravel(z), theta_f, theta_eq, theta_ineq)
        nu, lam = (
            None if part is None else _flat_start(part)[1](multipliers[name])
            for name, part in (("eq", like.nu), ("ineq", like.lam))
        )
        best = Solution(unravel(z), nu, lam)
        args = theta_f, theta_eq, theta_ineq
        # Newton steps, as long as they help.
        polished, residual = newton(best, args)
        for _ in range(5):
            following, smaller = newton(polished, args)
            if not np.linalg.norm(smaller) < np.linalg.norm(residual):
                break
            best, polished, residual = polished, following, smaller
        return best, found.get("nit", found.nfev), found.success

    return ScipySolver(solve, condition, shape, adjoint)


def _weighted(g: Callable) -> Callable:
    """v'g(z, theta), whose Hessian in z SciPy's trust-constr asks for."""
    return lambda z, theta, v: jnp.vdot(v, ravel_pytree(g(z, theta))[0])


def _multipliers(z, gradient, sides, thetas, unravel) -> dict[str, np.ndarray]:
    """Least-squares multipliers: of the equations free, of the active inequalities not negative.

    Interior methods end at some distance from the boundary, so that no threshold tells what is active. Multipliers
    of all constraints nearby, each made small in proportion to its slack, do: active is what has more of it than slack.
    """
    from scipy.optimize import lsq_linear

    size = 1 + np.linalg.norm(z)
    equations = sides["eq"][1](z, unravel, thetas["eq"]) if "eq" in sides else np.zeros((0, z.size))
    value, jacobian = np.zeros(0), np.zeros((0, z.size))
    if "ineq" in sides:
        value, jacobian = (g(z, unravel, thetas["ineq"]) for g in sides["ineq"])
    slack, count = np.maximum(-value, 0.0), len(equations)

    def least_squares(chosen, penalty):
        rows = np.concatenate([equations, jacobian[chosen]])
        if not len(rows):
            return np.zeros(0), np.zeros(value.size)
        penalties = np.diag(np.concatenate([np.zeros(count), penalty[chosen]]))
        right = np.concatenate([-gradient, np.zeros(len(rows))])
        low = np.where(np.arange(len(rows)) < count, -np.inf, 0.0)
        found = lsq_linear(np.concatenate([rows.T, penalties]), right, (low, np.inf), tol=1e-14).x
        lam = np.zeros(value.size)
        lam[chosen] = found[count:]
        return found[:count], lam

    _, first = least_squares(slack < 1e-2 * size, slack / size)
    nu, lam = least_squares(first > slack, 0 * slack)
    return {"eq": nu, "ineq": lam}


def _like_init(init: PyTree, *args: Any) -> PyTree:
    del args
    return init


@dataclasses.dataclass(frozen=True)
class _Layout:
    """A pytree as one vector; equal for pytrees of equal structure, shapes and dtypes: what takes it compiles once."""

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    def __call__(self, flat):
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        starts = [0, *ends[:-1]]
        leaves = [
            flat[a:b].reshape(shape).astype(dtype)
            for a, b, shape, dtype in zip(starts, ends, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, leaves)


def _flat_start(init: PyTree) -> tuple[np.ndarray, _Layout]:
    leaves, tree = jax.tree.flatten(init)
    layout = _Layout(tree, tuple(np.shape(leaf) for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64), layout


def _jitted(function: Callable, transform: Callable | None = None) -> Callable:
    """function(unravel(x), *args) on flat x, perhaps transformed, compiled once; NumPy float64 in and out."""

    @partial(jax.jit, static_argnums=1)
    def compiled(x, unravel, args):
        def flat(x):
            result = function(unravel(x), *args)
            return result if transform in (jax.value_and_grad, jax.hessian) else ravel_pytree(result)[0]

        return (transform or (lambda g: g))(flat)(x)

    def on_host(x, unravel, args):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compiled(x, unravel, args))

    return on_host


def _box(bounds: tuple[PyTree, PyTree], init: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """The bounds as flat vectors: each like init, or one number for all."""

    def flat(side: PyTree) -> np.ndarray:
        if len(jax.tree.leaves(side)) == 1 and np.ndim(jax.tree.leaves(side)[0]) == 0:
            side = jax.tree.map(lambda _: jax.tree.leaves(side)[0], init)
        spread = jax.tree.map(lambda b, leaf: np.broadcast_to(np.asarray(b, float), np.shape(leaf)), side, init)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(spread)])

    return flat(bounds[0]), flat(bounds[1])
