r"""
Constraints and their multipliers
=================================

A factory makes three products from two raw materials. It maximises its profit under the limits of the materials. How
much would the plan change if there were more of a material, and what is one more ton worth?

.. math::

   \max_{z \ge 0} \; p^\top z - \tfrac{1}{2} z^\top \operatorname{diag}(c) z
   \quad \text{subject to} \quad M z \le s .

The first question asks for the derivative of the solution in the supplies s, the second for the multipliers, which
economists call shadow prices. Both are differentiable here.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

prices, costs = jnp.array([10.0, 8.0, 6.0]), jnp.array([1.0, 0.8, 0.5])
use = jnp.array([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0]])  # tons of each material for a unit of each product


def loss(z, prices):
    return 0.5 * jnp.sum(costs * z**2) - prices @ z


def limits(z, supplies):
    """At most 0: what is used beyond the supplies, and negative amounts."""
    return jnp.concatenate([use @ z - supplies, -z])


# %%
# Solve and differentiate
# -----------------------
# :func:`~implicitdiff.solvers.scipy_minimize` calls SciPy, here SLSQP. It returns the solution ``z``, the multipliers
# ``nu`` of equations (there are none) and the multipliers ``lam`` of inequalities.

solver = idf.solvers.scipy_minimize(loss, ineq=limits)


def plan(supplies, prices=prices):
    solution, _ = solver.run(jnp.ones(3), prices, None, supplies)
    return solution


supplies = jnp.array([12.0, 14.0])
solution = plan(supplies)
print("plan          ", np.round(solution.z, 4))
print("shadow prices ", np.round(solution.lam[:2], 4))
print("multipliers of z >= 0", np.round(solution.lam[2:], 4) + 0.0)

# %%
# Both materials are scarce, and a ton of the first one is worth seven times as much. Now the derivatives:

jacobian = jax.jacobian(plan)(supplies)
print("d plan / d supplies\n", np.round(jacobian.z, 4))
print("d shadow prices / d supplies\n", np.round(jacobian.lam[:2], 4))

# %%
# A shadow price is the derivative of the best profit in the supply:


def profit(supplies):
    return -loss(plan(supplies).z, prices)


print("d profit / d supplies", np.round(jax.grad(profit)(supplies), 4))
np.testing.assert_allclose(jax.grad(profit)(supplies), solution.lam[:2], atol=1e-6)

# %%
# Along a range of supplies
# -------------------------
# The solver is an ordinary JAX function: ``vmap`` runs SciPy once for each supply. Where the constraint stops being
# active, the solution has a kink and its derivative jumps.

amounts = jnp.linspace(2.0, 34.0, 41)


def of_first(amount):
    return plan(jnp.array([amount, 40.0]))


plans = jax.vmap(of_first)(amounts)
slopes = jax.vmap(jax.jacfwd(lambda amount: of_first(amount).z))(amounts)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
left.plot(amounts, plans.z, label=["product 1", "product 2", "product 3"])
left.set(xlabel="supply of material 1", ylabel="amounts produced")
left.legend(fontsize=8)
middle.plot(amounts, slopes)
middle.set(xlabel="supply of material 1", ylabel="d amounts / d supply")
right.plot(amounts, plans.lam[:, 0], "k")
right.set(xlabel="supply of material 1", ylabel="shadow price")
plt.show()

# %%
# A solver of your own
# --------------------
# If your solver returns primal and dual variables, attach the Karush-Kuhn-Tucker conditions yourself. ``kkt`` builds
# F from the objective and the constraints, and ``implicit_root`` attaches the derivative to a solution that you
# already have.

F = idf.optimality.kkt(loss, ineq=limits)
x = (solution.z, None, solution.lam)  # (z, nu, lam) from any solver


def attached(supplies):
    return idf.implicit_root(F, jax.lax.stop_gradient(x), prices, None, supplies)[0]


np.testing.assert_allclose(jax.jacobian(attached)(supplies), jacobian.z, atol=1e-6)
print("the same Jacobian from the conditions alone")

# %%
# See also: :func:`~implicitdiff.optimality.kkt` for its two forms of complementarity,
# :func:`~implicitdiff.convex.solve_qp` for quadratic programs, which are faster, and
# :func:`~implicitdiff.certify.diagnose`, which says when a constraint is only just active.
