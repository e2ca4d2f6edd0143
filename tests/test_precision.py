"""Products of matrices ask for the precision of their dtype, which only accelerators would not give by themselves.

Read off the traced programs, so that it holds without an accelerator: no product is left to JAX's default.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from jax import lax
from jax.extend import core as jex

import implicitdiff as idf

sys.path += [str(Path(__file__).parent / folder) for folder in ("projection", "prox")]
from projection_cases import CASES as PROJECTIONS
from prox_cases import CASES as PROXES

RANDOM = np.random.default_rng(0)
A, B = jnp.asarray(RANDOM.standard_normal((8, 5))), jnp.asarray(RANDOM.standard_normal(8))


def precisions(f, *args):
    """Those of all products in the traced program of f and of what it calls."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if "precision" in eqn.params:
                yield eqn.params["precision"]
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from walk(inner)

    return set(walk(jax.make_jaxpr(f)(*args).jaxpr))


def twice(f):
    """The derivative of the derivative of a compiled f: its rules are traced later than f."""

    def both(v):
        def pull(v):
            x, back = jax.vjp(jax.jit(f), v)
            return back(x)[0]

        return jax.jvp(pull, (v,), (v,))

    return both


HIGHEST = {(lax.Precision.HIGHEST,) * 2, lax.Precision.HIGHEST}


def test_products_of_no_precision_are_found():
    assert precisions(twice(lambda v: jnp.sin(A @ v)), B[:5]) == {None}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections(name):
    case = PROJECTIONS[name]
    v = jnp.asarray(RANDOM.standard_normal(case.shape))
    assert precisions(twice(lambda v: case.project(v, case.theta)), v) <= HIGHEST


@pytest.mark.parametrize("name", PROXES)
def test_proximal_operators(name):
    case = PROXES[name]
    v = jnp.asarray(RANDOM.standard_normal(case.shape))
    assert precisions(twice(lambda v: case.prox(v, case.theta, 1.0)), v) <= HIGHEST


def test_mirror_transport():
    y, half = jnp.asarray(RANDOM.standard_normal((3, 4))), (jnp.full(3, 1 / 3), jnp.full(4, 1 / 4))
    assert precisions(twice(lambda y: idf.mirror.transport(y, half)), y) == {(lax.Precision.HIGHEST,) * 2}


def energy(x, theta):
    return 0.5 * jnp.sum((A @ x - B) ** 2) + 0.5 * theta * jnp.sum(x**2)


def composed(theta, linear_solver=None):
    T = idf.optimality.proximal_gradient(energy, idf.prox.lasso, 0.01)
    return idf.implicit_fixed_point(T, jnp.ones(5), theta, theta, adjoint=idf.Implicit(linear_solver=linear_solver))


def root(theta, linear_solver):
    F = idf.optimality.stationary(energy, positive_definite=True)
    return idf.implicit_root(F, jnp.ones(5), theta, adjoint=idf.Implicit(linear_solver=linear_solver, polish=1))


def solver(theta, method):
    return method.run(jnp.zeros(5), theta)[0]


def optimistix(theta):
    return idf.solvers.optimistix_solver(energy, optx.BFGS(1e-6, 1e-6)).run(jnp.zeros(5), theta)[0]


def program(theta):
    return idf.convex.solve_qp(jnp.eye(5) * theta, A[0], A[1:3], B[:2], A, B + 9, solver="jax").x


METHODS = [
    None,
    lx.LU(),
    lx.Cholesky(),
    lx.CG(1e-8, 1e-8),
    idf.krylov.CG(),
    idf.MINRES(),
    idf.krylov.GMRES(),
    idf.krylov.BiCGStab(),
]
DESCENT = [
    idf.solvers.GradientDescent(energy, 0.01, maxiter=4),
    idf.solvers.GradientDescent(energy, 0.01, maxiter=4, adjoint=idf.Unrolled()),
    idf.solvers.AndersonAcceleration(idf.optimality.gradient_descent(energy, 0.01), maxiter=4),
]
WHOLE = {
    **{f"root, {type(method).__name__}": partial(root, linear_solver=method) for method in METHODS},
    **{f"composed, {type(method).__name__}": partial(composed, linear_solver=method) for method in METHODS[:2]},
    **{f"solver, {number}": partial(solver, method=method) for number, method in enumerate(DESCENT)},
    "optimistix": optimistix,
    "quadratic program": program,
}


@pytest.mark.parametrize("name", WHOLE)
def test_derivatives_and_solvers(name):
    found = precisions(twice(WHOLE[name]), jnp.asarray(2.0))
    assert found
    assert found <= HIGHEST


def test_what_the_user_chose_stays():
    with jax.default_matmul_precision("tensorfloat32"):
        found = precisions(twice(partial(root, linear_solver=idf.krylov.CG())), jnp.asarray(2.0))
    assert (lax.DotAlgorithmPreset.TF32_TF32_F32) in found or (lax.Precision.HIGH,) * 2 in found, found
    explicit = lambda x, theta: jnp.matmul(A.T @ A, x, precision="default") - theta
    found = precisions(twice(lambda t: idf.implicit_root(explicit, jnp.ones(5), t)), jnp.asarray(2.0))
    assert (lax.Precision.DEFAULT,) * 2 in found
