"""Comparison of a derivative with finite differences of the solver."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import tree_util as jtu
from jaxtyping import PyTree

from .._linearised import Covector, Linearised, Vector
from .._program import is_inexact
from ._spectrum import noise


class Comparison(NamedTuple):
    """The derivative along random directions of args beside central differences of the solver.

    Attributes:
        difference: the relative difference between both.
        noise: the error of the finite differences, estimated by comparing the step with half the step.
    """

    difference: float
    noise: float

    def agrees(self, tolerance: float) -> bool:
        """Whether the difference is below the tolerance, or can be explained by the noise of the finite differences."""
        return self.difference <= max(tolerance, 3 * self.noise) if self.noise < 1 else self.difference <= tolerance

    def __str__(self) -> str:
        """The comparison in words."""
        return f"differ by {self.difference:.1e} relative (their own noise: {self.noise:.1e})"


def compare(here: Linearised, solver: Callable[..., PyTree], directions: int = 2) -> Comparison:
    """Compare J v with (solver(args + h v) - solver(args - h v)) / 2h for random v, scaled for each array."""
    leaves, tree = here.args_tree
    eps = float(jnp.finfo(here.unknowns.dtype).eps)
    scales = here.parameters.vector(
        [
            jnp.full(
                leaf.shape, jnp.maximum(jnp.sqrt(jnp.mean(jnp.abs(leaf) ** 2)), 1e-3), jnp.finfo(leaf.dtype).dtype
            ).astype(leaf.dtype)
            for leaf in leaves
            if is_inexact(leaf)
        ]
    )
    center = here.parameters.vector([leaf for leaf in leaves if is_inexact(leaf)])
    h = eps ** (1 / 4)

    def solution(vector: Covector) -> Vector:
        supply = iter(here.parameters.leaves(vector))
        moved = tree.unflatten([next(supply) if is_inexact(leaf) else leaf for leaf in leaves])
        return here.unknowns.vector([jnp.asarray(leaf) for leaf in jtu.tree_leaves(solver(*moved))])

    worst = Comparison(0.0, 0.0)
    for v in scales * noise(7, (directions, *center.shape), center.dtype):
        coarse, fine = ((solution(center + s * v) - solution(center - s * v)) / (2 * s) for s in (h, h / 2))
        exact = here.solve(-here.B(v))
        size = jnp.maximum(jnp.linalg.norm(fine), jnp.linalg.norm(exact))
        size = jnp.where(size > 0, size, 1.0)
        difference, scatter = (float(jnp.linalg.norm(a - fine) / size) for a in (exact, coarse))
        if not difference <= worst.difference:
            worst = Comparison(difference, scatter)
    return worst
