"""float32, float64, mixtures of them, half precision, and complex unknowns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opaque import THETA, B, M, jacobian, newton

import implicitdiff as idf

J = jacobian(THETA)


def in_dtype(dtype):
    def F(x, theta):
        return M.astype(dtype) @ x + x**3 * jnp.asarray(0.1, dtype) - B.astype(dtype) @ jnp.sin(theta)

    return lambda theta: idf.implicit_root(F, newton(THETA).astype(dtype), theta)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float64, 1e-13), (jnp.float32, 2e-5), (jnp.bfloat16, 0.1)])
def test_the_derivative_has_the_dtype_of_x(dtype, rtol, mode):
    result = jax.jit(mode(in_dtype(dtype)))(jnp.asarray(THETA, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result.astype(np.float64), J, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_float32_unknowns_of_float64_parameters(mode):
    def x(theta):
        return idf.implicit_root(
            lambda x, theta: M @ x + 0.1 * x**3 - B @ jnp.sin(theta), newton(THETA).astype(np.float32), theta
        )

    np.testing.assert_allclose(jax.jit(mode(x))(THETA), J, rtol=2e-5, atol=1e-6)


SIZES = {"direct": 3, "Krylov": 300}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_unknowns_that_mix_float32_and_float64(mode, size):
    """Unknowns a (float32) and b (float64) that depend on each other."""
    rng = np.random.default_rng(0)
    D = rng.uniform(2, 3, size)
    C = 0.5 * rng.standard_normal((size, size)) / np.sqrt(size)

    def F(x, theta):
        a, b = x["a"].astype(jnp.float64), x["b"]
        return {"a": (D * a + C @ b - theta[0]).astype(jnp.float32), "b": C.T @ a - D * b + theta[1]}

    full = np.block([[np.diag(D), C], [C.T, -np.diag(D)]])
    right = np.concatenate(
        [np.stack([np.ones(size), np.zeros(size)], 1), np.stack([np.zeros(size), -np.ones(size)], 1)]
    )
    expected = np.linalg.solve(full, right)
    root = expected @ np.array([1.0, 2.0])
    x = {"a": jnp.asarray(root[:size], jnp.float32), "b": jnp.asarray(root[size:])}
    adjoint = idf.Implicit(symmetric=True)
    result = jax.jit(mode(lambda theta: idf.implicit_root(F, x, theta, adjoint=adjoint)))(jnp.array([1.0, 2.0]))
    assert (result["a"].dtype, result["b"].dtype) == (
        (jnp.float32, jnp.float64) if mode is jax.jacfwd else (jnp.float64,) * 2
    )
    np.testing.assert_allclose(np.concatenate([result["a"], result["b"]]), expected, rtol=1e-5, atol=1e-5)


A_COMPLEX = np.array([[2.0 + 1j, 0.3], [-0.5j, 1.5 - 0.7j]])


def holomorphic(x, theta):
    return A_COMPLEX @ x + x**2 / 10 - theta


def not_holomorphic(x, theta):
    return A_COMPLEX @ x + 0.3 * jnp.conj(x) ** 2 - theta * jnp.abs(theta)


@pytest.mark.parametrize(
    "solver",
    [
        None,
        idf.krylov.BiCGStab(),
        pytest.param(idf.krylov.GMRES(), marks=pytest.mark.slow),
        lambda mv, b: jax.scipy.sparse.linalg.gmres(mv, b, tol=1e-12)[0],
    ],
)
@pytest.mark.parametrize("F", [holomorphic, not_holomorphic])
def test_complex_unknowns(F, solver):
    """Against finite differences in the real and in the imaginary part."""
    theta = np.array([0.4 - 0.3j, 0.2 + 0.9j])
    if solver is not None and not isinstance(solver, idf.krylov.Krylov) and F is not_holomorphic:
        pytest.skip("jax.scipy's GMRES is linear over the complex numbers only")

    def root(theta):
        real = lambda z: np.concatenate([z.real, z.imag])
        x = np.zeros(2, complex)
        for _ in range(50):
            columns = [
                real(jax.jvp(lambda x: F(x, theta), (x,), (e,))[1]) for e in np.concatenate([np.eye(2), 1j * np.eye(2)])
            ]
            step = np.linalg.solve(np.array(columns).T, real(np.asarray(F(x, theta))))
            x = x - (step[:2] + 1j * step[2:])
        return x

    def attached(theta):
        return idf.implicit_root(
            F,
            root(np.asarray(jax.lax.stop_gradient(theta))),
            theta,
            adjoint=idf.Implicit(linear_solver=solver),
        )

    rng = np.random.default_rng(1)
    tangent = rng.standard_normal(2) + 1j * rng.standard_normal(2)
    h = 1e-6
    expected = (root(theta + h * tangent) - root(theta - h * tangent)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(attached, (theta,), (tangent,))[1], expected, rtol=1e-7)
    cotangent = rng.standard_normal(2) + 1j * rng.standard_normal(2)
    pulled = jax.vjp(attached, jnp.asarray(theta))[1](jnp.asarray(cotangent))[0]
    np.testing.assert_allclose(np.real(np.sum(pulled * tangent)), np.real(np.sum(cotangent * expected)), rtol=1e-7)


@pytest.mark.rounding
def test_a_real_minimum_of_complex_unknowns_is_symmetric():
    def f(x, t):
        residual = A_COMPLEX @ x - t  # 0 at the minimum, where the second derivative of jnp.abs(r)**2 is NaN
        return jnp.sum(residual.real**2 + residual.imag**2)

    F = idf.optimality.stationary(f, positive_definite=True)
    theta = jnp.array([1.0 + 2j, 3.0])
    x = np.linalg.solve(A_COMPLEX, np.asarray(theta))
    tangent = jnp.array([1j, 2.0 - 1j])
    got = idf.root_jvp(F, x, (theta,), (tangent,))
    np.testing.assert_allclose(got, np.linalg.solve(A_COMPLEX, np.asarray(tangent)), rtol=1e-12)
