"""Minima of smooth functions: gradient descent and quasi-Newton methods."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from ... import solvers as ours
from ._base import Solver, objective

LINE_SEARCH = "the line search is our own, see implicitdiff.solvers"


def step(stepsize: Any) -> Any:
    """JAXopt's step size as ours: at most zero asks for a line search."""
    return stepsize if callable(stepsize) or stepsize > 0 else None


@dataclasses.dataclass(frozen=True, eq=False)
class GradientDescent(Solver):
    """Gradient descent, by `implicitdiff.solvers.GradientDescent`: `run(init_params, *args, **kwargs)`.

    `stepsize` is a number or a function of the iteration; at most zero, it asks for a line search. `state.error` is the
    norm of the gradient.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.GradientDescent(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.zeros(()), a).params)(0.0).round(3))
        1.0
    """

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    stepsize: float | Callable = 0.0
    maxls: int = 15
    acceleration: bool = True
    decrease_factor: float = 0.5

    without_effect: ClassVar[dict[str, str]] = dict(maxls=LINE_SEARCH, decrease_factor=LINE_SEARCH)

    def build(self) -> ours.GradientDescent:
        """Ours."""
        f, options = objective(self)
        return ours.GradientDescent(f, stepsize=step(self.stepsize), accelerated=self.acceleration, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class QuasiNewton(Solver):
    """What the quasi-Newton methods share: fun, and options of JAXopt's line searches, which warn where they are set.

    Attributes:
        fun: `fun(params, *args, **kwargs)` to a real scalar.
        value_and_grad: True where fun returns (value, gradient); or a function that does.
        has_aux: whether fun returns (value, aux).
    """

    fun: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    _: dataclasses.KW_ONLY
    stepsize: float | Callable = 0.0
    linesearch: str = "zoom"
    linesearch_init: str = "increase"
    stop_if_linesearch_fails: bool = False
    condition: Any = None
    maxls: int = 30
    decrease_factor: float | None = None
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6

    without_effect: ClassVar[dict[str, str]] = {
        "stepsize": LINE_SEARCH,
        "linesearch": LINE_SEARCH,
        "linesearch_init": LINE_SEARCH,
        "stop_if_linesearch_fails": "a line search that fails always ends the iteration, with error NaN",
        "condition": LINE_SEARCH,
        "maxls": LINE_SEARCH,
        "decrease_factor": LINE_SEARCH,
        "increase_factor": LINE_SEARCH,
        "max_stepsize": LINE_SEARCH,
        "min_stepsize": LINE_SEARCH,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(QuasiNewton):
    """The limited-memory BFGS method, by `implicitdiff.solvers.LBFGS`: `run(init_params, *args, **kwargs)`.

    `state.error` is the norm of the gradient. The line search is our own: its options warn where they are set.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.LBFGS(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.ones(()), a).params)(0.0).round(3))
        1.0
    """

    history_size: int = dataclasses.field(default=10, kw_only=True)
    use_gamma: bool = dataclasses.field(default=True, kw_only=True)

    without_effect: ClassVar[dict[str, str]] = {
        **QuasiNewton.without_effect,
        "use_gamma": "the first approximation of the Hessian is always scaled",
    }

    def build(self) -> ours.LBFGS:
        """Ours."""
        f, options = objective(self)
        return ours.LBFGS(f, history=self.history_size, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class BFGS(QuasiNewton):
    """The BFGS method, as L-BFGS that remembers the last 100 steps: `run(init_params, *args, **kwargs)`.

    With fewer than 100 iterations the two are the same; `state` has no matrix H. See `LBFGS`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.BFGS(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.ones(()), a).params)(0.0).round(3))
        1.0
    """

    def build(self) -> ours.LBFGS:
        """Ours."""
        f, options = objective(self)
        return ours.LBFGS(f, history=max(1, min(self.maxiter, 100)), **options)


@dataclasses.dataclass(frozen=True, eq=False)
class NonlinearCG(QuasiNewton):
    """Nonlinear conjugate gradients, by `implicitdiff.solvers.NonlinearCG`: `run(init_params, *args, **kwargs)`.

    The directions are those of Hestenes and Stiefel, started afresh where the factor is negative, whichever `method`
    is asked for. See `LBFGS`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.NonlinearCG(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.ones(()), a).params)(0.0).round(3))
        1.0
    """

    maxiter: int = dataclasses.field(default=100, kw_only=True)
    method: str = dataclasses.field(default="polak-ribiere", kw_only=True)

    without_effect: ClassVar[dict[str, str]] = {
        **QuasiNewton.without_effect,
        "method": "the directions are those of Hestenes and Stiefel",
    }

    def build(self) -> ours.NonlinearCG:
        """Ours."""
        f, options = objective(self)
        return ours.NonlinearCG(f, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class LBFGSB(QuasiNewton):
    """L-BFGS in a box, by `implicitdiff.solvers.LBFGS`: `run(init_params, bounds, *args, **kwargs)`.

    bounds = (lower, upper), each like the parameters, a number, or None. `state.error` is the norm of the projected
    gradient. See `LBFGS`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.LBFGSB(lambda x, a: jnp.sum((x - a) ** 2), tol=1e-5)
        >>> print(solver.run(jnp.zeros(2), (0.0, 1.0), a=jnp.array([0.5, 2.0])).params.round(3))
        [0.5 1. ]
    """

    maxiter: int = dataclasses.field(default=50, kw_only=True)
    theta: float = dataclasses.field(default=1.0, kw_only=True)
    history_size: int = dataclasses.field(default=10, kw_only=True)
    use_gamma: bool = dataclasses.field(default=True, kw_only=True)

    without_effect: ClassVar[dict[str, str]] = {
        **LBFGS.without_effect,
        "theta": "the first approximation of the Hessian is found",
    }

    def build(self) -> ours.LBFGS:
        """Ours, with the arguments of f in one."""
        f, options = objective(self)
        return ours.LBFGS(
            lambda x, packed: f(x, *packed[0], **packed[1]), bounds=True, history=self.history_size, **options
        )

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of f, and the box at the end."""
        bounds, args, kwargs = first("bounds", args, kwargs)
        if bounds is None:
            bounds = (None, None)
        return ((args, kwargs), tuple(bounds)), {}


def first(name: str, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
    """The argument that comes first, or by name, and the others; None where it is left out."""
    if name in kwargs:
        return kwargs[name], args, {key: value for key, value in kwargs.items() if key != name}
    return (args[0], args[1:], kwargs) if args else (None, args, kwargs)
