"""
Any solver under jit: SciPy, Ipopt, a C program
===============================================

The solver that you trust is often not written in JAX. This tutorial attaches derivatives to three such solvers and
calls them under ``jit``, ``vmap`` and ``grad``. The recipe is the same each time:

1. write down in JAX the equations F that the result of the solver satisfies;
2. wrap the solver with :func:`~implicitdiff.host_solver`, which tells JAX what the solver returns;
3. decorate it with :func:`~implicitdiff.custom_root`.

The solver is only run. Its derivative comes from F and one linear solve.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

# %%
# SciPy: the steady state of a reactor
# ------------------------------------
# A stirred tank holds two chemicals. A flows in and reacts, 2 A <-> B, and both flow out. At the steady state, what
# flows in equals what flows out and what reacts.


def balance(concentrations, feed, rates):
    a, b = concentrations
    reaction = rates[0] * a**2 - rates[1] * b
    return jnp.stack([feed - a - 2 * reaction, reaction - b])


# %%
# ``scipy.optimize.root`` solves it. Called outside of ``jit`` it would need the decorator only. Inside of ``jit`` JAX
# has to know the shape of the result before the solver runs: the second argument of ``host_solver`` says that it
# looks like the starting point ``init``.


def scipy_root(init, feed, rates):
    return scipy.optimize.root(balance, init, (feed, rates), tol=1e-12).x


host = idf.host_solver(scipy_root, lambda init, feed, rates: init)
steady_state = idf.custom_root(balance)(host)

# %%
# Now it is a JAX function. How does the outflow of B change with the feed, for 40 feeds at once?

init, rates = jnp.ones(2), jnp.array([3.0, 0.5])
feeds = jnp.linspace(0.1, 4.0, 40)


def outflow(feed, rates):
    return steady_state(init, feed, rates)[1]


values = jax.jit(jax.vmap(outflow, (0, None)))(feeds, rates)
slopes = jax.jit(jax.vmap(jax.grad(outflow), (0, None)))(feeds, rates)

h = 1e-5
differences = np.array([(outflow(f + h, rates) - outflow(f - h, rates)) / (2 * h) for f in feeds])
print(f"largest difference from central differences of SciPy: {np.max(np.abs(slopes - differences)):.0e}")
np.testing.assert_allclose(slopes, differences, rtol=1e-6)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(feeds, values)
left.set(xlabel="feed of A", ylabel="outflow of B")
right.plot(feeds, slopes, label="implicit derivative")
right.plot(feeds[::4], differences[::4], "o", mfc="none", label="central differences")
right.set(xlabel="feed of A", ylabel="d(outflow of B) / d(feed)")
right.legend()
plt.show()

# %%
# Forward and reverse mode give the same Jacobian in the two rate constants:

forward = jax.jit(jax.jacfwd(steady_state, 2))(init, feeds[0], rates)
reverse = jax.jit(jax.jacrev(steady_state, 2))(init, feeds[0], rates)
np.testing.assert_allclose(forward, reverse, rtol=1e-10)
print(np.round(reverse, 5))

# %%
# A solution that you already have
# --------------------------------
# The decorator is a convenience. The function :func:`~implicitdiff.implicit_root` takes a solution x and returns it
# with a derivative attached. Here F closes over the arrays that it depends on; they are differentiated all the same.


def closed_over(feed, rates):
    x = host(jnp.ones(2), *jax.lax.stop_gradient((feed, rates)))  # the solver itself has no derivative
    return idf.implicit_root(lambda x: balance(x, feed, rates), x)


np.testing.assert_allclose(jax.jit(jax.jacrev(closed_over, 1))(feeds[0], rates), reverse, rtol=1e-10)
