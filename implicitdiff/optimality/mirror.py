"""Fixed points of mirror descent."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree, Scalar

from .._program import name_of
from ._condition import Condition
from .proximal import Stepsize
from .stationary import gradient


def mirror_descent(
    f: Callable[..., Scalar],
    projection: Callable[..., PyTree],
    mirror_map: Callable[[PyTree], PyTree],
    stepsize: Stepsize = 1.0,
) -> Condition:
    """The condition of a minimum of f(x, theta_f) over a convex set C(theta_C), in the geometry of a function phi.

    T(x, theta_f, theta_C) = proj^phi_C(grad phi(x) - stepsize grad_x f(x, theta_f), theta_C), where
    proj^phi_C(y) = argmin_{x in C} D_phi(x, (grad phi)^-1(y)) is the Bregman projection of a dual point.

    Args:
        f: smooth function `f(x, theta_f)` to a real scalar.
        projection: `projection(y, theta_C)` of a dual point y, as in `implicitdiff.mirror`.
        mirror_map: grad phi, such as `jnp.log` for phi(x) = <x, log x - 1>.
        stepsize: positive number.

    Returns:
        A fixed-point map T(x, theta_f, theta_C).

    Source: Blondel et al., NeurIPS 2022, equation 13 and appendix A.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, b: jnp.sum(x * (jnp.log(x) - b))  # the softmax minimises it on the simplex
        >>> T = idf.optimality.mirror_descent(f, lambda y, _: jax.nn.softmax(y), jnp.log, 0.5)
        >>> x = lambda b: idf.implicit_fixed_point(T, jax.nn.softmax(jax.lax.stop_gradient(b)), b, None)
        >>> b = jnp.array([0.0, 1.0])
        >>> bool(jnp.allclose(jax.jacobian(x)(b), jax.jacobian(jax.nn.softmax)(b), atol=1e-6))
        True
    """

    def dual_step(x: PyTree, theta_f: Any) -> PyTree:
        return jax.tree.map(lambda y, g: y - stepsize * g, mirror_map(x), gradient(f, x, theta_f))

    return Condition.composed(dual_step, projection, f"mirror_descent({name_of(f)}, {name_of(projection)})")
