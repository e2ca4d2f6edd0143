"""Stationary points of smooth functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .._program import name_of
from ._condition import Condition


def stationary(f: Callable[..., Scalar], positive_definite: bool | None = None) -> Condition:
    """The condition of an unconstrained minimum: F(x, *args) = grad_x f(x, *args) = 0.

    Its Jacobian is the Hessian of f, which is symmetric, and at a strict minimum positive definite.

    Args:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar, x a pytree of real or complex arrays.
        positive_definite: True if the Hessian at the solution is positive definite. The linear solver is then a
            Cholesky factorisation or conjugate gradients. A wrong True is noticed and gives NaN.

    Returns:
        A root condition F for `custom_root` and `implicit_root`; F(x, ...) is a pytree like x.

    Source: Blondel et al., NeurIPS 2022, equation 4.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, implicitdiff as idf
        >>> def f(x, theta):
        ...     return 0.5 * jnp.sum((x - 1.0) ** 2) + 0.5 * theta * jnp.sum(x**2)
        >>> @idf.custom_root(idf.optimality.stationary(f, positive_definite=True))
        ... def solver(init, theta):
        ...     return np.ones(2) / (1 + np.asarray(theta))
        >>> print(jax.jacobian(solver, argnums=1)(None, 1.0))
        [-0.25 -0.25]
    """

    def F(x: PyTree, *args, **kwargs) -> PyTree:
        return gradient(f, x, *args, **kwargs)

    return Condition(
        F, f"stationary({name_of(f)})", symmetric=True, positive_definite=positive_definite, like=f, is_root=True
    )


def gradient_descent(f: Callable[..., Scalar], stepsize: float | Float[Array, ""] = 1.0) -> Condition:
    """The fixed point of a gradient step: T(x, *args) = x - stepsize grad_x f(x, *args).

    Solutions and derivatives are those of `stationary`. The step size cancels in the derivative, but not in the
    approximations `Neumann` and `OneStep`, for which it should be below 2 / L, where L is the Lipschitz constant of
    the gradient.

    Args:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar.
        stepsize: positive number.

    Returns:
        A fixed-point map T for `custom_fixed_point` and `implicit_fixed_point`; I - dT/dx is symmetric.

    Source: Blondel et al., NeurIPS 2022, equation 5.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.gradient_descent(lambda x, theta: 0.5 * jnp.sum((x - theta) ** 2), 0.5)
        >>> print(T(jnp.array([1.0, 3.0]), 1.0))
        [1. 2.]
    """

    def T(x: PyTree, *args, **kwargs) -> PyTree:
        return jax.tree.map(lambda a, g: a - stepsize * g, x, gradient(f, x, *args, **kwargs))

    return Condition(T, f"gradient_descent({name_of(f)})", symmetric=True, like=f)


def gradient(f: Callable[..., Scalar], x: PyTree, *args, **kwargs) -> PyTree:
    """The gradient of a real function of real or complex x.

    For complex x, it is the conjugate of the gradient in JAX: the direction of steepest ascent, whose Jacobian is
    symmetric as a map of real and imaginary parts.
    """
    result = jax.grad(f)(x, *args, **kwargs)
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, result)
