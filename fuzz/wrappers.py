"""Transformations around a function s of a vector, each beside the same written without it."""

import jax
import jax.numpy as jnp
from jax import lax

SCALES = (1.0, 1.05)


def _sum(s):
    """Of s along a line."""
    return lambda t: sum(s(a * t) for a in SCALES)


def _moved(s, t):
    return t + 0.1 * s(t)[: t.size]


def _twice(s):
    """Two steps whose next argument depends on the last solution."""
    return lambda t: _moved(s, _moved(s, t))


def _scales(t):
    return jnp.asarray(SCALES, t.dtype)


def _scan(s):
    return lambda t: lax.scan(lambda c, a: (c + s(a * t), None), jnp.zeros_like(s(t)), _scales(t))[0]


def _carry(s):
    return lambda t: lax.scan(lambda t, _: (_moved(s, t), None), t, None, length=2)[0]


WRAPPERS = {
    "plain": (lambda s: s, lambda s: s),
    "jit": (jax.jit, lambda s: s),
    "vmap": (lambda s: lambda t: jax.vmap(lambda a: s(a * t))(_scales(t)).sum(0), _sum),
    "scan": (_scan, _sum),
    "scan that carries": (_carry, _twice),
    "map": (lambda s: lambda t: lax.map(lambda a: s(a * t), _scales(t)).sum(0), _sum),
    "fori_loop": (lambda s: lambda t: lax.fori_loop(0, 2, lambda _, t: _moved(s, t), t), _twice),
    "checkpoint": (jax.checkpoint, lambda s: s),
    "checkpoint of scan": (lambda s: jax.checkpoint(_carry(s)), _twice),
    "cond": (
        lambda s: lambda t: lax.cond(t[0] > t[1], s, lambda t: s(1.05 * t), t),
        lambda s: lambda t: jnp.where(t[0] > t[1], s(t), s(1.05 * t)),
    ),
    "vmap of scan": (
        lambda s: lambda t: jax.vmap(lambda a: _carry(s)(a * t))(_scales(t)).sum(0),
        lambda s: _sum(_twice(s)),
    ),
    "scan of vmap": (
        lambda s: _carry(lambda t: jax.vmap(lambda a: s(a * t))(_scales(t)).sum(0)),
        lambda s: _twice(_sum(s)),
    ),
}
