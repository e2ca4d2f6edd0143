"""Band matrices as the linear solver of a derivative: against dense and LAPACK's banded solves, and what must not pass."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sl

import implicitdiff as idf

RANDOM = np.random.default_rng(0)
DENSE = idf.Implicit(linear_solver=lx.LU())


def banded(lower, upper, **options):
    return idf.Implicit(linear_solver=idf.sparse.Banded(lower, upper), **options)


def linear(x, A, b):
    return A @ x - b


def solves(A, b, adjoint):
    """A^-1 b and A'^-1 b, as derivatives of the solution of A x = c in c and back."""
    x = jnp.zeros(len(b), b.dtype)
    forward = idf.root_jvp(linear, x, (A, b), (None, b), adjoint=adjoint)
    return forward, idf.root_vjp(linear, x, (A, b), b, adjoint=adjoint)[1]


def random_band(n, lower, upper):
    return np.triu(np.tril(RANDOM.standard_normal((n, n)), upper), -lower)


@pytest.mark.parametrize(
    ("n", "lower", "upper"),
    [(1, 2, 1), (2, 1, 1), (5, 9, 3), (40, 0, 0), (50, 1, 1), (64, 0, 3), (70, 20, 4)],
)
def test_bands_of_all_widths_with_many_right_hand_sides(n, lower, upper):
    A = random_band(n, lower, upper) + (3 * np.eye(n) if min(lower, upper) == 0 else 0)
    bs = RANDOM.standard_normal((3, n))
    forward, reverse = jax.jit(jax.vmap(functools.partial(solves, jnp.asarray(A), adjoint=banded(lower, upper))))(bs)
    size = 1e-15 * np.linalg.cond(A)
    for found, matrix in ((forward, A), (reverse, A.T)):
        expected = np.linalg.solve(matrix, bs.T).T
        np.testing.assert_allclose(found, expected, rtol=0, atol=size * np.abs(expected).max())


def test_pivots_are_looked_for_off_the_diagonal():
    chain = np.diag(np.ones(39), 1) + np.diag(np.ones(39), -1)  # zero on the diagonal
    wide = np.diag(np.ones(38), 2) + np.diag(np.ones(38), -2)
    b = jnp.asarray(RANDOM.standard_normal(40))
    for A, width in ((chain, 1), (wide, 2)):
        for found in solves(jnp.asarray(A), b, banded(width, width)):
            np.testing.assert_allclose(found, np.linalg.solve(A, b), rtol=1e-12)


@pytest.mark.parametrize("width", [1, 2])
def test_a_batch_of_matrices_in_which_some_have_no_derivative(width):
    A = random_band(30, width, width) + 6 * np.eye(30)
    singular, nan, wider = A.copy(), A.copy(), A.copy()
    singular[:, 7] = 0
    nan[3, 3] = np.nan
    wider[2, 20] = 1e-3
    b = jnp.asarray(RANDOM.standard_normal(30))
    batch = jnp.asarray(np.stack([A, singular, nan, wider, 1e-30 * A]))
    run = jax.jit(jax.vmap(functools.partial(solves, b=b, adjoint=banded(width, width))))
    for found, matrix in zip(run(batch), (A, A.T), strict=True):
        expected = np.linalg.solve(matrix, b)
        np.testing.assert_allclose(found[0], expected, rtol=1e-12)
        np.testing.assert_allclose(found[4], 1e30 * expected, rtol=1e-12)
        assert np.isnan(found[1:4]).all()


@pytest.mark.parametrize("at", [(2, 20), (20, 2)])
def test_an_entry_outside_of_the_band_is_named_even_beside_huge_ones(at):
    A = random_band(30, 1, 1) + 6 * np.eye(30)
    A[:, at[1]] *= 1e12
    A[at] = 1.0
    with pytest.raises(Exception, match="outside of the band"):
        jax.block_until_ready(solves(jnp.asarray(A), jnp.ones(30), banded(1, 1, on_failure="raise")))


def reaction(x, k):
    """A fourth-order equation with a reaction, neither symmetric nor linear."""
    v = jnp.pad(x, 2)
    bent = v[:-4] - 4 * v[1:-3] + 6 * v[2:-2] - 4 * v[3:-1] + v[4:]
    return k * bent + v[3:-1] * x + jnp.sinh(x) - 1.0


K = jnp.asarray(10.0 ** RANDOM.uniform(-1, 1, 20))
X = jnp.asarray(RANDOM.standard_normal(20))
W = jnp.asarray(RANDOM.standard_normal(20))


def solution(k, adjoint):
    return idf.implicit_root(reaction, X, k, adjoint=adjoint)


@pytest.mark.parametrize(
    "derivative",
    [
        lambda s: jax.jacfwd(s)(K),
        lambda s: jax.jit(jax.jacrev(s))(K),
        lambda s: jax.jvp(jax.grad(lambda k: jnp.sum(W * s(k) ** 2)), (K,), (W,))[1],
        lambda s: jax.grad(lambda k: jnp.vdot(W, jax.grad(lambda k: jnp.sum(W * s(k) ** 2))(k)))(K),
    ],
    ids=["jacfwd", "jacrev", "forward over reverse", "reverse over reverse"],
)
def test_every_mode_and_order_is_that_of_a_dense_solve(derivative):
    found, expected = (derivative(functools.partial(solution, adjoint=a)) for a in (banded(2, 2), DENSE))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_complex_unknowns_count_as_one_each_and_leaves_are_in_order():
    def F(x, c):
        z, last = x
        z = jnp.pad(jnp.concatenate([z, last]), 1)
        out = (4 + 1j) * z[1:-1] + jnp.conj(z[2:]) - 1j * z[:-2] - c
        return out[:9], out[9:]

    c = jnp.asarray(RANDOM.standard_normal(12) + 1j * RANDOM.standard_normal(12))
    x = (jnp.zeros(9, complex), jnp.zeros(3, complex))
    for mode in (idf.root_jvp, idf.root_vjp):
        along = x if mode is idf.root_vjp else (c,)
        along = jax.tree.map(lambda leaf: leaf + 1.0 - 2j, along)
        found, expected = (mode(F, x, (c,), along, adjoint=a) for a in (banded(1, 1), DENSE))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_float32_is_factorised_in_float64():
    n = 200
    A = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)).astype(np.float32)  # condition 16,000
    b = jnp.asarray(RANDOM.standard_normal(n), jnp.float32)
    for found in solves(jnp.asarray(A), b, banded(1, 1)):
        expected = np.linalg.solve(A.astype(float), b)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_boundary_layer_with_100_000_unknowns_is_that_of_lapack():
    n, eps = 100_000, 1e-3
    h = 1 / (n + 1)

    def F(u, f):
        v = jnp.pad(u, 1)
        return -eps * (v[2:] - 2 * u + v[:-2]) / h**2 + (v[2:] - v[:-2]) / (2 * h) - f

    f = np.cos(np.linspace(0, 9, n))
    u, v = (jax.jit(mode)(jnp.asarray(f)) for mode in (
        lambda f: idf.root_jvp(F, jnp.zeros(n), (f,), (f,), adjoint=banded(1, 1)),
        lambda f: idf.root_vjp(F, jnp.zeros(n), (f,), f, adjoint=banded(1, 1))[0],
    ))  # fmt: skip
    above, below = -eps / h**2 + 0.5 / h, -eps / h**2 - 0.5 / h
    for found, (a, b) in ((u, (above, below)), (v, (below, above))):
        expected = sl.solve_banded((1, 1), np.vstack([np.full(n, a), np.full(n, 2 * eps / h**2), np.full(n, b)]), f)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_numbers_of_diagonals_are_checked():
    for bad in (-1, 1.5):
        with pytest.raises(ValueError, match="lower must be a number of diagonals"):
            idf.sparse.Banded(bad, 1)
