"""Solvers that are not JAX: NumPy, SciPy, scikit-learn, compiled libraries."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util as jtu
from jaxtyping import PyTree

from ._program import name_of
from ._varying import axes_of, varying


def host_solver(fn: Callable, result: PyTree | Callable) -> Callable:
    """Make a NumPy solver callable under jit and vmap.

    Outside of any transformation `fn` is called as it is. Under jit it runs as a callback on the host, under vmap
    once for each element of the batch, one after the other. It has no derivative of its own: decorate the result
    with `custom_root` or `custom_fixed_point`. With `implicit_root`, which receives its result, stop the derivative
    before it: `implicit_root(F, solve(lax.stop_gradient(theta)), theta)`.

    Args:
        fn: `fn(*args, **kwargs)`; arrays arrive as NumPy arrays, everything else as it was passed.
        result: what fn returns, as a pytree of `jax.ShapeDtypeStruct`, or a function of the arguments (of which it
            may use shapes and dtypes, not values) that returns one. What fn returns is cast to these dtypes.

    Returns:
        A function like fn that returns JAX arrays.

    Raises:
        TypeError: `result` is not made of shapes and dtypes; or fn returned another structure or another shape than
            `result` says; it names the leaf.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, implicitdiff as idf
        >>> solve = idf.host_solver(lambda init, A, b: np.linalg.solve(A, b), lambda init, A, b: b)
        >>> solver = idf.custom_root(lambda x, A, b: A @ x - b)(solve)
        >>> A, b = 2.0 * jnp.eye(2), jnp.ones(2)
        >>> print(jax.jit(jax.jacobian(solver, argnums=2))(None, A, b))
        [[0.5 0. ]
         [0.  0.5]]
    """
    if isinstance(result, type) or not callable(result):
        as_structs(result, fn)

    @functools.wraps(fn)
    def solver(*args, **kwargs):
        leaves, tree = jtu.tree_flatten((args, kwargs))
        is_array = [isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves]
        arrays = [leaf for leaf, yes in zip(leaves, is_array, strict=True) if yes]
        wanted = as_structs(result(*args, **kwargs) if callable(result) else result, fn)

        def call(*arrays):
            supply = iter(arrays)
            merged = [np.asarray(next(supply)) if yes else leaf for leaf, yes in zip(leaves, is_array, strict=True)]
            host_args, host_kwargs = jtu.tree_unflatten(tree, merged)
            return conform(fn(*host_args, **host_kwargs), wanted, name_of(fn))

        if any(isinstance(leaf, jax.core.Tracer) for leaf in arrays):
            found = jax.pure_callback(call, wanted, *arrays, vmap_method="sequential")
            return varying(found, axes_of(arrays))
        return jax.tree.map(jnp.asarray, call(*arrays))

    return solver


def as_structs(result: PyTree, fn: Callable) -> PyTree:
    """Shapes and dtypes of the leaves of `result`, in the precision that JAX is set to."""
    mend = (
        "for one array of shape (2,) write jax.ShapeDtypeStruct((2,), jax.numpy.float64), or give a function of the "
        "arguments that returns such a struct, or an array or a struct among the arguments that is like the result."
    )

    def as_struct(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, float | complex):  # an argument of the solver, as any scalar
            leaf = np.asarray(leaf)
        if isinstance(leaf, type) or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            where = f" for leaf {jtu.keystr(path)}" if path else ""
            raise TypeError(
                f"`result` of host_solver({name_of(fn)}, result) must be a pytree of jax.ShapeDtypeStruct, found "
                f"{leaf!r}{where}: {mend}"
            )
        return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))

    structs = jtu.tree_map_with_path(as_struct, result)
    if not jtu.tree_leaves(structs):
        raise TypeError(
            f"`result` of host_solver({name_of(fn)}, result) must be a pytree of jax.ShapeDtypeStruct, found "
            f"{result!r}: {mend}"
        )
    return structs


def conform(value: PyTree, wanted: PyTree, name: str) -> PyTree:
    """NumPy arrays of the wanted dtypes; raise TypeError where structure or shapes differ."""
    leaves = jtu.tree_leaves(value)
    expected, expected_tree = jtu.tree_flatten(wanted)
    tree: Any = jtu.tree_structure(value)
    if tree != expected_tree:
        raise TypeError(
            f"{name} must return what `result` says: expected {expected_tree}, found {tree}{described(value)}."
        )
    paths = [jtu.keystr(path) for path, _ in jtu.tree_flatten_with_path(wanted)[0]]
    arrays = []
    for path, leaf, struct in zip(paths, leaves, expected, strict=True):
        if np.shape(leaf) != struct.shape:
            raise TypeError(
                f"{name} must return what `result` says: expected shape {struct.shape} for leaf "
                f"{path or 'x'}, found {np.shape(leaf)}{described(leaf)}."
            )
        arrays.append(np.asarray(leaf).astype(struct.dtype, copy=False))
    return jtu.tree_unflatten(expected_tree, arrays)


def described(value: Any) -> str:
    """What a solver returned in place of arrays, if it is one of the things that are returned by mistake."""
    if value is None:
        return " (None: a return statement is missing)"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return ""
    if hasattr(value, "x") and hasattr(value, "success"):
        return f" ({type(value).__name__}: return its .x)"
    return f" ({type(value).__name__})"
