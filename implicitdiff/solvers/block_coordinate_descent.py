"""Proximal block coordinate descent."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .._varying import fori_loop
from ..optimality._condition import Condition
from ._iterative import IterativeSolver, nothing_known
from ._state import State, Trace, judged


@dataclasses.dataclass(frozen=True)
class Composite:
    """f(x, theta) = outer(A x, theta), which block coordinate descent can update one row of x at a time.

    Attributes:
        outer: `outer(u, theta)`, a smooth function of u = A x to a real scalar.
        A: matrix of shape (n, p), for x of shape (p,) or (p, k).
        smoothness: Lipschitz constant of the gradient of outer in u: 1 for squares, 1/4 for the logistic loss. The step
            size of row j is then 1 / (smoothness |A_j|^2).

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = idf.solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), jnp.eye(2))
        >>> print(f(jnp.ones(2), jnp.zeros(2)))
        1.0
    """

    outer: Callable[..., Scalar]
    A: Float[Array, "n p"]
    smoothness: float = 1.0

    def __call__(self, x: Float[Array, "p ..."], theta: Any = None) -> Scalar:
        """f(x, theta)."""
        return self.outer(jnp.asarray(self.A) @ x, theta)


class Memory(NamedTuple):
    """Attributes: the step size of each block; A x where f is a `Composite`; what the error is judged by."""

    stepsizes: Float[Array, " p"]
    u: Array | None
    trace: Trace


@dataclasses.dataclass(frozen=True)
class BlockCoordinateDescent(IterativeSolver):
    """Cyclic proximal coordinate descent for min f(x, theta_f) + sum_j g(x_j, theta_g): `run(init, theta_f, theta_g)`.

    Blocks x_j are the rows of the array x (its entries, where it is a vector). One iteration goes once over all blocks,
    each a proximal-gradient step with a step size of its own. `state.error` is the norm of all steps, each divided by
    its step size, relative to what a change of x by its own size would make it.

    With a `Composite` f an iteration costs as much as two products with A; with any other f each block costs a whole
    gradient.

    Attributes:
        f: a `Composite`, or a smooth function `f(x, theta_f)` to a real scalar.
        prox: `prox(v, theta_g, scaling)` of one block.
        stepsizes: a number or one for each block, at most 1 / L_j, with L_j the Lipschitz constant of the block's
            gradient; None where f is a `Composite`, which knows.
        per_block: whether the arrays in theta_g have one row for each block, which each block then gets: True or False
            for all of them, or a pytree of booleans in the structure of theta_g (or of an upper part of it).

    Raises:
        ValueError: f is no Composite and there are no stepsizes.

    Source: Tseng, "Convergence of a block coordinate descent method for nondifferentiable minimization", 2001; Blondel
    et al., NeurIPS 2022, appendix A, for the condition.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = idf.solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), jnp.eye(2))
        >>> solver = idf.solvers.BlockCoordinateDescent(f, idf.prox.lasso)
        >>> print(solver.run(jnp.zeros(2), jnp.array([3.0, 0.5]), 1.0)[0])
        [2. 0.]
    """

    f: Callable[..., Scalar]
    prox: Callable[..., PyTree]
    stepsizes: float | Float[Array, " p"] | None = None
    per_block: Any = False

    def _rows(self, theta_g: Any) -> list[bool]:
        """For each leaf of theta_g, whether it has one row for each block."""
        tree = jax.tree.structure(theta_g)
        try:
            flags = jax.tree.leaves(
                jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), self.per_block, theta_g)
            )
        except ValueError as error:
            raise ValueError(
                f"BlockCoordinateDescent: per_block={self.per_block!r} must be a boolean, or booleans in the structure "
                f"of theta_g, {tree}."
            ) from error
        return [bool(flag) for flag in flags]

    def own_condition(self, state: State) -> Callable:
        """T of `optimality.block_proximal_gradient`, with the proximal operator of each row."""
        steps = state.memory.stepsizes

        def T(x: Array, theta_f: Any = None, theta_g: Any = None) -> Array:
            gradient = jax.grad(self.f)(x, theta_f)
            moved = x - steps.reshape(-1, *[1] * (x.ndim - 1)) * gradient
            leaves, tree = jax.tree.flatten(theta_g)
            axes = [0 if row else None for row in self._rows(theta_g)]
            prox = lambda v, s, *leaves: self.prox(v, jax.tree.unflatten(tree, leaves), s)  # noqa: E731
            return jax.vmap(prox, in_axes=(0, 0, *axes))(moved, steps, *leaves)

        return Condition(T, "BlockCoordinateDescent")

    def init_state(self, init: Array, theta_f: Any = None, theta_g: Any = None) -> State:
        """Step sizes and, for a `Composite`, A x."""
        del theta_f, theta_g
        u = None
        if self.stepsizes is not None:
            stepsizes = jnp.broadcast_to(jnp.asarray(self.stepsizes, init.dtype), init.shape[:1])
            if isinstance(self.f, Composite):
                u = jnp.asarray(self.f.A, init.dtype) @ init
        elif isinstance(self.f, Composite):
            A = jnp.asarray(self.f.A, init.dtype)
            curvature = self.f.smoothness * jnp.sum(A**2, axis=0)
            # On a column of zeros f is constant, and any step size is right.
            stepsizes = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1.0), 1.0)
            u = A @ init
        else:
            raise ValueError("BlockCoordinateDescent needs stepsizes, unless f is an idf.solvers.Composite.")
        return nothing_known(init, Memory(stepsizes, u, Trace.new(init)))

    def update(self, x: Array, state: State, theta_f: Any = None, theta_g: Any = None):
        """One step for each block in turn."""
        steps = state.memory.stepsizes
        if isinstance(self.f, Composite):
            columns = jnp.asarray(self.f.A, x.dtype).T
            outer_gradient = jax.grad(self.f.outer)

        def step(j, carry):
            x, u = carry
            if isinstance(self.f, Composite):
                slope = columns[j] @ outer_gradient(u, theta_f)
            else:
                slope = jax.grad(self.f)(x, theta_f)[j]
            leaves, tree = jax.tree.flatten(theta_g)
            rows = zip(leaves, self._rows(theta_g), strict=True)
            theta_j = jax.tree.unflatten(tree, [jnp.asarray(leaf)[j] if row else leaf for leaf, row in rows])
            new = self.prox(x[j] - steps[j] * slope, theta_j, steps[j])
            change = new - x[j]
            if u is not None:
                u = u + (columns[j] * change if x.ndim == 1 else jnp.outer(columns[j], change))
            return x.at[j].set(new), u

        moved, u = fori_loop(0, x.shape[0], step, (x, state.memory.u))
        residual = (x - moved) / steps.reshape(-1, *[1] * (x.ndim - 1))
        error, trace = judged(state.memory.trace, x, residual)
        return moved, State(state.iteration + 1, error, error <= self.tol, memory=Memory(steps, u, trace))
