"""The user's conditions F as a pure function of arrays, with everything else it reads made explicit.

Autodiff of F must see every array that F depends on: its arguments, and the arrays that it closes over.
`trace` runs F once on abstract values and returns a `Program`, which is F with every array as an argument
and every other argument (strings, functions, integers, None, ...) fixed. Two traces of the same computation
give equal programs, also when F is a new lambda each time or reads another array of the same shape; this is
what lets the derivative be compiled once and used again, without ever using a stale F.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util as jtu
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from ._jaxpr_key import NoKeyError, jaxpr_key
from ._precision import full_precision

# Python floats are arrays, as everywhere in JAX; integers and booleans steer shapes and branches: they are fixed.
_ARRAYS = (jax.Array, np.ndarray, np.generic, float, complex)
CONCRETE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class Program:
    """F(x, theta) on flat lists of arrays; equal and hashable by what it computes."""

    def __init__(self, jaxpr: jex.Jaxpr, x_tree: Any):
        """Wrap `jaxpr`, whose inputs are theta (constants first, arguments last) and then the leaves of x."""
        self.jaxpr = jaxpr
        self.constants = len(jaxpr.constvars)
        self.has_custom_vjp = _contains(jaxpr, "custom_vjp_call")
        try:
            key: Hashable | None = jaxpr_key(jaxpr)
        except NoKeyError:
            key = None
        self._identify(key, x_tree)

    def _identify(self, key: Hashable | None, x_tree: Any) -> None:
        self.x_tree = x_tree
        self._key = key
        self._hash = id(self) if key is None else hash(key)

    @property
    def reusable(self) -> bool:
        """Whether another trace of the same F gives an equal program."""
        return self._key is not None

    def __call__(self, x: Sequence[Array], theta: Sequence[Array]) -> list[Array]:
        """Evaluate F: a list with one array of the shape of each array of x."""
        closed = jex.ClosedJaxpr(self.jaxpr, list(theta[: self.constants]))
        return jex.jaxpr_as_fun(closed)(*theta[self.constants :], *x)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(other) is type(self)
            and self.reusable
            and self._hash == other._hash
            and self.x_tree == other.x_tree
            and self._key == other._key
        )


class Composition(Program):
    """F(x, theta) = x - outer(inner(x, theta), theta), both parts with symmetric Jacobians."""

    def __init__(self, inner: Program, outer: Program):
        """Put two programs together; theta holds the constants of inner, those of outer, and the arguments."""
        self.inner = inner
        self.outer = outer
        self.constants = inner.constants + outer.constants
        self.has_custom_vjp = inner.has_custom_vjp or outer.has_custom_vjp
        self._identify((inner, outer) if inner.reusable and outer.reusable else None, inner.x_tree)

    def thetas(self, theta: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Theta of inner and theta of outer."""
        arguments, own = list(theta[self.constants :]), self.inner.constants
        return [*theta[:own], *arguments], [*theta[own : self.constants], *arguments]

    def __call__(self, x: Sequence[Array], theta: Sequence[Array]) -> list[Array]:
        """Evaluate F."""
        of_inner, of_outer = self.thetas(theta)
        return [a - b for a, b in zip(x, self.outer(self.inner(x, of_inner), of_outer), strict=True)]


@full_precision
def trace(F: Callable[..., PyTree], x: PyTree, args: tuple, kwargs: dict) -> tuple[Program, list[Array]]:
    """Trace F at (x, *args, **kwargs); return the program and the arrays theta that it is to be called with.

    Args:
        F: conditions; returns a pytree with the structure and shapes of x.
        x: pytree of inexact arrays.
        args: positional arguments of F after x.
        kwargs: keyword arguments of F.

    Raises:
        TypeError: F cannot be called with these arguments, cannot be traced, or its output does not match x.
    """
    try:
        return _trace(F, x, args, kwargs, _ARRAYS)
    except CONCRETE_NEEDED:
        # F branches on a Python float: give it the number itself, as an eager call would.
        return _trace(F, x, args, kwargs, _ARRAYS[:-2])


def _trace(F, x, args, kwargs, array_types):
    x_leaves, x_tree = jtu.tree_flatten(x)
    leaves, tree = jtu.tree_flatten((args, kwargs))
    is_array = [isinstance(leaf, array_types) and _has_jax_dtype(leaf) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, yes in zip(leaves, is_array, strict=True) if yes]
    fixed = [None if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]

    def traced(f):
        # A new function object at each call, so that JAX cannot answer with an older trace of f: f may read
        # variables that have been rebound since.
        def flat(arrays, x_leaves):
            supply = iter(arrays)
            merged = [next(supply) if yes else leaf for leaf, yes in zip(fixed, is_array, strict=True)]
            f_args, f_kwargs = jtu.tree_unflatten(tree, merged)
            try:
                value = f(jtu.tree_unflatten(x_tree, x_leaves), *f_args, **f_kwargs)
            except jax.errors.TracerArrayConversionError as error:
                error.add_note(
                    f"{name_of(F)} must be written in JAX so that it can be differentiated: it handed a traced array "
                    "to NumPy. Only the solver may use NumPy; use jax.numpy in the conditions."
                )
                raise
            except TypeError as error:
                error.add_note(
                    f"This was raised while calling {name_of(F)}(x, *args, **kwargs) with {len(f_args)} positional "
                    f"argument(s) after x and the keywords {sorted(f_kwargs)}: it is called with the arguments that "
                    "the solver got after init."
                )
                raise
            return check_output(F, x_tree, x_leaves, value)

        closed = jax.make_jaxpr(flat)(arrays, x_leaves)
        constants = [c if isinstance(c, jax.core.Tracer) else jnp.asarray(c) for c in closed.consts]
        return Program(closed.jaxpr, x_tree), constants

    parts = getattr(F, "parts", None)
    if parts is None:
        program, constants = traced(F)
        return program, constants + arrays
    (inner, of_inner), (outer, of_outer) = map(traced, parts)
    return Composition(inner, outer), of_inner + of_outer + arrays


def compiled_call(fn: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """fn(*args), compiled; calls that compute the same are compiled once, also when fn is a new function each time."""
    leaves, tree = jtu.tree_flatten(args)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return fn(*args)
    is_array = [isinstance(leaf, _ARRAYS) and _has_jax_dtype(leaf) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, yes in zip(leaves, is_array, strict=True) if yes]

    def of_arrays(*arrays):
        supply = iter(arrays)
        merged = [next(supply) if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
        return fn(*jtu.tree_unflatten(tree, merged))

    return compiled(of_arrays, *arrays)(*arrays)


def compiled(fn: Callable[..., PyTree], *like: PyTree) -> Callable[..., PyTree]:
    """Make fn a compiled function of pytrees of arrays like these, traced now and once.

    What fn closes over are arguments of the program: it is not built into it, may lie on devices of other processes,
    and another fn that computes the same with other arrays is not compiled anew.
    """
    shapes, tree = jtu.tree_flatten(like)
    out_tree: Any = None

    def flat(*arrays):
        nonlocal out_tree
        result, out_tree = jtu.tree_flatten(fn(*jtu.tree_unflatten(tree, arrays)))
        return result

    closed = jax.make_jaxpr(flat)(*shapes)
    program, constants = Program(closed.jaxpr, out_tree), list(closed.consts)
    return lambda *args: jtu.tree_unflatten(out_tree, _run(program, constants + jtu.tree_leaves(args)))


@partial(jax.jit, static_argnums=0)
def _run(program: Program, theta: list[Array]) -> list[Array]:
    return program([], theta)


def check_output(F: Callable, x_tree: Any, x_leaves: Sequence[Array], value: PyTree) -> list[Array]:
    """Return the leaves of F's output in the dtypes of x; raise TypeError where they do not match x."""
    leaves, tree = jtu.tree_flatten(value)
    if tree != x_tree:
        raise TypeError(
            f"{name_of(F)} must return a pytree with the structure of x, one equation for each unknown: "
            f"expected {x_tree}, found {tree}."
        )
    paths = [jtu.keystr(path) for path, _ in jtu.tree_flatten_with_path(value)[0]]
    result = []
    for path, unknown, leaf in zip(paths, x_leaves, leaves, strict=True):
        where = f"leaf x{path}" if path else "x"
        if jnp.shape(leaf) != jnp.shape(unknown):
            raise TypeError(
                f"{name_of(F)} must return one equation for each unknown, but for {where} of shape "
                f"{jnp.shape(unknown)} it returned shape {jnp.shape(leaf)}."
            )
        dtype, wanted = jnp.result_type(leaf), jnp.result_type(unknown)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name_of(F)} is not differentiable: for {where} of dtype {wanted} it returned {dtype}; "
                "return floating-point residuals."
            )
        if jnp.iscomplexobj(leaf) and not jnp.issubdtype(wanted, jnp.complexfloating):
            raise TypeError(
                f"{name_of(F)} returned {dtype} for {where} of dtype {wanted}: real unknowns need as many real "
                "equations. Make x complex, or return real and imaginary parts as separate unknowns."
            )
        result.append(jnp.asarray(leaf, wanted))
    return result


def name_of(function: Callable) -> str:
    """A readable name for a callable, for error messages."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _has_jax_dtype(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV" and leaf.dtype.names is None
    return True


def _contains(jaxpr: jex.Jaxpr, primitive: str) -> bool:
    return any(
        primitive in eqn.primitive.name
        or any(_contains(inner, primitive) for inner in jex.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )
