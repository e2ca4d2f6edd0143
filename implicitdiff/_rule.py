"""A value with a derivative rule of its own, which survives every transformation.

A primitive, and not a `jax.custom_jvp`: JAX drops such a rule where it partially evaluates the body of a loop, since
only linear functions are built there, and differentiates what the rule stands beside, "x is x". Second derivatives
under `lax.scan` and `lax.map` are then wrong, silently.
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

# rule(x, theta, theta_dot) is the derivative of x along theta_dot, in which None is no motion.
Rule = Callable[[Sequence[Array], Sequence[Array], Sequence[Array | None]], Sequence[Array]]

ruled_p = jex.Primitive("ruled")
ruled_p.multiple_results = True


def bind(rule: Rule, x: Sequence[Array], theta: Sequence[Array]) -> list[Array]:
    """The values x, as functions of theta with the derivative that the rule gives; it is given x as such functions.

    Two rules that are equal must be the same function, or their attribute `reusable` be False.
    """
    return ruled_p.bind(*x, *theta, rule=rule, values=len(x))


def ruled(tangent: Callable[..., Sequence[Array]], x: Sequence[Array], *theta: Array) -> list[Array]:
    """The values x, as functions of theta whose derivative along theta_dot is tangent(x, theta, theta_dot).

    Args:
        tangent: returns a derivative for each value. It must be hashable and read nothing but its arguments.
        x: the values, which have no derivative themselves.
        *theta: what they depend on, and what else the rule needs.
    """
    x = varying(lax.stop_gradient(tuple(x)), axes_of(theta))
    return bind(_WithZeros(tangent), x, theta)


@dataclasses.dataclass(frozen=True)
class _WithZeros:
    """A rule that is written for motions of all operands."""

    tangent: Callable

    def __call__(self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array | None]) -> Any:
        dots = [jnp.zeros_like(leaf) if dot is None else dot for leaf, dot in zip(theta, theta_dot, strict=True)]
        return self.tangent(x, theta, dots)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The rule of a batch: the derivative of a batch is a batch of derivatives."""

    rule: Rule
    axes: tuple[int | None, ...]
    size: int
    axis_name: Any
    spmd_name: Any

    @property
    def reusable(self) -> bool:
        return getattr(self.rule, "reusable", True)

    def __call__(self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array | None]) -> Any:
        axes = [None if dot is None else at for dot, at in zip(theta_dot, self.axes, strict=True)]
        batched = jax.vmap(
            self.rule,
            in_axes=(0, list(self.axes), axes),
            axis_size=self.size,
            axis_name=self.axis_name,
            spmd_axis_name=self.spmd_name,
        )
        return batched(list(x), list(theta), list(theta_dot))


def depending(operands: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that depends on every inexact number of the operands: for finding out what depends on what."""
    parts = [
        part
        for leaf in operands
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        for part in ((jnp.real(leaf), jnp.imag(leaf)) if jnp.iscomplexobj(leaf) else (leaf,))
    ]
    total = sum((jnp.sum(part).astype(jnp.finfo(dtype).dtype) for part in parts), jnp.zeros((), jnp.finfo(dtype).dtype))
    whole = lax.complex(total, total) if jnp.issubdtype(dtype, jnp.complexfloating) else total
    return jnp.broadcast_to(whole, shape)


def dependence(operands: Sequence[Array], *, rule: Rule, values: int) -> list[Array]:
    """Values with a rule replaced by arrays that depend on what the values depend on: on all of theta, lane by lane."""
    x, theta = operands[:values], list(operands[values:])
    if not isinstance(rule, _Batch):
        return [depending(theta, leaf.shape, leaf.dtype) for leaf in x]

    def lane(x: list, theta: list) -> list[Array]:
        return dependence([*x, *theta], rule=rule.rule, values=values)

    return jax.vmap(lane, in_axes=(0, list(rule.axes)), axis_size=rule.size)(list(x), theta)


def _jvp(primals, tangents, *, rule, values):
    """The tangents of the operands x have no part in it: x is what the rule says."""
    x, theta = bind(rule, primals[:values], primals[values:]), list(primals[values:])
    theta_dot = [None if type(dot) is ad.Zero else dot for dot in tangents[values:]]
    if all(dot is None for dot in theta_dot):
        return x, [ad.Zero(jax.typeof(leaf).to_tangent_aval()) for leaf in x]
    return x, list(rule(x, theta, theta_dot))


def _batched(axis, operands, axes, *, rule, values):
    if all(at is None for at in axes):
        return bind(rule, operands[:values], operands[values:]), [None] * values
    # x is batched where theta is: its derivative differs though its value may not.
    x = [
        jnp.broadcast_to(leaf, (axis.size, *leaf.shape)) if at is None else jnp.moveaxis(leaf, at, 0)
        for leaf, at in zip(operands[:values], axes[:values], strict=True)
    ]
    name = None if type(axis.name) is object else axis.name  # JAX's mark for no name
    batch = _Batch(rule, tuple(axes[values:]), axis.size, name, axis.spmd_name)
    return bind(batch, x, operands[values:]), [0] * values


ruled_p.def_impl(lambda *operands, rule, values: list(operands[:values]))
ruled_p.def_abstract_eval(lambda *avals, rule, values: list(avals[:values]))
ad.primitive_jvps[ruled_p] = _jvp
batching.fancy_primitive_batchers[ruled_p] = _batched
mlir.register_lowering(ruled_p, lambda ctx, *operands, rule, values: operands[:values])
