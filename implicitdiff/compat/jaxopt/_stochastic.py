"""Steps on whole objectives or on batches: optax's transformations, and two methods that choose their step size."""

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ...solvers import _state
from ...solvers._iterative import IterativeSolver, floating, nothing_known, search_loop
from ...solvers._objective import Objective
from ._base import OptStep, Solver, State, objective, start_of
from .tree_util import tree_add_scalar_mul, tree_l2_norm, tree_sub, tree_zeros_like


class _Memory(NamedTuple):
    state: State
    trace: _state.Trace


@dataclasses.dataclass(frozen=True)
class _Steps(IterativeSolver):
    """The steps of a `StochasticSolver` on one objective."""

    solver: Any

    def own_condition(self, state: Any) -> Callable:
        """Stationarity."""
        del state
        return self.solver.objective().stationary()

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> _state.State:
        """The solver's."""
        return nothing_known(init, _Memory(self.solver.init_state(init, *args, **kwargs), _state.Trace.new(init)))

    def update(self, x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> tuple[PyTree, _state.State]:
        """One step, judged by the gradient where it starts."""
        new, following, gradient = self.solver.advance(x, state.memory.state, args, kwargs)
        error, trace = _state.judged(state.memory.trace, x, gradient, following.value)
        return new, _state.State(state.iteration + 1, error, error <= self.tol, memory=_Memory(following, trace))


@dataclasses.dataclass(frozen=True, eq=False)
class StochasticSolver(Solver):
    """Base of what can take its steps on batches, with `run_iterator`.

    As in JAXopt, `implicit_diff=False` is the default: the derivative is that of the steps. `state.error` is the norm
    of the gradient where the last step started, `state.value` the value of fun there.

    Attributes:
        value_and_grad: True where fun returns (value, gradient); or a function that does.
        has_aux: whether fun returns (value, aux).
        pre_update: `pre_update(params, state, *args, **kwargs)` to the (params, state) from which a step is taken.
    """

    _: dataclasses.KW_ONLY
    value_and_grad: bool | Callable = False
    has_aux: bool = False
    pre_update: Callable | None = None
    implicit_diff: bool = False

    @abstractmethod
    def first(self, params: PyTree) -> tuple[Any, Any]:
        """The first step size, or None, and what the steps need."""

    @abstractmethod
    def step(self, params: PyTree, state: State, value: Array, gradient: PyTree, value_of: Callable):
        """The next (params, stepsize, internal_state)."""

    def build(self) -> _Steps:
        """The steps as a method."""
        return _Steps(self)

    def objective(self) -> Objective:
        """Fun with its gradient."""
        f, options = objective(self)
        return Objective(f, **options)

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> State:
        """The state before the first step; batches come as `data=`."""
        params = floating(start_of(init_params))
        value, aux = self.objective().parts(params, *args, **kwargs)
        unknown = jnp.asarray(jnp.inf, _state.real_dtype(params))
        stepsize, internal = self.first(params)
        value = jnp.full_like(jnp.asarray(value), jnp.inf)
        return State(jnp.int32(0), unknown, jnp.array(False), value, stepsize, None, aux, internal)

    def advance(self, params: PyTree, state: State, args: tuple, kwargs: dict) -> tuple[PyTree, State, PyTree]:
        """The next params and state, and the gradient."""
        if self.pre_update is not None:
            params, state = self.pre_update(params, state, *args, **kwargs)
        whole = self.objective()
        if self.value_and_grad:
            value, gradient = whole.f(params, *args, **kwargs)
            value, aux = value if self.has_aux else (value, None)
        else:
            (value, aux), gradient = jax.value_and_grad(whole.parts, has_aux=True)(params, *args, **kwargs)
        value_of = lambda x: whole(x, *args, **kwargs)  # noqa: E731
        new, stepsize, internal = self.step(params, state, value, gradient, value_of)
        new = jax.tree.map(lambda a, b: jnp.asarray(b, a.dtype), params, new)
        error = tree_l2_norm(gradient).astype(state.error.dtype)
        following = State(
            state.iter_num + 1, error, error <= self.tol, jnp.asarray(value), stepsize, None, aux, internal
        )
        return new, following, gradient

    def update(self, params: PyTree, state: State, *args: Any, **kwargs: Any) -> OptStep:
        """One step; differentiable as it is."""
        new, following, _ = self.advance(floating(params), state, args, kwargs)
        if self.verbose:
            jax.debug.print(type(self).__name__ + ": iteration {}, error {}", following.iter_num, following.error)
        return OptStep(new, following)

    def run_iterator(self, init_params: PyTree, iterator: Iterator, *args: Any, **kwargs: Any) -> OptStep:
        """One step for each batch, fun(params, *args, **kwargs, data=batch), up to maxiter; the first only starts.

        The derivative is that of the steps. `implicitdiff.solvers.optax_solver` has one for the whole problem.
        """
        state = self.init_state(init_params, *args, **kwargs, data=next(iterator))
        params = floating(start_of(init_params))
        for data in itertools.islice(iterator, self.maxiter):
            params, state = self.update(params, state, *args, **kwargs, data=data)
        return OptStep(params, state)

    def _state(self, state: _state.State) -> State:
        return state.memory.memory.state._replace(converged=state.converged)


@dataclasses.dataclass(frozen=True, eq=False)
class OptaxSolver(StochasticSolver):
    """The steps of an optax transformation: `run(init_params, *args, **kwargs)`; see `run_iterator` for batches.

    `state.internal_state` is that of the transformation.

    Example:
        >>> import jax, jax.numpy as jnp, optax, implicitdiff.compat.jaxopt as jaxopt
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = jaxopt.OptaxSolver(f, optax.sgd(0.5), tol=1e-5, implicit_diff=True)
        >>> print(jax.grad(lambda a: solver.run(jnp.ones(()), a).params)(0.0).round(3))
        1.0
    """

    fun: Callable
    opt: optax.GradientTransformation

    def first(self, params: PyTree) -> tuple[None, Any]:
        """The state of the transformation."""
        return None, self.opt.init(params)

    def step(self, params: PyTree, state: State, value: Array, gradient: PyTree, value_of: Callable):
        """One step of the transformation."""
        delta, internal = optax.with_extra_args_support(self.opt).update(
            gradient, state.internal_state, params, value=value, grad=gradient, value_fn=value_of
        )
        return optax.apply_updates(params, delta), None, internal


@dataclasses.dataclass(frozen=True, eq=False)
class PolyakSGD(StochasticSolver):
    """Gradient steps of Polyak's size (f(x) - fun_min) / |gradient|^2: "SPS_max" at most max_stepsize; "SPS+" >= 0.

    Source: Loizou, Vaswani, Laradji, Lacoste-Julien, "Stochastic Polyak step-size for SGD", AISTATS 2021; Garrigos,
    Gower, Schaipp, "Function value learning", 2023, for "SPS+".

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.PolyakSGD(lambda x, a: jnp.sum((x - a) ** 2), tol=1e-5)
        >>> print(solver.run(jnp.zeros(2), jnp.array([1.0, 2.0])).params.round(3))
        [1. 2.]
    """

    fun: Callable
    _: dataclasses.KW_ONLY
    fun_min: float = 0.0
    variant: str = "SPS_max"
    max_stepsize: float = 1.0
    delta: float = 0.0
    momentum: float = 0.0

    def __post_init__(self):
        """Check the variant."""
        if self.variant not in ("SPS_max", "SPS+"):
            raise NotImplementedError(f'PolyakSGD: variant must be "SPS_max" or "SPS+", found {self.variant!r}.')
        super().__post_init__()

    def first(self, params: PyTree) -> tuple[Array, Any]:
        """The largest step, and no velocity."""
        stepsize = jnp.asarray(self.max_stepsize, _state.real_dtype(params))
        return stepsize, tree_zeros_like(params) if self.momentum else None

    def step(self, params: PyTree, state: State, value: Array, gradient: PyTree, value_of: Callable):
        """One step."""
        del value_of
        squared = tree_l2_norm(gradient, squared=True)
        zero = squared == 0
        gap = value - self.fun_min
        if self.variant == "SPS_max":
            s = jnp.minimum(gap / jnp.where(zero, 1.0, squared + self.delta), self.max_stepsize)
        else:
            s = jnp.where(zero, 0.0, jnp.maximum(gap / jnp.where(zero, 1.0, squared), 0.0))
        s = s.astype(state.stepsize.dtype)
        moved = tree_add_scalar_mul(params, -s, gradient)
        new = tree_add_scalar_mul(moved, self.momentum, state.internal_state) if self.momentum else moved
        return new, s, tree_sub(new, params) if self.momentum else None


@dataclasses.dataclass(frozen=True, eq=False)
class ArmijoSGD(StochasticSolver):
    """Gradient steps that a line search by Armijo's condition shortens: `run(init_params, *args, **kwargs)`.

    f(x - s g) <= f(x) - (1 - aggressiveness) s |g|^2. `reset_option` says where the next search starts: "increase"
    lengthens the step first, "conservative" does not, "goldstein" lengthens a step in the search that is too short.

    Source: Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien, "Painless stochastic gradient", NeurIPS 2019.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> solver = jaxopt.ArmijoSGD(lambda x, a: jnp.sum((x - a) ** 2), tol=1e-5)
        >>> print(solver.run(jnp.zeros(2), jnp.array([1.0, 2.0])).params.round(3))
        [1. 2.]
    """

    fun: Callable
    _: dataclasses.KW_ONLY
    aggressiveness: float = 0.9
    decrease_factor: float = 0.8
    increase_factor: float = 1.5
    reset_option: str = "increase"
    momentum: float = 0.0
    max_stepsize: float = 1.0
    maxls: int = 15

    def __post_init__(self):
        """Check the option."""
        if self.reset_option not in ("increase", "conservative", "goldstein"):
            raise ValueError(f"ArmijoSGD: unknown reset_option {self.reset_option!r}.")
        super().__post_init__()

    def first(self, params: PyTree) -> tuple[Array, Any]:
        """The largest step, and no velocity."""
        stepsize = jnp.asarray(self.max_stepsize, _state.real_dtype(params))
        return stepsize, tree_zeros_like(params) if self.momentum else None

    def step(self, params: PyTree, state: State, value: Array, gradient: PyTree, value_of: Callable):
        """One step."""
        squared, slope = tree_l2_norm(gradient, squared=True), 1 - self.aggressiveness
        dtype, noise = state.stepsize.dtype, jnp.finfo(state.stepsize.dtype).eps * jnp.abs(value)
        limit = lambda s: jnp.minimum(s, self.max_stepsize).astype(dtype)  # noqa: E731

        def factor(s):
            at = value_of(tree_add_scalar_mul(params, -s, gradient))
            too_long = ~(at <= value - slope * s * squared + noise)
            short = (at < value - (1 - slope) * s * squared) & (s < self.max_stepsize)
            lengthen = jnp.where(short & (self.reset_option == "goldstein"), self.increase_factor, 1.0)
            return jnp.where(too_long, self.decrease_factor, lengthen)

        def body(carry):
            s = limit(carry[0] * carry[1])
            return s, factor(s), carry[2] + 1

        s = limit(state.stepsize * (self.increase_factor if self.reset_option == "increase" else 1.0))
        unfinished = lambda carry: (carry[1] != 1) & (carry[2] < self.maxls)  # noqa: E731
        s, _, _ = search_loop(unfinished, body, (s, factor(s), jnp.int32(0)), self.maxls, not self.implicit_diff)
        moved = tree_add_scalar_mul(params, -s, gradient)
        new = tree_add_scalar_mul(moved, self.momentum, state.internal_state) if self.momentum else moved
        return new, s, tree_sub(new, params) if self.momentum else None
