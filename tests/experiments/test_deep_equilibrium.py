"""The deep equilibrium model in its quick version, and its gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from experiments import _equilibrium, deep_equilibrium
from experiments._results import Results
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


def test_quick(tmp_path):
    results = Results("deep_equilibrium", tmp_path, dict(quick=True, seed=0))
    deep_equilibrium.run(results, quick=True, seed=0)
    results.close()
    record = load(results.path)
    assert record["claims"][0]["status"] == "reproduced"
    assert record["claims"][1]["status"] == "vacuous"  # the quick version has one of the cheap derivatives
    assert (tmp_path / "deep_equilibrium-overview.png").stat().st_size > 1000
    rows = unpack(record["tables"]["gradient"])
    assert len(rows) == 8
    for row in rows:
        error = row["error, float64"]
        # One step leaves out what passes through W twice or more.
        assert error > 0.05 if row["derivative"] == "one step" else error < 1e-6


def numpy_loss(params, network, X, y):
    """The formulas of the module, in NumPy, with W by singular values and the fixed point by plain iterations."""
    left, s, right = np.linalg.svd(params["V"])
    W = (left * (2 * _equilibrium.KAPPA * s / (1 + s**2))) @ right
    units = np.arange(len(W))
    enter, read = (units < len(W) // 2, units >= len(W) // 2) if network == "apart" else (units >= 0, units >= 0)
    injected, x = (X @ params["U"] + params["b"]) * enter, np.zeros((len(X), len(W)))
    for _ in range(2000):
        x = np.tanh(x @ W + injected)
    scores = (x * read) @ params["C"] + params["c"]
    return np.mean(scipy.special.logsumexp(scores, axis=1) - scores[np.arange(len(y)), y])


@pytest.mark.parametrize("network", deep_equilibrium.NETWORKS)
def test_exact_gradient(network):
    random = np.random.default_rng(0)
    data = _equilibrium.digits(0)
    X, y = data.X[:7].astype(float), data.y[:7]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), _equilibrium.start(0, 8, network))
    params["V"] += 0.3 * random.standard_normal((8, 8))
    exact = _equilibrium.exact_gradient(params, X, y)
    at = {name: np.asarray(params[name]) for name in ("V", "U", "b", "C", "c")}
    for name in at:
        direction = random.standard_normal(at[name].shape)
        ends = [numpy_loss(at | {name: at[name] + h * direction}, network, X, y) for h in (1e-5, -1e-5)]
        difference = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(np.sum(exact[name] * direction), difference, rtol=1e-5, atol=1e-8, err_msg=name)
    assert 0 < exact["radius"] < _equilibrium.KAPPA


def test_one_step_does_not_reach_the_input_that_is_apart():
    data = _equilibrium.digits(0)
    X, y, params = data.X[:7], data.y[:7], _equilibrium.start(0, 8, "apart")
    exact, ways = _equilibrium.exact_gradient(params, X, y), _equilibrium.ways(tol=1e-5, maxiter=300)
    found = {
        name: jax.jit(_equilibrium.gradient_of(ways[name]))(params, X, y)[0]
        for name in ("implicit, GMRES", "one step", "unrolled plain")
    }
    assert not np.any(found["one step"]["U"])
    assert np.linalg.norm(exact["U"]) > 0.01
    errors = {name: _equilibrium.relative_error(gradient, exact) for name, gradient in found.items()}
    assert errors["implicit, GMRES"] < 1e-4
    assert errors["implicit, GMRES"] < errors["unrolled plain"] < 1e-3 < 0.1 < errors["one step"]
