"""Fixed points and roots: Picard's and Anderson's iterations, bisection and Broyden's method."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ... import solvers as ours
from ..._fixed_point import as_root
from ...solvers import _state
from ._base import Loop, OptStep, Solver, State, without_aux


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPointIteration(Solver):
    """x+ = fixed_point_fun(x, *args, **kwargs): `run(init_params, *args, **kwargs)`; `state.error` is |x+ - x|.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> kepler = jaxopt.FixedPointIteration(lambda x, e: 1.0 + e * jnp.sin(x))
        >>> print(jax.grad(lambda e: kepler.run(1.0, e).params)(0.5).round(3))
        1.035
    """

    fixed_point_fun: Callable
    maxiter: int = dataclasses.field(default=100, kw_only=True)
    tol: float = dataclasses.field(default=1e-5, kw_only=True)
    has_aux: bool = dataclasses.field(default=False, kw_only=True)

    def build(self) -> ours.FixedPointIteration:
        """Ours."""
        return ours.FixedPointIteration(without_aux(self.fixed_point_fun, self.has_aux)[0])

    def auxiliary(self) -> Callable | None:
        """What fixed_point_fun returns beside."""
        return without_aux(self.fixed_point_fun, self.has_aux)[1]


@dataclasses.dataclass(frozen=True, eq=False)
class AndersonAcceleration(Solver):
    """Anderson's acceleration of x+ = fixed_point_fun(x, *args, **kwargs): `run(init_params, *args, **kwargs)`.

    `ridge` is relative to the matrix that it regularises, and smaller than JAXopt's, which has units: 1e-10.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> kepler = jaxopt.AndersonAcceleration(lambda x, e: 1.0 + e * jnp.sin(x))
        >>> print(jax.grad(lambda e: kepler.run(jnp.array(1.0), e).params)(0.5).round(3))
        1.035
    """

    fixed_point_fun: Callable
    history_size: int = 5
    mixing_frequency: int = 1
    beta: float = 1.0
    maxiter: int = dataclasses.field(default=100, kw_only=True)
    tol: float = dataclasses.field(default=1e-5, kw_only=True)
    ridge: float = dataclasses.field(default=1e-10, kw_only=True)
    has_aux: bool = dataclasses.field(default=False, kw_only=True)

    without_effect: ClassVar[dict[str, str]] = {"mixing_frequency": "each step is accelerated"}

    def build(self) -> ours.AndersonAcceleration:
        """Ours."""
        T = without_aux(self.fixed_point_fun, self.has_aux)[0]
        return ours.AndersonAcceleration(T, history=self.history_size, mixing=self.beta, ridge=self.ridge)

    def auxiliary(self) -> Callable | None:
        """What fixed_point_fun returns beside."""
        return without_aux(self.fixed_point_fun, self.has_aux)[1]


@dataclasses.dataclass(frozen=True, eq=False)
class AndersonWrapper(Solver):
    """Anderson's acceleration of the first step of another solver, from where one stands: `run(init_params, *args)`.

    maxiter and tol are those of the solver, and so are the conditions of the solution; `state.error` is their residual.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = jaxopt.AndersonWrapper(jaxopt.GradientDescent(f, stepsize=0.5, tol=1e-6))
        >>> print(jax.grad(lambda a: solver.run(jnp.ones(()), a).params)(0.0).round(3))
        1.0
    """

    solver: Any
    history_size: int = 5
    mixing_frequency: int | None = None
    beta: float = 1.0
    ridge: float = dataclasses.field(default=1e-10, kw_only=True)

    without_effect: ClassVar[dict[str, str]] = {"mixing_frequency": "each step is accelerated"}

    def __post_init__(self):
        """Take over the limits of the solver."""
        object.__setattr__(self, "maxiter", self.solver.maxiter)
        object.__setattr__(self, "tol", self.solver.tol)
        super().__post_init__()

    def build(self) -> ours.AndersonAcceleration:
        """Ours, of the step."""
        inner = self.solver.loop()

        def T(x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
            return inner.update(x, inner.init_state(x, *args, **kwargs), *args, **kwargs)[0]

        return ours.AndersonAcceleration(T, history=self.history_size, mixing=self.beta, ridge=self.ridge)

    def conditions(self) -> Callable:
        """Those of the solver."""
        return self.solver.conditions()

    def loop(self) -> Loop:
        """The loop, with the conditions of the solver."""
        loop = super().loop()
        return loop if loop.unrolled else dataclasses.replace(loop, condition=self.conditions())

    def absolute(self) -> Callable[..., Array]:
        """The residual of the conditions."""
        F = as_root(self.conditions())
        return lambda x, state, *args, **kwargs: _state.size(F(x, *args, **kwargs))

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """As the solver."""
        return self.solver.packed(args, kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class Bisection(Solver):
    """A root of optimality_fun(x, *args, **kwargs) between lower and upper: `run(init_params=None, *args, **kwargs)`.

    `state.error` is |optimality_fun(x)|. Where both ends have the same sign the result is NaN, with a warning, and with
    `check_bracket` and known values a ValueError.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> kepler = jaxopt.Bisection(lambda x, e: x - e * jnp.sin(x) - 1.0, 0.0, 3.0)
        >>> print(jax.grad(lambda e: kepler.run(None, e).params)(0.5).round(3))
        1.035
    """

    optimality_fun: Callable = dataclasses.field()
    lower: Any
    upper: Any
    maxiter: int = dataclasses.field(default=30, kw_only=True)
    tol: float = dataclasses.field(default=1e-5, kw_only=True)
    check_bracket: bool = dataclasses.field(default=True, kw_only=True)
    has_aux: bool = dataclasses.field(default=False, kw_only=True)

    def build(self) -> ours.Bisection:
        """Ours."""
        return ours.Bisection(without_aux(self.optimality_fun, self.has_aux)[0], self.lower, self.upper)

    def auxiliary(self) -> Callable | None:
        """What optimality_fun returns beside."""
        return without_aux(self.optimality_fun, self.has_aux)[1]

    def absolute(self) -> Callable[..., Array]:
        """|optimality_fun|."""
        G = without_aux(self.optimality_fun, self.has_aux)[0]
        return lambda x, state, *args, **kwargs: _state.size(G(x, *args, **kwargs))

    def _checked(self, init: Any, args: tuple, kwargs: dict) -> Array:
        G = without_aux(self.optimality_fun, self.has_aux)[0]
        shape = jnp.broadcast_shapes(jnp.shape(self.lower), jnp.shape(self.upper))
        init = jnp.zeros(shape, jnp.result_type(float)) if init is None else init
        known = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        if self.check_bracket and known:
            ends = [
                jnp.broadcast_to(jnp.asarray(end, jnp.result_type(init)), shape) for end in (self.lower, self.upper)
            ]
            values = [G(end, *args, **kwargs) for end in ends]
            # G may close over traced arrays.
            traced = any(isinstance(value, jax.core.Tracer) for value in values)
            if not traced and np.any(np.sign(values[0]) * np.sign(values[1]) > 0):
                raise ValueError("Bisection: optimality_fun has the same sign at lower and at upper.")
        return init

    def init_state(self, init_params: Any = None, *args: Any, **kwargs: Any) -> State:
        """The state before the first iteration."""
        return super().init_state(self._checked(init_params, args, kwargs), *args, **kwargs)

    def run(self, init_params: Any = None, *args: Any, **kwargs: Any) -> OptStep:
        """Halve the bracket until the value is small; init_params gives shape and dtype alone."""
        return super().run(self._checked(init_params, args, kwargs), *args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class Broyden(Solver):
    """Broyden's method for a root of fun(x, *args, **kwargs): `run(init_params, *args, **kwargs)`.

    By `implicitdiff.solvers.Broyden`: it starts from the Jacobian and takes full steps, so that init_params should be
    near the root. `state.error` is |fun(x)|.

    Example:
        >>> import jax, implicitdiff.compat.jaxopt as jaxopt
        >>> sqrt = jaxopt.Broyden(lambda x, a: x**2 - a, tol=1e-6)
        >>> print(jax.grad(lambda a: sqrt.run(1.5, a).params)(4.0).round(6))
        0.25
    """

    fun: Callable
    has_aux: bool = False
    _: dataclasses.KW_ONLY
    stepsize: float | Callable = 0.0
    linesearch: str = "backtracking"
    stop_if_linesearch_fails: bool = False
    condition: Any = "wolfe"
    maxls: int = 15
    decrease_factor: float | None = 0.8
    increase_factor: float = 1.5
    max_stepsize: float = 1.0
    min_stepsize: float = 1e-6
    history_size: int | None = None
    gamma: float = 1.0

    without_effect: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ["stepsize", "linesearch", "stop_if_linesearch_fails", "condition", "maxls", "decrease_factor"],
            "full steps are taken",
        ),
        **dict.fromkeys(["increase_factor", "max_stepsize", "min_stepsize"], "full steps are taken"),
        **dict.fromkeys(["history_size", "gamma"], "the method keeps a matrix, which starts from the Jacobian"),
    }

    def build(self) -> ours.Broyden:
        """Ours."""
        return ours.Broyden(without_aux(self.fun, self.has_aux)[0])

    def auxiliary(self) -> Callable | None:
        """What fun returns beside."""
        return without_aux(self.fun, self.has_aux)[1]

    def absolute(self) -> Callable[..., Array]:
        """|fun|."""
        return lambda x, state, *args, **kwargs: _state.size(state.memory.value)
