"""Fixed-point iteration, with and without Anderson's acceleration, and Newton's method for roots."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .. import optimality
from .._implicit import Implicit
from .._program import check_output, trace
from ._iterative import IterativeSolver, nothing_known
from ._state import State, Trace, judged


@dataclasses.dataclass(frozen=True)
class FixedPointIteration(IterativeSolver):
    """x+ = T(x, *args) until it stays: `run(init, *args)`.

    `state.error` is |T(x) - x| relative to |x| (where that is zero, to 1/100 of the way from the start).

    Attributes:
        T: fixed-point map `T(x, *args)`, a contraction near the fixed point; any condition of
            `implicitdiff.optimality` that is a fixed point serves.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> kepler = idf.solvers.FixedPointIteration(lambda x, e: 1.0 + e * jnp.sin(x))
        >>> print(jax.grad(lambda e: kepler.run(1.0, e)[0])(0.5).round(3))
        1.035
    """

    T: Callable[..., PyTree]

    def own_condition(self, state: State) -> Callable:
        """T itself."""
        del state
        return self.T

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """Nothing is known yet."""
        del args, kwargs
        return nothing_known(init, Trace.new(init))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One application of T."""
        new = _image(self.T, x, args, kwargs)
        error, trace = judged(state.memory, x, jax.tree.map(jnp.subtract, new, x), curvature=1.0)
        return new, State(state.iteration + 1, error, error <= self.tol, memory=trace)


def _image(T: Callable[..., PyTree], x: PyTree, args: tuple, kwargs: dict) -> PyTree:
    """T(x, *args, **kwargs) in the dtypes of x: a step size may be of a higher one."""
    leaves, tree = jax.tree.flatten(x)
    return jax.tree.unflatten(tree, check_output(T, tree, leaves, T(x, *args, **kwargs)))


class AndersonMemory(NamedTuple):
    """Attributes: the last x and T(x) - x; the last steps of both, as columns; what the error is judged by."""

    x: Float[Array, " n"]
    residual: Float[Array, " n"]
    x_steps: Float[Array, "n m"]
    residual_steps: Float[Array, "n m"]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class AndersonAcceleration(IterativeSolver):
    """Anderson's acceleration of x+ = T(x, *args), of type II: `run(init, *args)`.

    The next x is the combination of the last `history` ones whose residual T(x) - x is smallest, plus that residual.
    `state.error` is |T(x) - x| relative to |x| (where that is zero, to 1/100 of the way from the start).

    Attributes:
        T: fixed-point map `T(x, *args)` on a pytree of real arrays.
        history: how many former steps are combined.
        mixing: the share of the residual that is added, in (0, 1].
        ridge: regularisation of the least-squares problem for the combination, relative to its matrix.

    Source: Walker, Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 2011.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> kepler = idf.solvers.AndersonAcceleration(lambda x, e: 1.0 + e * jnp.sin(x))
        >>> print(jax.grad(lambda e: kepler.run(1.0, e)[0])(0.5).round(3))
        1.035
    """

    T: Callable[..., PyTree]
    history: int = 5
    mixing: float = 1.0
    ridge: float = 1e-10

    def own_condition(self, state: State) -> Callable:
        """T itself."""
        del state
        return self.T

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """An empty history."""
        del args, kwargs
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(init)):
            raise TypeError(
                "AndersonAcceleration is for real x, found a complex leaf: T need not be holomorphic. Pass real and "
                "imaginary parts as separate leaves, or use FixedPointIteration."
            )
        flat, _ = ravel_pytree(init)
        zeros = jnp.zeros((flat.size, self.history), flat.dtype)
        return nothing_known(init, AndersonMemory(flat, jnp.zeros_like(flat), zeros, zeros, Trace.new(init)))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One application of T, and the next x from it and the ones before."""
        flat, tree = ravel_pytree(x)
        image = _image(self.T, x, args, kwargs)
        memory, residual = state.memory, ravel_pytree(image)[0] - flat
        column = state.iteration % self.history
        first = state.iteration == 0

        def remember(steps: Array, step: Array) -> Array:
            return steps.at[:, column].set(jnp.where(first, 0.0, step))

        X = remember(memory.x_steps, flat - memory.x)
        R = remember(memory.residual_steps, residual - memory.residual)
        gram = R.T @ R
        size = jnp.trace(gram)
        # Columns that are still empty get a one on the diagonal, and so no weight.
        ridge = self.ridge * size + jnp.where(jnp.diagonal(gram) == 0, jnp.where(size == 0, 1.0, size), 0.0)
        weights = jnp.linalg.solve(gram + jnp.diag(ridge), R.T @ residual)
        new = flat + self.mixing * residual - (X + self.mixing * R) @ weights
        error, trace = judged(memory.trace, x, jax.tree.map(jnp.subtract, image, x), curvature=1.0)
        converged = error <= self.tol
        # At the end T(x) itself: it satisfies what was tested.
        new = jnp.where(converged, flat + residual, new)
        return tree(new), State(
            state.iteration + 1, error, converged, memory=AndersonMemory(flat, residual, X, R, trace)
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Newton(IterativeSolver):
    """Newton's method for a root of G: `run(init, *args)`.

    `state.error` is the length of the last Newton step relative to |x| (where that is zero, to 1/100 of the way from
    the start). The linear system is solved as the implicit function theorem solves it: directly when small,
    by a Krylov method when large; or by the linear solver that is given.

    Attributes:
        G: `G(x, *args)`, a pytree like x.
        stepsize: the share of the Newton step that is taken, in (0, 1].
        linear_solver: how to solve for the step, and for the derivative unless `adjoint` says otherwise: see
            `Implicit`. `implicitdiff.sparse.LU()` makes this a sparse Newton method; the factors of a step at x are
            kept, and serve the derivative where the last step has not changed x.

    Example:
        >>> import jax, implicitdiff as idf
        >>> sqrt = idf.solvers.Newton(lambda x, a: x**2 - a)
        >>> print(jax.grad(lambda a: sqrt.run(1.0, a)[0])(4.0).round(6))
        0.25
    """

    G: Callable[..., PyTree]
    stepsize: float = 1.0
    linear_solver: Any = None

    def __post_init__(self):
        super().__post_init__()
        if self.linear_solver is not None and self.adjoint is None:
            object.__setattr__(self, "adjoint", Implicit(linear_solver=self.linear_solver))

    def own_condition(self, state: State) -> Callable:
        """G itself, as a root condition."""
        del state
        return optimality.root(self.G)

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """Nothing is known yet."""
        del args, kwargs
        return nothing_known(init, Trace.new(init))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One Newton step."""
        if self.linear_solver is None:
            new = optimality.newton(self.G, self.stepsize)(x, *args, **kwargs)
            step = jax.tree.map(lambda a, b: (b - a) / self.stepsize, x, new)
        else:
            step = self._step(x, args, kwargs)
            new = jax.tree.map(lambda a, s: a + self.stepsize * s, x, step)
        error, trace = judged(state.memory, x, step, curvature=1.0)
        return new, State(state.iteration + 1, error, error <= self.tol, memory=trace)

    def _step(self, x: PyTree, args: tuple, kwargs: dict) -> PyTree:
        """The Newton step, by the linear solver that was given."""
        leaves, structure = jax.tree.flatten(x)
        tree: Any = structure
        program, theta = trace(self.G, x, args, kwargs)
        adjoint, read = Implicit(linear_solver=self.linear_solver).traced(program, leaves, theta)
        new = adjoint.bound(read).newton(program, leaves, theta)
        return tree.unflatten([b - a for a, b in zip(leaves, new, strict=True)])
