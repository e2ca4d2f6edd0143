"""Composite and constrained problems: proximal-gradient, projected-gradient, mirror and block coordinate descent."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ... import solvers as ours
from ..._varying import fori_loop
from ...optimality._condition import Condition
from ...solvers import _state
from ...solvers._iterative import IterativeSolver, nothing_known
from ...solvers._objective import Objective
from ...solvers.mirror_descent import Memory
from ...solvers.proximal_gradient import proximal_condition
from ._base import Solver, objective
from ._smooth import LINE_SEARCH, first, step
from .objective import CompositeLinearFunction
from .prox import prox_none


def of_packed(f: Callable) -> Callable:
    """f(x, *args, **kwargs) with its arguments in one."""
    return lambda x, packed: f(x, *packed[0], **packed[1])


def with_step_one(solver: Any, prox: Callable) -> Callable:
    """T of the proximal-gradient method with step size one."""
    one = _state.State(jnp.int32(0), jnp.array(jnp.inf), jnp.array(False), memory=_One(1.0))
    return proximal_condition(solver, prox, one)


@dataclasses.dataclass(frozen=True)
class _One:
    stepsize: float


@dataclasses.dataclass(frozen=True, eq=False)
class ProximalGradient(Solver):
    """The proximal-gradient method, by `implicitdiff.solvers.ProximalGradient`.

    `run(init_params, hyperparams_prox, *args, **kwargs)` minimises fun(x, *args, **kwargs) + g(x, hyperparams_prox).
    `stepsize` is a number or a function of the iteration; at most zero, it asks for a line search. `state.error` is the
    norm of the generalised gradient.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.ProximalGradient(jaxopt.objective.least_squares, jaxopt.prox.prox_lasso, tol=1e-5)
        >>> print(solver.run(jnp.zeros(2), 0.5, data=(jnp.eye(2), jnp.array([3.0, 0.5]))).params.round(3))
        [2. 0.]
    """

    fun: Callable
    prox: Callable = prox_none
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    stepsize: float | Callable = 0.0
    maxls: int = 15
    acceleration: bool = True
    decrease_factor: float = 0.5

    without_effect: ClassVar[dict[str, str]] = dict(maxls=LINE_SEARCH, decrease_factor=LINE_SEARCH)

    def build(self) -> ours.ProximalGradient:
        """Ours, with the arguments of fun in one."""
        f, options = objective(self)
        return ours.ProximalGradient(
            of_packed(f), self.prox, stepsize=step(self.stepsize), accelerated=self.acceleration, **options
        )

    def conditions(self) -> Callable:
        """T with step size one."""
        return with_step_one(self.build(), self.prox)

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of fun, and those of the proximal operator."""
        hyperparams, args, kwargs = first("hyperparams_prox", args, kwargs)
        return ((args, kwargs), hyperparams), {}


@dataclasses.dataclass(frozen=True, eq=False)
class ProjectedGradient(Solver):
    """The projected-gradient method: `run(init_params, hyperparams_proj, *args, **kwargs)`; see `ProximalGradient`.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> solver = jaxopt.ProjectedGradient(f, jaxopt.projection.projection_simplex, tol=1e-5)
        >>> print(solver.run(jnp.zeros(2), 1.0, jnp.array([3.0, 0.5])).params.round(3))
        [1. 0.]
    """

    fun: Callable
    projection: Callable
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    stepsize: float | Callable = 0.0
    maxls: int = 15
    acceleration: bool = True
    decrease_factor: float = 0.5

    without_effect: ClassVar[dict[str, str]] = dict(maxls=LINE_SEARCH, decrease_factor=LINE_SEARCH)

    def build(self) -> ours.ProjectedGradient:
        """Ours, with the arguments of fun in one."""
        f, options = objective(self)
        return ours.ProjectedGradient(
            of_packed(f), self._project, stepsize=step(self.stepsize), accelerated=self.acceleration, **options
        )

    def _project(self, v: PyTree, theta: Any) -> PyTree:
        return self.projection(v, theta)

    def conditions(self) -> Callable:
        """T with step size one."""
        return with_step_one(self.build(), lambda v, theta, _: self.projection(v, theta))

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of fun, and those of the projection."""
        hyperparams, args, kwargs = first("hyperparams_proj", args, kwargs)
        return ((args, kwargs), hyperparams), {}


@dataclasses.dataclass(frozen=True)
class _Mirror(IterativeSolver):
    """x+ = projection_grad(x, gradient, stepsize, hyperparams), JAXopt's form of mirror descent."""

    objective: Any
    projection_grad: Callable
    stepsize: Any

    def _at(self, iteration: Any, dtype: Any) -> Array:
        return jnp.asarray(self.stepsize(iteration) if callable(self.stepsize) else self.stepsize, dtype)

    def own_condition(self, state: Any) -> Callable:
        """The step as a fixed-point map."""
        s = 1.0 if state is None else state.memory.stepsize

        def T(x: PyTree, packed: Any, hyperparams: Any = None) -> PyTree:
            return self.projection_grad(x, self.objective.both(x, packed)[1], s, hyperparams)

        return Condition(T, "MirrorDescent")

    def init_state(self, init: PyTree, *args: Any) -> _state.State:
        """Nothing is known yet."""
        del args
        s = self._at(jnp.int32(0), _state.real_dtype(init))
        return nothing_known(init, Memory(s, _state.Trace.new(init)))

    def update(self, x: PyTree, state: _state.State, *args: Any) -> tuple[PyTree, _state.State]:
        """One step."""
        s = self._at(state.iteration, state.error.dtype)
        memory = state.memory._replace(stepsize=s)
        new = self.own_condition(state._replace(memory=memory))(x, *args)
        new = jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), x, new)
        residual = jax.tree.map(lambda a, b: (a - b) / s.astype(a.dtype), x, new)
        error, trace = _state.judged(memory.trace, x, residual)
        return new, _state.State(state.iteration + 1, error, error <= self.tol, memory=memory._replace(trace=trace))

    def finished(self, x: PyTree, state: _state.State, *args: Any) -> _state.State:
        """The state with aux."""
        value, aux = self.objective.parts(x, args[0])
        return state._replace(value=value, aux=aux)


@dataclasses.dataclass(frozen=True, eq=False)
class MirrorDescent(Solver):
    """Mirror descent: `run(init_params, hyperparams_proj, *args, **kwargs)`.

    `projection_grad(x, gradient, stepsize, hyperparams_proj)` is one step; `make_projection_grad(projection, mapping)`
    makes it from a Bregman projection and a mirror map. `stepsize` is a number or a function of the iteration.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> softmax = lambda y, _: jax.nn.softmax(y)
        >>> solver = jaxopt.MirrorDescent(f, jaxopt.MirrorDescent.make_projection_grad(softmax, jnp.log), 0.5, tol=1e-5)
        >>> print(solver.run(jnp.ones(2) / 2, None, jnp.array([0.75, 0.25])).params.round(3))
        [0.75 0.25]
    """

    fun: Callable
    projection_grad: Callable
    stepsize: float | Callable
    has_aux: bool = dataclasses.field(default=False, kw_only=True)
    tol: float = dataclasses.field(default=1e-2, kw_only=True)

    @staticmethod
    def make_projection_grad(projection: Callable, mapping_fun: Callable) -> Callable:
        """One step: projection(mapping_fun(x) - stepsize gradient, hyperparams_proj)."""

        def projection_grad(x: PyTree, x_fun_grad: PyTree, stepsize: Any, hyperparams_proj: Any) -> PyTree:
            dual = jax.tree.map(lambda y, g: y - stepsize * g, mapping_fun(x), x_fun_grad)
            return projection(dual, hyperparams_proj)

        return projection_grad

    def build(self) -> _Mirror:
        """The method."""
        smooth = Objective(of_packed(self.fun), self.has_aux)
        return _Mirror(smooth, self.projection_grad, self.stepsize)

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of fun, and those of the projection."""
        hyperparams, args, kwargs = first("hyperparams_proj", args, kwargs)
        return ((args, kwargs), hyperparams), {}


@dataclasses.dataclass(frozen=True)
class _Sweeps(IterativeSolver):
    """Proximal coordinate descent over the rows of x, for JAXopt's composite objectives."""

    fun: CompositeLinearFunction
    prox: Callable

    def own_condition(self, state: Any) -> Callable:
        """The proximal operator of each row after a gradient step with the row's own step size."""

        def T(x: Array, packed: Any, hyperparams: Any = None) -> Array:
            steps = jnp.ones(x.shape[:1], _state.real_dtype(x)) if state is None else state.memory.stepsize
            gradient = jax.grad(self.fun)(x, *packed[0], **packed[1])
            moved = x - steps.reshape(-1, *[1] * (x.ndim - 1)) * gradient
            return jax.vmap(self.prox, in_axes=(0, None, 0))(moved, hyperparams, steps)

        return Condition(T, "BlockCoordinateDescent")

    def _steps(self, x: Array, packed: Any) -> Array:
        L = jnp.asarray(self.fun.columnwise_lipschitz_const(*packed[0], **packed[1]), _state.real_dtype(x))
        return jnp.where(L > 0, 1 / jnp.where(L > 0, L, 1.0), 1.0)

    def init_state(self, init: Array, packed: Any, hyperparams: Any = None) -> _state.State:
        """Step sizes and predictions."""
        del hyperparams
        u = self.fun.make_linop(*packed[0], **packed[1]).matvec(init)
        return nothing_known(init, _SweepMemory(self._steps(init, packed), u, _state.Trace.new(init), jnp.inf))

    def update(self, x: Array, state: _state.State, packed: Any, hyperparams: Any = None):
        """One step for each row in turn."""
        args, kwargs = packed
        A, b = self.fun.make_linop(*args, **kwargs), self.fun.b(*args, **kwargs)
        slope, steps = jax.grad(self.fun.subfun), state.memory.stepsize

        def row(i, carry):
            x, u = carry
            g = A.rmatvec_element(slope(u, *args, **kwargs), i)
            g = g if b is None else g + b[i]
            change = self.prox(x[i] - steps[i] * g, hyperparams, steps[i]) - x[i]
            return x.at[i].add(change), A.update_matvec(u, change, i)

        new, u = fori_loop(0, x.shape[0], row, (x, state.memory.u))
        residual = (x - new) / steps.reshape(-1, *[1] * (x.ndim - 1))
        error, trace = _state.judged(state.memory.trace, x, residual)
        memory = _SweepMemory(steps, u, trace, _state.size(x - new))
        return new, _state.State(state.iteration + 1, error, error <= self.tol, memory=memory)

    def finished(self, x: Array, state: _state.State, packed: Any, hyperparams: Any = None) -> _state.State:
        """The state with the value of the smooth part."""
        del hyperparams
        return state._replace(value=self.fun(x, *packed[0], **packed[1]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _SweepMemory:
    stepsize: Array
    u: Array
    trace: _state.Trace
    moved: Any


@dataclasses.dataclass(frozen=True, eq=False)
class BlockCoordinateDescent(Solver):
    """Proximal coordinate descent over the rows of x: `run(init_params, hyperparams_prox, *args, **kwargs)`.

    `fun` is an `objective.CompositeLinearFunction`, `block_prox(v, hyperparams_prox, scaling)` acts on one row.
    `state.error` is the norm of the last change of x; our relative error of the generalised gradient must be below tol
    as well, since short steps alone do not make a solution.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.BlockCoordinateDescent(jaxopt.objective.least_squares, jaxopt.prox.prox_lasso)
        >>> print(solver.run(jnp.zeros(2), 0.5, data=(jnp.eye(2), jnp.array([3.0, 0.5]))).params)
        [2. 0.]
    """

    fun: CompositeLinearFunction
    block_prox: Callable
    tol: float = dataclasses.field(default=1e-4, kw_only=True)

    def __post_init__(self):
        """Check fun."""
        if not isinstance(self.fun, CompositeLinearFunction):
            raise AttributeError("BlockCoordinateDescent: fun should be an objective.CompositeLinearFunction.")
        super().__post_init__()

    def build(self) -> _Sweeps:
        """The method."""
        return _Sweeps(self.fun, self.block_prox)

    def absolute(self) -> Callable[..., Array]:
        """The norm of the last change."""
        return lambda x, state, *args: state.memory.moved

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of fun, and those of the proximal operator."""
        hyperparams, args, kwargs = first("hyperparams_prox", args, kwargs)
        return ((args, kwargs), hyperparams), {}
