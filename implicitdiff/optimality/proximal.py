"""Fixed points of the proximal-gradient and the projected-gradient method."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree, Scalar

from .._program import name_of
from ._condition import Condition
from .stationary import gradient

Stepsize = float | Float[Array, ""]


def proximal_gradient(f: Callable[..., Scalar], prox: Callable[..., PyTree], stepsize: Stepsize = 1.0) -> Condition:
    """The condition of a minimum of f(x, theta_f) + g(x, theta_g) with a simple, possibly non-smooth g.

    T(x, theta_f, theta_g) = prox_{stepsize g}(x - stepsize grad_x f(x, theta_f), theta_g). Solutions do not depend on
    the step size, and neither does the derivative where the proximal operator is differentiable.

    Args:
        f: smooth function `f(x, theta_f)` to a real scalar.
        prox: `prox(v, theta_g, scaling)` = argmin_x 1/2 ||x - v||^2 + scaling g(x, theta_g), as in `implicitdiff.prox`.
        stepsize: positive number. The linear system is best conditioned for about 1 / L, where L is the Lipschitz
            constant of the gradient.

    Returns:
        A fixed-point map T(x, theta_f, theta_g).

    Source: Blondel et al., NeurIPS 2022, equation 7 and appendix A.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.proximal_gradient(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), idf.prox.lasso)
        >>> b = jnp.array([3.0, 0.5])
        >>> solution = lambda b, weight: idf.implicit_fixed_point(T, jnp.array([2.0, 0.0]), b, weight)
        >>> print(jax.jacobian(solution, argnums=1)(b, 1.0))
        [-1.  0.]
    """
    return Condition.composed(
        lambda x, theta_f: gradient_step(f, x, theta_f, stepsize),
        lambda v, theta_g: prox(v, theta_g, stepsize),
        f"proximal_gradient({name_of(f)}, {name_of(prox)})",
    )


def projected_gradient(
    f: Callable[..., Scalar], projection: Callable[..., PyTree], stepsize: Stepsize = 1.0
) -> Condition:
    """The condition of a minimum of f(x, theta_f) over a convex set C(theta_C).

    T(x, theta_f, theta_C) = proj_C(x - stepsize grad_x f(x, theta_f), theta_C), the special case of
    `proximal_gradient` in which g is zero on the set and infinite outside.

    Args:
        f: smooth function `f(x, theta_f)` to a real scalar.
        projection: `projection(v, theta_C)`, the Euclidean projection onto the set, as in `implicitdiff.projection`.
        stepsize: positive number.

    Returns:
        A fixed-point map T(x, theta_f, theta_C).

    Source: Blondel et al., NeurIPS 2022, equation 9.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.projected_gradient(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), idf.projection.non_negative)
        >>> solution = lambda b: idf.implicit_fixed_point(T, jnp.array([3.0, 0.0]), b, None)
        >>> print(jax.jacobian(solution)(jnp.array([3.0, -1.0])))
        [[1. 0.]
         [0. 0.]]
    """
    return Condition.composed(
        lambda x, theta_f: gradient_step(f, x, theta_f, stepsize),
        projection,
        f"projected_gradient({name_of(f)}, {name_of(projection)})",
    )


def gradient_step(f: Callable[..., Scalar], x: PyTree, theta_f: Any, stepsize: Stepsize) -> PyTree:
    """The gradient step x - stepsize grad_x f(x, theta_f)."""
    return jax.tree.map(lambda a, g: a - stepsize * g, x, gradient(f, x, theta_f))
