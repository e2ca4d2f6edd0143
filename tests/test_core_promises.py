"""What the core once did wrong: each of these gave a wrong number, a crash, or an answer that was out of date."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf
from implicitdiff.krylov import CG, GMRES, MINRES, BiCGStab


@pytest.mark.parametrize(
    "transform", [(jnp.fft.rfft, lambda v: jnp.fft.irfft(v, 8)), (jnp.fft.fft, lambda v: jnp.real(jnp.fft.ifft(v)))]
)
def test_a_fourier_transform_in_F(transform):
    """A circular convolution: the matrix is formed from products whose layout XLA's transform must be able to give."""
    forward, backward = transform
    kernel = jnp.array([3.0, 1.0, 0.5, 0, 0, 0, 0, 0.25])

    def convolved(v):
        return backward(forward(v) * forward(kernel))

    A = np.stack([np.roll(kernel, i) for i in range(8)], 1)
    solution = lambda b: idf.implicit_root(lambda x, b: convolved(x) - b, jnp.zeros(8), b)
    b = jnp.cos(jnp.arange(8.0))
    expected = np.linalg.inv(A)
    np.testing.assert_allclose(jax.jacfwd(solution)(b), expected, atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.jacrev(solution))(b), expected, atol=1e-14)
    batch = jax.jit(jax.vmap(jax.grad(lambda b: jnp.sum(solution(b) ** 2))))(jnp.stack([b, 2 * b]))
    np.testing.assert_allclose(batch[1], 2 * batch[0])


class TestNeverStale:
    """What F, a preconditioner or a linear solver reads may change between two calls."""

    def gradient(self, F, **options):
        return float(jax.grad(lambda t: idf.implicit_root(F, t, t, adjoint=idf.Implicit(**options)))(1.0))

    def test_a_custom_rule_that_reads_what_changes(self):
        scale, box, array = 1.0, {"scale": 1.0}, np.ones(())

        @jax.custom_jvp
        def by_name(x):
            return x

        by_name.defjvp(lambda p, t: (p[0], scale * t[0]))

        @jax.custom_vjp
        def by_attribute(x):
            return x

        by_attribute.defvjp(lambda x: (x, None), lambda _, g: (box["scale"] * g,))

        @jax.custom_jvp
        def by_array(x):
            return x

        by_array.defjvp(lambda p, t: (p[0], array * t[0]))
        functions = [by_name, by_attribute, by_array]
        assert [self.gradient(lambda x, t, f=f: f(x) - t) for f in functions] == [1.0, 1.0, 1.0]
        scale, box["scale"] = 2.0, 4.0
        array[...] = 8.0
        assert [self.gradient(lambda x, t, f=f: f(x) - t) for f in functions] == [0.5, 0.25, 0.125]

    def test_a_linear_solver_and_a_preconditioner_that_read_what_changes(self):
        divisor = 2.0
        F = lambda x, t: 2.0 * x - t
        solver = lambda matvec, b: b / divisor
        options = dict(linear_solver=solver, on_failure="ignore")
        assert self.gradient(F, **options) == 0.5
        divisor = 4.0
        assert self.gradient(F, **options) == 0.25
        # A preconditioner cannot change the answer, but a stale one would make this one fail.
        divisor = 1.0
        assert self.gradient(F, preconditioner=lambda v: v / divisor) == 0.5
        divisor = 0.0
        assert np.isnan(self.gradient(F, preconditioner=lambda v: v / divisor))

    def test_they_may_read_what_is_differentiated(self):
        d = jnp.arange(1.0, 6.0)

        def solution(t, **options):
            F = lambda x, t: t * d * x - 1.0
            return jnp.sum(idf.implicit_root(F, 1 / (t * d), t, adjoint=idf.Implicit(**options)))

        for key in ("linear_solver", "preconditioner"):

            def f(t):
                call = {"linear_solver": lambda matvec, b: b / (t * d), "preconditioner": lambda v: v / (t * d)}[key]
                return solution(t, **{key: call})

            for g in (f, jax.jit(f), lambda t: jax.vmap(f)(t[None])[0]):
                np.testing.assert_allclose(jax.grad(g)(2.0), -jnp.sum(1 / d) / 4, rtol=1e-12)
                np.testing.assert_allclose(jax.jacfwd(g)(2.0), -jnp.sum(1 / d) / 4, rtol=1e-12)
            np.testing.assert_allclose(jax.hessian(f)(2.0), jnp.sum(1 / d) / 4, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_right_hand_sides_of_any_size(dtype):
    """b is scaled before its squares are summed: tiny ones were 0 and `converged`, huge ones NaN."""
    A = np.diag([2.0, 3.0, 4.0]).astype(dtype) + 0.1
    x = np.linalg.solve(A.astype(float), np.ones(3))
    powers = [-36, -30, -20, 20, 30, 36] if dtype == np.float32 else [-300, -200, -170, 154, 200, 300]
    scales = np.array([10.0**p for p in powers], dtype)
    direct = lambda matvec, b: jnp.linalg.solve(jax.jacfwd(matvec)(b), b)
    for solver in (None, CG(), MINRES(), BiCGStab(), GMRES(), direct):
        adjoint = idf.Implicit(linear_solver=solver, positive_definite=True)
        f = lambda b: idf.implicit_root(lambda x, b: A @ x - b, jnp.zeros(3, dtype), b, adjoint=adjoint)
        b = jnp.ones(3, dtype)
        forward = jax.jit(jax.vmap(lambda s: jax.jvp(f, (b,), (s * b,))[1]))(scales)
        reverse = jax.jit(jax.vmap(lambda s: jax.vjp(f, b)[1](s * b)[0]))(scales)
        for got in (forward, reverse):
            np.testing.assert_allclose(got / scales[:, None], np.tile(x, (6, 1)), rtol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("n", [10, 150])
def test_matrices_in_any_units(n):
    """The bound of the error beyond the size of the inverse squared numbers that left the range of float32."""
    G = np.random.default_rng(0).standard_normal((n, n))
    A, b, scales = (G @ G.T / n + np.eye(n)).astype(np.float32), jnp.ones(n, np.float32), np.float32([1e-30, 1, 1e30])
    want = np.linalg.solve(A.astype(float), np.ones(n))

    def products(s):
        f = lambda b: idf.implicit_root(lambda x, b: s * A @ x - b, jnp.zeros(n, np.float32), b)
        return jax.jvp(f, (b,), (s * b,))[1], jax.vjp(f, b)[1](s * b)[0]

    for got in jax.jit(jax.vmap(products))(scales):
        np.testing.assert_allclose(got, np.tile(want, (3, 1)), rtol=1e-3)


def gram(X):
    return X.T @ X


NEARLY_SINGULAR = {
    "kernel": np.exp(-4 * np.subtract.outer(*2 * [np.linspace(0, 1, 14)]) ** 2),
    "Vandermonde": gram(np.vander(np.linspace(0, 1, 30), 14)),
    "Hilbert": 1 / (np.add.outer(np.arange(14), np.arange(14)) + 1.0),
}


@pytest.mark.parametrize("name", NEARLY_SINGULAR)
def test_float64_factorisations_without_a_right_digit_are_refused(name):
    A = NEARLY_SINGULAR[name]
    b = np.random.default_rng(0).standard_normal(len(A))
    f = lambda b: idf.implicit_root(lambda x, b: A @ x - b, jnp.zeros(len(A)), b)
    for got in (jax.jvp(f, (b,), (b,))[1], jax.vjp(f, b)[1](b)[0]):
        assert np.all(np.isnan(got))
    # The same matrix with a ridge is regular, and solved.
    A = A + np.eye(len(A))
    got = jax.jvp(lambda b: idf.implicit_root(lambda x, b: A @ x - b, jnp.zeros(len(A)), b), (b,), (b,))[1]
    np.testing.assert_allclose(got, np.linalg.solve(A, b), rtol=1e-9)


def test_a_triangle_of_condition_1e16_that_substitution_solves():
    n = 100
    A, b = np.eye(n) - 1.5 * np.eye(n, k=-1), np.random.default_rng(0).standard_normal(n)
    forward, backward = [], []
    for value in b:  # exact, since every product and sum is
        forward.append(Fraction(value) + (Fraction(3, 2) * forward[-1] if forward else 0))
    for value in b[::-1]:
        backward.append(Fraction(value) + (Fraction(3, 2) * backward[-1] if backward else 0))
    f = lambda b: idf.implicit_root(lambda x, b: A @ x - b, jnp.zeros(n), b)
    got = jax.jvp(f, (b,), (b,))[1], jax.vjp(f, b)[1](b)[0]
    for found, exact in zip(got, (forward, backward[::-1]), strict=True):
        exact = np.array([float(value) for value in exact])
        assert np.all(np.isnan(found)) or np.linalg.norm(found - exact) <= 1e-2 * np.linalg.norm(exact)


def test_accurate_results_of_others_and_good_preconditioners_are_taken():
    """A stiff boundary-value problem: no solver can make the residual small beside b."""
    n = 1000
    h = 1 / (n + 1)
    epsilon = 1e-3
    main, upper, lower = 2 * epsilon / h**2 + 1, -epsilon / h**2 + 0.5 / h, -epsilon / h**2 - 0.5 / h
    A = np.diag(np.full(n, main)) + np.diag(np.full(n - 1, upper), 1) + np.diag(np.full(n - 1, lower), -1)
    A *= np.geomspace(1, 1e6, n)[:, None]

    def product(x):
        return jnp.asarray(A) @ x

    b = np.sin(np.arange(n))
    expected = np.linalg.solve(A, b)
    inverse = np.linalg.inv(A)
    factors = jax.scipy.linalg.lu_factor(A)

    def by_lu(matvec, b):
        return jax.scipy.linalg.lu_solve(factors, b)

    f = lambda b: idf.implicit_root(
        lambda x, b: product(x) - b, jnp.zeros(n), b, adjoint=idf.Implicit(linear_solver=by_lu)
    )
    got = jax.jvp(f, (jnp.asarray(b),), (jnp.asarray(b),))[1]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.max(np.abs(expected)))
    M = lambda v: jnp.asarray(inverse) @ v
    g = lambda b: idf.implicit_root(
        lambda x, b: product(x) - b, jnp.zeros(n), b, adjoint=idf.Implicit(preconditioner=M)
    )
    got = jax.jit(lambda b: jax.vjp(g, b)[1](b)[0])(b)
    np.testing.assert_allclose(
        got, np.linalg.solve(A.T, b), rtol=0, atol=1e-8 * np.max(np.abs(np.linalg.solve(A.T, b)))
    )


def test_positive_definite_up_to_an_asymmetry_that_counts():
    """An asymmetry of 7e-9 at condition 1e7 moves the solution by a percent: right, or NaN."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    skew = rng.standard_normal((30, 30))
    b = rng.standard_normal(30)
    for size, finite in ((0.0, True), (1e-13, True), (7e-9, False)):
        A = (Q * np.geomspace(1, 1e-7, 30)) @ Q.T
        A = (A + A.T) / 2 + size * (skew - skew.T)
        f = lambda b: idf.implicit_root(
            lambda x, b: A @ x - b, jnp.zeros(30), b, adjoint=idf.Implicit(positive_definite=True)
        )
        exact = np.linalg.solve(A, b)
        got = jax.jvp(f, (b,), (b,))[1]
        error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
        assert np.isnan(error) or error < 1e-3, (size, error)
        assert not finite or error < 1e-4


class TestGauge:
    """Singular and consistent: functions of x that do not depend on the gauge have a derivative."""

    @staticmethod
    def ring(n, t):
        """Points on a line with springs to their neighbours: all may be shifted together."""
        return lambda x, t: 2 * x - jnp.roll(x, 1) - jnp.roll(x, -1) - (t - jnp.roll(t, 1))

    @pytest.mark.parametrize("symmetric", [None, True])
    @pytest.mark.parametrize("n", [40, 450])
    def test_reverse_mode_is_right_where_the_output_does_not_depend_on_the_gauge(self, n, symmetric):
        t = jnp.cos(jnp.arange(float(n)))
        A = 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)
        B = np.eye(n) - np.roll(np.eye(n), 1, 0)
        J = np.linalg.pinv(A, 1e-10) @ B
        x = J @ t
        solution = lambda t, **o: idf.implicit_root(
            self.ring(n, t), x, t, adjoint=idf.Implicit(symmetric=symmetric, **o)
        )
        stretch = lambda x: jnp.sum((x[1:] - x[:-1]) ** 2)
        got = jax.jit(jax.grad(lambda t: stretch(solution(t))))(t)
        np.testing.assert_allclose(got, jax.grad(stretch)(x) @ J, atol=1e-10)
        # The first point alone depends on the gauge.
        assert np.all(np.isnan(jax.grad(lambda t: solution(t)[0])(t)))
        assert np.any(np.isnan(jax.jvp(solution, (t,), (t,))[1]))
        least = jax.jvp(lambda t: solution(t, well_posed=False), (t,), (t,))[1]
        np.testing.assert_allclose(least, J @ t, atol=1e-10)

    @pytest.mark.parametrize("method", [GMRES(), MINRES()])
    def test_a_krylov_method_by_name_is_told_of_the_gauge(self, method):
        """It solves an ill-conditioned system to a small residual, and up to 39 % off, as if it were a gauge."""
        n = 12
        H, r = 1 / (np.add.outer(np.arange(n), np.arange(n)) + 1.3), np.random.default_rng(1)
        b = H @ (np.random.default_rng(0).standard_normal(n) * 10.0 ** r.uniform(-6, 0, n))
        t = jnp.cos(jnp.arange(float(n)))

        @partial(jax.jit, static_argnums=0)
        def gradients(well_posed):
            adjoint = idf.Implicit(linear_solver=method, well_posed=well_posed)
            of_hilbert = lambda t: idf.implicit_root(lambda x, t: H @ x - t, jnp.zeros(n), t, adjoint=adjoint)
            of_ring = lambda t: jnp.diff(idf.implicit_root(self.ring(n, t), jnp.zeros(n), t, adjoint=adjoint))
            return jax.vjp(of_hilbert, t)[1](b)[0], jax.vjp(of_ring, t)[1](t[1:])[0]

        ill_conditioned, gauge = gradients(True)
        assert np.isnan(ill_conditioned).all()
        assert np.isnan(gauge).all()
        A = 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)
        J = np.diff(np.linalg.pinv(A, 1e-10) @ (np.eye(n) - np.roll(np.eye(n), 1, 0)), axis=0)
        np.testing.assert_allclose(gradients(False)[1], t[1:] @ J, atol=1e-10)

    def test_many_cotangents_are_treated_like_one(self):
        """Beyond the size of direct solves a Jacobian factorises its matrix, where a gradient uses products."""
        n = 450
        t = jnp.cos(jnp.arange(float(n)))
        A = 2 * np.eye(n) - np.roll(np.eye(n), 1, 0) - np.roll(np.eye(n), -1, 0)
        J = np.linalg.pinv(A, 1e-10) @ (np.eye(n) - np.roll(np.eye(n), 1, 0))
        solution = lambda t: idf.implicit_root(self.ring(n, t), J @ t, t)
        got = jax.jit(jax.jacrev(lambda t: jnp.diff(solution(t))))(t)
        np.testing.assert_allclose(got, np.diff(J, axis=0), atol=1e-10)
        assert np.all(np.isnan(jax.jit(jax.jacrev(solution))(t)))

    def test_a_regular_system_is_not_decomposed(self):
        """The singular values are computed in a loop that runs where A is singular: XLA must not hoist them out."""
        t = jnp.arange(4.0)
        program = jax.jit(jax.grad(lambda t: jnp.sum(idf.implicit_root(lambda x, t: 2 * x - t, t / 2, t))))
        *others, entry = program.lower(t).compile().as_text().split("ENTRY")
        assert "gesdd" in "".join(others)
        assert "gesdd" not in entry

    def test_the_logits_of_a_softmax_regression(self):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((50, 3)), jax.nn.one_hot(rng.integers(0, 4, 50), 4)

        def loss(W, weights):
            return jnp.sum(weights * -jnp.sum(y * jax.nn.log_softmax(X @ W), 1)) + 0.05 * jnp.sum(
                (W - jnp.mean(W, 1, keepdims=True)) ** 2
            )

        weights = jnp.ones(50)
        W = jnp.zeros((3, 4))
        H = lambda W, w: jax.hessian(loss)(W, w).reshape(12, 12)
        for _ in range(30):
            W = W - (np.linalg.pinv(H(W, weights), 1e-10) @ jax.grad(loss)(W, weights).ravel()).reshape(3, 4)
        solution = lambda w: idf.implicit_root(idf.optimality.stationary(loss), W, w)
        prediction = lambda w: jax.nn.softmax(X[:5] @ solution(w))[0, 0]
        mixed = jax.jacfwd(jax.grad(loss), argnums=1)(W, weights).reshape(12, 50)
        J = -np.linalg.pinv(H(W, weights), 1e-10) @ mixed
        outer = jax.grad(lambda W: jax.nn.softmax(X[:5] @ W)[0, 0])(W).ravel()
        np.testing.assert_allclose(jax.grad(prediction)(weights), outer @ J, atol=1e-10)


def test_a_jacobian_factorises_its_matrix_once():
    """640 unknowns, as in softmax regression on digits: each cotangent had a matrix of its own, 85 GiB in all."""
    n = 640
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, n)) / np.sqrt(n) + 3 * np.eye(n)
    f = lambda b, A: idf.implicit_root(lambda x, b, A: A @ x - b, jnp.zeros(n), b, A)
    compiled = jax.jit(jax.jacrev(f)).lower(jnp.zeros(n), A).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 30 * n * n * 8
    np.testing.assert_allclose(compiled(jnp.zeros(n), A), np.linalg.inv(A), atol=1e-12)
    # A batch of matrices, each with many right-hand sides, and the other way round.
    small = rng.standard_normal((3, 20, 20)) + 10 * np.eye(20)
    g = lambda b, A: idf.implicit_root(lambda x, b, A: A @ x - b, jnp.zeros(20), b, A)
    for of in (jax.vmap(jax.jacrev(g), (None, 0)), jax.jacrev(lambda b, A: jax.vmap(g, (None, 0))(b, A))):
        np.testing.assert_allclose(jax.jit(of)(jnp.zeros(20), small), np.linalg.inv(small), atol=1e-12)


def test_krylov_options_are_obeyed():
    A, b = np.diag(np.geomspace(1, 1e4, 300)), np.ones(300)
    for rtol, least, most in ((None, 0, 1e-11), (1e-2, 1e-6, 1e-2)):
        adjoint = idf.Implicit(linear_solver=CG(), rtol=rtol, positive_definite=True)
        f = lambda b, o=adjoint: idf.implicit_root(lambda x, b: A @ x - b, jnp.zeros(300), b, adjoint=o)
        residual = np.linalg.norm(b - A @ jax.vjp(f, b)[1](b)[0]) / np.linalg.norm(b)
        assert least <= residual <= most


def test_a_python_scalar_closed_over_under_vmap():
    scale = 2.0
    f = lambda t: idf.implicit_root(lambda x, t: scale * x - t, t / scale, t)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(jnp.arange(3.0)), 0.5)
    with jax.numpy_rank_promotion("raise"):
        np.testing.assert_allclose(
            jax.jacobian(lambda t: idf.implicit_root(lambda x, t: 2 * x - t, t / 2, t))(jnp.ones(3)), np.eye(3) / 2
        )


def test_a_value_alone_traces_F_once():
    calls = []

    def F(x, t):
        calls.append(1)
        return x - t

    solver = idf.custom_root(F)(lambda init, t: t)
    for k in range(5):
        solver(None, jnp.full(3, float(k)))
    assert len(calls) == 1
    solver(None, jnp.ones(4))
    assert len(calls) == 2
    with pytest.raises(TypeError, match="shape"):
        idf.custom_root(lambda x, t: x[:1] - t[:1])(lambda init, t: t)(None, jnp.ones(3))
