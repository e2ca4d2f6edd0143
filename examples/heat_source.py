r"""
Find the conductivity of a plate
================================

A plate is heated from inside and cooled at its rim. Its temperature u is measured at 2,000 places, and what it is
made of is sought: the conductivity k of each of its cells,

.. math::

   -\nabla \cdot (k \nabla u) = q .

Given k, the temperature solves a large sparse system. Its derivative in k, that of 100,000 numbers in 100,000 others,
is never formed: one gradient of a misfit takes one more solve with the factors of the same system.
"""

import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

SIDE = int(os.environ.get("HEAT_SOURCE_SIDE", "316"))  # 100,000 cells
GRADIENTS = 30

# %%
# The equation
# ------------
# Finite volumes: between two cells heat flows by the harmonic mean of their conductivities, and the rim is at
# temperature zero. The unknown is log k, so that k stays positive.

at = (np.arange(SIDE) + 0.5) / SIDE
X, Y = np.meshgrid(at, at)
heating = jnp.asarray(60 * np.exp(-((X - 0.3) ** 2 + (Y - 0.7) ** 2) / 0.02) + 20.0)


def balance(u, log_k):
    """What flows out of each cell, less what is heated in it."""
    k = jnp.exp(log_k)

    def out(axis):
        first, last = (jax.lax.slice_in_dim(k, *ends, axis=axis) for ends in ((0, 1), (SIDE - 1, SIDE)))
        a, b = (jax.lax.slice_in_dim(k, *ends, axis=axis) for ends in ((0, SIDE - 1), (1, SIDE)))
        between = jnp.concatenate([2 * first, 2 * a * b / (a + b), 2 * last], axis)
        rim = [(1, 1) if axis == d else (0, 0) for d in range(2)]
        return -jnp.diff(between * jnp.diff(jnp.pad(u, rim), axis=axis), axis=axis)

    return (out(0) + out(1)) * SIDE**2 - heating


# %%
# The pattern of the Jacobian is found once: five entries a row, which a few products show.

zero = jnp.zeros((SIDE, SIDE))
start = time.perf_counter()
pattern = idf.sparse.pattern(balance, zero, zero)
print(f"{pattern}, found in {time.perf_counter() - start:.1f} s")

# %%
# The balance is linear in u: one step of Newton's method solves it. ``Newton`` and the derivative share the factors.

newton = idf.solvers.Newton(balance, maxiter=3, linear_solver=idf.sparse.LU(pattern))


def temperature(log_k):
    return newton.run(zero, log_k)[0]


# %%
# Measurements
# ------------
# The plate has a channel that insulates and two discs that conduct. Its temperature is read at every seventh cell in
# both directions, with an error of half a per cent of the largest.

channel = 1.6 * np.exp(-(((Y - 0.35 - 0.15 * np.sin(5 * X)) / 0.05) ** 2))
discs = sum(1.2 * (np.hypot(X - a, Y - b) < r) for a, b, r in ((0.7, 0.75, 0.13), (0.22, 0.68, 0.1)))
true = jnp.asarray(discs - channel)
step = max(SIDE // 40, 1)
read = (slice(step // 2, None, step),) * 2
exact = jax.jit(temperature)(true)
noise = 0.005 * float(jnp.max(exact))
measured = exact[read] + noise * np.random.default_rng(0).standard_normal(exact[read].shape)

# %%
# The most probable field
# -----------------------
# Before anything is measured, log k is a smooth Gaussian field of unit variance: white noise z, one number for each
# cell, filtered by :math:`(1 - \ell^2 \Delta)^{-1}` in cosine waves. The most probable z after the measurements
# minimises half the sum of the squared misfits, in units of their error, and of z.

waves = (np.pi * np.arange(SIDE)) ** 2
amplitude = 1 / (1 + 0.06**2 * (waves[:, None] + waves[None]))
amplitude = jnp.asarray(amplitude / np.sqrt(np.mean(amplitude**2)))


def field(z):
    return jax.scipy.fft.idctn(amplitude * jax.scipy.fft.dctn(z, norm="ortho"), norm="ortho")


def loss(z):
    misfit = jnp.mean(((temperature(field(z))[read] - measured) / noise) ** 2)
    return (measured.size * misfit + jnp.sum(z**2)) / 2, misfit


value_and_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

# %%
# Is the gradient right? Along one direction, beside central differences:

direction = jnp.asarray(np.sin(3 * np.pi * X) * np.sin(2 * np.pi * Y))
slope = jnp.vdot(value_and_gradient(zero)[1], direction)
h = 1e-4 / float(jnp.max(jnp.abs(field(direction))))
ends = [value_and_gradient(t * direction)[0][0] for t in (-h, h)]
difference = (ends[1] - ends[0]) / (2 * h)
print(f"slope {slope:.6e}, by central differences {difference:.6e}")
np.testing.assert_allclose(slope, difference, rtol=1e-4)

# %%
# SciPy's L-BFGS minimises it, a gradient at a time.

path = []


def for_scipy(z):
    (value, misfit), gradient = value_and_gradient(jnp.asarray(z).reshape(SIDE, SIDE))
    path.append(float(misfit))
    return float(value), np.asarray(gradient).ravel()


start = time.perf_counter()
options = dict(maxfun=GRADIENTS, maxiter=GRADIENTS)
found = minimize(for_scipy, np.zeros(SIDE**2), jac=True, method="L-BFGS-B", options=options)
seconds = time.perf_counter() - start
log_k = field(jnp.asarray(found.x).reshape(SIDE, SIDE))
correlation = np.corrcoef(np.ravel(true), np.ravel(log_k))[0, 1]
print(f"{len(path)} gradients of a system of {SIDE**2:,} unknowns in {seconds:.0f} s")
print(f"misfit {path[0]:.0f} -> {min(path):.2f} (noise alone: 1); correlation with the truth {correlation:.2f}")
assert min(path) < 3
assert correlation > 0.7

# %%
figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
scale = dict(origin="lower", extent=(0, 1, 0, 1), vmin=-1.6, vmax=1.6, cmap="RdBu_r")
axes[0].imshow(true, **scale)
axes[0].set_title("true log conductivity")
image = axes[1].imshow(log_k, **scale)
axes[1].set_title("found from measurements")
figure.colorbar(image, ax=axes[:2], shrink=0.85)
heat = axes[2].imshow(exact, origin="lower", extent=(0, 1, 0, 1), cmap="inferno")
axes[2].plot(X[read].ravel(), Y[read].ravel(), ".", color="white", ms=0.8, alpha=0.6)
axes[2].set_title("temperature, where it is measured")
figure.colorbar(heat, ax=axes[2], shrink=0.85)
axes[3].semilogy(path)
axes[3].axhline(1, color="black", ls=":", label="noise alone")
axes[3].set(xlabel="gradient", title="mean squared misfit / noise")
axes[3].legend()
plt.show()
