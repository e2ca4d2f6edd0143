"""Fixed points of block coordinate descent."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from .._program import name_of
from ._condition import Condition
from .stationary import gradient


def block_proximal_gradient(
    f: Callable[..., Scalar], proxes: Callable[..., PyTree] | Sequence[Callable[..., PyTree]], stepsizes: PyTree = 1.0
) -> Condition:
    """The condition of a minimum of f(x, theta_f) + sum_j g_j(x_j, theta_g), with a step size for each block x_j.

    [T(x, theta_f, theta_g)]_j = prox_{s_j g_j}(x_j - s_j [grad_x f(x, theta_f)]_j, theta_g): the fixed points of
    proximal block coordinate descent, whatever the order of the blocks. Equals `proximal_gradient` when all step
    sizes are equal.

    Args:
        f: smooth function `f(x, theta_f)` to a real scalar.
        proxes: one `prox(v, theta_g, scaling)` for all of x, or a sequence with one for each block. In a sequence the
            blocks are the leaves of x, or, when x is one array, its rows.
        stepsizes: positive: a number, an array that broadcasts against x (so that a coordinate or a row is a block),
            or a pytree of these with the structure of x.

    Returns:
        A fixed-point map T(x, theta_f, theta_g). With a sequence of proxes theta_g is None or a sequence of the same
        length.

    Raises:
        ValueError: in a call, if the numbers of proxes and blocks differ.

    Source: Blondel et al., NeurIPS 2022, equation 15 and appendix A.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> T = idf.optimality.block_proximal_gradient(f, idf.prox.lasso, jnp.array([0.5, 1.0]))
        >>> print(T(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.5]), 1.0))
        [2. 0.]
    """

    def T(x: PyTree, theta_f: Any = None, theta_g: Any = None) -> PyTree:
        alike = bool(jax.tree.structure(stepsizes) == jax.tree.structure(x))  # type: ignore[operator]
        steps = stepsizes if alike else jax.tree.map(lambda _: stepsizes, x)
        moved = jax.tree.map(lambda a, g, s: a - s * g, x, gradient(f, x, theta_f), steps)
        if callable(proxes):
            return proxes(moved, theta_g, stepsizes)
        leaves, tree = jax.tree.flatten(moved)
        rows = len(leaves) == 1
        blocks = list(leaves[0]) if rows else leaves
        scalings = of_rows(jax.tree.leaves(steps)[0], leaves[0]) if rows else jax.tree.leaves(steps)
        thetas = [None] * len(blocks) if theta_g is None else list(theta_g)
        if not len(proxes) == len(blocks) == len(thetas):
            raise ValueError(
                f"block_proximal_gradient needs one prox, and one theta_g, for each block: found {len(proxes)} proxes "
                f"and {len(thetas)} thetas for {len(blocks)} {'rows' if rows else 'leaves'} of x."
            )
        results = [p(v, t, s) for p, v, t, s in zip(proxes, blocks, thetas, scalings, strict=True)]
        return jax.tree.unflatten(tree, [jnp.stack(results)] if rows else results)

    return Condition(T, f"block_proximal_gradient({name_of(f)})")


def of_rows(stepsizes: Array | float, x: Array) -> list[Array]:
    """The step size of each row of x; a number if it is the same along the row."""
    sizes = jnp.asarray(stepsizes)
    along = sizes.reshape((1,) * (x.ndim - sizes.ndim) + sizes.shape)
    if all(n == 1 for n in along.shape[1:]):
        return list(jnp.broadcast_to(along.reshape(-1), x.shape[:1]))
    return list(jnp.broadcast_to(along, x.shape))
