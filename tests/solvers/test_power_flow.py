"""AC power flow of a small network: voltages by SciPy, sensitivities to the loads, and loads that no voltage carries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicitdiff as idf

# Three buses in a ring: the first keeps its voltage, the others have loads. Series admittances, half the charging.
LINES = {(0, 1): (0.02 + 0.06j, 0.03), (0, 2): (0.08 + 0.24j, 0.025), (1, 2): (0.06 + 0.18j, 0.02)}
ADMITTANCE = np.zeros((3, 3), complex)
for (i, j), (impedance, charging) in LINES.items():
    ADMITTANCE[[i, j], [j, i]] -= 1 / impedance
    ADMITTANCE[[i, j], [i, j]] += 1 / impedance + 1j * charging
REAL, IMAGINARY = ADMITTANCE.real.copy(), ADMITTANCE.imag.copy()
LOAD = np.array([[0.6, 0.45], [0.3, 0.15]])  # real and reactive
FLAT = dict(angle=np.zeros(2), size=np.ones(2))


def mismatch(x, load, xp=jnp):
    """Power drawn minus power that arrives, of the two buses with loads: real, and reactive."""
    angle, size = xp.append(0.0, x["angle"]), xp.append(1.05, x["size"])
    d = angle[:, None] - angle
    real = size * ((REAL * xp.cos(d) + IMAGINARY * xp.sin(d)) @ size)
    reactive = size * ((REAL * xp.sin(d) - IMAGINARY * xp.cos(d)) @ size)
    return dict(angle=load[0] + real[1:], size=load[1] + reactive[1:])


def voltages(load):
    """The magnitudes, by SciPy in NumPy."""

    def flat(x):
        found = mismatch(dict(angle=x[:2], size=x[2:]), load, np)
        return np.append(found["angle"], found["size"])

    found = scipy.optimize.root(flat, np.array([0.0, 0.0, 1.0, 1.0]), tol=1e-14)
    assert np.abs(flat(found.x)).max() < 1e-12
    return found.x[2:]


@pytest.mark.parametrize("method", ["hybr", "lm"])
def test_voltages_and_their_sensitivities(method):
    solver = idf.solvers.scipy_root(mismatch, method=method, on_unconverged="raise")
    size = lambda load: solver.run(FLAT, load)[0]["size"]
    np.testing.assert_allclose(size(LOAD), voltages(LOAD), rtol=1e-10)
    J = jax.jit(jax.jacrev(size))(LOAD)
    h = 1e-6
    for k in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[k] = h
        difference = (voltages(LOAD + step) - voltages(LOAD - step)) / (2 * h)
        np.testing.assert_allclose(J[(slice(None), *k)], difference, rtol=1e-6)


def test_a_load_beyond_the_nose_of_the_curve():
    """The voltage falls ever faster up to the largest load; beyond it there is none, and the user is told."""
    size = lambda factor, policy: (
        idf.solvers.scipy_root(mismatch, on_unconverged=policy).run(FLAT, factor * LOAD)[0]["size"].sum()
    )
    slope = jax.jit(jax.vmap(jax.grad(lambda factor: size(factor, "nan"))))(jnp.array([1.0, 3.0, 4.0, 8.0]))
    assert slope[0] > 2 * slope[1] > 3 * slope[2]
    assert np.isfinite(slope[:3]).all()
    assert np.isnan(slope[3])
    with pytest.warns(RuntimeWarning, match="did not converge"):
        size(8.0, "warn")
    with pytest.raises(RuntimeError, match="did not converge"):
        size(8.0, "raise")
