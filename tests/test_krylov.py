"""The Krylov methods by themselves, and within lineax."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as spl

import implicitdiff as idf
from implicitdiff._varying import scattered
from implicitdiff.krylov import CG, GMRES, MINRES, BiCGStab
from implicitdiff.krylov.bicgstab import least

N = 80


def matrix(kind, condition, n=N, seed=0):
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    spectrum = np.logspace(0, -np.log10(condition), n)
    signs = np.where(np.arange(n) % 2, 1, -1)
    return {
        "definite": (U * spectrum) @ U.T,
        "indefinite": (U * spectrum * signs) @ U.T,
        "general": np.eye(n) + 0.4 * (U * spectrum) @ V.T,
    }[kind]


SUITED = [
    (CG(), "definite"),
    (MINRES(), "definite"),
    (MINRES(), "indefinite"),
    (GMRES(), "definite"),
    (GMRES(), "general"),
    (GMRES(restart=15), "general"),
    (BiCGStab(), "definite"),
    (BiCGStab(), "general"),
    (BiCGStab(length=1), "general"),
    (BiCGStab(length=3), "general"),
]


@pytest.mark.parametrize(("method", "kind"), SUITED)
def test_the_backward_error_is_that_of_a_direct_solver(method, kind):
    condition = 1e3 if kind != "indefinite" else 10
    A = matrix(kind, condition)
    x = np.random.default_rng(1).standard_normal(N)
    outcome = jax.jit(lambda b: method.solve(lambda v: A @ v, b))(A @ x)
    assert outcome.converged
    residual = np.linalg.norm(A @ np.asarray(outcome.x) - A @ x)
    assert residual <= 50 * np.finfo(float).eps * (np.linalg.norm(A, 2) + 1) * np.linalg.norm(x)
    np.testing.assert_allclose(outcome.residual, residual, rtol=0.5, atol=1e-15)
    assert np.linalg.norm(outcome.x - x) <= 1e-14 * np.linalg.cond(A) * np.linalg.norm(x)


def test_minres_needs_no_more_products_than_scipys():
    A = matrix("indefinite", 30)
    b = np.random.default_rng(1).standard_normal(N)
    count = [0]
    spl.minres(A, b, rtol=1e-10, callback=lambda _: count.__setitem__(0, count[0] + 1))
    outcome = MINRES(rtol=1e-10).solve(lambda v: A @ v, jnp.asarray(b))
    assert outcome.converged
    # SciPy's test also divides by ||A|| ||x||, which lets it stop a little earlier.
    assert outcome.steps <= 1.3 * count[0]


def test_bicgstab_needs_no_more_products_than_scipys():
    A = matrix("general", 30) + 2 * matrix("definite", 30, seed=1)
    b = np.random.default_rng(1).standard_normal(N)
    count = [0]
    spl.bicgstab(A, b, rtol=1e-10, callback=lambda _: count.__setitem__(0, count[0] + 2))
    for length in (1, 2):
        outcome = BiCGStab(rtol=1e-10, length=length).solve(lambda v: A @ v, jnp.asarray(b))
        assert outcome.converged
        assert outcome.steps <= count[0] + 2 * length


def test_bicgstab_with_eigenvalues_along_the_imaginary_axis():
    rotation = np.random.default_rng(0).standard_normal((N, N)) / np.sqrt(N)
    A, b = 0.3 * np.eye(N) + rotation - rotation.T, np.random.default_rng(1).standard_normal(N)
    two, one = (BiCGStab(length=length, max_steps=400).solve(lambda v: A @ v, jnp.asarray(b)) for length in (2, 1))
    assert two.converged
    np.testing.assert_allclose(two.x, np.linalg.solve(A, b), atol=1e-11)
    assert not one.converged


def systems(n=200):
    random = np.random.default_rng(0)
    G = random.standard_normal((n, n)) / np.sqrt(n)
    Q, half, B = np.linalg.qr(G)[0], n // 2, G[: n // 2, : n // 2] * 2**0.5
    push, eye = np.diag(np.linspace(1, 2, half)), np.eye(n)
    grid, side = np.eye(n, k=1) - np.eye(n, k=-1), np.eye(n, k=1) + np.eye(n, k=-1)
    chances = random.uniform(size=(n, n)) ** 8
    return {
        "advection": 4 * eye - 2 * side + 1.5 * grid,
        "fixed point": eye - 0.9 * Q,
        "random fixed point": eye - 0.9 * G,
        "negative": -(eye + 0.5 * G),
        "rotation": eye + G - G.T,
        "mostly rotation": 0.1 * eye + G - G.T,
        "game": np.block([[0.1 * np.eye(half), B], [-B.T, 0.1 * np.eye(half)]]),
        "zero-sum game": np.block([[0 * push, push], [-push, 0 * push]]),
        "KKT": np.block([[G[:half, :half] @ G[:half, :half].T + 0.1 * np.eye(half), B.T], [push @ B, -0.5 * push]]),
        "Markov chain": eye - 0.99 * chances / chances.sum(1, keepdims=True),
        "cyclic shift": np.roll(eye, 1, 0),  # neither solves it
        "random": G,
    }


def test_bicgstab_converges_wherever_gmres_does():
    kinds = systems()
    matrices = np.stack(list(kinds.values()))
    b = np.random.default_rng(1).standard_normal(matrices.shape[1])

    def solved(method):
        return jax.jit(jax.vmap(lambda A: method.solve(lambda v: A @ v, b)))(matrices)

    first, second = solved(BiCGStab(max_steps=2000)), solved(GMRES(max_steps=2000))
    assert np.sum(second.converged) >= 9
    for name, one, other, x in zip(kinds, first.converged, second.converged, first.x, strict=True):
        assert one or not other, name
        if one:
            error = np.linalg.norm(x - np.linalg.solve(kinds[name], b)) / np.linalg.norm(x)
            assert error <= 1e-13 * np.linalg.cond(kinds[name]), name
    both = first.converged & second.converged
    assert np.sum(first.steps, where=both) <= 1.5 * np.sum(second.steps, where=both)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scattered_numbers_have_no_pattern(dtype):
    numbers, others = map(np.asarray, (scattered(jnp.zeros(4096, dtype)), scattered(jnp.zeros((64, 64), dtype), 1)))
    assert numbers.dtype == others.dtype == dtype
    assert -1 <= numbers.min() < -0.99
    assert 0.99 < numbers.max() <= 1
    spectrum = np.abs(np.fft.fft(numbers)) ** 2 / 4096  # 1/3 each, exponentially distributed, if they were random
    assert abs(spectrum.mean() - 1 / 3) < 0.02
    assert spectrum.max() < 15 / 3
    assert abs(numbers @ others.ravel()) / 4096 < 4 / 3 / 64


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("dependent", [False, True])
def test_coefficients_of_the_least_residual(count, dependent):
    vectors = np.random.default_rng(count).standard_normal((30, count + 1))
    if dependent:
        vectors[:, -1] = 2 * vectors[:, 1] if count > 1 else 0
    gram = vectors.T @ vectors
    found = np.array(least([[jnp.asarray(gram[i, j]) for j in range(i + 1)] for i in range(count + 1)]))
    reference = np.linalg.lstsq(vectors[:, 1:], vectors[:, 0])[0]
    np.testing.assert_allclose(vectors[:, 1:] @ found, vectors[:, 1:] @ reference, atol=1e-12)
    if not dependent:
        np.testing.assert_allclose(found, reference, atol=1e-12)


def test_arrays_keep_their_shape():
    A = matrix("definite", 10)
    b = np.random.default_rng(1).standard_normal((8, 10))
    for method in (CG(), MINRES(), GMRES(), BiCGStab()):
        outcome = method.solve(lambda v: (A @ v.ravel()).reshape(v.shape), jnp.asarray(b))
        np.testing.assert_allclose(outcome.x, np.linalg.solve(A, b.ravel()).reshape(8, 10), rtol=1e-10)


@pytest.mark.parametrize("method", [CG(), MINRES(), GMRES(), BiCGStab()])
def test_trivial_and_impossible_right_hand_sides(method):
    A = matrix("definite", 10)
    product = lambda v: A @ v
    nothing = method.solve(product, jnp.zeros(N))
    assert nothing.converged
    np.testing.assert_array_equal(nothing.x, 0)
    eigenvector = np.linalg.eigh(A)[1][:, 3]
    once = method.solve(product, jnp.asarray(A @ eigenvector))
    assert once.converged
    np.testing.assert_allclose(once.x, eigenvector, atol=1e-12)
    assert not method.solve(product, jnp.full(N, jnp.nan)).converged
    tiny, huge = (method.solve(product, s * jnp.asarray(A @ eigenvector)) for s in (1e-150, 1e150))
    assert tiny.converged
    assert huge.converged


@pytest.mark.parametrize(
    "method", [CG(max_steps=200), MINRES(max_steps=200), GMRES(max_steps=200), BiCGStab(max_steps=200)]
)
def test_a_singular_system_does_not_converge(method):
    A = np.diag(np.r_[0.0, np.linspace(1, 2, N - 1)])
    outcome = jax.jit(lambda b: method.solve(lambda v: A @ v, b))(np.ones(N))
    assert not outcome.converged
    consistent = method.solve(lambda v: A @ v, jnp.asarray(A @ np.ones(N)))
    assert consistent.converged  # b in the range: the solution of least norm
    np.testing.assert_allclose(consistent.x, np.r_[0.0, np.ones(N - 1)], atol=1e-12)


def test_cg_notices_an_indefinite_matrix():
    A = matrix("indefinite", 10)
    assert not CG().solve(lambda v: A @ v, jnp.ones(N)).converged


def test_a_batch_stops_element_by_element():
    As = np.stack([matrix("definite", c) for c in (2.0, 1e3)])
    outcome = jax.jit(jax.vmap(lambda A: CG().solve(lambda v: A @ v, jnp.ones(N))))(As)
    assert outcome.steps[0] < outcome.steps[1]
    for A, x in zip(As, outcome.x, strict=True):
        np.testing.assert_allclose(x, np.linalg.solve(A, np.ones(N)), rtol=1e-9)


@pytest.mark.parametrize("method", [CG(rtol=1e-12), MINRES(rtol=1e-12), GMRES(rtol=1e-12), BiCGStab(rtol=1e-12)])
def test_within_lineax(method):
    A, b = jnp.asarray(matrix("definite", 10)), jnp.arange(1.0, N + 1)
    solve = lambda A, b: lx.linear_solve(lx.MatrixLinearOperator(A, lx.positive_semidefinite_tag), b, method).value
    np.testing.assert_allclose(solve(A, b), np.linalg.solve(A, b), rtol=1e-9)
    np.testing.assert_allclose(jax.grad(lambda b: jnp.sum(solve(A, b)))(b), np.linalg.solve(A, np.ones(N)), rtol=1e-9)
    with pytest.raises(Exception, match="steps"):
        lx.linear_solve(lx.MatrixLinearOperator(A), b, type(method)(rtol=1e-12, max_steps=2))


@pytest.mark.parametrize(("method", "factor"), [(CG(), 1.1), (MINRES(), 1.1), (BiCGStab(), 1.4)])
def test_stops_at_the_documented_residual(method, factor):
    """And not at that of a solution of length 0, for which an ill-conditioned system takes a third more products."""
    n, stiffness = 1000, 1e3
    b = np.random.default_rng(0).standard_normal(n)

    def product(v):
        return (1 + 2 * stiffness) * v - stiffness * (jnp.pad(v[1:], (0, 1)) + jnp.pad(v[:-1], (1, 0)))

    A = np.diag(np.full(n, 1 + 2 * stiffness)) - stiffness * (np.eye(n, k=1) + np.eye(n, k=-1))
    x, r, steps = np.zeros(n), b.copy(), 0
    p, goal = r.copy(), lambda x: 20 * 2.2e-16 * (4 * stiffness * np.linalg.norm(x) + np.linalg.norm(b))
    while np.linalg.norm(r) > goal(x):
        Ap = A @ p
        alpha = r @ r / (p @ Ap)
        new = r - alpha * Ap
        x, p, r, steps = x + alpha * p, new + new @ new / (r @ r) * p, new, steps + 1
    found = jax.jit(lambda b: method.solve(product, b))(b)
    assert found.converged
    assert np.linalg.norm(b - A @ found.x) <= 2 * goal(found.x)
    assert found.steps <= factor * steps


@pytest.mark.parametrize("restart", [3, 7, 40])
def test_gmres_where_digits_cancel(restart):
    """A v is almost v: a single pass of Gram-Schmidt would leave mostly rounding noise."""
    random = np.random.default_rng(0)
    A, b = np.eye(60) + 1e-7 * random.standard_normal((60, 60)), random.standard_normal(60)
    found = jax.jit(lambda b: GMRES(restart=restart).solve(lambda v: A @ v, b))(b)
    assert found.converged
    assert found.steps <= 6
    np.testing.assert_allclose(found.x, np.linalg.solve(A, b), rtol=0, atol=1e-13)


def test_conjugate_gradients_on_a_mirror_condition():
    """Its matrix has 1/x in it; the solution on its support is that of a linear system."""
    rng, n = np.random.default_rng(0), 40
    X = rng.standard_normal((60, n))
    H = X.T @ X / 60
    support = np.arange(n) < 15
    x = np.zeros(n)
    x[support] = np.geomspace(1e-5, 1, 15)
    x = x / x.sum()
    b = H @ x - ~support * rng.uniform(0.5, 2, n)  # x minimises x'Hx/2 - b'x on the simplex
    T = idf.optimality.mirror_descent(lambda x, b: x @ H @ x / 2 - b @ x, idf.mirror.simplex, idf.mirror.log, 0.2)
    f = lambda b: idf.implicit_fixed_point(T, x, b, None, adjoint=idf.Implicit(linear_solver=CG(max_steps=5000)))
    system = np.block([[H[:15, :15], np.ones((15, 1))], [np.ones((1, 15)), np.zeros((1, 1))]])
    expected = np.zeros((n, n))
    expected[:15, :15] = np.linalg.inv(system)[:15, :15]
    v = rng.standard_normal(n)
    np.testing.assert_allclose(jax.jit(lambda b: jax.vjp(f, b)[1](v)[0])(b), v @ expected, atol=1e-8)
    np.testing.assert_allclose(jax.jit(lambda b: jax.jvp(f, (b,), (v,))[1])(b), expected @ v, atol=1e-8)


LU = lambda matvec, b: jnp.linalg.solve(jax.jacfwd(matvec)(b), b)  # a function of the user's


METHODS = [CG(), MINRES(), GMRES(), BiCGStab()]


@pytest.mark.parametrize(
    ("method", "preconditioned"), [*((m, False) for m in METHODS), *((m, True) for m in METHODS), (LU, False)]
)
def test_the_units_of_a_matrix_do_not_matter(method, preconditioned):
    A = matrix("definite", 20, 12).astype(np.float32)
    b, c = np.random.default_rng(1).standard_normal((2, 12)).astype(np.float32)

    def both(unit):
        M = (lambda v: v / unit / A.diagonal()) if preconditioned else None
        adjoint = idf.Implicit(linear_solver=method, preconditioner=M)
        x = lambda t: idf.implicit_root(lambda x, t: (unit * A) @ x - t, jnp.zeros_like(t), t, adjoint=adjoint)
        return unit * jax.jvp(x, (b,), (b,))[1], unit * jax.vjp(x, b)[1](c)[0]

    units = jnp.array([1e-30, 1e-20, 1.0, 1e20, 1e30], jnp.float32)
    for found, right in zip(jax.jit(jax.vmap(both))(units), (b, c), strict=True):
        expected = np.linalg.solve(A.astype(float), right)
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-4, atol=1e-5)
