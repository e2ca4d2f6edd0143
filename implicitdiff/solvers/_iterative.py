"""What all solvers share: the loop, its options, and the derivative of what it returns."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from .._adjoint import Adjoint, Unrolled
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._precision import full_precision
from .._root import attach
from .._varying import check_varies, while_loop
from ._progress import Progress
from ._state import Result, State, real_dtype
from ._state import floating as floating
from ._unconverged import OnUnconverged, check_policy, settle


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeSolver:
    """Base of the solvers: `run` iterates `update` until `error <= tol`, and makes the result differentiable.

    Attributes:
        maxiter: the largest number of iterations.
        tol: stop when `state.error` is at most that. The error has no unit: times 1e-12 or 1e12, or in other units of
            x, a problem takes as many iterations.
        adjoint: how the derivative of the solution is computed: `Implicit()` by default, `Neumann(terms)`,
            `OneStep()`, or `Unrolled()` for that of the iterations themselves.
        condition: what the solution satisfies, for the derivative: None for the solver's own, or another one of
            `implicitdiff.optimality` that is called with the same arguments; a function of your own is taken for a
            fixed-point map T(x, *args).
        progress: True shows a bar with iteration and error, which moves some 50 times in all.
        callback: `callback(iteration, error)` on the host, as often as the bar would move, and at the end.
        on_unconverged: what happens to a result with `state.converged` false: "warn" warns with cause and remedy where
            the values are known, that is when called eagerly (not with `Unrolled()`, which is meant to stop anywhere);
            "nan" returns NaN, "raise" raises a RuntimeError, both also under jit; "ignore" does nothing.
    """

    maxiter: int = 1000
    tol: float = 1e-6
    adjoint: Adjoint | None = None
    condition: Callable | None = None
    progress: bool = False
    callback: Callable[[int, float], Any] | None = None
    on_unconverged: OnUnconverged = "warn"

    def __post_init__(self):
        """Check the options."""
        check_policy(self.on_unconverged)
        for name in ("stepsize", "stepsizes", "mixing"):
            check_positive(type(self).__name__, name, getattr(self, name, None))

    @abstractmethod
    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """The state before the first iteration from `init`."""

    @abstractmethod
    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One iteration: the next x and its state."""

    @abstractmethod
    def own_condition(self, state: State) -> Callable:
        """The condition that a solution of this solver satisfies; `state` is the last one."""

    def finished(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> State:
        """The state with what is known at the end only, such as the value of the objective."""
        del x, args, kwargs
        return state

    @full_precision
    def run(self, init: PyTree, *args: Any, **kwargs: Any) -> Result:
        """Iterate from `init` until converged or `maxiter` is reached.

        Args:
            init: where to start: a pytree of floating-point arrays; a former solution for a warm start.
            *args: what the problem depends on; see the class.
            **kwargs: the same, by name.

        Returns:
            (x, state); x is differentiable in args and in what the functions close over, state is not.

        Raises:
            RuntimeError: not converged, with `on_unconverged="raise"`.
        """
        remedy = (
            f"Raise maxiter (it is {self.maxiter}) or tol, scale the problem, compute in float64, or choose another "
            "method."
        )
        if self._unrolls():
            x, state = self._unrolled(floating(init), args, kwargs)
            policy: OnUnconverged = "ignore" if self.on_unconverged == "warn" else self.on_unconverged
            return Result(settle(x, state, policy, self.title, remedy), state)

        def whole(init, args, kwargs):
            x, state = self._loop(init, *args, **kwargs)
            return x, self.finished(x, state, *args, **kwargs)

        # A solution does not depend on where one started, and what was iterated is not differentiated.
        x, state = stop(compiled_call(whole, stop(floating(init)), stop(args), stop(kwargs)))
        x = settle(x, state, self.on_unconverged, self.title, remedy)
        condition = self.own_condition(state) if self.condition is None else self.condition
        return Result(attach(as_root(condition), x, args, kwargs, self.adjoint), state)

    @property
    def title(self) -> str:
        """The name under which messages speak of the solver."""
        return type(self).__name__

    @property
    def unrolled(self) -> bool:
        """Whether the iterations themselves are differentiated."""
        return isinstance(self.adjoint, Unrolled)

    def _unrolls(self) -> bool:
        if not self.unrolled:
            return False
        if self.progress or self.callback is not None or self.condition is not None:
            raise ValueError("Unrolled() differentiates the iterations: it takes no condition and shows no progress.")
        return True

    def _unfinished(self, state: State) -> Bool[Array, ""]:
        return ~state.converged & (state.iteration < self.maxiter) & ~jnp.isnan(state.error)

    def _loop(self, init: PyTree, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        progress = self._shown()
        check_varies(init, (args, kwargs))

        def body(carry):
            x, state = self.update(*carry, *args, **kwargs)
            if progress is not None:
                progress.show(state.iteration, state.error)
            return x, state

        start = (init, self.init_state(init, *args, **kwargs))
        result = while_loop(lambda carry: self._unfinished(carry[1]), body, start)
        if progress is not None:
            progress.close(result[1].iteration, result[1].error)
        return result

    def _shown(self) -> Progress | None:
        if not self.progress and self.callback is None:
            return None
        return Progress(self.title, self.maxiter, self.progress, self.callback)

    def _unrolled(self, init: PyTree, args: tuple, kwargs: dict) -> tuple[PyTree, State]:
        start = (init, self.init_state(init, *args, **kwargs))

        def body(carry, _):
            def choose(these, those):
                return jax.tree.map(lambda a, b: jnp.where(unfinished, a, b), these, those)

            # No lax.cond: its reverse mode would keep the data of the problem once an iteration. What is computed
            # after the end is dropped; it starts from where a derivative exists, or 0 times inf would be NaN.
            unfinished = self._unfinished(carry[1])
            return choose(self.update(*choose(carry, start), *args, **kwargs), carry), None

        # A loop of fixed length: JAX has no reverse mode through a while_loop.
        x, state = lax.scan(body, start, None, length=self.maxiter)[0]
        return x, stop(self.finished(x, state, *args, **kwargs))


def search_loop(cond: Callable, body: Callable, start: PyTree, steps: int, unrolled: bool) -> PyTree:
    """The loop of a line search, of at most `steps`, inside of an iteration: differentiable in both modes if asked."""
    if not unrolled:
        return while_loop(cond, body, start)
    return eqxi.while_loop(cond, body, start, max_steps=steps, kind="bounded")


def check_positive(solver: str, name: str, value: Any) -> None:
    """Raise ValueError where a number that must be positive is known and is not."""
    if value is None or callable(value) or isinstance(value, jax.core.Tracer):
        return
    if not np.all(np.asarray(value) > 0):  # in NumPy, because `jit` traces every operation of JAX, on constants too
        raise ValueError(f"{solver}: {name} must be positive, found {value}; leave it out for a line search, if any.")


def nothing_known(init: PyTree, memory: Any = None) -> State:
    """The state before the first iteration."""
    return State(jnp.int32(0), jnp.asarray(jnp.inf, real_dtype(init)), jnp.array(False), memory=memory)
