"""Large problems (100,000 unknowns and more) with known derivatives, and derivative rules written by hand.

In each problem theta has one entry for each equation, so dF/dtheta is diagonal and the Jacobian of the solution is
-A^-1 diag(slope) with A = dF/dx. The exact products with A^-1 are computed by a closed form in NumPy and SciPy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.linalg

import implicitdiff as idf

from ._ridge import objective


class Large(NamedTuple):
    """A problem F(x, theta, *data) = 0, how to attach its derivative, and what is known about it.

    `attach(adjoint)` and `jaxopt(solve)` return a solver (x, theta, *data) -> x that hands back the x it is given;
    `inverse(v, transpose)` is A^-1 v, or A^-T v.
    """

    name: str
    symmetric: bool
    F: Callable
    attach: Callable[[Any], Callable]
    x: np.ndarray
    theta: np.ndarray
    data: tuple
    slope: np.ndarray
    inverse: Callable[[np.ndarray, bool], np.ndarray]

    @property
    def args(self) -> tuple:
        return tuple(jnp.asarray(value) for value in (self.x, self.theta, *self.data))

    def vjp(self, v: np.ndarray) -> np.ndarray:
        return -self.slope * self.inverse(v, True)

    def jvp(self, t: np.ndarray) -> np.ndarray:
        return -self.inverse(self.slope * t, False)


def attached(F: Callable) -> Callable:
    return lambda adjoint: lambda x, theta, *data: idf.implicit_root(F, x, theta, *data, adjoint=adjoint)


def dense(n: int, rows: int) -> Large:
    """Ridge regression with few rows: A = D'D + diag(theta), inverted by the Woodbury formula."""
    random = np.random.default_rng(0)
    D, b = random.standard_normal((rows, n)) / np.sqrt(n), random.standard_normal(rows)
    theta = random.uniform(0.05, 0.1, n)
    small = np.eye(rows) + (D / theta) @ D.T

    def inverse(v, transpose=True):
        v = v / theta
        return v - (D.T @ np.linalg.solve(small, D @ v)) / theta

    x, f = inverse(D.T @ b), objective()
    condition = idf.optimality.stationary(f, positive_definite=True)
    return Large(f"ridge, {rows} dense rows", True, jax.grad(f), attached(condition), x, theta, (D, b), x, inverse)


def smoothing(side: int) -> Large:
    """Smooth a picture b: A = theta + Laplacian, inverted by the cosine transform."""

    def energy(x, theta, b):
        roughness = jnp.sum(jnp.diff(x, axis=0) ** 2) + jnp.sum(jnp.diff(x, axis=1) ** 2)
        return 0.5 * jnp.sum(theta * (x - b) ** 2) + 0.5 * roughness

    theta = 0.2
    waves = 2 - 2 * np.cos(np.pi * np.arange(side) / side)
    spectrum = theta + waves[:, None] + waves

    def inverse(v, transpose=True):
        return scipy.fft.idctn(scipy.fft.dctn(v, norm="ortho") / spectrum, norm="ortho")

    b = np.random.default_rng(0).standard_normal((side, side))
    x = inverse(theta * b)
    condition = idf.optimality.stationary(energy, positive_definite=True)
    return Large(
        f"smoothing, {side} x {side}",
        True,
        jax.grad(energy),
        attached(condition),
        x,
        np.full((side, side), theta),
        (b,),
        x - b,
        inverse,
    )


def advection(side: int) -> Large:
    """Stationary advection, diffusion and decay on a periodic grid; A is inverted by the Fourier transform."""
    wind, spread, decay = (0.6, 0.3), 0.5, 2.0

    def F(x, theta, source):
        flow = theta * x - source
        for axis, speed in enumerate(wind):
            before, after = jnp.roll(x, 1, axis), jnp.roll(x, -1, axis)
            flow += speed * (x - before) + spread * (2 * x - before - after)
        return flow

    shift = np.exp(-2j * np.pi * np.arange(side) / side)
    along = [speed * (1 - shift) + spread * (2 - shift - shift.conj()) for speed in wind]
    spectrum = decay + along[0][:, None] + along[1]

    def inverse(v, transpose):
        return np.fft.ifft2(np.fft.fft2(v) / (spectrum.conj() if transpose else spectrum)).real

    source = np.random.default_rng(0).standard_normal((side, side))
    x = inverse(source, False)
    return Large(
        f"advection and diffusion, {side} x {side}",
        False,
        F,
        attached(F),
        x,
        np.full((side, side), decay),
        (source,),
        x,
        inverse,
    )


def curve(n: int, parameters: int, stiffness: float) -> Large:
    """Fit a smooth curve to b with weights made of any number of parameters: A is tridiagonal, and factorised.

    `slope` is the derivative of F in the weights.
    """

    def energy(x, theta, b):
        return 0.5 * jnp.sum(weights(theta, n) * (x - b) ** 2) + 0.5 * stiffness * jnp.sum(jnp.diff(x) ** 2)

    random = np.random.default_rng(0)
    theta, b = 0.1 * random.standard_normal(parameters), random.standard_normal(n)
    diagonal, beside = (np.asarray(band) for band in curve_bands(theta, n, stiffness))

    def inverse(v, transpose=True):
        return scipy.linalg.solveh_banded(np.stack([beside, diagonal]), v)

    x = inverse(np.asarray(weights(theta, n)) * b)
    condition = idf.optimality.stationary(energy, positive_definite=True)
    return Large(f"curve, n = {n}", True, jax.grad(energy), attached(condition), x, theta, (b,), x - b, inverse)


def weights(theta, n: int):
    """A weight for each of n unknowns from any number of parameters: 1 plus a mean of some entries of exp(theta)."""
    return 1 + jnp.pad(jnp.exp(theta), (0, -theta.size % n)).reshape(-1, n).mean(0)


def curve_bands(theta, n: int, stiffness: float):
    """The diagonal and the off-diagonal of A for `curve`."""
    neighbours = jnp.full(n, 2.0).at[0].set(1.0).at[-1].set(1.0)
    return weights(theta, n) + stiffness * neighbours, jnp.full(n, -stiffness)


def fixed_point(n: int, rank: int) -> Large:
    """A recurrent layer of low rank, x = tanh(U V x + theta); A is inverted by the Woodbury formula."""
    random = np.random.default_rng(0)
    U, V = random.standard_normal((n, rank)) / np.sqrt(n), 0.9 * random.standard_normal((rank, n)) / np.sqrt(n)

    def T(x, theta, U, V):
        return jnp.tanh(U @ (V @ x) + theta)

    theta, x = random.standard_normal(n), np.zeros(n)
    for _ in range(60):
        x = np.tanh(U @ (V @ x) + theta)
    gain = 1 - x**2
    small = np.eye(rank) - (V * gain) @ U

    def inverse(v, transpose):
        if transpose:  # A' = I - V'U' diag(gain)
            return v + V.T @ np.linalg.solve(small.T, U.T @ (gain * v))
        return v + gain * (U @ np.linalg.solve(small, V @ v))

    def attach(adjoint):
        return lambda x, theta, U, V: idf.implicit_fixed_point(T, x, theta, U, V, adjoint=adjoint)

    def F(x, theta, U, V):
        return x - T(x, theta, U, V)

    return Large(f"fixed point of tanh, rank {rank}", False, F, attach, x, theta, (U, V), -gain, inverse)


def product(F: Callable, x, theta, data: tuple, transpose: bool) -> Callable:
    """The product v -> A v, or v -> A' v."""
    push = jax.linearize(lambda x: F(x, theta, *data), x)[1]
    return (lambda v: jax.linear_transpose(push, x)(v)[0]) if transpose else push


def by_rule(F: Callable, solve: Callable, transpose: bool) -> Callable:
    """(v, x, theta, *data) -> the product of v with the Jacobian of the solution, or its transpose, by `solve`."""

    def derivative(v, x, theta, *data):
        A = product(F, x, theta, data, transpose)
        if transpose:
            return jax.vjp(lambda t: F(x, t, *data), theta)[1](-solve(A, v))[0]
        return solve(A, -jax.jvp(lambda t: F(x, t, *data), (theta,), (v,))[1])

    return derivative


def minimal_cg(steps: int) -> Callable:
    """Conjugate gradients with a fixed number of products and no convergence test."""

    def solve(product, b):
        def step(_, state):
            x, r, p, rr = state
            Ap = product(p)
            alpha = rr / jnp.vdot(p, Ap)
            x, r = x + alpha * p, r - alpha * Ap
            new = jnp.vdot(r, r)
            return x, r, r + new / rr * p, new

        return jax.lax.fori_loop(0, steps, step, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)))[0]

    return solve


def minimal_bicgstab(steps: int) -> Callable:
    """Van der Vorst's BiCGStab with a fixed number of products and no convergence test."""

    def solve(product, b):
        def step(_, state):
            x, r, p, rho = state
            v = product(p)
            alpha = rho / jnp.vdot(b, v)
            s = r - alpha * v
            t = product(s)
            omega = jnp.vdot(t, s) / jnp.vdot(t, t)
            x, r = x + alpha * p + omega * s, s - omega * t
            new = jnp.vdot(b, r)
            return x, r, r + new / rho * (alpha / omega) * (p - omega * v), new

        return jax.lax.fori_loop(0, -(-steps // 2), step, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)))[0]

    return solve


def minimal_gmres(steps: int, restart: int) -> Callable:
    """GMRES by modified Gram-Schmidt with a fixed number of products; only a restart computes a residual."""

    def solve(product, b):
        x = jnp.zeros_like(b)
        for done in range(0, steps, restart):
            r = b - product(x) if done else b
            x = x + correction(product, r, min(restart, steps - done))
        return x

    def correction(product, r, m):
        beta = jnp.sqrt(jnp.vdot(r, r))

        def step(j, state):
            V, H = state

            def subtract(i, pair):
                w, h = pair
                h_i = jnp.vdot(V[i], w)
                return w - h_i * V[i], h.at[i].set(h_i)

            w, h = jax.lax.fori_loop(0, j + 1, subtract, (product(V[j]), jnp.zeros(m + 1, r.dtype)))
            length = jnp.sqrt(jnp.vdot(w, w))
            return V.at[j + 1].set(w / length), H.at[:, j].set(h.at[j + 1].set(length))

        V = jnp.zeros((m + 1, *r.shape), r.dtype).at[0].set(r / beta)
        V, H = jax.lax.fori_loop(0, m, step, (V, jnp.zeros((m + 1, m), r.dtype)))
        y = jnp.linalg.lstsq(H, beta * jnp.zeros(m + 1, r.dtype).at[0].set(1))[0]
        return jnp.tensordot(y, V[:m], axes=1)

    return solve
