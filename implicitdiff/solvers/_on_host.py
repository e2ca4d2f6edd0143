"""JAX functions of pytrees as NumPy functions of one float64 vector, which is what solvers on the host take."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Layout:
    """A pytree as one vector; equal for pytrees of equal structure, shapes and dtypes: what takes it compiles once."""

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    wide: bool = False

    def __call__(self, flat):
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        starts = [0, *ends[:-1]]
        leaves = [
            flat[a:b].reshape(shape).astype(np.float64 if self.wide else dtype)
            for a, b, shape, dtype in zip(starts, ends, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.tree, leaves)


def flat_start(init: PyTree, args: tuple = (), functions: tuple[Callable, ...] = ()) -> tuple[np.ndarray, Layout]:
    """The pytree as a float64 vector and its layout.

    Where init is of a lower precision and the platform has float64, the functions are evaluated in float64, for the
    solver's steps and tolerances are of that precision: unless one of them insists on the dtype that it was given.
    """
    leaves, tree = jax.tree.flatten(init)
    layout = Layout(tree, tuple(np.shape(leaf) for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))
    for leaf in leaves:
        if np.iscomplexobj(leaf):
            raise TypeError("init is complex, but the solver is for real unknowns: pass real and imaginary parts.")
    flat = np.concatenate([np.zeros(0), *[np.ravel(leaf).astype(np.float64) for leaf in leaves]])
    if jax.config.read("jax_enable_x64") and any(dtype != np.float64 for dtype in layout.dtypes):
        wide = dataclasses.replace(layout, wide=True)
        try:
            for function in functions:
                jax.eval_shape(partial(of_flat(function, scalar=True), layout=wide, args=args), flat)
            layout = wide
        except TypeError:
            pass
    return flat, layout


def of_flat(function: Callable, scalar: bool = False) -> Callable:
    """`function(layout(x), *args)` as one of flat x, layout and args, with a flat result unless it is a scalar."""

    def flat(x: Array, layout: Layout, args: tuple) -> PyTree:
        result = function(layout(x), *_unpacked(args, layout.wide))
        return result if scalar else ravel_pytree(result)[0]

    return flat


def jitted(function: Callable, transform: Callable | None = None, scalar: bool = False) -> Callable:
    """function(layout(x), *args) on flat x, perhaps transformed, compiled once; NumPy float64 in and out."""

    @partial(jax.jit, static_argnums=1)
    def compiled(x, layout, args):
        return (transform or (lambda g: g))(partial(of_flat(function, scalar), layout=layout, args=args))(x)

    def on_host(x, layout, args):
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), compiled(x, layout, args))

    return on_host


def probe(f: Callable) -> Callable:
    """A transform: x to f(x), its gradient g, and H g / |g|."""

    def at(x):
        g = jax.grad(f)(x)
        norm = jnp.linalg.norm(g)
        direction = jnp.where(norm > 0, g / jnp.where(norm > 0, norm, 1.0), 0.0)
        return f(x), g, jax.jvp(jax.grad(f), (x,), (direction,))[1]

    return at


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Key:
    """A typed PRNG key as the array that NumPy can hold."""

    data: Any
    impl: str = dataclasses.field(metadata=dict(static=True))


def packed(args: PyTree) -> PyTree:
    """Arguments with their typed PRNG keys as arrays."""

    def pack(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return _Key(jax.random.key_data(leaf), str(jax.random.key_impl(leaf)))
        return leaf

    return jax.tree.map(pack, args)


def _unpacked(args: PyTree, wide: bool) -> PyTree:
    def unpack(leaf):
        if isinstance(leaf, _Key):
            return jax.random.wrap_key_data(leaf.data, impl=leaf.impl)
        if wide and isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(leaf, jnp.float64)
        return leaf

    return jax.tree.map(unpack, args, is_leaf=lambda leaf: isinstance(leaf, _Key))


def flat_box(box: Any, init: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """The bounds as flat vectors: each side like init, or one number for all, or None for no bound."""
    low, high = spread(box, init, np)
    flat = lambda side: np.concatenate([np.zeros(0), *[np.ravel(leaf) for leaf in jax.tree.leaves(side)]])  # noqa: E731
    return flat(low).astype(np.float64), flat(high).astype(np.float64)


def spread(box: Any, like: PyTree, xp: Any = jnp) -> tuple[PyTree, PyTree]:
    """Both sides of a box as pytrees like x.

    Raises:
        TypeError: box is no pair (lower, upper), or a side has another structure than x.
    """
    if not isinstance(box, tuple | list) or len(box) != 2:
        raise TypeError(
            "bounds=True: the last argument of run is the pair (lower, upper), each a number, None for no bound, or "
            f"a pytree like x; found {'nothing' if box is None else type(box).__name__}."
        )

    def side(given: Any, infinite: float) -> PyTree:
        if given is None or (jax.tree_util.all_leaves([given]) and np.ndim(given) == 0):
            given = jax.tree.map(lambda _: infinite if given is None else given, like)
        fill = lambda leaf, b: xp.broadcast_to(  # noqa: E731
            xp.asarray(infinite if b is None else b, leaf.dtype), np.shape(leaf)
        )
        try:
            return jax.tree.map(fill, like, given)
        except ValueError as error:
            raise TypeError(f"bounds=True: a side of the box must be like x, or one number: {error}") from error

    return side(box[0], -np.inf), side(box[1], np.inf)
