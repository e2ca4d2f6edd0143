"""Fixed points of Newton's method."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree, Scalar

from .._linear import LinearOptions, solve
from .._program import name_of
from ._condition import Condition
from .proximal import Stepsize
from .stationary import stationary


def root(G: Callable[..., PyTree], symmetric: bool | None = None, positive_definite: bool | None = None) -> Condition:
    """Your own equations as a root condition: F(x, *args) = G(x, *args).

    `implicit_root` and `custom_root` accept G as it is. This is needed for the `condition` of a solver, where a plain
    function means a fixed-point map, and to declare properties of the Jacobian.

    Args:
        G: `G(x, *args)`, a pytree like x.
        symmetric: whether dG/dx is symmetric.
        positive_definite: whether it is symmetric positive definite.

    Returns:
        A root condition.

    Example:
        >>> import implicitdiff as idf
        >>> idf.optimality.root(lambda x, a: x**2 - a)(2.0, 4.0)
        0.0
    """
    symmetric = getattr(G, "symmetric", None) if symmetric is None else symmetric
    definite = getattr(G, "positive_definite", None) if positive_definite is None else positive_definite
    return Condition(G, f"root({name_of(G)})", symmetric, definite, like=G, is_root=True)


def newton(G: Callable[..., PyTree], stepsize: Stepsize = 1.0) -> Condition:
    """The fixed point of a Newton step for a root of G: T(x, *args) = x - stepsize [dG/dx]^-1 G(x, *args).

    At a root dT/dx = (1 - stepsize) I and dT/dargs = -stepsize [dG/dx]^-1 dG/dargs. The linear solve of the implicit
    function theorem is therefore one with a multiple of the identity, and `OneStep` is exact for stepsize = 1, because
    the Newton step contains the linear solve.

    Args:
        G: `G(x, *args)`, a pytree like x, differentiable, with a regular Jacobian at the root.
        stepsize: positive number.

    Returns:
        A fixed-point map T(x, *args).

    Source: Blondel et al., NeurIPS 2022, equation 12 and appendix A.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.newton(lambda x, a: x**2 - a)
        >>> root = lambda a: idf.implicit_fixed_point(T, 2.0, a, adjoint=idf.OneStep())
        >>> float(jax.grad(root)(4.0))
        0.25
    """
    options = LinearOptions(
        symmetric=bool(getattr(G, "symmetric", None)), positive_definite=bool(getattr(G, "positive_definite", None))
    )

    def T(x: PyTree, *args, **kwargs) -> PyTree:
        value, push = jax.linearize(lambda x: G(x, *args, **kwargs), x)
        return jax.tree.map(lambda a, s: a - stepsize * s, x, solve(push, value, options))

    return Condition(T, f"newton({name_of(G)})", like=G)


def newton_minimum(
    f: Callable[..., Scalar], stepsize: Stepsize = 1.0, positive_definite: bool | None = None
) -> Condition:
    """The fixed point of a Newton step for a minimum of f: T = x - stepsize [hess_x f]^-1 grad_x f.

    Args:
        f: `f(x, *args)`, twice differentiable, with a regular Hessian at the minimum.
        stepsize: positive number.
        positive_definite: True if the Hessian is positive definite; see `stationary`.

    Returns:
        A fixed-point map T(x, *args).

    Source: Blondel et al., NeurIPS 2022, appendix A.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> T = idf.optimality.newton_minimum(lambda x, a: 0.25 * x**4 - a * x)
        >>> round(float(T(jnp.array(2.0), 8.0)), 6)
        2.0
    """
    return newton(stationary(f, positive_definite), stepsize)
