"""Fixed-point iteration, with and without Anderson's acceleration, and Newton's method for roots."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax.tree_utils as otu
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import optimality
from .._program import check_output
from ._iterative import IterativeSolver


class FixedPointState(NamedTuple):
    """Attributes: see `State`."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class FixedPointIteration(IterativeSolver):
    """x+ = T(x, *args) until it stays: `run(init, *args)`. `state.error` is |T(x) - x|.

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

    def own_condition(self, state: FixedPointState) -> Callable:
        """T itself."""
        del state
        return self.T

    def init_state(self, init: PyTree, *args: Any) -> FixedPointState:
        """Nothing is known yet."""
        del args
        return FixedPointState(
            jnp.int32(0), jnp.asarray(jnp.inf, otu.tree_dtype(init, "highest")), jnp.array(False)
        )  # fmt: skip

    def update(self, x: PyTree, state: FixedPointState, *args: Any):
        """One application of T."""
        new = _image(self.T, x, args)
        error = otu.tree_norm(otu.tree_sub(new, x)).astype(state.error.dtype)
        return new, FixedPointState(state.iteration + 1, error, error <= self.tol)


def _image(T: Callable[..., PyTree], x: PyTree, args: tuple) -> PyTree:
    """T(x, *args) in the dtypes of x: a step size may be of a higher one."""
    leaves, tree = jax.tree.flatten(x)
    return jax.tree.unflatten(tree, check_output(T, tree, leaves, T(x, *args)))


class AndersonState(NamedTuple):
    """Attributes: see `State`; the last steps of x and of T(x) - x, as columns."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    x: Float[Array, " n"]
    residual: Float[Array, " n"]
    x_steps: Float[Array, "n m"]
    residual_steps: Float[Array, "n m"]


@dataclasses.dataclass(frozen=True)
class AndersonAcceleration(IterativeSolver):
    """Anderson's acceleration of x+ = T(x, *args), of type II: `run(init, *args)`.

    The next x is the combination of the last `history` ones whose residual T(x) - x is smallest, plus that residual.
    `state.error` is |T(x) - x|.

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

    def own_condition(self, state: AndersonState) -> Callable:
        """T itself."""
        del state
        return self.T

    def init_state(self, init: PyTree, *args: Any) -> AndersonState:
        """An empty history."""
        del args
        flat, _ = ravel_pytree(init)
        zeros = jnp.zeros((flat.size, self.history), flat.dtype)
        infinite = jnp.asarray(jnp.inf, flat.dtype)
        return AndersonState(jnp.int32(0), infinite, jnp.array(False), flat, jnp.zeros_like(flat), zeros, zeros)

    def update(self, x: PyTree, state: AndersonState, *args: Any):
        """One application of T, and the next x from it and the ones before."""
        flat, tree = ravel_pytree(x)
        residual = ravel_pytree(_image(self.T, x, args))[0] - flat
        column = state.iteration % self.history
        first = state.iteration == 0

        def remember(steps: Array, step: Array) -> Array:
            return steps.at[:, column].set(jnp.where(first, 0.0, step))

        X = remember(state.x_steps, flat - state.x)
        R = remember(state.residual_steps, residual - state.residual)
        gram = R.T @ R
        size = jnp.trace(gram)
        # Columns that are still empty get a one on the diagonal, and so no weight.
        ridge = self.ridge * size + jnp.where(jnp.diagonal(gram) == 0, jnp.where(size == 0, 1.0, size), 0.0)
        weights = jnp.linalg.solve(gram + jnp.diag(ridge), R.T @ residual)
        new = flat + self.mixing * residual - (X + self.mixing * R) @ weights
        error = jnp.linalg.norm(residual)
        converged = error <= self.tol
        # At the end T(x) itself: it satisfies what was tested.
        new = jnp.where(converged, flat + residual, new)
        return tree(new), AndersonState(state.iteration + 1, error, converged, flat, residual, X, R)


@dataclasses.dataclass(frozen=True)
class Newton(IterativeSolver):
    """Newton's method for a root of G: `run(init, *args)`. `state.error` is |G(x)| before the last step.

    The linear system is solved as the implicit function theorem solves it: directly when small, by a Krylov method
    when large.

    Attributes:
        G: `G(x, *args)`, a pytree like x.
        stepsize: the share of the Newton step that is taken, in (0, 1].

    Example:
        >>> import jax, implicitdiff as idf
        >>> sqrt = idf.solvers.Newton(lambda x, a: x**2 - a)
        >>> print(jax.grad(lambda a: sqrt.run(1.0, a)[0])(4.0).round(6))
        0.25
    """

    G: Callable[..., PyTree]
    stepsize: float = 1.0

    def own_condition(self, state: FixedPointState) -> Callable:
        """G itself, as a root condition."""
        del state
        return optimality.root(self.G)

    def init_state(self, init: PyTree, *args: Any) -> FixedPointState:
        """Nothing is known yet."""
        del args
        return FixedPointState(
            jnp.int32(0), jnp.asarray(jnp.inf, otu.tree_dtype(init, "highest")), jnp.array(False)
        )  # fmt: skip

    def update(self, x: PyTree, state: FixedPointState, *args: Any):
        """One Newton step."""
        new = optimality.newton(self.G, self.stepsize)(x, *args)
        error = otu.tree_norm(self.G(x, *args)).astype(state.error.dtype)
        return new, FixedPointState(state.iteration + 1, error, error <= self.tol)
