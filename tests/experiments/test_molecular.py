"""The molecular packing against formulas in NumPy, and against jax-md where that is installed."""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import molecular
from experiments._results import Results
from experiments._soft_spheres import jax_md_fire, judge, own_fire, relax, spheres
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow

THETA = jnp.asarray(0.6)


def pairs(system, x, theta):
    """(i, j, unit vector from i to j, distance, contact distance) of those that touch, by a loop over images."""
    diameter = np.where(np.arange(len(x)) < len(x) // 2, 1.0, theta)
    for i in range(len(x)):
        for j in range(i):
            images = [x[j] - x[i] + system.side * np.array([a, b]) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            d = min(images, key=np.linalg.norm)
            r, s = np.linalg.norm(d), (diameter[i] + diameter[j]) / 2
            if r < s:
                yield i, j, d / r, r, s


def relaxed(system, seed):
    x, _, force = jax.jit(lambda x: relax(own_fire(system), x, THETA))(system.starts(jax.random.key(seed), 1)[0])
    assert force < 1e-12
    return x


def test_box_and_energy():
    system = spheres(10, 0.6)
    areas = np.pi / 4 * (5 * 1.0 + 5 * 0.6**2)
    assert areas / system.side**2 == pytest.approx(0.98)
    x = np.asarray(system.starts(jax.random.key(0), 1)[0])
    expected = sum((1 - r / s) ** 2 / 2 for *_, r, s in pairs(system, x, 0.6))
    assert float(system.energy(x, THETA)) == pytest.approx(expected, rel=1e-12)
    # The same after any shift and with particles moved into other boxes.
    moved = x + 0.3 + system.side * np.round(np.random.default_rng(0).standard_normal(x.shape))
    assert float(system.energy(moved, THETA)) == pytest.approx(expected, rel=1e-9)


def test_sensitivity():
    """The derivative is that of the least-squares solution with the Hessian of the springs, and of re-relaxation."""
    system = spheres(24, 0.6)
    x = relaxed(system, 1)
    n = len(x)
    H, b = np.zeros((n, 2, n, 2)), np.zeros((n, 2))
    growth = np.where(np.arange(n) < n // 2, 0.0, 1.0)
    for i, j, normal, r, s in pairs(system, np.asarray(x), 0.6):
        radial = np.outer(normal, normal)
        block = radial / s**2 - (1 - r / s) / (s * r) * (np.eye(2) - radial)
        for k, row in ((i, 1), (j, -1)):
            for m, column in ((i, 1), (j, -1)):
                H[k, :, m] += row * column * block
        # The derivative in s of the force (1 - r / s) / s along the normal; s grows by the mean of the diameters.
        push = (2 * r / s**3 - 1 / s**2) * (growth[i] + growth[j]) / 2 * normal
        b[i], b[j] = b[i] - push, b[j] + push
    H = H.reshape(2 * n, 2 * n)
    assert np.sum(np.linalg.eigvalsh(H) < 1e-9) >= 2  # singular: that is the point
    expected = np.linalg.lstsq(H, b.ravel(), rcond=1e-9)[0].reshape(n, 2)
    found, residual = molecular.sensitivity(system, molecular.bicgstab_adjoint(x.dtype))(x[None], THETA)
    assert residual[0] < 1e-9
    np.testing.assert_allclose(molecular.centred(found[0]), expected, atol=1e-6 * np.abs(expected).max())
    truth = judge(system, x[None], 0.6)
    assert not truth.kink[0]
    assert molecular.errors(found, truth.derivative)[0] < 1e-4
    assert molecular.errors(1.02 * found, truth.derivative)[0] > molecular.CLOSE
    assert truth.slope[0] == pytest.approx(truth.partial[0], rel=1e-5)


def test_unrolled_derivative_is_that_of_the_steps():
    """Forward mode through FIRE against differences of FIRE itself, after a few steps."""
    system = spheres(8, 0.6)
    starts = system.starts(jax.random.key(3), 1)
    path = molecular.descend(own_fire(system), starts, THETA, steps=20, every=10)
    ends = [molecular.descend(own_fire(system), starts, THETA + h, 20, 10).positions for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(path.unrolled, (ends[0] - ends[1]) / 2e-6, atol=1e-6)
    assert list(path.steps) == [10, 20]
    assert float(jnp.abs(path.unrolled).max()) > 1e-3


@pytest.mark.skipif(importlib.util.find_spec("jax_md") is None, reason="jax-md is not installed")
def test_jax_md():
    """Its potential is ours, and its minima are minima of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = spheres(16, 0.6)
        descent = jax_md_fire(system)
        x = system.starts(jax.random.key(0), 1)[0]
        np.testing.assert_allclose(descent.start(x, THETA).force, system.force(x, THETA), atol=1e-12)
        x, _, force = jax.jit(lambda x: relax(descent, x, THETA))(x)
    assert force < 1e-12
    assert float(jnp.abs(system.force(x, THETA)).max()) < 1e-11


def test_quick(tmp_path):
    with warnings.catch_warnings():
        if importlib.util.find_spec("jax_md") is not None:
            warnings.simplefilter("ignore")
        results = Results("molecular", tmp_path, dict(quick=True, seed=0))
        molecular.run(results, quick=True, seed=0)
    results.close()
    record = load(results.path)
    assert "fire" in record["settings"]["solver"].lower()
    assert record["claims"][0]["status"] == record["claims"][4]["status"] == "reproduced"
    default = unpack(record["tables"]["linear_solvers"])[-1]
    assert default["linear solver"].startswith("the default")
    assert default["NaN"] == 4  # singular, and it says so
    for name in ("-norms.png", "-packing.png", ".md"):
        assert (results.folder / f"molecular{name}").stat().st_size > 100
