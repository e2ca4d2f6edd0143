"""Proximal block coordinate descent."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .._varying import fori_loop
from ..optimality._condition import Condition
from ._iterative import IterativeSolver


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


class BlockCoordinateDescentState(NamedTuple):
    """Attributes: see `State`; the step size of each block, and A x where f is a `Composite`."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    stepsizes: Float[Array, " p"]
    u: Array | None


@dataclasses.dataclass(frozen=True)
class BlockCoordinateDescent(IterativeSolver):
    """Cyclic proximal coordinate descent for min f(x, theta_f) + sum_j g(x_j, theta_g): `run(init, theta_f, theta_g)`.

    Blocks x_j are the rows of the array x (its entries, where it is a vector). One iteration goes once over all blocks,
    each a proximal-gradient step with a step size of its own. `state.error` is the norm of all steps, each divided by
    its step size.

    With a `Composite` f an iteration costs as much as two products with A; with any other f each block costs a whole
    gradient.

    Attributes:
        f: a `Composite`, or a smooth function `f(x, theta_f)` to a real scalar.
        prox: `prox(v, theta_g, scaling)` of one block. An array in theta_g that has as many rows as x is taken apart:
            each block gets its own.
        stepsizes: a number or one for each block, at most 1 / L_j, with L_j the Lipschitz constant of the block's
            gradient; None where f is a `Composite`, which knows.

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

    def own_condition(self, state: BlockCoordinateDescentState) -> Callable:
        """T of `optimality.block_proximal_gradient`, with the proximal operator of each row."""
        steps = state.stepsizes

        def T(x: Array, theta_f: Any = None, theta_g: Any = None) -> Array:
            gradient = jax.grad(self.f)(x, theta_f)
            moved = x - steps.reshape(-1, *[1] * (x.ndim - 1)) * gradient
            leaves, tree = jax.tree.flatten(theta_g)
            axes = [0 if _has_rows(leaf, x) else None for leaf in leaves]
            prox = lambda v, s, *leaves: self.prox(v, jax.tree.unflatten(tree, leaves), s)  # noqa: E731
            return jax.vmap(prox, in_axes=(0, 0, *axes))(moved, steps, *leaves)

        return Condition(T, "BlockCoordinateDescent")

    def init_state(self, init: Array, theta_f: Any = None, theta_g: Any = None) -> BlockCoordinateDescentState:
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
        infinite = jnp.asarray(jnp.inf, init.dtype)
        return BlockCoordinateDescentState(jnp.int32(0), infinite, jnp.array(False), stepsizes, u)

    def update(self, x: Array, state: BlockCoordinateDescentState, theta_f: Any = None, theta_g: Any = None):
        """One step for each block in turn."""
        steps = state.stepsizes
        if isinstance(self.f, Composite):
            columns = jnp.asarray(self.f.A, x.dtype).T
            outer_gradient = jax.grad(self.f.outer)

        def step(j, carry):
            x, u, squared = carry
            if isinstance(self.f, Composite):
                slope = columns[j] @ outer_gradient(u, theta_f)
            else:
                slope = jax.grad(self.f)(x, theta_f)[j]
            theta_j = jax.tree.map(lambda leaf: jnp.asarray(leaf)[j] if _has_rows(leaf, x) else leaf, theta_g)
            new = self.prox(x[j] - steps[j] * slope, theta_j, steps[j])
            change = new - x[j]
            if u is not None:
                u = u + (columns[j] * change if x.ndim == 1 else jnp.outer(columns[j], change))
            return x.at[j].set(new), u, squared + jnp.sum((change / steps[j]) ** 2)

        zero = jnp.zeros((), x.dtype)
        x, u, squared = fori_loop(0, x.shape[0], step, (x, state.u, zero))
        error = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), squared)
        return x, BlockCoordinateDescentState(state.iteration + 1, error, error <= self.tol, steps, u)


def _has_rows(leaf: Any, x: Array) -> bool:
    return jnp.ndim(leaf) > 0 and jnp.shape(leaf)[0] == x.shape[0]
