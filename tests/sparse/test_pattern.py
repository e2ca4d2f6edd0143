"""Patterns of Jacobians against the entries of dense ones, and what colouring makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax import lax
from jax.experimental.sparse import BCOO, BCSR

import implicitdiff as idf
from implicitdiff.sparse import Pattern

N = 12
RANDOM = np.random.default_rng(0)
MESH = RANDOM.integers(0, N, (9, 3))
SPARSE = sp.random_array((N, N), density=0.2, rng=1) + sp.eye_array(N)
SPARSE = BCOO.from_scipy_sparse(SPARSE.tocoo())


@jax.custom_jvp
def ruled(x):
    return jnp.sin(x)


ruled.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0]))


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (jnp.round(primals[0]), 2 * jnp.roll(tangents[0], 1)))


@jax.custom_vjp
def signs(x, y):
    return jnp.sign(x) * y


signs.defvjp(lambda x, y: (signs(x, y), y), lambda y, g: (3.0 * g * y, jnp.zeros_like(y)))


def assembled(x):
    """A sparse matrix whose entries depend on x, times x."""
    return BCOO((jnp.sin(x[MESH[:, 0]]), jnp.asarray(MESH[:, :2])), shape=(N, N)) @ x


def small_systems(x):
    A = jnp.eye(2) * 4 + x.reshape(6, 2, 1) * jnp.ones((2, 2))
    return jnp.linalg.solve(A, jnp.cos(x).reshape(6, 2, 1)).ravel()


def unknown_indices(x):
    """What is chosen in each row depends on numbers."""
    rows = x.reshape(3, 4)
    return jnp.take_along_axis(rows, jnp.argsort(rows, axis=1), axis=1).ravel()


def long_scan(x):
    """Each step hands on what it was given, counts, and reads from a table."""

    def step(carry, now):
        at, before, time = carry
        return (at + 1, now, time + 0.1), jnp.sin(time + 1) * now * before * now + x[at % 2]

    return lax.scan(step, (jnp.int32(3), x[-1], 0.0), jnp.tile(x, 8), reverse=True)[1][:N]


def newton(x):
    """Each unknown by itself, as long as it takes."""

    def root(a):
        step = lambda y: y - (y**3 + y - a) / (3 * y**2 + 1)
        return lax.while_loop(lambda y: jnp.abs(y**3 + y - a) > 1e-9, step, a)

    return jax.vmap(root)(x) * jnp.roll(x, 1)


def elements(x, weights, mesh):
    """Each element of a mesh couples its three nodes."""
    inside = x[mesh]
    forces = weights[:, None] * jnp.sum(inside**2, axis=1, keepdims=True) * inside
    return x + jnp.zeros_like(x).at[mesh].add(forces)


def stencil(x):
    grid = x.reshape(3, 4)
    around = jnp.pad(grid, 1)
    return (4 * grid - around[2:, 1:-1] - around[:-2, 1:-1] - around[1:-1, 2:] * around[1:-1, :-2]).ravel()


def kernels(x):
    image = x.reshape(1, 2, 6)
    kernel = jnp.arange(1.0, 13.0).reshape(2, 2, 3)
    return lax.conv_general_dilated(image, kernel, (1,), "SAME", dimension_numbers=("NCH", "OIH", "NCH")).ravel()


def nested(x):
    """Each pair of unknowns is projected by itself."""
    return x.reshape(6, 2) - jax.vmap(lambda v: idf.projection.simplex(jnp.tanh(v)))(x.reshape(6, 2))


def chain(x):
    """A scan with a carry, step by step, backwards."""

    def step(carry, x):
        return 0.5 * carry + x, carry * x

    return lax.scan(step, 0.0, x, reverse=True)[1]


# F, and whether its pattern is exact.
EXACT = {
    "elementwise": lambda x: jnp.exp(x) * jnp.where(x > 0, x, x**3) + jax.nn.sigmoid(x),
    "differences": lambda x: jnp.diff(jnp.diff(x, prepend=1.0, append=2.0) ** 2),
    "stencil": stencil,
    "roll": lambda x: x * jnp.roll(x, 3) - jnp.roll(x, -1),
    "reverse": lambda x: x[::-1] * x,
    "strides": lambda x: jnp.zeros(N).at[::2].set(x[1::2]) + x**2,
    "mesh": lambda x: elements(x, jnp.ones(9), jnp.asarray(MESH)),
    "axes of length one": lambda x: (x.reshape(3, 4) * jnp.sum(x.reshape(3, 4)[:, :2], axis=1, keepdims=True)).ravel(),
    "reductions": lambda x: jnp.repeat(jnp.sum(x.reshape(3, 4) ** 2, axis=1), 4) + jnp.tile(jnp.max(x[:3]), N),
    "matrix times blocks": lambda x: (jnp.ones((3, 3)) @ jnp.sin(x.reshape(3, 4))).ravel(),
    "two factors": lambda x: jnp.einsum("bi,bj->bij", x[:6].reshape(3, 2), x[6:].reshape(3, 2)).ravel(),
    "convolution": kernels,
    "custom rule": lambda x: ruled(x) + jax.checkpoint(ruled)(jnp.roll(x, 1)),
    "vmap": lambda x: jax.vmap(lambda a, b: jnp.dot(a, b) * a)(x.reshape(4, 3), jnp.flip(x.reshape(4, 3))).ravel(),
    "map": lambda x: lax.map(lambda v: jnp.cumsum(v) ** 2, x.reshape(4, 3)).ravel() if N else x,
    "scan": chain,
    "long scan": long_scan,
    "while_loop of each": newton,
    "loop": lambda x: lax.fori_loop(0, 3, lambda i, y: y + jnp.roll(y, 1) ** 2, x),
    "branch": lambda x: lax.cond(jnp.sum(x) > 1e9, lambda x: x, lambda x: x * x[0], x) + jnp.roll(x, 1) * 0 + x,
    "dynamic slices": lambda x: lax.dynamic_update_slice(x, lax.dynamic_slice(x, (2,), (4,)) ** 2, (7,)),
    "nested solutions": lambda x: nested(x).ravel(),
    "sparse matrix": lambda x: SPARSE @ x**2 + x,
    "transposed sparse matrix": lambda x: SPARSE.T @ x**2 + x,
    "integers of floats": lambda x: x * jnp.floor(jnp.roll(x, 1)) + jnp.sign(jnp.roll(x, 2)) + lax.stop_gradient(x[0]),
    "sort in rows": lambda x: jnp.sort(x.reshape(4, 3), axis=1).ravel(),
    "sparse matrix by rows": lambda x: BCSR.from_bcoo(SPARSE.sort_indices()) @ x,
    "sparse matrix of unknowns": assembled,
    "a rule that is not the function's": lambda x: rounded(x) + x[::-1],
    "a reverse rule that is not the function's": lambda x: signs(x, jnp.roll(x, 1)) + x[::-1],
    "small systems": small_systems,
    "windows": lambda x: lax.reduce_window(x.reshape(3, 4), 0.0, lax.add, (2, 3), (1, 1), "SAME").ravel(),
    "largest in windows": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3,), (1,), ((1, 1),), (1,), (1,)),
    "indices that are not known": unknown_indices,
    "complex": lambda x: jnp.real(jnp.exp(1j * x) * jnp.roll(x, 1)),
    "fft of rows": lambda x: jnp.real(jnp.fft.fft(x.reshape(3, 4))).ravel() + x,
}
# Patterns that hold more than the entries: the analysis does not see through, or does not know that a factor is zero.
LARGER = {
    "map",
    "branch",
    "sort in rows",
    "fft of rows",
    "nested solutions",
    "stencil",
    "scan",
    "indices that are not known",
    "largest in windows",
}


@pytest.mark.parametrize("name", EXACT)
def test_patterns_are_those_of_dense_jacobians(name):
    F = EXACT[name]
    found = idf.sparse.pattern(F, jnp.ones(N))
    stored = np.zeros((N, N), bool)
    stored[found.indices, np.repeat(np.arange(N), np.diff(found.indptr))] = True
    jacobian = jax.jit((jax.jacrev if "reverse rule" in name else jax.jacfwd)(F))
    entries = np.zeros((N, N), bool)
    for seed in range(4):
        entries |= np.asarray(jacobian(jnp.asarray(np.random.default_rng(seed).standard_normal(N)))) != 0
    assert not np.any(entries & ~stored)
    if name not in LARGER:
        assert np.array_equal(entries, stored)
    assert found.nnz < N * N or name == "loop"


def test_what_is_not_seen_through_is_dense_and_too_much_of_it_is_an_error():
    while_loop = lambda x: lax.while_loop(lambda y: jnp.sum(y) < 1e3, lambda y: 2 * jnp.abs(jnp.roll(y, 1)) + 1, x)
    assert idf.sparse.pattern(while_loop, jnp.ones(N)).nnz == N * N
    with pytest.raises(ValueError, match=r"not sparse: .*'while'.*linear_solver=None"):
        idf.sparse.pattern(while_loop, jnp.ones(40_000))


def test_trees_complex_unknowns_and_fixed_points():
    def F(x, scale):
        return {"a": x["a"] ** 2 * scale - x["b"][:2], "b": x["b"] * 1j + jnp.conj(jnp.roll(x["b"], 1))}

    x = {"a": jnp.ones(2, complex), "b": jnp.ones(3, complex)}
    found = idf.sparse.pattern(F, x, 2.0)
    assert found.n == 10
    real = lambda z: jnp.concatenate([part for leaf in jax.tree.leaves(z) for part in (leaf.real, leaf.imag)])

    def flat(v):
        a, b = v[:2] + 1j * v[2:4], v[4:7] + 1j * v[7:]
        return real(F({"a": a, "b": b}, 2.0))

    dense = np.asarray(jax.jacfwd(flat)(jnp.linspace(1, 2, 10))) != 0
    assert np.all(found.matrix(np.ones(found.nnz)).toarray()[dense] == 1)
    T = idf.optimality.gradient_descent(lambda x, theta: jnp.sum(jnp.diff(x) ** 4) + jnp.sum(x**2), 0.1)
    assert idf.sparse.pattern(T, jnp.ones(N), None) == Pattern(sum(np.eye(N, k=k) for k in (-1, 0, 1)))


def test_integers_that_are_known_steer_and_those_that_are_not_are_an_error():
    weights, mesh = jnp.ones(9), jnp.asarray(MESH)
    by_argument = idf.sparse.pattern(elements, jnp.ones(N), weights, mesh)
    assert by_argument == idf.sparse.pattern(EXACT["mesh"], jnp.ones(N))
    assert by_argument != idf.sparse.pattern(elements, jnp.ones(N), weights, (mesh + 1) % N)
    n = 5_000  # so many that a dense matrix is out of the question
    line = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    solution = lambda w, mesh: idf.implicit_root(
        elements, jnp.ones(n), w, mesh, adjoint=idf.Implicit(linear_solver=idf.sparse.LU())
    )
    closed = jax.jit(jax.grad(lambda w: jnp.sum(solution(w, line))))(jnp.ones(n - 1))
    assert np.all(np.isfinite(closed))  # not traced, they are known under jit, too
    with pytest.raises(ValueError, match="are not known: find the pattern outside"):
        jax.jit(jax.grad(lambda w, mesh: jnp.sum(solution(w, mesh))))(jnp.ones(n - 1), jnp.asarray(line))


@pytest.mark.parametrize("seed", range(3))
def test_colourings_show_every_entry(seed):
    """Also with dense rows and columns, which take one product each."""
    random = np.random.default_rng(seed)
    matrix = (random.random((40, 40)) < 0.05) | np.eye(40, dtype=bool)
    matrix[random.integers(40, size=2)] = True
    if seed:
        matrix[:, random.integers(40, size=2)] = True
    A = random.standard_normal((40, 40)) * matrix
    found = Pattern(matrix)
    forward = [A @ (found.colours.columns == c) for c in range(found.colours.forward)]
    reverse = [A.T @ (found.colours.rows == c) for c in range(found.colours.reverse)]
    data = np.stack(forward + reverse).ravel()[found.places]
    np.testing.assert_allclose(found.matrix(data).toarray(), A, atol=1e-14)
    assert found.colours.products <= 16


def test_a_pattern_is_printed_drawn_and_saved(tmp_path):
    found = idf.sparse.pattern(stencil, jnp.ones(N))
    assert repr(found) == f"Pattern(12 x 12, {found.nnz} entries, {found.colours.products} products)"
    found.save(tmp_path / "grid.npz")
    assert Pattern.load(tmp_path / "grid.npz") == found
    assert hash(Pattern.load(tmp_path / "grid.npz")) == hash(found)
    import matplotlib

    matplotlib.use("Agg")
    axes = found.spy()
    assert "entries" in axes.get_title()
    matplotlib.pyplot.close(axes.figure)
    with pytest.raises(ValueError, match="square"):
        Pattern(np.ones((2, 3)))


def test_a_pattern_is_found_once():
    calls = []

    def F(x, a):
        calls.append(1)
        return x**2 - a

    first = idf.sparse.pattern(F, jnp.ones(5), jnp.ones(5))
    assert idf.sparse.pattern(F, jnp.ones(5), 2 * jnp.ones(5)) is first
