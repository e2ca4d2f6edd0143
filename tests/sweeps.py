"""Checks that hold for every projection and every proximal operator: each takes the function and its arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

LANES = 8
UNITS = {np.float64: [1, 1e-12, 1e-9, 1e-6, 1e6, 1e9, 1e12, 1], np.float32: [1, 1e-6, 1e-4, 1e-2, 1e2, 1e4, 1e6, 1]}
TOLERANCE = {np.float64: 1e-11, np.float32: 5e-5}


@partial(jax.jit, static_argnums=0)
def value_and_jacobians(f, v, theta):
    """Of a batch of points and parameters: value, Jacobian in both by forward mode, and by reverse mode."""
    return jax.vmap(lambda *z: (f(*z), jax.jacfwd(f, (0, 1))(*z), jax.jacrev(f, (0, 1))(*z)))(v, theta)


def stacked(trees, dtype):
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, dtype) for leaf in leaves]), *trees)


def flat(jacobian, n):
    """The Jacobian of n values as a matrix for each lane."""
    return np.concatenate([np.reshape(part, (LANES, n, -1)) for part in jax.tree.leaves(jacobian)], axis=-1)


def check_units(f, v, theta, scaled):
    """f(c v, scaled(theta, c)) is c f(v, theta), with the same derivative in v, for c over many orders of magnitude."""
    expected = np.asarray(f(jnp.asarray(v), jax.tree.map(jnp.asarray, theta)))
    size = max(np.max(abs(expected)), 1e-3 * np.max(abs(v)))
    for dtype, units in UNITS.items():
        points, parameters = stacked([c * v for c in units], dtype), stacked([scaled(theta, c) for c in units], dtype)
        x, *both = value_and_jacobians(f, points, parameters)
        assert x.dtype == dtype
        for c, x_c in zip(units, np.asarray(x, float), strict=True):
            np.testing.assert_allclose(x_c / c, expected, atol=TOLERANCE[dtype] * size, rtol=0, err_msg=f"unit {c}")
        for in_v, _ in both:
            in_v = flat(in_v, expected.size)
            np.testing.assert_allclose(in_v, np.broadcast_to(in_v[0], in_v.shape), atol=TOLERANCE[dtype], rtol=0)


def check_not_finite(f, v, theta, separable, indifferent=False):
    """Where an entry of v or theta is NaN, or of v infinite, so are the value and every derivative in this entry."""
    leaves, tree = jax.tree.flatten(theta)
    leaves = [np.asarray(leaf, float) for leaf in leaves]
    lanes = [(v.copy(), [leaf.copy() for leaf in leaves]) for _ in range(LANES)]
    for (point, _), bad in zip(lanes, (np.nan, np.inf, -np.inf), strict=False):
        point.flat[1] = bad
    spoilt = list(range(3))
    for lane, (k, i) in enumerate([(k, leaf.size - 1) for k, leaf in enumerate(leaves)][: LANES - 4], start=3):
        if not indifferent:
            lanes[lane][1][k].flat[i] = np.nan
            spoilt.append(lane)
    points, parameters = stacked([p for p, _ in lanes], float), stacked([tree.unflatten(t) for _, t in lanes], float)
    x, forward, reverse = value_and_jacobians(f, points, parameters)
    x = np.reshape(x, (LANES, -1))
    entries = flat((points, parameters), 1)[:, 0]
    bad_values = np.isnan(x)
    np.testing.assert_array_equal(np.any(bad_values, axis=-1), np.isin(range(LANES), spoilt))
    if not separable:
        assert np.all(bad_values[spoilt])
    for jacobian in (forward, reverse):
        jacobian = flat(jacobian, x.shape[1])
        for lane in spoilt:
            shown = np.isnan(jacobian[lane])[bad_values[lane]]
            assert np.all(shown[:, ~np.isfinite(entries[lane])]), lane
            if not separable:
                assert np.all(shown), lane
        assert np.all(np.isfinite(jacobian[~np.any(bad_values, axis=-1)]))


def check_half_precision(f, v, theta):
    """Half precision is rounded once."""
    half = jnp.asarray(v, jnp.bfloat16)
    x, gradient = jax.jit(lambda v: (f(v, theta), jax.grad(lambda v: jnp.sum(f(v, theta)))(v)))(half)
    assert x.dtype == gradient.dtype == jnp.bfloat16
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    np.testing.assert_allclose(np.asarray(x, float), f(half.astype(np.float32), theta), rtol=eps, atol=1e-2 * eps)


def check_loops(f, v, theta):
    """Second derivatives inside of loops, where JAX partially evaluates, are those outside, in all four orders."""
    z, unravel = ravel_pytree((jnp.asarray(v), jax.tree.map(lambda t: jnp.asarray(t, float), theta)))
    u, weights = np.random.default_rng(0).normal(size=(2, z.size))

    def cubic(z):
        x = jnp.ravel(f(*unravel(z)))
        return jnp.sum(weights[: x.size] * x**3) + jnp.sum(x) ** 2

    def scanned(z):
        return lax.scan(lambda z, _: (z, cubic(z)), z, None, length=1)[1][0]

    def mapped(g):
        return lambda z: lax.map(g, z[None])[0]

    def forward_over_reverse(g, z):
        return jax.jvp(jax.grad(g), (z,), (u,))[1]

    def reverse_over_reverse(g, z):
        return jax.grad(lambda z: jax.grad(g)(z) @ u)(z)

    def reverse_over_forward(g, z):
        return jax.grad(lambda z: jax.jvp(g, (z,), (u,))[1])(z)

    def forward_over_forward(g, z):
        along = jax.vmap(lambda e: jax.jvp(lambda z: jax.jvp(g, (z,), (u,))[1], (z,), (e,))[1])
        return along(jnp.eye(z.size))

    reverse = (forward_over_reverse, reverse_over_reverse)
    both = (*reverse, reverse_over_forward, forward_over_forward)

    @jax.jit
    def products(z):
        looped = [order(loop, z) for loop in (scanned, mapped(cubic)) for order in reverse]
        return forward_over_forward(cubic, z), looped + [order(mapped(scanned), z) for order in both]

    expected, found = products(z)
    assert np.linalg.norm(expected) > 0 or not np.any(f(v, theta))
    for product in found:
        np.testing.assert_allclose(product, expected, atol=1e-9 * (1 + np.max(abs(expected))))


class Compilations:
    """Counts what XLA compiles."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, duration, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"


COMPILATIONS = Compilations()


def check_compiles_once(f, v, theta):
    """Called again eagerly with the same shapes, value, gradient and product with a tangent compile nothing."""
    v, theta = jnp.asarray(v), jax.tree.map(jnp.asarray, theta)
    calls = {
        "value": lambda: f(v, theta),
        "gradient": lambda: jax.grad(lambda v: jnp.sum(f(v, theta) ** 2))(v),
        "tangent": lambda: jax.jvp(lambda v: f(v, theta), (v,), (v,)),
    }
    for kind, call in calls.items():
        call()
        before = COMPILATIONS.count
        call()
        assert COMPILATIONS.count == before, kind
