"""Proximal operators under JAXopt's names and conventions.

The parameters of `prox_elastic_net` are (lam, gamma), with the l2 weight lam * gamma; `prox_group_lasso` takes the
whole pytree as one group. What differs: a negative weight is an error, or NaN where it is traced; the derivative of
`prox_group_lasso` at zero is zero, where JAXopt's is NaN.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from ... import prox as ours
from .tree_util import broadcast_pytrees


def prox_none(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
    """X itself, the proximal operator of zero."""
    del hyperparams, scaling
    return x


def prox_lasso(x: PyTree, l1reg: Any = None, scaling: Any = 1.0) -> PyTree:
    """Soft thresholding at scaling * l1reg, a number or a pytree like x."""
    return ours.lasso(x, l1reg, scaling)


def prox_non_negative_lasso(x: PyTree, l1reg: Any = None, scaling: Any = 1.0) -> PyTree:
    """`prox_lasso` on the non-negative orthant."""
    return ours.non_negative_lasso(x, l1reg, scaling)


def prox_elastic_net(x: PyTree, hyperparams: tuple | None = None, scaling: Any = 1.0) -> PyTree:
    """Of lam (|x|_1 + gamma / 2 |x|^2), hyperparams = (lam, gamma)."""
    lam, gamma = (1.0, 1.0) if hyperparams is None else hyperparams
    l2 = jax.tree.map(lambda a, b: a * b, *broadcast_pytrees(lam, gamma))
    return ours.elastic_net(x, (lam, l2), scaling)


def prox_group_lasso(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    """Of l2reg |x|, the norm of the whole pytree."""
    flat, tree = ravel_pytree(x)
    return tree(ours.group_lasso(flat, l2reg, scaling))


def prox_ridge(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    """Of l2reg / 2 |x|^2."""
    return ours.ridge(x, l2reg, scaling)


def prox_non_negative_ridge(x: PyTree, l2reg: Any = 1.0, scaling: Any = 1.0) -> PyTree:
    """`prox_ridge` on the non-negative orthant."""
    return ours.non_negative_ridge(x, l2reg, scaling)


def make_prox_from_projection(projection: Callable) -> Callable:
    """The projection as a proximal operator `prox(x, hyperparams=None, scaling=1.0)`."""

    def prox(x: PyTree, hyperparams: Any = None, scaling: Any = 1.0) -> PyTree:
        del scaling  # an indicator function times a number is itself
        return projection(x, hyperparams)

    return prox
