"""The problem that most tests solve, by solvers that autodiff cannot see through.

F(x, theta) = M x + x^3 / 10 - B sin(theta) with M a permutation plus noise (so not symmetric, and zero on most of
the diagonal) and B not square: a transposition error anywhere shows. The Jacobian has a closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf

N, P = 5, 3
_rng = np.random.default_rng(0)
M = np.eye(N)[[2, 0, 4, 1, 3]] * 2 + 0.3 * _rng.standard_normal((N, N))
B = _rng.standard_normal((N, P))
THETA = np.array([0.3, -0.2, 0.8])
TANGENT, COTANGENT = _rng.standard_normal(P), _rng.standard_normal(N)


def F(x, theta):
    return M @ x + 0.1 * x**3 - B @ jnp.sin(theta)


def newton(theta):
    """The root, in NumPy."""
    theta = np.asarray(theta)
    x = np.zeros(N)
    for _ in range(30):
        x = x - np.linalg.solve(M + np.diag(0.3 * x**2), M @ x + 0.1 * x**3 - B @ np.sin(theta))
    return x


def jacobian(theta):
    """Closed form: (M + 0.3 diag(x^2)) J = B diag(cos theta)."""
    return np.linalg.solve(M + np.diag(0.3 * newton(theta) ** 2), B * np.cos(theta))


def differences(f, theta, step=1e-5):
    """Central differences of an array-valued function, the new axis last."""
    columns = [(f(theta + step * e) - f(theta - step * e)) / (2 * step) for e in np.eye(len(theta))]
    return np.stack(columns, axis=-1)


def hessian(theta):
    """d^2 x_i / d theta_j d theta_k."""
    return differences(jacobian, theta)


def numpy_solver(init, theta):
    if isinstance(theta, jax.core.Tracer):
        raise TypeError("a NumPy solver cannot be traced")
    return newton(theta)


def jax_solver(init, theta):
    """A JAX solver whose own derivative is zero, so that unrolling cannot pass for implicit differentiation."""

    def step(_, x):
        return x - jnp.linalg.solve(M + jnp.diag(0.3 * x**2), F(x, theta))

    return jax.lax.stop_gradient(jax.lax.fori_loop(0, 30, step, jnp.zeros(N)))


host = idf.host_solver(numpy_solver, jax.ShapeDtypeStruct((N,), jnp.float64))

# Each is a function theta -> x.
_decorated = {
    "decorated numpy": idf.custom_root(F)(numpy_solver),
    "decorated host": idf.custom_root(F)(host),
    "decorated jax": idf.custom_root(F)(jax_solver),
    "decorated fixed point": idf.custom_fixed_point(lambda x, theta: x - 0.1 * F(x, theta))(jax_solver),
}
FORMS = {name: (lambda theta, solver=solver: solver(None, theta)) for name, solver in _decorated.items()}
FORMS["function"] = lambda theta: idf.implicit_root(F, jax_solver(None, theta), theta)
FORMS["function, host"] = lambda theta: idf.implicit_root(F, host(None, jax.lax.stop_gradient(theta)), theta)
FORMS["function, closure"] = lambda theta: idf.implicit_root(lambda x: F(x, theta), jax_solver(None, theta))
TRACEABLE = [name for name in FORMS if name != "decorated numpy"]
