"""Sparse LU as the linear solver of a derivative: every mode against dense solves, and what must not pass."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

import implicitdiff as idf
from implicitdiff.sparse import _factors

SIDE = 6
N = SIDE * SIDE
RANDOM = np.random.default_rng(0)
U = jnp.asarray(RANDOM.standard_normal((SIDE, SIDE)))
K = jnp.asarray(10.0 ** RANDOM.uniform(-2, 2, (SIDE, SIDE)))
W = jnp.asarray(RANDOM.standard_normal((SIDE, SIDE)))
BY_LU = idf.Implicit(linear_solver=idf.sparse.LU())
DENSE = idf.Implicit(linear_solver=lx.LU())


def flow(u, k):
    """Diffusion and advection on a grid with conductivities k; neither symmetric nor linear."""
    around = jnp.pad(u, 1)
    left, right, up, down = around[1:-1, :-2], around[1:-1, 2:], around[:-2, 1:-1], around[2:, 1:-1]
    return k * (4 * u - left - right - up - down) + (u - left) * u + jnp.sinh(u) - 1.0


def solution(k, adjoint=BY_LU, u=U):
    return idf.implicit_root(flow, u.astype(k.dtype), k, adjoint=adjoint)


def loss(k, adjoint=BY_LU):
    return jnp.sum(W.astype(k.dtype) * solution(k, adjoint) ** 2)


def close(found, expected, tolerance=1e-11):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))


TRANSFORMED = {
    "jvp": lambda f, s: jax.jvp(s, (K,), (W,))[1],
    "vjp": lambda f, s: jax.grad(f)(K),
    "jacrev": lambda f, s: jax.jacrev(s)(K),
    "jacfwd in jit": lambda f, s: jax.jit(jax.jacfwd(s))(K),
    "forward over reverse": lambda f, s: jax.jvp(jax.grad(f), (K,), (W,))[1],
    "reverse over reverse": lambda f, s: jax.grad(lambda k: jnp.vdot(W, jax.grad(f)(k)))(K),
    "reverse over forward": lambda f, s: jax.grad(lambda k: jnp.sum(jax.jvp(s, (k,), (W,))[1] ** 2))(K),
    "vmap in jit": lambda f, s: jax.jit(jax.vmap(jax.grad(f)))(jnp.stack([K, 2 * K, K.T])),
    "scan": lambda f, s: jax.lax.scan(lambda c, k: (c, jax.grad(f)(k)), 0.0, jnp.stack([K, 2 * K]))[1],
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_every_mode_and_order_is_that_of_a_dense_solve(name):
    found, expected = (
        TRANSFORMED[name](functools.partial(loss, adjoint=how), functools.partial(solution, adjoint=how))
        for how in (BY_LU, DENSE)
    )
    close(found, expected)


def test_float32_is_factorised_in_float64():
    k, u = K.astype(jnp.float32), U.astype(jnp.float32)
    found = jax.grad(lambda k: jnp.sum(solution(k, u=u)))(k)
    assert found.dtype == jnp.float32
    close(found, jax.grad(lambda k: jnp.sum(solution(k, DENSE, u=u.astype(float))))(k.astype(float)), 3e-6)


def springs(x, stiffness):
    """A chain whose ends are fixed where stiffness[0] and [-1] are not zero."""
    return -jnp.diff(stiffness * jnp.diff(x, prepend=0.0, append=0.0)) - 1.0


def test_a_singular_element_of_a_batch_does_not_harm_the_others():
    """Without its ends a chain floats."""
    gradient = jax.jit(jax.vmap(jax.grad(lambda s: idf.implicit_root(springs, jnp.arange(7.0), s, adjoint=BY_LU)[0])))
    whole = jnp.asarray(RANDOM.uniform(1, 2, 8))
    floating = whole.at[jnp.array([0, -1])].set(0.0)
    found = gradient(jnp.stack([whole, floating, 2 * whole, whole * jnp.nan]))
    expected = jax.grad(lambda s: idf.implicit_root(springs, jnp.arange(7.0), s, adjoint=DENSE)[0])(whole)
    close(found[0], expected)
    close(found[2], expected / 2)
    assert np.all(np.isnan(found[jnp.array([1, 3])]))
    how = idf.Implicit(linear_solver=idf.sparse.LU(), on_failure="raise")
    with pytest.raises(Exception, match="singular to working precision"):
        jax.block_until_ready(
            jax.grad(lambda s: idf.implicit_root(springs, jnp.arange(7.0), s, adjoint=how)[0])(floating)
        )


@pytest.mark.parametrize("unit", [1e-150, 1e-12, 1.0, 1e12, 1e150])
def test_units_of_equations_and_unknowns_do_not_matter(unit):
    """Rows over twelve decades and columns in a unit of their own are no ill-conditioning."""
    rows = jnp.asarray(10.0 ** RANDOM.uniform(-6, 6, (SIDE, SIDE)))
    how = idf.Implicit(linear_solver=idf.sparse.LU(idf.sparse.pattern(flow, U, K)))

    def scaled(v, k):
        return rows * flow(v / unit, k)

    found = jax.grad(lambda k: jnp.sum(W * idf.implicit_root(scaled, unit * U, k, adjoint=how) / unit))(K)
    close(found, jax.grad(lambda k: jnp.sum(W * solution(k, DENSE)))(K), 1e-9)


def ill_conditioned(n, jump):
    """A chain of springs whose stiffness jumps: of condition number jump * n^2."""
    return jnp.where(jnp.arange(n + 1) % 7 == 3, jump, 1.0)


def test_what_a_krylov_method_cannot_solve_is_right_and_what_has_no_digits_is_nan():
    n = 1500
    for jump in (1e6, 1e-6):  # the entries of soft springs are rounded beside those of stiff ones: no more digits
        stiffness = ill_conditioned(n, jump)
        x = jnp.linspace(0, 1, n)
        found = jax.grad(lambda s: jnp.sum(idf.implicit_root(springs, x, s, adjoint=BY_LU)))(stiffness)
        diagonals = np.asarray(stiffness)
        A = sp.diags_array([diagonals[:-1] + diagonals[1:], -diagonals[1:-1], -diagonals[1:-1]], offsets=[0, 1, -1])
        u = splu(A.tocsc()).solve(np.ones(n))
        u += splu(A.tocsc()).solve(np.ones(n) - A @ u)
        expected = -np.diff(u, prepend=0, append=0) * np.diff(np.asarray(x), prepend=0, append=0)
        close(found, expected, 1e-5)
    # Eigenvalues one, and yet the inverse has entries of 1.5^n.
    n = 120
    F = lambda x, t: x - 1.5 * jnp.roll(x, 1).at[0].set(0.0) - t
    found = jax.grad(lambda t: idf.implicit_root(F, jnp.ones(n), t, adjoint=BY_LU)[-1])(jnp.ones(n))
    close(found, 1.5 ** np.arange(n)[::-1])
    vandermonde = jnp.asarray(np.vander(np.linspace(0, 1, 14)))
    normal = vandermonde.T @ vandermonde
    found = jax.grad(lambda t: jnp.sum(idf.implicit_root(lambda x, t: normal @ x - t, t, t, adjoint=BY_LU)))(
        jnp.ones(14)
    )
    assert np.all(np.isnan(found))


def test_a_pattern_that_lacks_entries_is_an_error():
    full = idf.sparse.pattern(flow, U, K)
    matrix = full.matrix(np.ones(full.nnz)).tolil()
    matrix[3, 9] = 0
    with pytest.raises(Exception, match="entries outside of the pattern"):
        jax.block_until_ready(jax.grad(lambda k: loss(k, idf.Implicit(linear_solver=idf.sparse.LU(matrix.tocsc()))))(K))
    small = jnp.ones((SIDE, SIDE)).at[2, 3].set(1e-9)  # in a column of small entries, too
    missing = full.matrix(np.ones(full.nnz)).tolil()
    missing[:, 2 * SIDE + 3] = 0
    missing[2 * SIDE + 3, 2 * SIDE + 3] = 1

    def scaled(v, k):
        return flow(v * small, k)

    how = idf.Implicit(linear_solver=idf.sparse.LU(missing.tocsc()))
    with pytest.raises(Exception, match="entries outside of the pattern"):
        jax.block_until_ready(jax.grad(lambda k: jnp.sum(idf.implicit_root(scaled, U / small, k, adjoint=how)))(K))
    with pytest.raises(ValueError, match="pattern is of 4 unknowns, but x has 36"):
        jax.grad(lambda k: loss(k, idf.Implicit(linear_solver=idf.sparse.LU(np.eye(4)))))(K)


def test_dense_rows_and_columns_take_one_product_each():
    """A global constraint with its multiplier borders the matrix."""

    def bordered(x, t):
        u, multiplier = x[:-1], x[-1]
        return jnp.append(springs(u, t) + multiplier * jnp.cos(jnp.arange(40.0)), jnp.sum(u**2) - 1.0)

    x, t = jnp.asarray(RANDOM.standard_normal(41)), jnp.asarray(RANDOM.uniform(1, 2, 41))
    assert idf.sparse.pattern(bordered, x, t).colours.products <= 6
    found, expected = (
        jax.grad(lambda t, how=how: jnp.sum(idf.implicit_root(bordered, x, t, adjoint=how) ** 3))(t)
        for how in (BY_LU, DENSE)
    )
    close(found, expected)


def test_trees_and_complex_unknowns():
    def F(x, t):
        return {"a": x["a"] ** 2 - t * x["b"], "b": x["b"] * (1 + 2j) + jnp.conj(x["b"]) * x["a"] - t}

    x = {"a": jnp.arange(1.0, 5.0), "b": jnp.arange(4) + 1j}
    t = jnp.arange(2.0, 6.0)
    size = lambda x: jnp.sum(x["a"] ** 2) + jnp.sum(jnp.abs(x["b"]) ** 2)
    real_F = lambda x, t: {"a": jnp.real(F(x, t)["a"]), "b": F(x, t)["b"]}
    found, expected = (
        jax.grad(lambda t, how=how: size(idf.implicit_root(real_F, x, t, adjoint=how)))(t) for how in (BY_LU, DENSE)
    )
    close(found, expected)


def test_factors_are_shared_and_repeats_cost_nothing(monkeypatch):
    made = []
    factorise = lambda A: made.append(A.shape) or splu(A)
    how = idf.Implicit(linear_solver=idf.sparse.LU(backend=factorise))
    jax.jacrev(lambda k: solution(k, how))(K)
    assert len(made) == 1
    jax.grad(lambda k: loss(k, how))(K)
    jax.jvp(lambda k: solution(k, how), (K,), (W,))
    assert len(made) == 1
    jax.grad(lambda k: loss(k, how))(1.5 * K)
    assert len(made) == 2


def test_memory_stays_bounded(monkeypatch):
    monkeypatch.setattr(_factors, "KEPT", _factors.Kept())
    monkeypatch.setattr(_factors, "MEMORY", 200_000)
    kept, pattern = _factors.KEPT, idf.sparse.Pattern(sum(np.eye(200, k=k) for k in (-1, 0, 1)))
    for seed in range(100):
        data = np.random.default_rng(seed).standard_normal(pattern.nnz)
        key = kept.key([data], pattern.digest)
        matrix = kept.get(key, lambda data=data: _factors.Matrix(pattern.matrix(data), True, 1e-16))
        matrix.solve(np.ones((200, 1)), False)
    assert sum(one.bytes for one in kept._kept.values()) <= 200_000 + matrix.bytes
    assert 1 <= len(kept._kept) < 30


def test_multipliers_do_not_fill_the_factors():
    """The conditions of optimal control of a Poisson equation have zeros on the diagonal, one for each multiplier."""
    side = 20
    line = sp.diags_array([2 * np.ones(side), -np.ones(side - 1), -np.ones(side - 1)], offsets=[0, 1, -1])
    grid = sp.kron(line, sp.eye_array(side)) + sp.kron(sp.eye_array(side), line)
    one = sp.eye_array(side**2)
    A = sp.csc_array(sp.block_array([[one, None, grid], [None, 1e-2 * one, -one], [grid, -one, None]]))
    matrix = _factors.Matrix(A, True, 1e-16)
    b = RANDOM.standard_normal((A.shape[0], 1))
    close(A @ matrix.solve(b, False)[0], b)
    assert matrix.factors.nnz < 2 * splu(A).nnz


def test_a_small_missing_entry_is_a_wrong_answer_where_the_system_is_ill_conditioned():
    """In float32 it may be too small to be told from rounding: then it counts as an error of the entries."""
    A = np.array([[1.0, 1.0, 0.0], [1.0, 1.0 + 2e-3, 1e-4], [0.0, 0.0, 1.0]], np.float32)
    missing = A.copy()
    missing[1, 2] = 0
    F = lambda x, b: jnp.asarray(A) @ x - b
    loss = lambda b, pattern: jnp.sum(
        idf.implicit_root(F, jnp.ones(3, jnp.float32), b, adjoint=idf.Implicit(linear_solver=idf.sparse.LU(pattern)))[
            :2
        ]
        * jnp.array([1.0, -1.0])
    )
    right, wrong = (np.asarray(jax.grad(loss)(jnp.ones(3, jnp.float32), pattern)) for pattern in (A, missing))
    expected = np.linalg.solve(A.astype(float).T, np.array([1.0, -1.0, 0.0]))
    np.testing.assert_allclose(right, expected, rtol=1e-2)
    assert np.all(np.isnan(wrong)) or np.allclose(wrong, expected, rtol=2e-2)
