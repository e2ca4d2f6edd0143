"""Conditions with collectives: the lanes of vmap, shard_map and pmap as the one system that they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import implicitdiff as idf
from implicitdiff._collectives import Value, lanes, names_of

C = jnp.array([1.0, 2.0, 3.0, 5.0])
RING = [(0, 1), (1, 2), (2, 3), (3, 0)]
MAPS = {
    "pmean": lambda x, c: c / 2 + 0.8 * jnp.tanh(0.3 * lax.pmean(x, "i")),
    "ppermute": lambda x, c: c / 2 + 0.4 * jnp.tanh(0.3 * lax.ppermute(x, "i", RING)) + 0.1 * x,
    "all_gather": lambda x, c: c / 2 + 0.1 * jnp.sum(jnp.sin(lax.all_gather(x, "i"))) * x,
}
ADJOINTS = {
    "direct": None,
    "Krylov": idf.Implicit(linear_solver=idf.krylov.GMRES()),
    "Neumann": idf.Neumann(80),
    "polished": idf.Implicit(polish=1),
}


def solved(T):
    """The fixed point of all lanes, and its Jacobian by the theorem written out for them together."""
    together = jax.vmap(T, axis_name="i")
    x = lax.fori_loop(0, 300, lambda _, x: together(x, C), C)
    A = jnp.eye(4) - jax.jacfwd(together, 0)(x, C)
    return x, jnp.linalg.solve(A, jax.jacfwd(together, 1)(x, C))


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("T", MAPS)
def test_lanes_that_exchange_their_unknowns(T, adjoint):
    x, expected = solved(MAPS[T])
    lane = lambda x, c: idf.implicit_fixed_point(MAPS[T], x, c, adjoint=ADJOINTS[adjoint])
    for each in (lane, jax.jit(lane)) if adjoint == "direct" else (lane,):
        batch = jax.vmap(each, axis_name="i")
        np.testing.assert_array_equal(batch(x, C), x)
        for mode in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(jax.jit(mode(lambda c: batch(x, c)))(C), expected, rtol=1e-10, atol=1e-13)


def test_second_derivatives_and_lanes_within_a_batch():
    T = MAPS["pmean"]
    x, _ = solved(T)
    batch = jax.vmap(lambda x, c: idf.implicit_fixed_point(T, x, c), axis_name="i")
    together = lambda x, c: idf.implicit_fixed_point(jax.vmap(T, axis_name="i"), x, c)
    curvature = jax.jit(jax.hessian(lambda c: jnp.sum(batch(x, c) ** 3)))(C)
    expected = jax.jit(jax.hessian(lambda c: jnp.sum(together(x, c) ** 3)))(C)
    np.testing.assert_allclose(curvature, expected, rtol=1e-10)
    gradient = jax.grad(lambda c: jnp.sum(batch(x, c) ** 3))
    for twice in (jax.vmap(gradient), jax.vmap(gradient, axis_name="j")):
        np.testing.assert_allclose(jax.jit(twice)(jnp.stack([C, C])), [gradient(C)] * 2, rtol=1e-12)
    outer = jax.vmap(jax.vmap(lambda x, c: idf.implicit_fixed_point(T, x, c)), axis_name="i")
    columns = lambda f: jax.jacrev(lambda c: f(jnp.stack([x, x], 1), jnp.stack([c, c], 1))[:, 1])(C)
    np.testing.assert_allclose(columns(outer), solved(T)[1], rtol=1e-10, atol=1e-13)


def data_parallel():
    rng = np.random.default_rng(0)
    A, b, w = (jnp.asarray(rng.standard_normal(shape)) for shape in ((4, 5, 3), (4, 5), (3,)))

    def solution(lam, b):
        H = jnp.einsum("dij,dik->jk", A, A) + lam * jnp.eye(3)
        return jnp.linalg.solve(H, jnp.einsum("dij,di->j", A, b))

    return A, b, w, solution


GRADIENTS = {
    "one sum": lambda x, lam, A, b: lax.psum(A.T @ (A @ x - b) + lam * x / 4, "i"),
    "a sum and a term of each lane": lambda x, lam, A, b: lax.psum(A.T @ (A @ x - b), "i") + lam * x,
}


CASES = [
    ("one sum", None, True),
    ("one sum", idf.krylov.CG(), True),
    ("one sum", idf.krylov.CG(), False),
    ("a sum and a term of each lane", idf.krylov.CG(), False),
    ("a sum and a term of each lane", None, True),
]


@pytest.mark.parametrize(("F", "solver", "batched"), CASES)
def test_one_unknown_and_data_in_every_lane(F, solver, batched):
    """x is the same in all lanes, whether JAX knows it or not; so is the derivative."""
    A, b, w, solution = data_parallel()
    x = solution(0.7, b)
    adjoint = idf.Implicit(linear_solver=solver)

    def roots(lam, b):
        lane = lambda x, A, b: idf.implicit_root(GRADIENTS[F], x, lam, A, b, adjoint=adjoint)
        axes = (0 if batched else None, 0, 0)
        return jax.vmap(lane, in_axes=axes, axis_name="i")(jnp.stack([x] * 4) if batched else x, A, b)

    expected = jax.grad(lambda lam, b: w @ solution(lam, b), argnums=(0, 1))(0.7, b)
    for lane in (lambda r: r[0], lambda r: r[2], lambda r: jnp.mean(r, 0)):
        got = jax.jit(jax.grad(lambda lam, b: w @ lane(roots(lam, b)), argnums=(0, 1)))(0.7, b)
        for a, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-12)
    forward = jax.jit(lambda lam: jax.jvp(lambda lam: roots(lam, b), (lam,), (1.0,))[1])(0.7)
    np.testing.assert_allclose(forward, [jax.jacfwd(solution)(0.7, b)] * 4, rtol=1e-9)


def test_what_is_known_of_a_lane_is_not_known_of_all():
    """A sum over the lanes and a term of each lane is no symmetric system of all lanes, where the data differ."""
    A, b, _, solution = data_parallel()
    adjoint = idf.Implicit(positive_definite=True)
    lane = lambda x, lam, A, b: idf.implicit_root(
        GRADIENTS["a sum and a term of each lane"], x, lam, A, b, adjoint=adjoint
    )
    x = jnp.stack([solution(0.7, b)] * 4)
    roots = lambda lam: jax.vmap(lane, in_axes=(0, None, 0, 0), axis_name="i")(x, lam, A, b)
    np.testing.assert_allclose(jax.jacrev(roots)(0.7), [jax.jacfwd(solution)(0.7, b)] * 4, rtol=1e-9)


def test_collectives_of_data_alone_leave_the_lanes_independent():
    F = lambda x, c: x**2 - lax.psum(c, "i") * c
    root = lambda c: jnp.sqrt(lax.psum(c, "i") * c)
    got = jax.vmap(lambda c: idf.implicit_root(F, lax.stop_gradient(root(c)), c), axis_name="i")
    np.testing.assert_allclose(jax.jacrev(got)(C), jax.jacrev(jax.vmap(root, axis_name="i"))(C), rtol=1e-12)


def loop(x, c):
    """A sum over the lanes inside of a scan, whose state stays the same in all lanes."""
    step = lambda s, _: (s + lax.psum(c * x, "i"), None)
    return lax.scan(step, jnp.zeros(()), None, length=2)[0]


def search(x, c):
    return lax.while_loop(lambda s: s < 3.0, lambda s: s + lax.pmax(jnp.abs(x), "i"), jnp.zeros(()))


KINDS = {
    "no collective": (lambda x, c: x - c, "independent"),
    "of data": (lambda x, c: x - lax.psum(c, "i"), "independent"),
    "along another axis": (lambda x, c: x - lax.psum(x, "j"), "independent"),
    "a count": (lambda x, c: x - lax.psum(x > 0, "i"), "independent"),
    "the place of a lane": (lambda x, c: x - lax.axis_index("i"), "independent"),
    "a sum": (lambda x, c: lax.psum(x - c, "i"), "shared"),
    "a sum, within functions": (lambda x, c: jax.jit(jax.checkpoint(lambda x: lax.pmean(x * c, "i")))(x), "shared"),
    "in a scan": (loop, "shared"),
    "in a while loop": (search, "shared"),
    "in a branch": (lambda x, c: lax.cond(lax.psum(c, "i") > 0, lambda: lax.psum(x, "i"), lambda: 1.0), "shared"),
    "a branch of each lane": (lambda x, c: lax.cond(c > 0, lambda: lax.psum(x, "i"), lambda: 1.0), "coupled"),
    "a sum and x": (lambda x, c: lax.psum(x, "i") + x, "coupled"),
    "a sum and data": (lambda x, c: lax.psum(x, "i") - c, "coupled"),
    "in groups": (lambda x, c: lax.psum(x, "i", axis_index_groups=[[0, 1], [2, 3]]), "coupled"),
    "of neighbours": (lambda x, c: x - lax.ppermute(x, "i", RING), "coupled"),
    "over two axes": (lambda x, c: lax.psum(x, ("i", "j")) - c, "coupled"),
    "of data times x later": (lambda x, c: x * lax.psum(c, "i"), "independent"),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_the_lanes_are_to_each_other(case):
    F, expected = KINDS[case]
    closed = jax.make_jaxpr(F, axis_env=[("i", 4), ("j", 2)])(1.0, 1.0)
    constants = [Value(False, False)] * len(closed.jaxpr.constvars)
    found = lanes(closed.jaxpr, "i", [*constants, Value(True, True), Value(False, True)])
    assert found == expected
    if case not in ("no collective", "along another axis", "the place of a lane"):
        assert "i" in names_of(closed.jaxpr)
    else:
        assert "i" not in names_of(closed.jaxpr)
