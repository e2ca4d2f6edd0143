"""Soft spheres in a periodic box in the plane, and their relaxation by FIRE: jax-md's where it is installed, else ours.

The energy is sum over pairs of (1 - r_ij / s_ij)^2 / 2 where r_ij < s_ij and zero elsewhere, with s_ij the mean of the
two diameters. The first half of the spheres has diameter 1, the second diameter theta.

Source: Bitzek, Koskinen, Gaehler, Moseler, Gumbsch, "Structural relaxation made simple", 2006, with the constants of
that paper, where the velocity-Verlet step starts at 0.1 and is at most 0.4 as in jax-md.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PACKING = 0.98
FORCE = 1e-12  # forces up to this size count as zero (float64)


class Spheres(NamedTuple):
    """A periodic box with a number of spheres."""

    number: int
    side: float

    def diameters(self, theta) -> jax.Array:
        return jnp.where(jnp.arange(self.number) < self.number // 2, jnp.ones_like(theta), theta)

    def displacements(self, x) -> jax.Array:
        """Displacements from each sphere to the nearest image of each other one, (2, number, number)."""
        d = x.T[:, None, :] - x.T[:, :, None]
        return d - self.side * jnp.round(d / self.side)

    def overlaps(self, x, theta) -> jax.Array:
        """1 - r_ij / s_ij, negative where spheres do not touch and on the diagonal."""
        same = jnp.eye(self.number, dtype=bool)
        # The distance of a sphere to itself is replaced by 1, because the derivative of the norm at 0 is NaN.
        r = jnp.sqrt(jnp.where(same, 1.0, jnp.sum(self.displacements(x) ** 2, axis=0)))
        diameter = self.diameters(theta)
        return jnp.where(same, -1.0, 1 - r / ((diameter[:, None] + diameter[None, :]) / 2))

    def energy(self, x, theta) -> jax.Array:
        """Potential energy of positions x (number, 2)."""
        return 0.25 * jnp.sum(jax.nn.relu(self.overlaps(x, theta)) ** 2)  # each pair is counted twice

    def contacts(self, x, theta) -> jax.Array:
        """Which spheres touch, (number, number)."""
        return self.overlaps(x, theta) > 0

    def force(self, x, theta) -> jax.Array:
        return -jax.grad(self.energy)(x, theta)

    def starts(self, key, count: int) -> jax.Array:
        """Random positions, uniform in the box, (count, number, 2)."""
        return self.side * jax.random.uniform(key, (count, self.number, 2))


def spheres(number: int, theta: float) -> Spheres:
    """The box in which spheres of diameter theta fill the fraction `PACKING`; it does not change with theta."""
    return Spheres(number, float(jnp.sqrt(number / 2 * jnp.pi * (theta**2 + 1) / 4 / PACKING)))


class Descent(NamedTuple):
    """An iteration: `start(x, theta)` makes the state, `step(state, theta)` the next one; `state.position` is x."""

    name: str
    start: Callable[[jax.Array, Any], Any]
    step: Callable[[Any, Any], Any]


class Fire(NamedTuple):
    """Positions, velocities, forces, time step, mixing and steps since the power was last negative."""

    position: jax.Array
    velocity: jax.Array
    force: jax.Array
    dt: jax.Array
    mixing: jax.Array
    downhill: jax.Array


def own_fire(system: Spheres) -> Descent:
    """FIRE: molecular dynamics whose velocity is turned towards the force, and set to zero when it points uphill."""

    def start(x, theta):
        scalar = partial(jnp.asarray, dtype=x.dtype)
        return Fire(x, jnp.zeros_like(x), system.force(x, theta), scalar(0.1), scalar(0.1), jnp.int32(0))

    def step(state, theta):
        x, v, f, dt, mixing, downhill = state
        # Velocity Verlet.
        x = x + dt * v + dt**2 / 2 * f
        new = system.force(x, theta)
        v = v + dt / 2 * (f + new)
        power = jnp.sum(new * v)
        # The 1e-6 is that of jax-md. It matters for the unrolled derivative alone: the derivative of f / |f| grows as
        # forces vanish, and without it fewer starts come within 1 % (22 of 40 after 1,000 steps).
        size = lambda a: jnp.sqrt(jnp.sum(a**2) + 1e-12)  # noqa: E731
        v = (1 - mixing) * v + mixing * new * size(v) / size(new)
        uphill = power < 0
        faster = ~uphill & (downhill > 5)
        return Fire(
            x,
            jnp.where(uphill, 0.0, v),
            new,
            jnp.where(uphill, dt / 2, jnp.where(faster, jnp.minimum(1.1 * dt, 0.4), dt)),
            jnp.where(uphill, 0.1, jnp.where(faster, 0.99 * mixing, mixing)),
            jnp.where(uphill, 0, downhill + 1),
        )

    return Descent("own FIRE", start, step)


def jax_md_fire(system: Spheres) -> Descent | None:
    """FIRE of jax-md, with its own potential; None if jax-md is not installed."""
    try:
        jax_md = importlib.import_module("jax_md")
    except ImportError:
        return None
    # Positions are not wrapped into the box, so that their differences are displacements.
    displacement, shift = jax_md.space.periodic(system.side, wrapped=False)
    species = (jnp.arange(system.number) >= system.number // 2).astype(jnp.int32)

    def parts(theta):
        one, mixed = jnp.ones_like(theta), (1 + theta) / 2
        sigma = jnp.stack([jnp.stack([one, mixed]), jnp.stack([mixed, theta])])
        energy = jax_md.energy.soft_sphere_pair(displacement, species=species, sigma=sigma)
        return jax_md.minimize.fire_descent(energy, shift)

    return Descent(
        f"jax-md {importlib.metadata.version('jax-md')} fire_descent",
        lambda x, theta: parts(theta)[0](x),
        lambda state, theta: parts(theta)[1](state),
    )


def fire(system: Spheres) -> Descent:
    """FIRE of jax-md if it is installed, else ours."""
    return jax_md_fire(system) or own_fire(system)


def relax(descent: Descent, x, theta, maxiter: int = 20_000) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Descend until no force is larger than `FORCE`: the positions, the number of steps, and the largest force."""

    def largest(state):
        return jnp.max(jnp.abs(state.force))

    def on(carry):
        _, steps, force = carry
        return (force > FORCE) & (steps < maxiter)

    def go(carry):
        state, steps, _ = carry
        state = descent.step(state, theta)
        return state, steps + 1, largest(state)

    state = descent.start(x, theta)
    state, steps, force = lax.while_loop(on, go, (state, jnp.int32(0), largest(state)))
    return state.position, steps, force


WIDTHS = 1e-6, 1e-7, 1e-8  # of central differences
KINK = 5e-3  # relative difference of the one-sided differences above which a contact must have opened or closed


class Judgement(NamedTuple):
    """Central differences of minima for each start, with the numbers that show whether they can be trusted.

    Attributes:
        derivative: of the positions, (starts, number, 2).
        width: the change of theta in both directions.
        kink: whether the one-sided differences disagree, so that the central one is not a derivative.
        slope: central difference of the energy of the minimum.
        partial: partial derivative of the energy there, equal to the slope by Danskin's theorem.
    """

    derivative: np.ndarray
    width: np.ndarray
    kink: np.ndarray
    slope: np.ndarray
    partial: np.ndarray


def judge(system: Spheres, x, theta: float) -> Judgement:
    """Relax x, change theta in both directions, relax again; by the largest of `WIDTHS` without a kink, in float64."""
    descent = own_fire(system)
    relaxed = jax.jit(jax.vmap(lambda x, theta: relax(descent, x, theta)[0]))
    energy = jax.jit(jax.vmap(system.energy))
    here = jnp.full(len(x), theta)
    x = relaxed(jnp.asarray(x, jnp.float64), here)
    smooth = np.zeros(len(x), bool)
    derivative, slope, width = np.zeros(x.shape), np.zeros(len(x)), np.zeros(len(x))
    for h in WIDTHS:
        high, low = relaxed(x, here + h), relaxed(x, here - h)
        now = ~smooth
        derivative[now] = ((high - low) / (2 * h))[now]
        slope[now] = ((energy(high, here + h) - energy(low, here - h)) / (2 * h))[now]
        width[now] = h
        size = partial(jnp.linalg.norm, axis=(1, 2))
        smooth |= np.asarray(size(high - 2 * x + low) <= KINK * size(high - low) / 2)
        if smooth.all():
            break
    explicit = jax.vmap(jax.grad(system.energy, argnums=1))(x, here)
    return Judgement(derivative, width, ~smooth, slope, np.asarray(explicit))


def centred(derivative) -> np.ndarray:
    """The derivative without its mean over the spheres, in float64."""
    derivative = np.asarray(derivative, np.float64)
    return derivative - derivative.mean(axis=-2, keepdims=True)


def errors(derivative, truth, touching=None) -> np.ndarray:
    """Relative errors for each start, over all spheres or those with a contact; inf where they are not finite."""
    touching = np.ones(np.shape(truth)[:-1], bool) if touching is None else touching
    found = np.empty(len(truth))
    for i, among in enumerate(touching):
        expected = centred(truth[i][among])
        found[i] = np.linalg.norm(centred(derivative[i][among]) - expected) / np.linalg.norm(expected)
    return np.where(np.isfinite(found), found, np.inf)


def norms(derivative) -> np.ndarray:
    """The l1 norm, for each start."""
    return np.abs(centred(derivative)).sum((-2, -1))
