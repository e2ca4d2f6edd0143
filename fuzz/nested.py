"""Pieces whose map is itself a solution, differentiated by the library, beside its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import implicitdiff as idf


def on_host(f, v):
    """A NumPy function of one array, out of sight of autodiff."""

    def call(v):
        return f(np.asarray(v)).astype(v.dtype)

    return jax.pure_callback(call, jax.ShapeDtypeStruct(v.shape, v.dtype), v, vmap_method="expand_dims")


def root(v):
    return idf.implicit_root(lambda y, v: jnp.arcsinh(y) - v, jnp.sinh(v), v)


def root_of_closure(v):
    return idf.implicit_root(lambda y: jnp.arcsinh(y) - v, jnp.sinh(v))


@idf.custom_fixed_point(lambda y, v: 0.5 * (y + v / y))
def square_root(init, v):
    return on_host(np.sqrt, v)


@idf.custom_root(lambda y, v: y**3 - v)
def cube_root(init, v):
    return lax.fori_loop(0, 40, lambda _, y: y - (y**3 - v) / (3 * y**2), init)


def minimum(v):
    """The minimum of a quadratic in one unknown for each entry."""

    def f(y, v):
        return jnp.sum((1 + v**2) * y**2 / 2 - jnp.sin(v) * y)

    return idf.implicit_root(idf.optimality.stationary(f, positive_definite=True), jnp.sin(v) / (1 + v**2), v)


def twice(v):
    """A solution whose conditions hold another solution."""
    return idf.implicit_root(lambda y, v: root(y) - v, jnp.arcsinh(v), v)


def in_scan(v):
    return lax.scan(lambda v, _: (root(0.5 * v), None), v, None, length=2)[0]


def soft(v):
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - 0.0321, 0)


PIECES = {
    "implicit_root": (root, jnp.sinh),
    "implicit_root of a closure": (root_of_closure, jnp.sinh),
    "custom_fixed_point": (lambda v: square_root(None, 1 + v**2), lambda v: jnp.sqrt(1 + v**2)),
    "custom_root": (lambda v: cube_root(jnp.ones_like(v), 2 + jnp.tanh(v)), lambda v: jnp.cbrt(2 + jnp.tanh(v))),
    "stationary": (minimum, lambda v: jnp.sin(v) / (1 + v**2)),
    "a solution in a solution": (twice, jnp.arcsinh),
    "a solution in a scan": (in_scan, lambda v: jnp.sinh(0.5 * jnp.sinh(0.5 * v))),
    "a solution in a map": (lambda v: lax.map(root, v), jnp.sinh),
    "prox": (lambda v: idf.prox.lasso(v, 0.0321), soft),
    "projection": (
        lambda v: idf.projection.l2_ball(v, 0.7),
        lambda v: v * jnp.minimum(1, 0.7 * lax.rsqrt(jnp.sum(v**2))),
    ),
}
