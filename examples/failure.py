"""When there is no derivative: what you see, and how to ask why.

By default a derivative that cannot be trusted is NaN, and NaN spreads. `on_failure="raise"` names the cause.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)
logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # JAX logs the traceback of what "raise" raises

random = np.random.default_rng(0)
A, b = jnp.array(random.standard_normal((20, 30))), jnp.array(random.standard_normal(20))


def ridge(x, weight):
    return 0.5 * jnp.sum((A @ x - b) ** 2) + 0.5 * weight * jnp.sum(x**2)


def solve(init, weight):
    return np.linalg.solve(A.T @ A + weight * np.eye(30), A.T @ b)


def minimum_norm(init, weight):
    return np.linalg.lstsq(A, b)[0]


def early(init, weight):
    """The solution to three digits."""
    return np.round(solve(init, weight), 3)


def slope(solver, condition, weight=1.0, **adjoint):
    """The derivative of one coordinate of the solution in the weight."""
    differentiable = idf.custom_root(condition, adjoint=idf.Implicit(**adjoint))(solver)
    return jax.grad(lambda weight: differentiable(None, weight)[0])(weight)


def cause(solver, condition, weight=1.0, **adjoint):
    """What is said under on_failure="raise"."""
    try:
        slope(solver, condition, weight, on_failure="raise", **adjoint)
    except Exception as error:  # its type depends on how JAX runs the callback
        return next(line for line in str(error).splitlines() if "implicitdiff:" in line).split("implicitdiff: ")[1]
    raise AssertionError("no failure was noticed")


def main():
    right, undecided = idf.optimality.stationary(ridge, positive_definite=True), idf.optimality.stationary(ridge)
    truth = slope(solve, right)
    print(f"a good solve: {truth:.6f}")

    print("\n1. The condition is not the solver's (a forgotten factor 2). The theorem cannot know, unless it is asked:")
    wrong = idf.optimality.stationary(lambda x, weight: ridge(x, 2 * weight), positive_definite=True)
    print(f"   derivative {slope(solve, wrong):.6f};  with residual_tol {slope(solve, wrong, residual_tol=1e-8)}")
    print("  ", cause(solve, wrong, residual_tol=1e-8))

    print("\n2. The solution is not unique: 20 equations, 30 unknowns, no regularisation.")
    print(f"   derivative {slope(minimum_norm, undecided, weight=0.0)}")
    print("  ", cause(minimum_norm, undecided, weight=0.0))

    print("\n3. The linear solver gives up.")
    print(f"   derivative {slope(solve, right, linear_solver=idf.krylov.CG(max_steps=3))}")
    print("  ", cause(solve, right, linear_solver=idf.krylov.CG(max_steps=3)))

    print("\n4. The solver stopped early. An error in proportion to that of x; a Newton step removes it:")
    for polish in (0, 1):
        error = abs(slope(early, right, polish=polish) / truth - 1)
        print(f"   polish={polish}: relative error {error:.0e}")
    assert error < 1e-6


if __name__ == "__main__":
    main()
