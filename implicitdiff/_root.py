"""The implicit function theorem as a derivative rule: the one mechanism that everything else is built on.

Let F(x*(theta), theta) = 0. Differentiating both sides along theta_dot,

    A x_dot + B theta_dot = 0      with A = dF/dx and B = dF/dtheta at (x*, theta),

so x_dot solves a linear system, whatever solver found x*. The rule below is this equation; reverse mode is its
transpose (A' u = x_bar, theta_bar = -B' u), which JAX derives, as it derives higher orders by differentiating
the rule again. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022, equation 2.
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax import tree_util as jtu
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from ._adjoint import Adjoint
from ._compiled import tangent
from ._fixed_point import FixedPointResidual
from ._host import described
from ._implicit import Implicit
from ._lanes import across_lanes
from ._program import Program, is_inexact, name_of, placed, trace
from ._rule import bind
from ._varying import check_varies


@dataclasses.dataclass(frozen=True)
class Theorem:
    """x*(theta) as the root of a program, whose derivative is that of the implicit function theorem.

    The last `reads` operands beside theta are not F's: they are read by the user's preconditioner or linear solver.
    """

    program: Program
    adjoint: Adjoint
    reads: int = 0

    @property
    def reusable(self) -> bool:
        """Whether equality tells that two are the same function."""
        return self.program.reusable and self.adjoint.reusable

    def __call__(self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence) -> list[Array]:
        """The derivative of x along theta_dot, in which None is no motion."""
        own = len(theta) - self.reads
        if all(dot is None for dot in theta_dot[:own]):
            return [jnp.zeros_like(leaf) for leaf in x]
        adjoint, x = self.adjoint.refined(self.program, x, theta[:own], theta[own:])
        # What x was as a function of theta before is forgotten; as the root of F it is one, to every order.
        root = bind(dataclasses.replace(self, adjoint=adjoint), x, theta)
        return tangent(self.program, adjoint, root, theta[:own], theta[own:], theta_dot[:own])


def attach(F: Callable, x: PyTree, args: tuple, kwargs: dict[str, Any], adjoint: Adjoint | None) -> PyTree:
    """Return x with the derivative of the root of F(x, *args, **kwargs) = 0 in args, kwargs and closed-over arrays."""
    adjoint = Implicit() if adjoint is None else adjoint
    if not isinstance(adjoint, Adjoint):
        raise TypeError(
            f"adjoint must be Implicit, Neumann, OneStep, Unrolled or another implicitdiff.Adjoint, found {adjoint!r}."
        )
    if getattr(F, "is_root", True) is False:
        raise TypeError(
            f"{name_of(F)} is a fixed-point map T, and its fixed points are no roots: use implicit_fixed_point or "
            "custom_fixed_point."
        )
    adjoint = adjoint.prepare(F)
    x = lax.stop_gradient(check_unknowns(x))
    if _fits(F, x, args, kwargs):
        return x
    program, theta = trace(F, x, args, kwargs)
    leaves, tree = jtu.tree_flatten(x)
    check_varies(leaves, theta)
    adjoint = across_lanes(adjoint, program, leaves, theta)
    adjoint, read = adjoint.traced(program, leaves, theta)
    return jtu.tree_unflatten(tree, bind(Theorem(program, adjoint, len(read)), leaves, [*theta, *read]))


# Outside of every transformation nobody can ask for a derivative: there F is traced for its error messages alone, once
# for arguments of the same kind.
_NO_TRANSFORMATION = jex.get_opaque_trace_state(convention="flax")
_fitting: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _fits(F: Callable, x: PyTree, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether no derivative can be asked for, and F is known to fit arguments of this kind."""
    if jex.get_opaque_trace_state(convention="flax") != _NO_TRANSFORMATION:
        return False
    leaves, tree = jtu.tree_flatten((x, args, kwargs))
    kinds = tree, tuple((jnp.shape(leaf), leaf.dtype) if hasattr(leaf, "dtype") else type(leaf) for leaf in leaves)
    try:
        known = _fitting.setdefault(getattr(F, "T", F), set())
        if kinds in known:
            return True
    except TypeError:  # F cannot be a key, or the structure of an argument not be hashed
        return False
    trace(F, x, args, kwargs)
    known.add(kinds)
    return True


def check_unknowns(x: PyTree) -> PyTree:
    """X with arrays for leaves; raise TypeError, naming the leaf, where one is not real or complex."""
    if x is None:
        raise TypeError(
            "x must be an array or a pytree of arrays, found None: does the solver lack a return statement?"
        )
    leaves, tree = jtu.tree_flatten_with_path(x)
    arrays = []
    for path, leaf in leaves:
        where = f"leaf x{jtu.keystr(path)}" if path else "x"
        try:
            array = jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            kind = f" of dtype {leaf.dtype}: convert it, numpy.asarray(x, float)" if hasattr(leaf, "dtype") else ""
            raise TypeError(f"{where} must be an array, found {type(leaf).__name__}{kind}{described(leaf)}.") from error
        if isinstance(leaf, np.matrix):
            raise TypeError(
                f"{where} is a numpy.matrix of shape {leaf.shape}, whose shapes and products are not those of arrays: "
                "return numpy.asarray(x), raveled if x is a vector."
            )
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


def root_jvp(F: Callable, x: PyTree, args: tuple, tangents: tuple, adjoint: Adjoint | None = None) -> PyTree:
    """The derivative of the root of F(x, *args) = 0 along tangents of args.

    Args:
        F: the conditions; see `implicit_root`.
        x: the root.
        args: tuple of the arguments of F after x.
        tangents: tuple of the same length; each entry a pytree like that argument. None, for an argument or a leaf of
            it, is no motion, as integers and what else is no floating-point number have.
        adjoint: how the derivative is computed.

    Returns:
        -(dF/dx)^-1 dF/dargs tangents, a pytree like x.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> float(idf.root_jvp(lambda x, a: x**2 - a, jnp.array(2.0), (4.0,), (1.0,)))
        0.25
    """
    _check_tuple("args", args)
    _check_tuple("tangents", tangents)
    if len(tangents) != len(args):
        raise TypeError(f"tangents must have one entry for each of the {len(args)} args, found {len(tangents)}.")
    # None for a whole argument is None for each of its leaves.
    pairs = zip(args, tangents, strict=True)
    dots = _like("tangents", tuple(args), tuple(jax.tree.map(lambda _: None, a) if t is None else t for a, t in pairs))
    leaves, tree = jtu.tree_flatten(tuple(args))
    moving = [i for i, dot in enumerate(dots) if dot is not None]
    if not moving:
        return jax.tree.map(jnp.zeros_like, x)

    def solution(*values):
        return implicit_root(F, x, *jtu.tree_unflatten(tree, placed(leaves, moving, values)), adjoint=adjoint)

    return jax.jvp(solution, [jnp.asarray(leaves[i]) for i in moving], [dots[i] for i in moving])[1]


def root_vjp(F: Callable, x: PyTree, args: tuple, cotangent: PyTree, adjoint: Adjoint | None = None) -> tuple:
    """The product of a cotangent with the Jacobian of the root of F(x, *args) = 0 in args.

    Args:
        F: the conditions; see `implicit_root`.
        x: the root.
        args: tuple of the arguments of F after x.
        cotangent: pytree like x; None for a leaf is zero.
        adjoint: how the derivative is computed.

    Returns:
        A tuple with one entry for each of args: a pytree like it where it is made of floating-point arrays, with
        None for every leaf that is not.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> [float(g) for g in idf.root_vjp(lambda x, a, b: a * x - b, jnp.array(3.0), (2.0, 6.0), jnp.array(1.0))]
        [-1.5, 0.5]
    """
    _check_tuple("args", args)
    leaves, tree = jtu.tree_flatten(args)
    moving = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]

    def solution(*values):
        return implicit_root(F, x, *jtu.tree_unflatten(tree, placed(leaves, moving, values)), adjoint=adjoint)

    x = check_unknowns(x)
    unknowns, x_tree = jtu.tree_flatten(x)
    bars = _like("cotangent", x, cotangent)
    bars = [jnp.zeros_like(leaf) if bar is None else bar for leaf, bar in zip(unknowns, bars, strict=True)]
    _, pull = jax.vjp(solution, *[jnp.asarray(leaves[i]) for i in moving])
    found = pull(jtu.tree_unflatten(x_tree, bars))
    return jtu.tree_unflatten(tree, placed([None] * len(leaves), moving, found))


def _like(name: str, primal: PyTree, given: PyTree) -> list:
    """The leaves of a tangent or cotangent as arrays like those of its primal; None, for zero, stays None."""
    paths = jtu.tree_flatten_with_path(primal)[0]
    tree: Any = jtu.tree_structure(primal)
    try:
        leaves = tree.flatten_up_to(given)
    except ValueError as error:
        raise TypeError(
            f"{name} must have the structure of {'args' if name == 'tangents' else 'x'}, {tree}, with None for zero "
            f"where you like, found {jtu.tree_structure(given)}."
        ) from error
    result = []
    for (path, value), leaf in zip(paths, leaves, strict=True):
        if leaf is not None and jnp.shape(leaf) != jnp.shape(value):
            raise TypeError(f"{name}{jtu.keystr(path)} must be of shape {jnp.shape(value)}, found {jnp.shape(leaf)}.")
        if leaf is not None and not is_inexact(value):
            raise TypeError(f"{name}{jtu.keystr(path)} must be None: what it belongs to is no floating-point number.")
        result.append(None if leaf is None else jnp.asarray(leaf, jnp.result_type(value)))
    return result


def _check_tuple(name: str, values: Any) -> None:
    if not isinstance(values, tuple | list):
        raise TypeError(
            f"{name} must be a tuple with an entry for each argument of F after x, found {type(values).__name__}: "
            "write (value,) for one argument."
        )
