r"""
Sensitivities of a packing of particles
=======================================

Soft particles in a box relax to a state of least energy. How do their positions change when half of them grow? This
is an experiment of the paper by Blondel et al., here with 32 particles in a periodic square.

It has a feature that many physical problems share: the energy does not change when all particles move together. The
solution is not unique, and the Jacobian of its conditions is singular.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

NUMBER, DIAMETER = 32, 0.6  # of the second half; the first half has diameter 1
SIDE = float(np.sqrt(NUMBER / 2 * np.pi * (DIAMETER**2 + 1) / 4 / 0.98))


def diameters(diameter):
    return jnp.where(jnp.arange(NUMBER) < NUMBER // 2, 1.0, diameter)


def energy(x, diameter):
    """Particles repel each other where they overlap; distances are those to the nearest periodic image."""
    d = x[:, None] - x[None, :]
    d = d - SIDE * jnp.round(d / SIDE)
    i, j = np.triu_indices(NUMBER, 1)
    distance = jnp.sqrt(jnp.sum(d[i, j] ** 2, 1))
    size = (diameters(diameter)[i] + diameters(diameter)[j]) / 2
    return 0.5 * jnp.sum(jax.nn.relu(1 - distance / size) ** 2)


# %%
# Relax
# -----

relax = idf.solvers.LBFGS(energy, tol=1e-12, maxiter=5000, on_unconverged="ignore")
start = SIDE * jax.random.uniform(jax.random.key(3), (NUMBER, 2))
x, state = jax.jit(relax.run)(start, DIAMETER)
force = jnp.max(jnp.abs(jax.grad(energy)(x, DIAMETER)))
print(f"energy {energy(x, DIAMETER):.5f}, largest force {force:.0e} after {state.iteration} iterations")

# %%
# The gauge
# ---------
# Translations cost no energy. By default a derivative in forward mode is therefore NaN: the velocity of the particles
# is determined up to a common one. With ``well_posed=False`` the library returns the one of least norm, which has no
# common translation.

F = idf.optimality.stationary(energy)
singular = np.linalg.svd(jax.hessian(energy)(x, DIAMETER).reshape(2 * NUMBER, -1), compute_uv=False)
print("smallest singular values of the Hessian", np.array2string(singular[-4:], precision=1))
default = idf.root_jvp(F, x, (DIAMETER,), (1.0,))
print("by default NaN:", bool(jnp.all(jnp.isnan(default))))
velocity = idf.root_jvp(F, x, (DIAMETER,), (1.0,), adjoint=idf.Implicit(well_posed=False))
print("common velocity", np.round(jnp.mean(velocity, 0), 12) + 0.0)

# %%
# In reverse mode nothing has to be said where the question makes sense: the derivative of a quantity that does not
# depend on the gauge, such as a distance between two particles, is well defined and given.


def distance(diameter):
    relaxed = idf.implicit_root(F, x, diameter)
    d = relaxed[0] - relaxed[1]
    return jnp.linalg.norm(d - SIDE * jnp.round(d / SIDE))


print(f"d(distance of particles 0 and 1) / d(diameter) = {jax.grad(distance)(DIAMETER):.5f}")

# %%
# Check against relaxations of slightly different particles:

h = 1e-6
ahead, behind = (jax.jit(relax.run)(x, DIAMETER + sign * h)[0] for sign in (1, -1))
difference = (ahead - behind) / (2 * h)
difference = difference - difference.mean(0)  # without the common translation
error = jnp.linalg.norm(velocity - difference) / jnp.linalg.norm(difference)
print(f"relative difference from central differences {error:.0e}")
assert error < 1e-2

# %%
# The picture
# -----------

figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
for position, size, small in zip(x % SIDE, diameters(DIAMETER), np.arange(NUMBER) >= NUMBER // 2, strict=True):
    axes.add_patch(Circle(position, size / 2, alpha=0.35, color="tab:orange" if small else "tab:blue"))
scale = 0.5 / np.max(np.linalg.norm(velocity, axis=1))
axes.quiver(*(x % SIDE).T, *(scale * velocity).T, angles="xy", scale_units="xy", scale=1, width=0.006)
axes.set(xlim=(-0.3, SIDE + 0.3), ylim=(-0.3, SIDE + 0.3), aspect="equal", xticks=[], yticks=[])
axes.set_title("how the particles move when the orange ones grow", fontsize=11)
plt.show()

# %%
# The :doc:`results </results/molecular>` compare 40 starts with derivatives that unroll the relaxation. See also
# :doc:`/howto/singular`.
