"""A value with a derivative rule of its own, which survives every transformation.

JAX drops a `jax.custom_jvp` rule where it partially evaluates the body of a loop, and differentiates the function
itself: what stops gradients inside then has wrong second derivatives under `lax.scan` and `lax.map`. A primitive stays.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from ._varying import axes_of, varying

ruled_p = jex.Primitive("ruled")
ruled_p.multiple_results = True


def ruled(tangent: Callable[..., Sequence[Array]], x: Sequence[Array], *theta: Array) -> list[Array]:
    """The values x, as functions of theta whose derivative along theta_dot is tangent(x, theta, theta_dot).

    The rule is given x as these functions, so that it is differentiated in turn.

    Args:
        tangent: returns a derivative for each value. It must be hashable and read nothing but its arguments.
        x: the values, which have no derivative themselves.
        *theta: what they depend on, and what else the rule needs.
    """
    x = varying(lax.stop_gradient(tuple(x)), axes_of(theta))
    return ruled_p.bind(*x, *theta, tangent=tangent, values=len(x))


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The rule of a batch: a batch of the rule."""

    tangent: Callable
    axes: tuple[int | None, ...]
    size: int

    def __call__(self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array]) -> Any:
        axes = (0, list(self.axes), list(self.axes))
        return jax.vmap(self.tangent, axes, axis_size=self.size)(x, theta, theta_dot)


def _jvp(primals, tangents, *, tangent, values):
    x = ruled_p.bind(*primals, tangent=tangent, values=values)
    if all(type(dot) is ad.Zero for dot in tangents[values:]):
        return x, [ad.Zero(jax.typeof(leaf).to_tangent_aval()) for leaf in x]
    theta_dot = [ad.instantiate_zeros(dot) for dot in tangents[values:]]
    return x, list(tangent(x, list(primals[values:]), theta_dot))


def _batched(operands, axes, *, tangent, values):
    # x is batched where theta is: its derivative differs though its value may not.
    size = next(leaf.shape[at] for leaf, at in zip(operands, axes, strict=True) if at is not None)
    x = [
        jnp.broadcast_to(leaf, (size, *leaf.shape)) if at is None else jnp.moveaxis(leaf, at, 0)
        for leaf, at in zip(operands[:values], axes[:values], strict=True)
    ]
    rule = _Batch(tangent, tuple(axes[values:]), size)
    return ruled_p.bind(*x, *operands[values:], tangent=rule, values=values), [0] * values


ruled_p.def_impl(lambda *operands, tangent, values: list(operands[:values]))
ruled_p.def_abstract_eval(lambda *avals, tangent, values: list(avals[:values]))
ad.primitive_jvps[ruled_p] = _jvp
batching.primitive_batchers[ruled_p] = _batched
mlir.register_lowering(ruled_p, lambda ctx, *operands, tangent, values: operands[:values])
