"""What the solvers under JAXopt's names share: the loop over one of our methods, and what they return."""

import dataclasses
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._adjoint import Adjoint, Unrolled
from ..._decorators import stop
from ..._fixed_point import as_root
from ..._root import attach
from ...solvers import _state
from ...solvers._iterative import IterativeSolver, floating
from ...solvers._unconverged import OnUnconverged, settle
from .linear_solve import adjoint_of


class OptStep(NamedTuple):
    """What `run` and `update` return: (params, state)."""

    params: Any
    state: Any


class KKTSolution(NamedTuple):
    """A primal solution with the multipliers of its equations and inequalities."""

    primal: Any
    dual_eq: Any = None
    dual_ineq: Any = None


class State(NamedTuple):
    """How a solver stands.

    Attributes:
        iter_num: the number of iterations done.
        error: what JAXopt calls the error, a norm in the units of the problem, which the iteration brings below tol.
        converged: whether our own error, which has no unit, is below tol as well; JAXopt has no such field.
        value: the value of the objective at the parameters, where the solver has one.
        stepsize: the last step size, where the method has one.
        grad: the gradient, where the method keeps it.
        aux: what the function returned beside its value.
        internal_state: what the method itself needs to go on.
    """

    iter_num: Any
    error: Any
    converged: Any
    value: Any = None
    stepsize: Any = None
    grad: Any = None
    aux: Any = None
    internal_state: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"The state has no {name!r}, which is JAXopt's own bookkeeping: found are {', '.join(self._fields)}."
        )


@dataclasses.dataclass(frozen=True)
class Loop(IterativeSolver):
    """One of our methods, iterated until its error and JAXopt's are both below tol."""

    method: Any
    absolute: Callable[..., Array]
    name: str
    verbose: bool
    aux_of: Callable[..., Any] | None = None

    @property
    def title(self) -> str:
        """JAXopt's name of the solver."""
        return self.name

    def own_condition(self, state: _state.State) -> Callable:
        """The method's."""
        return self.method.own_condition(state.memory)

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> _state.State:
        """The method's, in a state of ours."""
        inner = self.method.init_state(init, *args, **kwargs)
        return _state.State(inner.iteration, inner.error, inner.converged, memory=inner)

    def update(self, x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> tuple[PyTree, _state.State]:
        """One iteration of the method."""
        x, inner = self.method.update(x, state.memory, *args, **kwargs)
        # NaN in the relative error says that the method is stuck.
        error = jnp.where(jnp.isnan(inner.error), jnp.nan, self.absolute(x, inner, *args, **kwargs))
        error = error.astype(inner.error.dtype)
        if self.verbose:
            jax.debug.print(self.name + ": iteration {}, error {}", inner.iteration, error)
        return x, _state.State(inner.iteration, error, inner.error <= self.tol, memory=inner)

    def finished(self, x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> _state.State:
        """The state with what the method knows at the end."""
        inner = self.method.finished(x, state.memory, *args, **kwargs)
        aux = inner.aux if self.aux_of is None else self.aux_of(x, *args, **kwargs)
        return state._replace(value=inner.value, aux=aux)

    def by_python(self, init: PyTree, args: tuple, kwargs: dict) -> _state.Result:
        """`run` by a loop of Python's, for functions that are not JAX: these have no derivative of the solution."""
        init = floating(init)
        start, fixed, named = (init, args, kwargs) if self.unrolled else stop((init, args, kwargs))
        with jax.disable_jit():
            x, state = start, self.init_state(start, *fixed, **named)
            while bool(self._unfinished(state)):
                x, state = self.update(x, state, *fixed, **named)
            state = stop(self.finished(x, state, *fixed, **named))
        policy = "ignore" if self.unrolled and self.on_unconverged == "warn" else self.on_unconverged
        x = settle(x, state, policy, self.title, f"Raise maxiter (it is {self.maxiter}) or tol, or scale the problem.")
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((x, args, kwargs)))
        if self.unrolled or not traced:
            return _state.Result(x, state)
        return _state.Result(attach(as_root(self.own_condition(state)), stop(x), args, kwargs, self.adjoint), state)

    def _unfinished(self, state: _state.State) -> Array:
        done = state.converged & (state.error <= self.tol)
        return ~done & (state.iteration < self.maxiter) & ~jnp.isnan(state.error)


def residual_norm(x: PyTree, state: _state.State, *args: Any, **kwargs: Any) -> Array:
    """The norm of the residual that our methods remember: of the gradient, generalised, or of T(x) - x."""
    del x, args, kwargs
    memory = state.memory
    return _state.size(memory.residual if isinstance(memory, _state.Trace) else memory.trace.residual)


@dataclasses.dataclass(frozen=True, eq=False)
class Solver:
    """Base of the iterative solvers under JAXopt's names.

    Attributes:
        maxiter: the largest number of iterations.
        tol: the iteration ends when both errors of the state are at most that.
        verbose: whether to print each iteration.
        implicit_diff: False to differentiate the iterations themselves.
        implicit_diff_solve: a linear solver `(matvec, b) -> x`, such as those of `linear_solve`; None chooses.
        jit: False to iterate in Python, for functions that are not JAX.
        unroll: how JAXopt writes its loop; here both modes of differentiation work whatever it is.
        on_unconverged: what happens where the relative error is above tol after maxiter iterations: "warn", "nan",
            "raise" or "ignore", which is what JAXopt does.
    """

    _: dataclasses.KW_ONLY
    maxiter: int = 500
    tol: float = 1e-3
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"
    on_unconverged: OnUnconverged = "warn"

    # Options of JAXopt's own algorithm: setting one of them warns.
    without_effect: ClassVar[dict[str, str]] = {}

    def __post_init__(self):
        """Warn of options without an effect; compile `update`, as JAXopt does."""
        warn_of(self, self.without_effect)
        if self.jit:
            object.__setattr__(self, "update", jax.jit(self.update))

    @abstractmethod
    def build(self) -> Any:
        """The solver of ours that does the work."""

    def packed(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments of the method from those of `run` after the first."""
        return args, kwargs

    def absolute(self) -> Callable[..., Array]:
        """JAXopt's error, called as (x, state of the method, *args of the method)."""
        return residual_norm

    def auxiliary(self) -> Callable[..., Any] | None:
        """What gives aux at the parameters, where the method does not."""
        return None

    def conditions(self) -> Callable:
        """F or T of the method, with step size one where there is one."""
        return self.build().own_condition(None)

    def adjoint(self) -> Adjoint:
        """How the derivative is computed."""
        return adjoint_of(self.implicit_diff_solve, polish=1) if self.implicit_diff else Unrolled()

    def loop(self) -> Loop:
        """The method with its loop."""
        return Loop(
            maxiter=self.maxiter, tol=self.tol, adjoint=self.adjoint(), on_unconverged=self.on_unconverged,
            method=dataclasses.replace(self.build(), tol=0.0, adjoint=self.adjoint()), absolute=self.absolute(),
            name=type(self).__name__, verbose=bool(self.verbose), aux_of=self.auxiliary(),
        )  # fmt: skip

    def optimality_fun(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """What is zero at a solution: F, or T(params) - params."""
        args, kwargs = self.packed(args, kwargs)
        condition = self.conditions()
        residual = as_root(condition)(params, *args, **kwargs)
        return residual if getattr(condition, "is_root", False) else jax.tree.map(jnp.negative, residual)

    def l2_optimality_error(self, params: PyTree, *args: Any, **kwargs: Any) -> Array:
        """The Euclidean norm of `optimality_fun`."""
        return _state.size(self.optimality_fun(params, *args, **kwargs))

    def init_state(self, init_params: PyTree, *args: Any, **kwargs: Any) -> State:
        """The state before the first iteration."""
        args, kwargs = self.packed(args, kwargs)
        loop, init = self.loop(), floating(start_of(init_params))
        return self._state(loop.finished(init, loop.init_state(init, *args, **kwargs), *args, **kwargs))

    def update(self, params: PyTree, state: State, *args: Any, **kwargs: Any) -> OptStep:
        """One iteration, without a derivative of its own."""
        args, kwargs = self.packed(args, kwargs)
        loop, params = self.loop(), floating(params)
        x, new = loop.update(params, state.internal_state, *args, **kwargs)
        return OptStep(x, self._state(loop.finished(x, new, *args, **kwargs)))

    def run(self, init_params: PyTree, *args: Any, **kwargs: Any) -> OptStep:
        """Iterate from `init_params`, parameters or an `OptStep`: (params, state), params differentiable.

        Raises:
            RuntimeError: not converged, with `on_unconverged="raise"`.
        """
        args, kwargs = self.packed(args, kwargs)
        init = start_of(init_params)
        loop = self.loop()
        found = loop.run(init, *args, **kwargs) if self.jit else loop.by_python(init, args, kwargs)
        return OptStep(found.x, self._state(found.state))

    def _state(self, state: _state.State) -> State:
        memory = state.memory.memory
        known = lambda name: getattr(memory, name, None)  # noqa: E731
        return State(
            state.iteration, state.error, state.converged, state.value, known("stepsize"), known("gradient"),
            state.aux, state._replace(value=None, aux=None),
        )  # fmt: skip


def warn_of(solver: Any, without_effect: dict[str, str]) -> None:
    """Warn where an option that has no effect here differs from its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(solver)}
    for name, reason in without_effect.items():
        if getattr(solver, name) is not defaults[name] and getattr(solver, name) != defaults[name]:
            warnings.warn(f"{type(solver).__name__}: {name} has no effect here: {reason}.", UserWarning, stacklevel=5)


def start_of(init: Any) -> Any:
    """The parameters of an `OptStep`, or what it is."""
    return init.params if isinstance(init, OptStep) else init


def without_aux(f: Callable, has_aux: bool) -> tuple[Callable, Callable | None]:
    """F without its aux, and aux alone where there is one."""
    if not has_aux:
        return f, None
    return (lambda *args, **kwargs: f(*args, **kwargs)[0]), (lambda *args, **kwargs: f(*args, **kwargs)[1])


def objective(solver: Any) -> tuple[Callable, dict[str, Any]]:
    """The function of a solver with what it returns, as our solvers take it."""
    both = callable(solver.value_and_grad)
    f = solver.value_and_grad if both else solver.fun
    return f, dict(has_aux=solver.has_aux, value_and_grad=both or bool(solver.value_and_grad))
