"""SciPy's solvers, also under jit and vmap."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ... import optimality
from ... import projection as projections
from ... import solvers as ours
from ...solvers import _state
from ...solvers._unconverged import OnUnconverged
from ._base import OptStep, start_of, warn_of, without_aux
from ._smooth import first
from .linear_solve import adjoint_of


class ScipyInfo(NamedTuple):
    """How SciPy ended.

    Attributes:
        fun_val: the value of the objective, or the norm of the equations.
        success: whether x satisfies its conditions to 5e-7 relative to the problem's sizes, whatever SciPy says.
        iter_num: iterations, or evaluations where SciPy does not count them.
        error: the relative residual of the conditions.
    """

    fun_val: Any
    success: Any
    iter_num: Any
    error: Any

    @property
    def cost_val(self) -> Any:
        """The value of the objective."""
        return self.fun_val


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyWrapper:
    """Base of the wrappers. All arguments go by keyword; SciPy works in float64, and in units of the problem's own.

    Attributes:
        method: SciPy's name of the method; None for the default.
        has_aux: whether the function returns aux beside; it is left out.
        options: handed to SciPy.
        implicit_diff_solve: a linear solver `(matvec, b) -> x`, such as those of `linear_solve`; None chooses.
        on_unconverged: what happens to a result that is no solution: "warn", "nan", "raise" or "ignore".
    """

    method: str | None = None
    dtype: Any = np.float64
    jit: bool = True
    has_aux: bool = False
    options: dict[str, Any] | None = None
    implicit_diff_solve: Callable | None = None
    on_unconverged: OnUnconverged = "warn"

    without_effect: ClassVar[dict[str, str]] = {
        "dtype": "SciPy works in float64",
        "jit": "functions are compiled, SciPy is called from the host",
    }

    def __post_init__(self):
        """Warn of options without an effect."""
        warn_of(self, self.without_effect)

    def _solved(
        self, adapter: Callable, function: Callable, start: Any, args: tuple, kwargs: dict, *box: Any, **options: Any
    ) -> OptStep:
        packed = lambda x, theta: function(x, *theta[0], **theta[1])  # noqa: E731
        options = {"options": self.options, **options}
        solver = adapter(
            packed, **options, adjoint=adjoint_of(self.implicit_diff_solve, polish=1),
            on_unconverged=self.on_unconverged,
        )  # fmt: skip
        x, state = solver.run(start_of(start), (args, kwargs), *box)
        return OptStep(x, ScipyInfo(state.value, state.converged, state.iteration, state.error))

    def l2_optimality_error(self, sol: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The Euclidean norm of `optimality_fun`."""
        own: Any = self
        return _state.size(own.optimality_fun(sol, *args, **kwargs))


def _stepped(gradient: PyTree, sol: PyTree, bounds: Any) -> PyTree:
    """The projection of a gradient step onto the box, minus where it started."""
    moved = projections.box(jax.tree.map(jnp.subtract, sol, gradient), (None, None) if bounds is None else bounds)
    return jax.tree.map(jnp.subtract, moved, sol)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyMinimize(ScipyWrapper):
    """`scipy.optimize.minimize` for min fun(x, *args, **kwargs): `run(init_params, *args, **kwargs)`.

    Attributes:
        fun: the objective; its gradient is JAX's, also where it returns one (value_and_grad=True).
        callback: `callback(x)` after each iteration, as SciPy calls it.
        tol: handed to SciPy; None for 1e-9.
        maxiter: the largest number of iterations of a run.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.ScipyMinimize(fun=lambda x, a: jnp.sum(jnp.cosh(x) - a * x), method="BFGS")
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a).params)(0.0).round(3))
        1.0
    """

    fun: Callable
    callback: Callable | None = None
    tol: float | None = None
    maxiter: int = 500
    value_and_grad: bool | Callable = False

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        if "maxiter" in (self.options or {}):
            raise ValueError(f"{type(self).__name__}: give maxiter as an argument, not in options.")

    def _value(self) -> Callable:
        f = without_aux(self.fun, self.value_and_grad is True)[0]
        return without_aux(f, self.has_aux)[0]

    def _minimum(self, init: Any, args: tuple, kwargs: dict, bounded: bool, *box: Any) -> OptStep:
        return self._solved(
            ours.scipy_minimize, self._value(), init, args, kwargs, *box, method=self.method, bounds=bounded,
            tol=1e-9 if self.tol is None else self.tol, options={**(self.options or {}), "maxiter": self.maxiter},
            callback=self.callback,
        )  # fmt: skip

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient."""
        return jax.grad(self._value())(sol, *args, **kwargs)

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Minimise from init_params: (params, `ScipyInfo`)."""
        return self._minimum(init_params, args, kwargs, False)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyBoundedMinimize(ScipyMinimize):
    """`ScipyMinimize` in a box: `run(init_params, bounds, *args, **kwargs)`, bounds = (lower, upper) or None.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.ScipyBoundedMinimize(fun=lambda x, a: jnp.sum((x - a) ** 2), method="L-BFGS-B")
        >>> print(solver.run(jnp.zeros(2), (0.0, 1.0), jnp.array([0.5, 2.0])).params.round(3))
        [0.5 1. ]
    """

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """A projected gradient step of size one, minus sol; bounds come first."""
        bounds, args, kwargs = first("bounds", args, kwargs)
        return _stepped(jax.grad(self._value())(sol, *args, **kwargs), sol, bounds)

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Minimise over the box, which comes first: (params, `ScipyInfo`)."""
        bounds, args, kwargs = first("bounds", args, kwargs)
        return self._minimum(init_params, args, kwargs, True, (None, None) if bounds is None else tuple(bounds))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyRootFinding(ScipyWrapper):
    """`scipy.optimize.root` for optimality_fun(x, *args, **kwargs) = 0: `run(init_params, *args, **kwargs)`.

    Example:
        >>> import jax, implicitdiff.compat.jaxopt as jaxopt
        >>> sqrt = jaxopt.ScipyRootFinding(optimality_fun=lambda x, a: x**2 - a, method="hybr")
        >>> print(jax.grad(lambda a: sqrt.run(1.0, a).params)(4.0).round(6))
        0.25
    """

    optimality_fun: Callable
    tol: float | None = None
    use_jacrev: bool = True

    without_effect: ClassVar[dict[str, str]] = {
        **ScipyWrapper.without_effect,
        "use_jacrev": "the Jacobian is the same in both modes",
    }

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Solve from init_params: (params, `ScipyInfo`)."""
        G = without_aux(self.optimality_fun, self.has_aux)[0]
        return self._solved(
            ours.scipy_root, G, init_params, args, kwargs, method=self.method or "hybr",
            tol=1e-12 if self.tol is None else self.tol,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyLeastSquares(ScipyWrapper):
    """`scipy.optimize.least_squares` for min 1/2 |fun(x, *args, **kwargs)|^2: `run(init_params, *args, **kwargs)`.

    `loss`, and `f_scale` in options, make it robust; the derivative is that of the robust minimum.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = jaxopt.ScipyLeastSquares(fun=lambda x, y: jnp.exp(x * t) - y)
        >>> print(round(float(solver.run(0.0, jnp.exp(0.7 * t)).params), 3))
        0.7
    """

    fun: Callable
    loss: str = "linear"
    use_jacrev: bool = True

    without_effect: ClassVar[dict[str, str]] = ScipyRootFinding.without_effect

    def _fit(self, init: Any, args: tuple, kwargs: dict, bounded: bool, *box: Any) -> OptStep:
        f = without_aux(self.fun, self.has_aux)[0]
        options = {**(self.options or {}), "loss": self.loss}
        return self._solved(
            ours.scipy_least_squares, f, init, args, kwargs, *box, method=self.method or "trf", bounds=bounded,
            options=options,
        )  # fmt: skip

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of the cost."""
        f = without_aux(self.fun, self.has_aux)[0]
        packed = lambda x, theta: f(x, *theta[0], **theta[1])  # noqa: E731
        cost = ours.scipy_least_squares(packed, options={**(self.options or {}), "loss": self.loss})
        return optimality.root(cost.condition)(sol, (args, kwargs))

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Fit from init_params: (params, `ScipyInfo`)."""
        return self._fit(init_params, args, kwargs, False)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScipyBoundedLeastSquares(ScipyLeastSquares):
    """`ScipyLeastSquares` in a box: `run(init_params, bounds, *args, **kwargs)`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.ScipyBoundedLeastSquares(fun=lambda x, a: x - a)
        >>> print(solver.run(jnp.ones(2) / 2, (0.0, 1.0), jnp.array([0.5, 2.0])).params.round(3))
        [0.5 1. ]
    """

    def optimality_fun(self, sol: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """A projected gradient step of size one, minus sol; bounds come first."""
        bounds, args, kwargs = first("bounds", args, kwargs)
        return _stepped(super().optimality_fun(sol, *args, **kwargs), sol, bounds)

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Fit over the box, which comes first: (params, `ScipyInfo`)."""
        bounds, args, kwargs = first("bounds", args, kwargs)
        return self._fit(init_params, args, kwargs, True, (None, None) if bounds is None else tuple(bounds))
