"""Peak memory of the derivative against the number of iterations of the solver: implicit beside unrolled.

The solver is gradient descent on a smoothing problem with n = 2048 unknowns, a few microseconds an iteration.
"""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

import implicitdiff as idf

from ._harness import in_new_process
from ._report import Claim, Report, Table, relative_error

N = 2048
ITERATIONS = (100, 1_000, 10_000)


def energy(x, theta, b):
    return 0.5 * jnp.sum((x - b) ** 2) + 0.5 * jnp.sum(theta * jnp.diff(x) ** 2)


def solver(adjoint, iterations: int):
    """Gradient descent with a fixed number of iterations, which a scan makes differentiable in reverse, too."""
    gradient = jax.grad(energy)

    def descent(init, theta, b):
        return jax.lax.scan(lambda x, _: (x - 0.2 * gradient(x, theta, b), None), init, length=iterations)[0]

    if adjoint == "jaxopt":
        return jaxopt.implicit_diff.custom_root(gradient)(descent)
    how = {"implicit": idf.Implicit(), "unrolled": idf.Unrolled()}[adjoint]
    return idf.custom_root(idf.optimality.stationary(energy, positive_definite=True), adjoint=how)(descent)


def derivative(adjoint: str, iterations: int) -> dict:
    """Compile the gradient of the solution's squared norm, run it once; for a fresh process."""
    jax.config.update("jax_enable_x64", True)
    run = solver(adjoint, iterations)
    b = jnp.asarray(np.random.default_rng(0).standard_normal(N))
    x, theta = jnp.zeros(N), jnp.ones(N - 1)
    executable = jax.jit(jax.grad(lambda t: jnp.sum(run(x, t, b) ** 2))).lower(theta).compile()
    value = jax.block_until_ready(executable(theta))
    temporary = executable.memory_analysis().temp_size_in_bytes / 2**20
    return dict(temporary_mb=temporary, value=value.tolist())


def _exact() -> np.ndarray:
    b = np.random.default_rng(0).standard_normal(N)
    difference = np.diff(np.eye(N), axis=0)
    hessian = np.eye(N) + difference.T @ difference  # theta = 1
    x = np.linalg.solve(hessian, b)
    return -(difference @ np.linalg.solve(hessian, 2 * x)) * (difference @ x)


def measure(quick: bool) -> Report:
    del quick
    rows, exact = [], _exact()
    for adjoint in ("implicit", "unrolled", "jaxopt"):
        for iterations in ITERATIONS:
            found = in_new_process(derivative, adjoint, iterations)
            error = relative_error(found["value"], exact)
            rows.append({"what": adjoint, "iterations": iterations, "temporary MB": found["temporary_mb"],
                         "peak of the process MB": found["peak_mb"], "error": error})  # fmt: skip
    note = "Temporary: what XLA allocates for the compiled derivative. Peak: resident memory, Python and JAX included."
    first, last = rows[0], rows[len(ITERATIONS) - 1]
    claims = [
        Claim(f"{column}, {ITERATIONS[-1]} / {ITERATIONS[0]} iterations", last[column] / first[column], target)
        for column, target in (("temporary MB", 1.0), ("peak of the process MB", 1.05))
    ]
    return Report([Table(f"n = {N}", rows, note)], claims)
