"""How proximal operators are called: pytrees, shapes of weights, dtypes, batches, and arguments without sense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prox_cases import CASES

from implicitdiff import prox

WEIGHTED = [name for name, case in CASES.items() if name not in ("none", "from_projection")]
V = np.arange(-6.0, 6.0).reshape(3, 4)


def theta_like(case, value):
    return (value, value) if isinstance(case.theta, tuple) else value


@pytest.mark.parametrize("name", WEIGHTED)
def test_refuses_nonsense(name):
    case, v = CASES[name], np.ones(CASES[name].shape)
    run = jax.jit(case.prox)
    for value in (-1.0, np.nan, np.inf):
        theta = theta_like(case, value)
        with pytest.raises(ValueError, match="must be finite and at least 0, found"):
            case.prox(v, theta, 1.0)
        with pytest.raises(ValueError, match="scaling must be finite and at least 0, found"):
            case.prox(v, case.theta, value)
        assert np.all(np.isnan(run(v, theta, 1.0)))
        assert np.all(np.isnan(run(v, theta_like(case, 1.0), value)))


@pytest.mark.parametrize("name", WEIGHTED)
def test_nan_stays_visible(name):
    v = np.ones(CASES[name].shape)
    v.flat[0] = np.nan
    x = CASES[name].prox(v, CASES[name].theta, 0.1)
    assert np.isnan(np.ravel(x)[0])


@pytest.mark.parametrize("name", WEIGHTED)
def test_none_is_a_weight_of_one(name):
    case = CASES[name]
    v = np.random.default_rng(0).normal(size=case.shape)
    np.testing.assert_array_equal(case.prox(v, None, 0.5), case.prox(v, theta_like(case, 1.0), 0.5))


@pytest.mark.parametrize("name", CASES)
def test_vmap_over_all_arguments(name):
    case = CASES[name]
    v = np.random.default_rng(0).normal(size=(3, *case.shape))
    theta = jax.tree.map(lambda t: np.stack([t, 0.5 * t, 2 * t]), case.theta)
    scaling = np.array([1.0, 0.3, 0.0])
    batch = jax.vmap(case.prox)(v, theta, scaling)
    for i in range(3):
        single = case.prox(v[i], jax.tree.map(lambda t, i=i: t[i], theta), scaling[i])
        np.testing.assert_allclose(batch[i], single, atol=1e-14)


def test_pytrees():
    v = {"a": jnp.array([3.0, -3.0]), "b": (jnp.array(2.0), jnp.array([[1.0]]))}
    x = prox.lasso(v, {"a": jnp.array([1.0, 2.0]), "b": 0.5})
    np.testing.assert_array_equal(x["a"], [2.0, -1.0])
    assert x["b"][0] == 1.5
    assert x["b"][1][0, 0] == 0.5
    # A scaling for each leaf, as in block coordinate descent.
    x = prox.ridge(v, 1.0, {"a": 1.0, "b": (0.0, 3.0)})
    np.testing.assert_array_equal(x["a"], [1.5, -1.5])
    assert (x["b"][0], x["b"][1]) == (2.0, 0.25)
    # Leaves as groups.
    x = prox.group_lasso({"a": jnp.array([3.0, 4.0]), "b": jnp.array(0.5)}, {"a": 1.0, "b": 2.0}, axis=None)
    np.testing.assert_allclose(x["a"], [2.4, 3.2], rtol=1e-15)
    assert x["b"] == 0
    x = prox.elastic_net({"a": 3.0}, ({"a": 1.0}, 1.0))
    assert x["a"] == 1.0


@pytest.mark.parametrize("operator", [prox.group_lasso, prox.l1_linf, prox.total_variation])
def test_one_weight_for_each_group(operator):
    weights = np.array([0.0, 0.5, 2.0])
    rows = np.stack([operator(v, w) for v, w in zip(V, weights, strict=True)])
    np.testing.assert_allclose(operator(V, weights), rows, atol=1e-14)
    np.testing.assert_allclose(operator(V, weights[:, None]), rows, atol=1e-14)
    np.testing.assert_allclose(operator(V, 1.0, weights[:, None]), rows, atol=1e-14)
    np.testing.assert_allclose(operator(V.T, weights, axis=0), rows.T, atol=1e-14)


def test_groups_over_several_axes():
    v = np.random.default_rng(0).normal(size=(2, 3, 4))
    for operator in (prox.group_lasso, prox.l1_linf):
        x = operator(v, np.array([0.1, 0.2, 0.3]), axis=(0, 2))
        for j, w in enumerate([0.1, 0.2, 0.3]):
            np.testing.assert_allclose(x[:, j], operator(v[:, j], w, axis=None), atol=1e-15)


def test_batches_of_matrices():
    v = np.random.default_rng(0).normal(size=(3, 4, 2))
    weights = np.array([0.1, 0.5, 5.0])
    x = prox.nuclear_norm(v, weights)
    for a, b, w in zip(x, v, weights, strict=True):
        np.testing.assert_allclose(a, prox.nuclear_norm(b, w), atol=1e-14)


def test_integers_and_scalars():
    assert prox.lasso(3).dtype == jnp.result_type(float)
    assert prox.lasso(3) == 2.0
    assert prox.lasso(np.float32(3), np.float64(1)).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prox.lasso(V, np.ones(3)), r"weight has shape \(3,\): expected .* broadcasts to \(3, 4\)"),
        (lambda: prox.lasso({"a": V}, {"a": np.ones(3)}), r"weight\['a'\] has shape"),
        (lambda: prox.lasso(V, [1.0, 2.0]), "Convert lists with jnp.array"),
        (lambda: prox.group_lasso(V, np.ones(4)), r"broadcasts to \(3,\) or \(3, 1\)"),
        (lambda: prox.group_lasso(np.ones(2), np.ones(2)), "expected a scalar"),
        (lambda: prox.group_lasso(1.0), "axis -1 does not exist"),
        (lambda: prox.nuclear_norm(np.ones(3)), "does not exist"),
        (lambda: prox.elastic_net(V, 1.0), r"must be a pair \(l1, l2\)"),
    ],
)
def test_says_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_complex_arrays():
    with pytest.raises(TypeError, match="real array"):
        prox.lasso(1j)
