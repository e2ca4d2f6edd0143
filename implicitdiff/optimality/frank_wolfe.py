"""Minima over the convex hull of points."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Scalar

from .._program import name_of
from ..projection import simplex
from ._condition import Condition
from .proximal import Stepsize, projected_gradient


def frank_wolfe(f: Callable[..., Scalar], stepsize: Stepsize = 1.0) -> Condition:
    """The condition of a minimum of f(z, theta_f) over the convex hull of the columns of V, in terms of their weights.

    The linear oracle of the Frank-Wolfe method has zero derivative almost everywhere. Its solution is z = V p with p
    in the simplex, and p satisfies the projected-gradient condition

        T(p, theta_f, V) = proj_simplex(p - stepsize V' grad_z f(V p, theta_f)).

    The method finds at most one new vertex in each step, so that the system in p is small. p is unique, and the
    condition regular, when the vertices with positive weight are affinely independent and f is strictly convex on their
    span.

    Args:
        f: `f(z, theta_f)` to a real scalar.
        stepsize: positive number.

    Returns:
        A fixed-point map T(p, theta_f, V), p of shape (m,) and V of shape (d, m). Differentiate z as V @ p.

    Source: Blondel et al., NeurIPS 2022, appendix A.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.frank_wolfe(lambda z, b: 0.5 * jnp.sum((z - b) ** 2))
        >>> print(T(jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5]), jnp.eye(2)))
        [0.5 0.5]
    """

    def T(p: Float[Array, " m"], theta_f: Any, V: Float[Array, "d m"]) -> Float[Array, " m"]:
        step = projected_gradient(lambda p, theta: f(V @ p, theta), lambda v, _: simplex(v), stepsize)
        return step(p, theta_f, None)

    return Condition(T, f"frank_wolfe({name_of(f)})")
