"""Stationary points of smooth functions."""

import contextlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree, Scalar


class Stationary:
    """F(x, *args) = grad_x f(x, *args), with a symmetric Jacobian: the Hessian of f."""

    symmetric = True

    def __init__(self, f: Callable[..., Scalar], positive_definite: bool | None = None):
        """Wrap f; see `stationary`."""
        self.f = f
        self.positive_definite = positive_definite
        self.__qualname__ = f"stationary({getattr(f, '__qualname__', type(f).__qualname__)})"
        # F takes what f takes: the decorators compare the names with those of the solver.
        with contextlib.suppress(TypeError, ValueError):
            self.__signature__ = inspect.signature(f)

    def __call__(self, x: PyTree, *args, **kwargs) -> PyTree:
        """The gradient of f in x."""
        gradient = jax.grad(self.f)(x, *args, **kwargs)
        # The conjugate is the direction of steepest ascent of a real function of complex x, and makes the Jacobian
        # symmetric as a map of real and imaginary parts.
        return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, gradient)


def stationary(f: Callable[..., Scalar], positive_definite: bool | None = None) -> Stationary:
    """The condition of an unconstrained minimum: F(x, *args) = grad_x f(x, *args) = 0.

    Its Jacobian is the Hessian of f, which is symmetric, and at a strict minimum positive definite.

    Args:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar, x a pytree of real or complex arrays.
        positive_definite: say True when the Hessian at the solution is positive definite: the linear solve is then
            a Cholesky factorisation or conjugate gradients. A wrong True is noticed and gives NaN.

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
    return Stationary(f, positive_definite)
