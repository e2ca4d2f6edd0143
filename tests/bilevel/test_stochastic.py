"""Stochastic bilevel methods against closed forms and against SciPy on all data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from implicitdiff.bilevel import Checkpoint, minimize_stochastic

RANDOM = np.random.default_rng(0)
ROWS, N = 60, 4
X, XV = RANDOM.standard_normal((2, ROWS, N))
TRUE = np.array([1.0, -2.0, 0.5, 0.0])
Y, YV = (A @ TRUE + RANDOM.standard_normal(ROWS) for A in (X, XV))


def inner(x, t, batch):
    return 0.5 * jnp.mean((batch[0] @ x - batch[1]) ** 2) + 0.5 * t * jnp.sum(x**2)


def outer(t, x, batch):
    return 0.5 * jnp.mean((batch[0] @ x - batch[1]) ** 2) + 0.02 * (jnp.log(t) + 2) ** 2


def exact_loss(t):
    x = np.linalg.solve(X.T @ X / ROWS + t * np.eye(N), X.T @ Y / ROWS)
    return 0.5 * np.mean((XV @ x - YV) ** 2) + 0.02 * (np.log(t) + 2) ** 2


GRID = np.geomspace(1e-2, 1e1, 20_001)
BEST = GRID[np.argmin([exact_loss(t) for t in GRID])]
OPTIONS = dict(x0=jnp.zeros(N), outer_data=(XV, YV), inner_data=(X, Y), batch_size=6, log=True)


def test_saba_converges_with_its_default_steps():
    seen = []
    found = minimize_stochastic(
        outer, inner, 1.0, max_steps=20_000, tol=1e-6, callback=lambda *entry: seen.append(entry), **OPTIONS
    )
    assert found.message.startswith("converged")
    np.testing.assert_allclose(found.theta, BEST, rtol=1e-3)
    np.testing.assert_allclose(found.loss, exact_loss(BEST), rtol=1e-7)
    np.testing.assert_allclose(found.x, np.linalg.solve(X.T @ X / ROWS + found.theta * np.eye(N), X.T @ Y / ROWS))
    assert [entry[0] for entry in seen] == list(range(1, len(found.history.loss)))
    # What the history says is true on all data.
    assert found.history.loss.shape == found.history.time.shape
    np.testing.assert_array_equal(found.history.evaluations, [0, *[10] * (len(found.history.loss) - 1)])
    assert np.all(found.history.gradient_error <= np.maximum(0.3 * found.history.gradient_norm, 1e-6))


def test_soba_comes_near_and_runs_repeat():
    one, again = (
        minimize_stochastic(outer, inner, 1.0, method="soba", seed=1, max_steps=3000, **OPTIONS) for _ in range(2)
    )
    np.testing.assert_allclose(one.theta, BEST, rtol=0.05)
    for a, b in zip((*one[:3], *one.history[:-1]), (*again[:3], *again.history[:-1]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_logistic_regression_with_a_weight_a_sample():
    # The numbers of the samples are data; the projection holds the weights in a box.
    labels = np.where(X @ TRUE + RANDOM.standard_normal(ROWS) > 0, 1.0, -1.0)
    wanted = np.where(XV @ TRUE > 0, 1.0, -1.0)

    def fit(x, t, batch):
        A, s, number = batch
        return jnp.mean(t["weights"][number] * jax.nn.softplus(-s * (A @ x))) + 0.1 * jnp.sum(x**2)

    def loss(t, x, batch):
        A, s = batch
        return jnp.mean(jax.nn.softplus(-s * (A @ x))) + 0.05 * jnp.mean((t["weights"] - 1) ** 2)

    start = dict(weights=jnp.ones(ROWS))
    data = dict(inner_data=(X, labels, np.arange(ROWS)), outer_data=(XV, wanted))
    box = lambda t: dict(weights=jnp.clip(t["weights"], 0.0, 2.0))
    found = minimize_stochastic(
        loss, fit, start, x0=jnp.zeros(N), batch_size=10, projection=box, max_steps=30_000, tol=1e-5, **data
    )

    def exact(w):
        """Loss and hyper-gradient, by Newton's method and one linear solve."""
        x = np.zeros(N)
        for _ in range(20):
            p = 1 / (1 + np.exp(labels * (X @ x)))
            H = X.T @ ((w * p * (1 - p))[:, None] * X) / ROWS + 0.2 * np.eye(N)
            x = x - np.linalg.solve(H, -X.T @ (w * labels * p) / ROWS + 0.2 * x)
        margins = wanted * (XV @ x)
        u = np.linalg.solve(H, -XV.T @ (wanted / (1 + np.exp(margins))) / ROWS)
        gradient = (X @ u) * labels * p / ROWS + 0.1 * (w - 1) / ROWS
        return np.mean(np.logaddexp(0, -margins)) + 0.05 * np.mean((w - 1) ** 2), gradient

    truth = scipy.optimize.minimize(
        exact, np.ones(ROWS), jac=True, bounds=[(0, 2)] * ROWS, method="L-BFGS-B", options=dict(ftol=1e-14, gtol=1e-9)
    )
    np.testing.assert_allclose(found.loss, truth.fun, rtol=1e-6)
    np.testing.assert_allclose(found.theta["weights"], truth.x, atol=1e-2)
    assert np.ptp(truth.x) > 0.1


def test_a_step_that_is_too_long_is_reported():
    with pytest.warns(RuntimeWarning, match="not finite.*smaller steps"):
        found = minimize_stochastic(
            outer, inner, 1.0, inner_step=lambda step: 1e3, outer_step=1e3, max_steps=1000, **OPTIONS
        )
    assert np.isfinite(found.loss)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (dict(inner_data=(X, Y[:-1])), "inner_data: all arrays"),
        (dict(outer_data=(XV, 1.0)), "outer_data: all arrays"),
        (dict(batch_size=7), "divides the 60"),
        (dict(batch_size=0), "divides the 60"),
        (dict(method="sgd"), "method"),
        (dict(log=True, theta=-1.0), "positive"),
        (dict(inner=lambda x, t, batch: jnp.sum((batch[0] @ x - batch[1]) ** 2)), "inner must be a mean"),
        (dict(inner=lambda x, t, batch: t * jnp.mean(batch[0] @ x), x0=jnp.ones(N)), "No step can be estimated"),
    ],
)
def test_wrong_use(changed, match):
    options = dict(outer=outer, inner=inner, theta=1.0) | OPTIONS | changed
    with pytest.raises(ValueError, match=match):
        minimize_stochastic(**options)


@pytest.mark.slow
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    path = tmp_path / "run.npz"
    whole = minimize_stochastic(outer, inner, 1.0, max_steps=80, **OPTIONS)
    stop = lambda epoch, *_: epoch == 3
    first = minimize_stochastic(
        outer, inner, 1.0, max_steps=80, callback=stop, checkpoint=Checkpoint(path, every=2), **OPTIONS
    )
    assert len(first.history.loss) == 4
    resumed = minimize_stochastic(outer, inner, 1.0, max_steps=80, checkpoint=str(path), **OPTIONS)
    for a, b in zip((*whole[:3], *whole.history[:-1]), (*resumed[:3], *resumed.history[:-1]), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="another problem"):
        minimize_stochastic(outer, inner, 1.0, method="soba", checkpoint=path, **OPTIONS)
