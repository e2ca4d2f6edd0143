"""Projections, proximal operators, losses, objectives, linear solves and trees: the same numbers as JAXopt's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beside import original

import implicitdiff.compat.jaxopt as ours

RNG = np.random.default_rng(1)
v, M = RNG.standard_normal(5), RNG.standard_normal((3, 4))
tree = {"a": v[:2], "b": v[2:]}
a, ones = RNG.standard_normal(5), np.ones(5)
A, S = RNG.standard_normal((2, 5)), RNG.standard_normal((5, 5))
SPD = S @ S.T + np.eye(5)
data, labels = RNG.standard_normal((6, 3)), np.array([0, 2, 1, 1, 0, 2])
MARGINALS = (np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.2, 0.3, 0.4]))

CALLS = {
    "non_negative": lambda j: j.projection.projection_non_negative(tree),
    "box": lambda j: j.projection.projection_box(v, (-0.5, 0.3)),
    "hypercube": lambda j: j.projection.projection_hypercube(v, 0.7),
    "simplex": lambda j: j.projection.projection_simplex(v, 1.5),
    "sparse_simplex": lambda j: j.projection.projection_sparse_simplex(jnp.asarray(v), 2, value=1.5),
    "l1_sphere": lambda j: j.projection.projection_l1_sphere(v, 1.5),
    "l1_ball": lambda j: j.projection.projection_l1_ball(v, 0.5),
    "l2_sphere": lambda j: j.projection.projection_l2_sphere(tree, 1.5),
    "l2_ball": lambda j: j.projection.projection_l2_ball(tree, 0.5),
    "l2_ball inside": lambda j: j.projection.projection_l2_ball(tree, 50.0),
    "linf_ball": lambda j: j.projection.projection_linf_ball(v, 0.5),
    "hyperplane": lambda j: j.projection.projection_hyperplane(tree, ({"a": a[:2], "b": a[2:]}, 0.5)),
    "halfspace": lambda j: j.projection.projection_halfspace(tree, ({"a": a[:2], "b": a[2:]}, -5.0)),
    "affine_set": lambda j: j.projection.projection_affine_set(v, (A, np.ones(2))),
    "polyhedron": lambda j: j.projection.projection_polyhedron(v, (ones[None], ones[:1], -np.eye(5), 0 * ones)),
    "box_section": lambda j: j.projection.projection_box_section(v, (0 * ones, ones, np.abs(a), 1.0)),
    "transport": lambda j: j.projection.projection_transport(M, MARGINALS),
    "kl_transport": lambda j: j.projection.kl_projection_transport(M, MARGINALS),
    "birkhoff": lambda j: j.projection.projection_birkhoff(M[:, :3]),
    "kl_birkhoff": lambda j: j.projection.kl_projection_birkhoff(M[:, :3]),
    "prox_none": lambda j: j.prox.prox_none(tree),
    "prox_lasso": lambda j: j.prox.prox_lasso(tree, {"a": a[:2] ** 2, "b": a[2:] ** 2}, 0.3),
    "prox_non_negative_lasso": lambda j: j.prox.prox_non_negative_lasso(v, 0.4, 0.3),
    "prox_elastic_net": lambda j: j.prox.prox_elastic_net(tree, (0.4, 2.0), 0.3),
    "prox_group_lasso": lambda j: j.prox.prox_group_lasso(tree, 0.4, 0.3),
    "prox_ridge": lambda j: j.prox.prox_ridge(tree, 0.4, 0.3),
    "prox_non_negative_ridge": lambda j: j.prox.prox_non_negative_ridge(tree, 0.4, 0.3),
    "prox of projection": lambda j: j.prox.make_prox_from_projection(j.projection.projection_simplex)(v, 1.5, 9.0),
    "huber": lambda j: j.loss.huber_loss(v, 0.1, 0.5),
    "binary": lambda j: [
        [getattr(j.loss, f"binary_{n}_loss")(label, s) for n in ("logistic", "sparsemax", "hinge", "perceptron")]
        for label in (0, 1) for s in v
    ],
    "multiclass": lambda j: [
        [getattr(j.loss, f"multiclass_{n}_loss")(label, v) for n in ("logistic", "sparsemax", "hinge", "perceptron")]
        for label in (0, 3)
    ],
    "fenchel_young": lambda j: j.loss.make_fenchel_young_loss(jax.nn.logsumexp)(a, v),
    "sparse_sigmoid": lambda j: jax.vmap(j.loss.sparse_sigmoid)(2 * v),
    "least_squares": lambda j: j.objective.least_squares(v, (A, ones[:2])),
    "ridge": lambda j: j.objective.ridge_regression(v, 0.3, (A, ones[:2])),
    "logreg": lambda j: j.objective.binary_logreg(v[:3], (data, labels % 2)),
    "multiclass_logreg": lambda j: j.objective.l2_multiclass_logreg_with_intercept((M[:, :3], v[:3]), 0.1, (data, labels)),
    "svm": lambda j: j.objective.multiclass_linear_svm_dual(data, 0.2, (data, np.eye(3)[labels])),
    "tree": lambda j: [
        j.tree_util.tree_vdot(tree, tree), j.tree_util.tree_l2_norm(tree), j.tree_util.tree_sum(tree),
        j.tree_util.tree_add_scalar_mul(tree, 2.0, tree), j.tree_util.tree_inf_norm(tree), j.tree_util.tree_sub(tree, tree),
        j.tree_util.tree_zeros_like(tree), j.tree_util.tree_negative(tree), j.tree_util.tree_mul(tree, tree),
    ],
}  # fmt: skip
# Where JAXopt's own iterations stop at 1e-3.
LOOSE = {"transport": 2e-3, "kl_transport": 2e-3, "birkhoff": 2e-3, "kl_birkhoff": 2e-3, "polyhedron": 2e-3, "box_section": 1e-4, "affine_set": 1e-4}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_the_same_numbers(name):
    own, theirs = CALLS[name](ours), CALLS[name](original())
    assert jax.tree.structure(own) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, atol=LOOSE.get(name, 1e-10))


def test_isotonic_regression_clipped():
    found = ours.isotonic.isotonic_l2_pav(jnp.array([3.0, 1.0, 2.0, 0.0]), 0.5, 2.5, increasing=False)
    np.testing.assert_allclose(found, [2.5, 1.5, 1.5, 0.5])


NAMES = ["lu", "cholesky", "inv", "qr", "cg", "normal_cg", "gmres", "bicgstab"]


@pytest.mark.parametrize("name", NAMES)
def test_linear_solves_with_and_without_a_ridge(name):
    solve = getattr(ours.linear_solve, f"solve_{name}")
    np.testing.assert_allclose(solve(lambda x: SPD @ x, v), np.linalg.solve(SPD, v), rtol=1e-8)
    ridged = np.linalg.solve(SPD.T @ SPD + 0.3 * np.eye(5), SPD @ v) if name == "normal_cg" else np.linalg.solve(
        SPD + 0.3 * np.eye(5), v
    )  # fmt: skip
    np.testing.assert_allclose(solve(lambda x: SPD @ x, v, ridge=0.3), ridged, rtol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_implicit_diff_with_each_linear_solve(name):
    solve = getattr(ours.linear_solve, f"solve_{name}")
    f = lambda x, theta, b: 0.5 * x @ SPD @ x + 0.5 * theta * x @ x - b @ x
    exact = lambda theta, b: jnp.linalg.solve(SPD + theta * jnp.eye(5), b)

    @ours.implicit_diff.custom_root(jax.grad(f), has_aux=True, solve=solve)
    def solver(init, theta, b):
        del init
        return exact(theta, b), "aux"

    run = lambda theta: solver(None, theta, v)[0]
    want = jax.jacfwd(exact)(0.3, v)
    np.testing.assert_allclose(jax.jacrev(run)(0.3), want, rtol=1e-7)
    np.testing.assert_allclose(jax.jacfwd(run)(0.3), want, rtol=1e-7)
    x = exact(0.3, v)
    vjp = ours.implicit_diff.root_vjp(jax.grad(f), x, (0.3, v), a, solve=solve)
    np.testing.assert_allclose(vjp[0], a @ want, rtol=1e-7)
    np.testing.assert_allclose(vjp[1], np.linalg.solve(SPD + 0.3 * np.eye(5), a), rtol=1e-7)
    jvp = ours.implicit_diff.root_jvp(jax.grad(f), x, (0.3, v), (1.0, 0 * v), solve=solve)
    np.testing.assert_allclose(jvp, want, rtol=1e-7)


def test_a_reference_signature_and_fixed_points():
    T = lambda x, *args, **kwargs: 0.5 * (x + args[0] / x)

    def reference(x, a):
        del x, a

    @ours.implicit_diff.custom_fixed_point(T, reference_signature=reference)
    def heron(init, a):
        del init
        return jnp.sqrt(a)

    assert jax.grad(lambda a: heron(1.0, a=a))(4.0) == 0.25
    np.testing.assert_allclose(jax.grad(jax.grad(lambda a: heron(1.0, a)))(4.0), -1 / 32)


def test_kkt_conditions_of_a_known_program():
    F = ours.implicit_diff.make_kkt_optimality_fun(
        lambda x, c: jnp.sum((x - c) ** 2), lambda x, s: jnp.sum(x)[None] - s, lambda x, h: x - h
    )
    solution = ours.base.KKTSolution(jnp.array([0.5, 0.5]), jnp.array([1.0]), jnp.array([0.0, 2.0]))
    residuals = F(solution, jnp.array([1.0, 2.0]), 1.0, jnp.array([9.0, 0.5]))
    assert isinstance(residuals, ours.base.KKTSolution)
    for part in residuals:
        np.testing.assert_allclose(part, 0.0, atol=1e-12)


def test_perturbed_argmax_is_the_softmax_and_has_derivatives_of_second_order():
    one_hot = lambda x: jax.nn.one_hot(jnp.argmax(x), 3)
    x, key = jnp.array([0.3, 0.0, -0.2]), jax.random.key(0)
    soft = ours.perturbations.make_perturbed_argmax(one_hot, num_samples=100_000, sigma=0.5)
    best = ours.perturbations.make_perturbed_max(one_hot, num_samples=100_000, sigma=0.5)
    p = jax.nn.softmax(x / 0.5)
    found, forward, reverse, slope, hessian = jax.jit(
        lambda x: (soft(x, key), jax.jacfwd(soft)(x, key), jax.jacrev(soft)(x, key), jax.grad(best)(x, key), jax.hessian(best)(x, key))
    )(x)  # fmt: skip
    np.testing.assert_allclose(found, p, atol=0.01)
    np.testing.assert_allclose(forward, (np.diag(p) - np.outer(p, p)) / 0.5, atol=0.03)
    np.testing.assert_allclose(reverse, forward, atol=1e-10)
    np.testing.assert_allclose(slope, p, atol=0.01)
    np.testing.assert_allclose(hessian, forward, atol=1e-10)


def test_perturbed_functions_have_second_derivatives():
    key, options = jax.random.key(1), dict(num_samples=200_000, sigma=1.0, noise=ours.perturbations.Normal())
    for control_variate in (False, True):
        f = ours.perturbations.make_perturbed_fun(lambda x: x**2, control_variate=control_variate, **options)
        np.testing.assert_allclose(f(0.5, key), 1.25, atol=0.02)
        np.testing.assert_allclose(jax.grad(f)(0.5, key), 1.0, atol=0.04)
        np.testing.assert_allclose(jax.grad(jax.grad(f))(0.5, key), 2.0, atol=0.1)
