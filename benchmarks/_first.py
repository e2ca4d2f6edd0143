"""The first derivative with a library in a fresh process. This file must import neither library at the top."""

import time

import jax
import jax.numpy as jnp
import numpy as np


def first_derivative(library: str) -> dict:
    """Seconds to import a library once jax is there, and for its first eager gradient (ridge regression, n = 10)."""
    random = np.random.default_rng(0)
    A, b, theta = (jnp.asarray(random.uniform(1, 2, shape)) for shape in ((20, 10), (20,), (10,)))
    x = jnp.asarray(np.linalg.solve(A.T @ A + np.diag(theta), A.T @ b))

    def energy(x, theta, A, b):
        return 0.5 * jnp.sum((A @ x - b) ** 2) + 0.5 * jnp.sum(theta * x**2)

    def given(x, theta, A, b):
        return x

    start = time.perf_counter()
    match library:
        case "implicitdiff":
            import implicitdiff as idf

            imported = time.perf_counter()
            solver = idf.custom_root(idf.optimality.stationary(energy, positive_definite=True))(given)
        case "jaxopt":
            import jaxopt

            imported = time.perf_counter()
            solver = jaxopt.implicit_diff.custom_root(jax.grad(energy))(given)
        case _:
            raise ValueError(f"library must be implicitdiff or jaxopt, found {library!r}.")
    jax.grad(lambda t: jnp.sum(solver(x, t, A, b) ** 2))(theta).block_until_ready()
    return dict(import_s=imported - start, first_s=time.perf_counter() - imported)
