"""Pytrees of unknowns as one real array, which is what linear solves work on."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree


class RealSpace:
    """Pytrees of inexact arrays of one structure as real arrays of one dtype.

    A complex unknown is two real ones: F need not be holomorphic, so its derivative is linear over the reals only. A
    single real leaf keeps its shape, and so its sharding; several are joined to a vector.
    """

    def __init__(self, like: PyTree):
        """Remember the structure, shapes and dtypes of `like`."""
        leaves, self.tree = jax.tree.flatten(like)
        self.dtypes = [leaf.dtype for leaf in leaves]
        reals = [jnp.finfo(dtype).dtype for dtype in self.dtypes]
        self.dtype = jnp.result_type(jnp.float32, *reals) if reals else jnp.dtype("float32")
        self.eps = max((float(jnp.finfo(real).eps) for real in reals), default=0.0)
        self.mixed = any(jnp.finfo(real).eps != jnp.finfo(self.dtype).eps for real in reals)
        self.shapes = [leaf.shape for leaf in leaves for _ in range(2 if jnp.iscomplexobj(leaf) else 1)]
        self.size = sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves)

    def to_real(self, tree: PyTree) -> Array:
        """The real array of a pytree; real and imaginary parts one after the other."""
        parts = []
        for leaf in jax.tree.leaves(tree):
            pair = (jnp.real(leaf), jnp.imag(leaf)) if jnp.iscomplexobj(leaf) else (leaf,)
            parts += [part.astype(self.dtype) for part in pair]
        if len(parts) == 1:
            return parts[0]
        return jnp.concatenate([jnp.zeros(0, self.dtype), *[part.ravel() for part in parts]])

    def from_real(self, array: Array) -> PyTree:
        """The pytree of a real array."""
        parts, start = [], 0
        for shape in self.shapes:
            end = start + math.prod(shape)
            parts.append(array.reshape(shape) if len(self.shapes) == 1 else array[start:end].reshape(shape))
            start = end
        supply, leaves = iter(parts), []
        for dtype in self.dtypes:
            if jnp.issubdtype(dtype, jnp.complexfloating):
                part = jnp.finfo(dtype).dtype
                leaves.append(lax.complex(next(supply).astype(part), next(supply).astype(part)))
            else:
                leaves.append(next(supply).astype(dtype))
        return jax.tree.unflatten(self.tree, leaves)
