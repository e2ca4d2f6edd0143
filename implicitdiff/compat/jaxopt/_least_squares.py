"""Nonlinear least squares: the methods of Gauss and Newton, and of Levenberg and Marquardt."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ... import optimality
from ...solvers import _state
from ...solvers._iterative import IterativeSolver, nothing_known
from ._base import Solver, without_aux
from .linear_solve import solve_cg


class _Memory(NamedTuple):
    damping: Array
    factor: Array
    delta: Array
    gradient: Array
    trace: _state.Trace


@dataclasses.dataclass(frozen=True)
class _Damped(IterativeSolver):
    """Steps d that minimise |J d + r|^2 + damping |D d|^2, D the norms of the columns of J: a problem without units.

    Without damping Gauss-Newton; else a step that does not decrease |r| is refused, and the damping follows the ratio
    of the decrease to what the linear model promises (Nielsen, "Damping parameter in Marquardt's method", 1999).
    """

    residual: Callable
    damping: float | None = None

    def own_condition(self, state: Any) -> Callable:
        """Stationarity of half of the squared norm."""
        del state
        return optimality.stationary(self.half_square)

    def half_square(self, x: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The objective."""
        return 0.5 * jnp.sum(ravel_pytree(self.residual(x, *args, **kwargs))[0] ** 2)

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> _state.State:
        """Nothing is known yet."""
        del args, kwargs
        x = ravel_pytree(init)[0]
        mu = jnp.asarray(self.damping or 0.0, x.dtype)
        memory = _Memory(mu, jnp.asarray(2.0, x.dtype), jnp.full_like(x, jnp.inf), x, _state.Trace.new(x))
        return nothing_known(init, memory)

    def update(self, x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> tuple[PyTree, _state.State]:
        """One step."""
        flat, tree = ravel_pytree(x)
        r_of = lambda v: ravel_pytree(self.residual(tree(v), *args, **kwargs))[0]  # noqa: E731
        memory = state.memory
        r, J = r_of(flat), jax.jacfwd(r_of)(flat)
        gradient = J.T @ r
        norms = jnp.sqrt(jnp.sum(J**2, axis=0))
        D = jnp.where(norms > 0, norms, 1.0)
        mu, factor = memory.damping, memory.factor
        rows, right = J / D, -r
        if self.damping is not None:
            rows = jnp.concatenate([rows, jnp.sqrt(mu) * jnp.eye(flat.size, dtype=flat.dtype)])
            right = jnp.concatenate([right, jnp.zeros_like(flat)])
        delta = jnp.linalg.lstsq(rows, right)[0] / D
        new = flat + delta
        if self.damping is not None:
            gain = 0.5 * (jnp.sum(r**2) - jnp.sum(r_of(new) ** 2))
            promised = 0.5 * jnp.vdot(delta, mu * D**2 * delta - gradient)
            # Where both are lost in rounding the step is as good as any.
            lost = jnp.abs(promised) <= 10 * jnp.finfo(flat.dtype).eps * jnp.sum(r**2)
            better = (gain > 0) | lost
            ratio = gain / jnp.where(promised > 0, promised, 1.0)
            shrunk = mu * jnp.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
            mu, factor = jnp.where(better, shrunk, mu * factor), jnp.where(better, 2.0, 2 * factor).astype(flat.dtype)
            new = jnp.where(better, new, flat)
        error, trace = _state.judged(memory.trace, flat, gradient, 0.5 * jnp.sum(r**2))
        memory = _Memory(mu, factor, delta, gradient, trace)
        return tree(new), _state.State(state.iteration + 1, error, error <= self.tol, memory=memory)

    def finished(self, x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> _state.State:
        """The state with the value."""
        return state._replace(value=self.half_square(x, *args, **kwargs))


@dataclasses.dataclass(frozen=True, eq=False)
class GaussNewton(Solver):
    """The Gauss-Newton method for min 1/2 |residual_fun(x, *args, **kwargs)|^2: `run(init_params, *args, **kwargs)`.

    `state.error` is the length of the last step. Steps are found from the Jacobian, not from its square.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = jaxopt.GaussNewton(lambda x, y: jnp.exp(x[0] * t) - y)
        >>> print(solver.run(jnp.zeros(1), jnp.exp(0.7 * t)).params.round(3))
        [0.7]
    """

    residual_fun: Callable
    maxiter: int = dataclasses.field(default=30, kw_only=True)
    tol: float = dataclasses.field(default=1e-5, kw_only=True)
    has_aux: bool = dataclasses.field(default=False, kw_only=True)

    def build(self) -> _Damped:
        """The method."""
        return _Damped(without_aux(self.residual_fun, self.has_aux)[0])

    def auxiliary(self) -> Callable | None:
        """What residual_fun returns beside."""
        return without_aux(self.residual_fun, self.has_aux)[1]

    def absolute(self) -> Callable[..., Array]:
        """The length of the last step."""
        return lambda x, state, *args, **kwargs: _state.size(state.memory.delta)


@dataclasses.dataclass(frozen=True, eq=False)
class LevenbergMarquardt(Solver):
    """The Levenberg-Marquardt method for min 1/2 |residual_fun(x, *args, **kwargs)|^2: `run(init_params, *args)`.

    `state.error` is the norm of the gradient. Options that only say how JAXopt solves its linear systems warn.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> solver = jaxopt.LevenbergMarquardt(lambda x, y: jnp.exp(x[0] * t) - y)
        >>> print(solver.run(jnp.zeros(1), jnp.exp(0.7 * t)).params.round(3))
        [0.7]
    """

    residual_fun: Callable
    maxiter: int = dataclasses.field(default=30, kw_only=True)
    _: dataclasses.KW_ONLY
    damping_parameter: float = 1e-6
    stop_criterion: str = "grad-l2-norm"
    xtol: float = 1e-3
    gtol: float = 1e-3
    solver: Any = solve_cg
    geodesic: bool = False
    jac_fun: Callable | None = None
    materialize_jac: bool = False
    has_aux: bool = False

    without_effect: ClassVar[dict[str, str]] = {
        **dict.fromkeys(["stop_criterion", "xtol", "gtol"], "the iteration ends by the gradient and tol"),
        **dict.fromkeys(["solver", "jac_fun", "materialize_jac"], "the Jacobian is formed by JAX and factorised"),
        "geodesic": "steps are not corrected for the curvature",
    }

    def build(self) -> _Damped:
        """The method."""
        return _Damped(without_aux(self.residual_fun, self.has_aux)[0], self.damping_parameter)

    def auxiliary(self) -> Callable | None:
        """What residual_fun returns beside."""
        return without_aux(self.residual_fun, self.has_aux)[1]
