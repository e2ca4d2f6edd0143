"""How projections are called: arguments without sense, batches, axes, pytrees, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projection_cases import CASES, LOWER, RANKS, UPPER, WEIGHTS, A, B, G, H, run

from implicitdiff import projection
from implicitdiff.projection import cones

V = np.random.default_rng(0).normal(size=(5, 5))  # square, so that its transpose compiles nothing new
ONE, NAN = np.ones(5), np.nan
BATCHED = [name for name in CASES if name not in ("zero", "free", "product") and "dual" not in name]
RADII = ["simplex", "sparse_simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball", "hypercube"]
NONSENSE = {
    **{f"{name} {value}": (name, value) for name in RADII for value in (-1.0, NAN)},
    **{f"{name} inf": (name, np.inf) for name in ("simplex", "l1_sphere", "l2_sphere")},
    "empty box": ("box", (UPPER, LOWER)),
    "box nan": ("box", (LOWER, NAN)),
    "hyperplane without normal": ("hyperplane", (0 * ONE, 1.0)),
    "hyperplane nan": ("hyperplane", (WEIGHTS, NAN)),
    "half-space without normal": ("half_space", (0 * ONE, 1.0)),
    "inconsistent equations": ("affine_set", (np.stack([ONE, 2 * ONE]), np.array([1.0, 3.0]))),
    "affine_set nan": ("affine_set", (A, np.array([1.0, NAN]))),
    "empty polyhedron": ("polyhedron", (None, None, np.stack([ONE, -ONE]), np.array([1.0, -1.1]))),
    "half-spaces that miss the equations": ("polyhedron", (A[:1], B[:1], -A[:1], -B[:1] - 0.1)),
    "polyhedron, inconsistent equations": ("polyhedron", (np.stack([ONE, ONE]), np.array([1.0, 2.0]), G, H)),
    "polyhedron nan": ("polyhedron", (A, B, G, NAN * H)),
    "box section, empty box": ("box_section", (UPPER, LOWER, WEIGHTS, 0.0)),
    "box section beyond the box": ("box_section", (0.0, 1.0, 1.0, 5.1)),
    "box section below the box": ("box_section", (0.0, 1.0, 1.0, -0.1)),
    "box section without normal": ("box_section", (0.0, 1.0, 0.0, 1.0)),
    "box_section nan": ("box_section", (0.0, 1.0, NAN, 1.0)),
    "negative marginal": ("transport", (np.array([1.0, -0.1, 1.0]), np.array([1.0, 0.5, 0.2]))),
    "transport nan": ("transport", (np.array([1.0, NAN, 1.0]), np.array([1.0, 0.5, 0.2]))),
    "order simplex, bounds exchanged": ("order_simplex", (1.0, 0.0)),
    "order_simplex nan": ("order_simplex", (NAN, 1.0)),
    "permutahedron nan": ("permutahedron", NAN * RANKS),
    **{f"power {value}": ("power", value) for value in (0.0, 1.0, -0.5, NAN)},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_refuses_nonsense(what):
    name, theta = NONSENSE[what]
    project, v = CASES[name].project, np.ones(CASES[name].shape)
    with pytest.raises(ValueError, match={"hypercube": "box", "sparse_simplex": "simplex"}.get(name, name)):
        project(v, theta)
    assert np.all(np.isnan(run(name, v, theta)))


def test_refuses_unbalanced_marginals():
    marginals = np.array([1.0, 2.0]), np.array([1.0, 1.0, 1.001])
    with pytest.raises(ValueError, match="the same sum"):
        projection.transport(np.zeros((2, 3)), marginals)
    assert np.all(np.isnan(jax.jit(projection.transport)(np.zeros((2, 3)), marginals)))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("zero", "free")])
def test_nan_stays_visible(name):
    v = np.ones(CASES[name].shape)
    v.flat[-1] = np.nan
    assert np.isnan(np.ravel(run(name, v, CASES[name].theta))[-1])


@pytest.mark.parametrize("name", BATCHED)
def test_vmap_over_all_arguments(name):
    case, rng = CASES[name], np.random.default_rng(1)
    v = rng.normal(size=(3, *case.shape))
    theta = jax.tree.map(lambda t: np.stack([t, t * 0.9, t]), case.theta)
    batch = jax.jit(jax.vmap(case.project))(v, theta)
    for i in range(3):
        expected = run(name, v[i], jax.tree.map(lambda t, i=i: t[i], theta))
        np.testing.assert_allclose(batch[i], expected, atol=1e-13)


@pytest.mark.parametrize("name", BATCHED)
def test_leading_axes_are_batches(name):
    case, rng = CASES[name], np.random.default_rng(2)
    v = 2 * rng.normal(size=(2, 1, *case.shape))
    x = jax.jit(case.project)(v, case.theta)
    for i in range(2):
        np.testing.assert_allclose(x[i, 0], case.reference(v[i, 0], case.theta), atol=1e-12)


@pytest.mark.parametrize(
    "project",
    [
        projection.simplex,
        projection.l1_ball,
        projection.l1_sphere,
        projection.l2_ball,
        projection.l2_sphere,
        projection.linf_ball,
        lambda v, r, **k: projection.sparse_simplex(v, r, max_nonzeros=2, **k),
    ],
)
def test_one_radius_for_each_vector_along_any_axis(project):
    radii = np.array([0.5, 1.0, 7.0, 0.1, 2.0])
    rows = np.stack([project(v, r) for v, r in zip(V, radii, strict=True)])
    np.testing.assert_allclose(project(V, radii), rows, atol=1e-15)
    np.testing.assert_allclose(project(V.T, radii, axis=0), rows.T, atol=1e-15)
    np.testing.assert_array_equal(project(V, None), project(V, 1.0))
    with pytest.raises(ValueError, match="one value for each vector"):
        project(V, np.ones(4))


def test_axes_of_ordered_sets():
    decreasing = jax.jit(lambda V: projection.isotonic(V, increasing=False, axis=0))(V)
    order = jax.jit(lambda V: projection.order_simplex(V, (-0.4, 0.7), increasing=True, axis=0))(V)
    ranks = np.stack([RANKS, 2 * RANKS, -RANKS, ONE, RANKS], axis=1)
    permuted = jax.jit(lambda V, w: projection.permutahedron(V, w, axis=0))(V, ranks)
    for j in range(5):
        np.testing.assert_allclose(decreasing[::-1, j], CASES["isotonic"].reference(V[::-1, j], None), atol=1e-14)
        np.testing.assert_allclose(
            order[::-1, j], CASES["order_simplex"].reference(V[::-1, j], (-0.4, 0.7)), atol=1e-14
        )
        np.testing.assert_allclose(permuted[:, j], CASES["permutahedron"].reference(V[:, j], ranks[:, j]), atol=1e-14)


def test_right_hand_sides_for_each_vector():
    sides = np.array([[0.5], [0.0], [-1.0], [0.3], [-0.2]])
    x = jax.jit(projection.polyhedron)(V, (A[:1], sides, G, H))
    for i in range(5):
        np.testing.assert_allclose(x[i], CASES["polyhedron"].reference(V[i], (A[:1], sides[i], G, H)), atol=1e-13)
    np.testing.assert_allclose(projection.affine_set(V, (A[:1], sides)) @ A[0], sides[:, 0], atol=1e-14)
    np.testing.assert_allclose(projection.hyperplane(V, (A[0], sides[:, 0])) @ A[0], sides[:, 0], atol=1e-14)
    x = jax.jit(projection.box_section)(V, (-1.0, 1.0, 1.0, np.array([-5.0, 0.0, 4.0, 1.0, 2.0])))
    np.testing.assert_allclose(x.sum(-1), [-5, 0, 4, 1, 2], atol=1e-14)


def test_pytrees():
    v = {"a": jnp.array([3.0, -3.0]), "b": (jnp.array(2.0), jnp.array([[-1.0]]))}
    x = projection.box(v, ({"a": -2.0, "b": 0.0}, None))
    np.testing.assert_array_equal(x["a"], [3.0, -2.0])
    assert (x["b"][0], x["b"][1][0, 0]) == (2.0, 0.0)
    assert projection.non_negative(v)["a"][1] == 0
    assert projection.hypercube(v, {"a": 1.0, "b": 0.5})["b"][0] == 0.5
    assert projection.linf_ball(v, 2.5)["a"][1] == -2.5
    assert not jax.tree.leaves(projection.zero(v))[0].any()
    np.testing.assert_array_equal(projection.dual(projection.non_negative)(v)["a"], [3.0, 0.0])
    with pytest.raises(ValueError, match=r"leaf v\['a'\]"):
        projection.box(v, ({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}))


def test_no_constraint():
    for project in (projection.l1_ball, projection.l2_ball, projection.linf_ball):
        np.testing.assert_array_equal(project(V, np.inf), V)
        assert np.all(jax.jit(jax.grad(lambda v, p=project: jnp.sum(p(v, np.inf))))(V) == 1)
    np.testing.assert_array_equal(projection.box(V, (None, None)), V)
    np.testing.assert_array_equal(jax.jit(projection.polyhedron)(V, (None, None, None, None)), V)
    x = jax.jit(projection.box_section)(V, (-np.inf, np.inf, WEIGHTS, 1.0))
    np.testing.assert_allclose(x, projection.hyperplane(V, (WEIGHTS, 1.0)), atol=1e-14)


def test_sets_of_one_point():
    for project in (
        projection.simplex,
        projection.l1_ball,
        projection.l1_sphere,
        projection.l2_ball,
        projection.l2_sphere,
        projection.linf_ball,
        projection.hypercube,
    ):
        assert not np.any(project(V, 0.0))
    np.testing.assert_array_equal(projection.box(V, (ONE, ONE)), np.ones((5, 5)))
    np.testing.assert_array_equal(run("box_section", V[0], (ONE, ONE, ONE, 5.0)), ONE)
    np.testing.assert_array_equal(projection.simplex(V[:, :1]), np.ones((5, 1)))
    np.testing.assert_array_equal(projection.birkhoff(V[:1, :1]), [[1.0]])
    np.testing.assert_allclose(run("permutahedron", V[0], ONE), ONE, atol=1e-15)


def test_integers_and_dtypes():
    assert projection.simplex(np.array([1, 2])).dtype == jnp.result_type(float)
    assert projection.l2_ball(np.ones(3, np.float32), np.float64(1)).dtype == np.float32
    with pytest.raises(TypeError, match="real array"):
        projection.simplex(np.ones(2, complex))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: projection.simplex(np.zeros((2, 0))), "at least one entry"),
        (lambda: projection.sparse_simplex(V, max_nonzeros=0), "at least 1"),
        (lambda: projection.box(V, (np.zeros(4), 1.0)), "do not broadcast"),
        (lambda: projection.hyperplane(V, (np.ones(4), 1.0)), "must have the length 5"),
        (lambda: projection.affine_set(V, (np.ones((1, 4)), np.ones(1))), r"A of shape \(m, 5\)"),
        (lambda: projection.polyhedron(V, (np.ones((1, 4)), np.ones(1), None, None)), r"A of shape \(k, 5\)"),
        (lambda: projection.polyhedron(V, (None, None, G, None)), "given both"),
        (lambda: projection.box_section(V, (np.zeros(4), 1.0, 1.0, 1.0)), "do not broadcast"),
        (lambda: projection.transport(V, (np.ones(5), np.ones(3))), "row marginals"),
        (lambda: projection.birkhoff(V[:2]), "square"),
        (lambda: projection.semidefinite(V[:2]), "square"),
        (lambda: projection.permutahedron(V, np.ones(4)), "must have the length 5"),
        (lambda: projection.exponential(V), "points"),
        (lambda: projection.power(V, 0.5), "points"),
        (lambda: cones.product(V[0], [cones.Zero(4)]), "length 4"),
        (lambda: cones.Power(1.0), "between 0 and 1"),
        (lambda: cones.NonNegative(-1), "at least 0"),
    ],
)
def test_says_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
