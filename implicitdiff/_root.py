"""The implicit function theorem as a derivative rule: the one mechanism that everything else is built on.

Let F(x*(theta), theta) = 0. Differentiating both sides along theta_dot,

    A x_dot + B theta_dot = 0      with A = dF/dx and B = dF/dtheta at (x*, theta),

so x_dot solves a linear system, whatever solver found x*. The rule below is this equation; reverse mode is its
transpose (A' u = x_bar, theta_bar = -B' u), which JAX derives, as it derives higher orders by differentiating
the rule again. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022, equation 2.
"""

import dataclasses
import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax import tree_util as jtu
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from ._adjoint import Adjoint, Implicit, Neumann, Unrolled
from ._program import Program, check_output, name_of, trace
from ._varying import check_varies


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _implicit_function(program: Program, adjoint, x: list, theta: list) -> list:
    """x*(theta): the value is x, the derivative that of the root of the program."""
    return _in_step(x, theta)


def _in_step(x: list, theta: list) -> list:
    """X, batched under vmap where theta is.

    The derivative of an x that is the same in the whole batch still differs from element to element. JAX cannot
    linearise a batched custom_jvp inside of jit whose tangents are batched while its value is not.
    """
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in theta):
        return x
    usable = [leaf for leaf in theta if leaf.size and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)]
    any_of = reduce(operator.and_, [jnp.all(leaf == leaf) for leaf in usable], jnp.array(True))
    # XLA knows that this is x, and computes none of the above.
    return [lax.select(any_of, leaf, leaf) for leaf in x]


@partial(_implicit_function.defjvp, symbolic_zeros=True)
def _implicit_function_theorem(program: Program, adjoint, primals, tangents):
    x, theta = primals
    # What x was as a function of theta before is forgotten; as the root of F it is one, to every order.
    root = _implicit_function(program, adjoint, x, theta)
    at = root
    if getattr(adjoint, "polish", 0):
        at = _polished(program, adjoint, x, theta)
    theta_dot = [None if isinstance(t, SymbolicZero) else t for t in tangents[1]]
    if all(t is None for t in theta_dot):
        return root, [jnp.zeros_like(leaf) for leaf in root]
    return root, _tangent(program, adjoint)(at, theta, theta_dot)


def _polished(program: Program, adjoint: Implicit, x: list, theta: list) -> list:
    fixed = lax.stop_gradient(theta)
    for _ in range(adjoint.polish):
        x = adjoint.newton(program, lax.stop_gradient(x), fixed)
    return _implicit_function(program, dataclasses.replace(adjoint, polish=0), x, theta)


def _tangent(program: Program, adjoint) -> Callable:
    """The derivative's computation, compiled once for all equal programs when called outside of jit."""
    if not program.reusable:
        return partial(adjoint.tangent, program)
    try:
        hash(adjoint)
    except TypeError:  # such as a linear solver that holds an array
        return partial(adjoint.tangent, program)
    return partial(_compiled_tangent, program, adjoint)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled_tangent(program: Program, adjoint, x, theta, theta_dot):
    return adjoint.tangent(program, x, theta, theta_dot)


def attach(F: Callable, x: PyTree, args: tuple, kwargs: dict[str, Any], adjoint: Adjoint | None) -> PyTree:
    """Return x with the derivative of the root of F(x, *args, **kwargs) = 0 in args, kwargs and closed-over arrays."""
    adjoint = Implicit() if adjoint is None else adjoint
    if getattr(F, "is_root", True) is False:
        raise TypeError(
            f"{name_of(F)} is a fixed-point map T, and its fixed points are no roots: use implicit_fixed_point or "
            "custom_fixed_point."
        )
    if isinstance(adjoint, Implicit):
        adjoint = adjoint.informed_by(F)
    elif isinstance(adjoint, Unrolled):
        raise TypeError(
            "Unrolled() differentiates a solver's iterations, but here there is only its result: use it with the "
            "decorators custom_root and custom_fixed_point or with a solver class."
        )
    elif isinstance(adjoint, Neumann) and not isinstance(F, FixedPointResidual):
        raise TypeError(
            "Neumann and OneStep sum the series of a fixed-point map, but this is a root condition: use "
            "implicit_fixed_point or custom_fixed_point with T, or Implicit()."
        )
    elif not isinstance(adjoint, Neumann):
        raise TypeError(f"adjoint must be Implicit, Neumann, OneStep or Unrolled, found {adjoint!r}.")
    x = lax.stop_gradient(check_unknowns(x))
    program, theta = trace(F, x, args, kwargs)
    leaves, tree = jtu.tree_flatten(x)
    check_varies(leaves, theta)
    return jtu.tree_unflatten(tree, _implicit_function(program, adjoint, leaves, theta))


def check_unknowns(x: PyTree) -> PyTree:
    """X with arrays for leaves; raise TypeError, naming the leaf, where one is not real or complex."""
    leaves, tree = jtu.tree_flatten_with_path(x)
    arrays = []
    for path, leaf in leaves:
        where = f"leaf x{jtu.keystr(path)}" if path else "x"
        try:
            array = jnp.asarray(leaf)
        except TypeError as error:
            raise TypeError(f"{where} must be an array, found {type(leaf).__name__}.") from error
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(
                f"{where} has dtype {array.dtype}, but an unknown must be real or complex floating point. What else "
                "the solver returns belongs into aux (has_aux=True)."
            )
        arrays.append(array)
    return jtu.tree_unflatten(tree, arrays)


def implicit_root(F: Callable[..., PyTree], x: PyTree, *args: Any, adjoint: Adjoint | None = None) -> PyTree:
    """Return x and attach to it the derivative of the solution of F(x, *args) = 0.

    The derivative is dx/dargs = -(dF/dx)^-1 dF/dargs, from autodiff of F and one linear solve, in forward and
    reverse mode and to every order, under jit, vmap and any composition of these. How x was found does not matter:
    the computation of x is not differentiated, and may be no JAX code at all.

    Args:
        F: the conditions that x satisfies, written in JAX: F(x, *args) is a pytree with the structure and shapes
            of x. Arrays that F closes over are differentiated too. F must not change x's dtype from real to complex.
        x: the solution, a pytree of real or complex arrays.
        *args: what F depends on: pytrees of arrays, of which the floating-point ones are differentiated; Python
            floats count as arrays. Integers, booleans, strings, functions, None and PRNG keys have no derivative.
        adjoint: how the derivative is computed; `Implicit()` by default.

    Returns:
        x, as JAX arrays.

    Raises:
        TypeError: F cannot be called so, is not written in JAX, or returns something that does not match x.

    Source: Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022, section 2.1.

    Example:
        >>> import jax, implicitdiff as idf
        >>> def sqrt(a):
        ...     return idf.implicit_root(lambda x, a: x**2 - a, a**0.5, a)
        >>> float(jax.grad(sqrt)(4.0)), float(jax.hessian(sqrt)(4.0))
        (0.25, -0.03125)
    """
    return attach(F, x, args, {}, adjoint)


def implicit_fixed_point(T: Callable[..., PyTree], x: PyTree, *args: Any, adjoint: Adjoint | None = None) -> PyTree:
    """Return x and attach to it the derivative of the solution of x = T(x, *args).

    The same as `implicit_root` with F = x - T: dx/dargs = (I - dT/dx)^-1 dT/dargs. What T says of its Jacobian
    (`symmetric`, `positive_definite`) is meant of I - dT/dx.

    Args:
        T: the fixed-point map, written in JAX; T(x, *args) has the structure and shapes of x.
        x: the fixed point, a pytree of real or complex arrays.
        *args: what T depends on.
        adjoint: `Implicit()` by default; `Neumann(terms)` and `OneStep()` are cheap approximations.

    Returns:
        x, as JAX arrays.

    Raises:
        TypeError: T cannot be called so, is not written in JAX, or returns something that does not match x.

    Source: Blondel et al., NeurIPS 2022, section 2.1.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> def kepler(e):  # x = 1 + e sin(x)
        ...     x = 1.0
        ...     for _ in range(60):
        ...         x = 1.0 + e * jnp.sin(x)
        ...     return idf.implicit_fixed_point(lambda x, e: 1.0 + e * jnp.sin(x), x, e)
        >>> round(float(jax.grad(kepler)(0.5)), 4)
        1.0347
    """
    return attach(FixedPointResidual(T), x, args, {}, adjoint)


class FixedPointResidual:
    """F(x, *args) = x - T(x, *args), with the Jacobian I - dT/dx."""

    def __init__(self, T: Callable):
        """Wrap T, and carry over what it says of I - dT/dx."""
        if getattr(T, "is_root", False):
            raise TypeError(
                f"{name_of(T)} is a root condition F, and its roots are no fixed points: use implicit_root or "
                "custom_root."
            )
        self.T = T
        self.symmetric = getattr(T, "symmetric", None)
        self.positive_definite = getattr(T, "positive_definite", None)
        self.parts = getattr(T, "parts", None)
        self.__qualname__ = name_of(T)

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The residual of the fixed-point equation."""
        leaves, tree = jtu.tree_flatten(x)
        image = check_output(self.T, tree, leaves, self.T(x, *args, **kwargs))
        return jtu.tree_unflatten(tree, [a - b for a, b in zip(leaves, image, strict=True)])


def as_root(condition: Callable) -> Callable:
    """The root condition that a condition of a solver stands for: itself, or x - T(x, *args) where it is a T."""
    return condition if getattr(condition, "is_root", False) else FixedPointResidual(condition)


def root_jvp(F: Callable, x: PyTree, args: tuple, tangents: tuple, adjoint: Adjoint | None = None) -> PyTree:
    """The derivative of the root of F(x, *args) = 0 along tangents of args.

    Args:
        F: the conditions; see `implicit_root`.
        x: the root.
        args: tuple of the arguments of F after x.
        tangents: tuple of the same length; each entry a pytree like that argument, or None for no motion.
        adjoint: how the derivative is computed.

    Returns:
        -(dF/dx)^-1 dF/dargs tangents, a pytree like x.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> float(idf.root_jvp(lambda x, a: x**2 - a, jnp.array(2.0), (4.0,), (1.0,)))
        0.25
    """
    if len(tangents) != len(args):
        raise TypeError(f"tangents must have one entry for each of the {len(args)} args, found {len(tangents)}.")
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]
    if not moving:
        return jax.tree.map(jnp.zeros_like, x)

    def solution(*values):
        merged = list(args)
        for i, value in zip(moving, values, strict=True):
            merged[i] = value
        return implicit_root(F, x, *merged, adjoint=adjoint)

    return jax.jvp(solution, [args[i] for i in moving], [tangents[i] for i in moving])[1]


def root_vjp(F: Callable, x: PyTree, args: tuple, cotangent: PyTree, adjoint: Adjoint | None = None) -> tuple:
    """The product of a cotangent with the Jacobian of the root of F(x, *args) = 0 in args.

    Args:
        F: the conditions; see `implicit_root`.
        x: the root.
        args: tuple of the arguments of F after x.
        cotangent: pytree like x.
        adjoint: how the derivative is computed.

    Returns:
        A tuple with one entry for each of args: a pytree like it where it is made of floating-point arrays, with
        None for every leaf that is not.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> [float(g) for g in idf.root_vjp(lambda x, a, b: a * x - b, jnp.array(3.0), (2.0, 6.0), jnp.array(1.0))]
        [-1.5, 0.5]
    """
    leaves, tree = jtu.tree_flatten(args)
    moving = [i for i, leaf in enumerate(leaves) if _is_inexact(leaf)]

    def solution(*values):
        merged = list(leaves)
        for i, value in zip(moving, values, strict=True):
            merged[i] = value
        return implicit_root(F, x, *jtu.tree_unflatten(tree, merged), adjoint=adjoint)

    _, pull = jax.vjp(solution, *[jnp.asarray(leaves[i]) for i in moving])
    result: list = [None] * len(leaves)
    for i, value in zip(moving, pull(cotangent), strict=True):
        result[i] = value
    return jtu.tree_unflatten(tree, result)


def _is_inexact(leaf: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))
    except (TypeError, ValueError):
        return False
