r"""
How wrong is my derivative?
===========================

Solvers stop before they have converged. Then the derivative is that at an approximate solution, and it is wrong by an
amount that is proportional to the error of the solution. This tutorial shows how to estimate that amount, how to
remove it, and what you see when there is no derivative at all.
"""

import logging

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)
logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # JAX logs the traceback of what "raise" raises

A, b = load_diabetes(return_X_y=True)
b = (b - b.mean()) / b.std()


def ridge(x, weight):
    return 0.5 * jnp.sum((A @ x - b) ** 2) + 0.5 * weight * jnp.sum(x**2)


F = idf.optimality.stationary(ridge, positive_definite=True)


def exact(weight):
    return np.linalg.solve(A.T @ A + weight * np.eye(10), A.T @ b)


weight = 0.1
x_exact = exact(weight)
truth = -np.linalg.solve(A.T @ A + weight * np.eye(10), x_exact)

# %%
# The error along the iterations of a solver
# ------------------------------------------
# Gradient descent approaches the solution slowly. At each iterate we compute the derivative in three ways: of the
# iterate (unrolled), by the implicit function theorem at the iterate, and the same after one Newton step on x, which
# ``Implicit(polish=1)`` takes. :func:`~implicitdiff.certify.error_estimate` does not know the solution, and estimates
# the error of the second one.

step = 1.0 / (np.linalg.norm(A, 2) ** 2 + weight)


def iterate(weight):
    def body(x, _):
        x = x - step * jax.grad(ridge)(x, weight)
        return x, x

    return jax.lax.scan(body, jnp.zeros(10), length=300)[1]


iterates, unrolled = jax.jvp(iterate, (weight,), (1.0,))


def implicit(x, polish):
    adjoint = idf.Implicit(polish=polish)
    return idf.root_jvp(F, x, (weight,), (1.0,), adjoint=adjoint)


def estimate(x):
    return idf.certify.error_estimate(F, x, weight, tangents=(1.0,)).error


rows = jnp.arange(0, 300, 4)
by_theorem, polished = (jax.vmap(lambda x, k=k: implicit(x, k))(iterates[rows]) for k in (0, 1))
estimates = jax.vmap(estimate)(iterates[rows])


def error(derivatives):
    return np.linalg.norm(derivatives - truth, axis=-1)


figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
axes.semilogy(rows + 1, error(unrolled[rows]), label="unrolled")
axes.semilogy(rows + 1, error(by_theorem), label="implicit")
axes.semilogy(rows + 1, estimates, "k:", lw=2, label="estimated error of implicit")
axes.semilogy(rows + 1, np.maximum(error(polished), 1e-16), label="implicit, polish=1")
axes.set(xlabel="iteration of gradient descent", ylabel="error of dx / d weight")
axes.legend()
plt.show()
print(f"after 100 iterations: unrolled {error(unrolled[99]):.1e}, implicit {error(implicit(iterates[99], 0)):.1e},")
print(f"estimate {estimate(iterates[99]):.1e}, implicit with polish=1 {error(implicit(iterates[99], 1)):.1e}")

# %%
# The objective is quadratic, so one Newton step solves it; in general the step makes the error quadratic in that of
# x.
#
# Ask what is wrong
# -----------------
# :func:`~implicitdiff.certify.diagnose` examines a solution, its Jacobian and its derivative, and ends with a verdict
# and a remedy.

print(idf.certify.diagnose(F, iterates[99], weight))

# %%
# When there is no derivative
# ---------------------------
# A derivative that cannot be trusted is NaN by default. ``on_failure="raise"`` names the cause; ``"warn"`` prints it.


def cause(condition, x, weight=weight, **options):
    adjoint = idf.Implicit(on_failure="raise", **options)
    try:
        idf.root_jvp(condition, x, (weight,), (1.0,), adjoint=adjoint)
    except Exception as error:  # its type depends on how JAX runs the check
        return next(line for line in str(error).splitlines() if "implicitdiff: " in line).split("implicitdiff: ")[-1]
    return "nothing was wrong"


def derivative(condition, x, weight=weight, **options):
    return idf.root_jvp(condition, x, (weight,), (1.0,), adjoint=idf.Implicit(**options))[0]


# %%
# *The solution is not unique.* Twenty equations for thirty unknowns, no regularisation:

random = np.random.default_rng(0)
wide, right = random.standard_normal((20, 30)), random.standard_normal(20)
underdetermined = idf.optimality.stationary(
    lambda x, weight: 0.5 * jnp.sum((wide @ x - right) ** 2) + 0.5 * weight * jnp.sum(x**2)
)
shortest = jnp.array(np.linalg.lstsq(wide, right)[0])
print(derivative(underdetermined, shortest, 0.0))
print(cause(underdetermined, shortest, 0.0))

# %%
# *The linear solver gives up* after three steps:

few = idf.krylov.CG(max_steps=3)
print(derivative(F, x_exact, linear_solver=few))
print(cause(F, x_exact, linear_solver=few))

# %%
# *The condition is not the solver's*: somebody forgot a factor of 2. The theorem cannot know that, unless it is asked
# to check the residual of F at the solution.

wrong = idf.optimality.stationary(lambda x, weight: ridge(x, 2 * weight), positive_definite=True)
print("unchecked:", derivative(wrong, x_exact), " with residual_tol:", derivative(wrong, x_exact, residual_tol=1e-8))
print(cause(wrong, x_exact, residual_tol=1e-8))

# %%
# At a point where F is satisfied no residual shows that F is another solver's. Given the solver, ``diagnose``
# compares the derivative with finite differences of it:

also_wrong = idf.optimality.stationary(lambda x, weight: ridge(x, 0.05 + 0.5 * weight))  # the same F at 0.1 only
print("verdict without the solver:", idf.certify.diagnose(also_wrong, x_exact, weight).verdict)
print("verdict with the solver:   ", idf.certify.diagnose(also_wrong, x_exact, weight, solver=exact).verdict)

# %%
# See also: :doc:`/howto/nan`, :doc:`/theory/errors` and the :doc:`results </results/guarantees>` on 220 problems with
# planted faults.
