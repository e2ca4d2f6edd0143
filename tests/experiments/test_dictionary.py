"""Experiment 3: codes, hyper-gradient, splits and statistics against other libraries and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet
from sklearn.metrics import roc_auc_score

from experiments import _dictionary, _genes, dictionary
from experiments._results import Results
from measuring.tables import load, unpack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    X, D = random.standard_normal((12, 30)), random.standard_normal((4, 30))
    return X, D / np.linalg.norm(D, axis=1, keepdims=True), np.where(random.random(12) < 0.5, 1.0, -1.0)


def test_codes_are_those_of_scikit_learn(problem):
    X, D, _ = problem
    l1, l2, p = 0.3, _dictionary.L2, X.shape[1]
    found = _dictionary.codes(jnp.asarray(D), jnp.asarray(X), l1, jnp.zeros((12, 4)))
    # Scikit-learn divides the squared loss by the number of samples, here the p genes.
    model = ElasticNet(alpha=(l1 + l2) / p, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = np.stack([model.fit(D.T, row).coef_ for row in X])
    assert 0.1 < np.mean(expected == 0) < 0.9
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hypergradient_is_that_of_finite_differences(problem):
    X, D, y = map(jnp.asarray, problem)
    w, b, init = jnp.arange(4.0), jnp.asarray(0.3), jnp.zeros((12, 4))
    value = jax.jit(lambda D, w, b: _dictionary.outer(D, w, b, X, y, 0.3, 0.1, init)[0])
    gradient = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(D, w, b)
    random = np.random.default_rng(1)
    for _ in range(3):
        v = tuple(jnp.asarray(random.standard_normal(leaf.shape)) for leaf in (D, w, b))
        h = 1e-4
        plus, minus = (value(*(a + s * h * d for a, d in zip((D, w, b), v, strict=True))) for s in (1, -1))
        expected = (plus - minus) / (2 * h)
        np.testing.assert_allclose(sum(jnp.vdot(g, d) for g, d in zip(gradient, v, strict=True)), expected, rtol=1e-4)
    assert jnp.linalg.norm(gradient[0]) > 0.01


def test_learning_lowers_both_losses(problem):
    X, D, y = map(jnp.asarray, problem)
    l1 = jnp.asarray(0.3)

    def coded(D, x):
        return 0.5 * jnp.sum((X - x @ D) ** 2) + l1 * jnp.sum(jnp.abs(x)) + 0.5 * _dictionary.L2 * jnp.sum(x**2)

    before = coded(D, _dictionary.codes(D, X, l1, jnp.zeros((12, 4))))
    learnt, x = _dictionary.unsupervised(X, D, l1, 10)
    assert coded(learnt, x) < 0.95 * before
    w, b = _dictionary.classifier(x, y, jnp.asarray(0.1))
    assert jnp.linalg.norm(jax.grad(_dictionary.loss, argnums=(0, 1))(w, b, x, y, 0.1)[0]) < 1e-6
    path = _dictionary.task_driven(X, y, learnt, x, w, b, l1, jnp.asarray(0.1), 20)
    start, end = (
        float(_dictionary.outer(*at, X, y, l1, 0.1, x)[0])
        for at in ((learnt, w, b), jax.tree.map(lambda leaf: leaf[-1], path))
    )
    assert end < start
    assert jnp.all(jnp.linalg.norm(path[0], axis=-1) <= 1 + 1e-12)


def test_auc_is_that_of_scikit_learn():
    random = np.random.default_rng(2)
    values = random.integers(0, 6, (3, 40)).astype(float)  # with ties
    y = random.random((3, 40)) < 0.3
    expected = [roc_auc_score(b, a) for a, b in zip(values, y, strict=True)]
    np.testing.assert_allclose(dictionary.auc(values, y), expected, rtol=1e-12)


@pytest.mark.parametrize("rank", ["variance", "t"])
def test_genes_are_ranked_on_the_training_part_only(rank):
    random = np.random.default_rng(3)
    data = _genes.Patients(random.standard_normal((50, 20)), random.random(50) < 0.4, "")
    first = _genes.split(data, 2, 5, rank, seed=0)
    np.testing.assert_allclose(first.X["train"].mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(first.X["train"].std(1), 1, rtol=1e-12)
    assert abs(first.y["train"].mean() - first.y["test"].mean()) < 0.1
    # A patient is in one part only, and what those of the other parts express does not matter for the training part.
    marked = _genes.Patients(data.X.copy(), data.event, "")
    rows = [r for r in range(50) if not _in_train(data, first, rank, r)]
    marked.X[rows] = 100 * random.standard_normal((len(rows), 20))
    second = _genes.split(marked, 1, 5, rank, seed=0)
    np.testing.assert_array_equal(second.X["train"][0], first.X["train"][0])
    assert len(rows) == first.X["validation"].shape[1] + first.X["test"].shape[1]


def _in_train(data, split, rank, row):
    """Whether a patient is in the training part of the first split: whether it changes when the patient does."""
    changed = data.X.copy()
    changed[row] += 1.0
    again = _genes.split(_genes.Patients(changed, data.event, ""), 1, 5, rank, seed=0)
    return not np.array_equal(again.X["train"][0], split.X["train"][0])


def test_without_its_data_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "SurvSet.data", None)
    with pytest.raises(SystemExit, match=r"pip install '\.\[experiments\]'"):
        _genes.frame("DBCD")


def test_quick(tmp_path):
    pytest.importorskip("SurvSet")
    results = Results("dictionary", tmp_path, {})
    dictionary.run(results, quick=True, seed=0)
    results.close()
    for name in ("-auc.png", "-atoms.png", ".json", ".md"):
        assert (tmp_path / f"dictionary{name}").stat().st_size > 500
    tables = load(results.path)["tables"]
    rows = {row["classifier"]: row for row in unpack(tables["auc"])}
    # 280 of 295 patients are known at five years, 48 of them with the event; all classifiers beat chance.
    assert {(row["patients"], row["events"]) for row in rows.values()} == {(280, 48)}
    assert all(row["test AUC"] > 55 for row in rows.values())
    for row in unpack(tables["differences"]):
        gap = rows[dictionary.TASK]["test AUC"] - rows[row["task-driven minus"]]["test AUC"]
        np.testing.assert_allclose(row["difference"], gap, atol=1e-9)
