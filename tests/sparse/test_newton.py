"""A sparse Newton method: the solution and its derivative by one linear solver."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import splu

import implicitdiff as idf

SIDE = 24


def bratu(u, strength):
    """-Laplace u = strength exp(u) on the unit square, u = 0 around it."""
    around = jnp.pad(u, 1)
    laplace = around[2:, 1:-1] + around[:-2, 1:-1] + around[1:-1, 2:] + around[1:-1, :-2] - 4 * u
    return -laplace * (SIDE + 1) ** 2 - strength * jnp.exp(u)


def test_bratu_is_solved_and_differentiated():
    made = []
    factorise = lambda A: made.append(A.shape) or splu(A)
    start = jnp.zeros((SIDE, SIDE))
    sparse = idf.solvers.Newton(bratu, linear_solver=idf.sparse.LU(backend=factorise), tol=1e-12)
    dense = idf.solvers.Newton(bratu, tol=1e-12)
    peak = lambda solver: lambda strength: jnp.max(solver.run(start, strength)[0])
    found, slope = jax.jit(jax.value_and_grad(peak(sparse)))(5.0)
    steps = len(made)
    expected, other = jax.value_and_grad(peak(dense))(5.0)
    np.testing.assert_allclose([found, slope], [expected, other], rtol=1e-9)
    h = 1e-4
    np.testing.assert_allclose(slope, (peak(dense)(5 + h) - peak(dense)(5 - h)) / (2 * h), rtol=1e-6)
    _, state = sparse.run(start, 5.0)
    assert state.converged
    assert steps <= state.iteration + 1  # one factorisation for each step, and at most one for the derivative


def test_what_has_no_solution_does_not_converge():
    """Beyond a strength of 6.8 there is none."""
    solver = idf.solvers.Newton(bratu, linear_solver=idf.sparse.LU(), maxiter=15, on_unconverged="nan")
    slope, converged = jax.grad(
        lambda s: (lambda x, state: (jnp.max(x), state.converged))(*solver.run(jnp.zeros((SIDE, SIDE)), s)),
        has_aux=True,
    )(20.0)
    assert np.isnan(slope)
    assert not converged
