"""What all solvers share: the loop, its options, and the derivative of what it returns."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._adjoint import Adjoint, Unrolled
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._precision import full_precision
from .._root import attach
from .._varying import check_varies, while_loop
from ._progress import Progress
from ._state import floating as floating


class State(Protocol):
    """What the state of every solver has."""

    @property
    def iteration(self) -> Int[Array, ""]:
        """The number of iterations done."""

    @property
    def error(self) -> Float[Array, ""]:
        """How far x is from satisfying the condition of a solution; each solver says in which sense."""

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether error <= tol."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeSolver:
    """Base of the solvers: `run` iterates `update` until `error <= tol`, and makes the result differentiable.

    Attributes:
        maxiter: the largest number of iterations.
        tol: stop when `state.error` is at most that.
        adjoint: how the derivative of the solution is computed: `Implicit()` by default, `Neumann(terms)`,
            `OneStep()`, or `Unrolled()` for that of the iterations themselves.
        condition: what the solution satisfies, for the derivative: None for the solver's own, or another one of
            `implicitdiff.optimality` that is called with the same arguments; a function of your own is taken for a
            fixed-point map T(x, *args).
        progress: True shows a bar with iteration and error, which moves some 50 times in all.
    """

    maxiter: int = 1000
    tol: float = 1e-6
    adjoint: Adjoint | None = None
    condition: Callable | None = None
    progress: bool = False

    @abstractmethod
    def init_state(self, init: PyTree, *args: Any) -> Any:
        """The state before the first iteration from `init`."""

    @abstractmethod
    def update(self, x: PyTree, state: Any, *args: Any) -> tuple[PyTree, Any]:
        """One iteration: the next x and its state."""

    @abstractmethod
    def own_condition(self, state: Any) -> Callable:
        """The condition that a solution of this solver satisfies; `state` is the last one."""

    @full_precision
    def run(self, init: PyTree, *args: Any) -> tuple[PyTree, Any]:
        """Iterate from `init` until converged or `maxiter` is reached.

        Args:
            init: where to start: a pytree of floating-point arrays; a former solution for a warm start.
            *args: what the problem depends on; see the class.

        Returns:
            (x, state); x is differentiable in args and in what the functions close over, state is not.
        """
        if self._unrolls():
            return self._unrolled(floating(init), args)
        # A solution does not depend on where one started, and what was iterated is not differentiated.
        x, state = stop(compiled_call(self._loop, stop(floating(init)), *stop(args)))
        condition = self.own_condition(state) if self.condition is None else self.condition
        return attach(as_root(condition), x, args, {}, self.adjoint), state

    def _unrolls(self) -> bool:
        if not isinstance(self.adjoint, Unrolled):
            return False
        if self.progress or self.condition is not None:
            raise ValueError("Unrolled() differentiates the iterations: it takes no condition and shows no progress.")
        return True

    def _unfinished(self, state: Any) -> Bool[Array, ""]:
        return ~state.converged & (state.iteration < self.maxiter) & ~jnp.isnan(state.error)

    def _loop(self, init: PyTree, *args: Any) -> tuple[PyTree, Any]:
        progress = Progress(type(self).__name__, self.maxiter) if self.progress else None
        check_varies(init, args)

        def body(carry):
            x, state = self.update(*carry, *args)
            if progress is not None:
                progress.show(state.iteration, state.error)
            return x, state

        result = while_loop(lambda carry: self._unfinished(carry[1]), body, (init, self.init_state(init, *args)))
        if progress is not None:
            progress.close(result[1].iteration, result[1].error)
        return result

    def _unrolled(self, init: PyTree, args: tuple) -> tuple[PyTree, Any]:
        start = (init, self.init_state(init, *args))

        def body(carry, _):
            def choose(these, those):
                return jax.tree.map(lambda a, b: jnp.where(unfinished, a, b), these, those)

            # No lax.cond: its reverse mode would keep the data of the problem once an iteration. What is computed
            # after the end is dropped; it starts from where a derivative exists, or 0 times inf would be NaN.
            unfinished = self._unfinished(carry[1])
            return choose(self.update(*choose(carry, start), *args), carry), None

        # A loop of fixed length: JAX has no reverse mode through a while_loop.
        x, state = lax.scan(body, start, None, length=self.maxiter)[0]
        return x, stop(state)
