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

import ctypes
import subprocess
import tempfile
from pathlib import Path

import ipyopt
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

# %%
# Ipopt: a nonlinear program
# --------------------------
# Ipopt, here through the package ``ipyopt``, returns a solution and its multipliers. Together they satisfy the
# Karush-Kuhn-Tucker conditions, which :func:`~implicitdiff.optimality.kkt` builds from the objective, the equations
# ``eq(z) = 0`` and the inequalities ``ineq(z) <= 0``. This is problem 71 of Hock and Schittkowski, with its two
# constants 25 and 40 as parameters.


def cost(z, _):
    return z[0] * z[3] * (z[0] + z[1] + z[2]) + z[2]


def equations(z, square):
    return jnp.sum(z**2)[None] - square


def inequalities(z, product):
    return jnp.concatenate([product - jnp.prod(z)[None], 1.0 - z, z - 5.0])


value = jax.jit(lambda z: cost(z, None))
gradient = jax.jit(jax.grad(lambda z: cost(z, None)))
both = jax.jit(lambda z: jnp.stack([jnp.prod(z), jnp.sum(z**2)]))  # as Ipopt wants them: lower <= g(z) <= upper
jacobian = jax.jit(jax.jacobian(both))


def ipopt(init, product, square):
    everywhere = np.divmod(np.arange(8), 4)  # the Jacobian of two constraints is dense

    def into(function):
        def evaluate(z, out):
            out[...] = np.ravel(function(z))

        return evaluate

    problem = ipyopt.Problem(
        4,
        np.full(4, 1.0),
        np.full(4, 5.0),
        2,
        np.array([product, square]),
        np.array([1e20, square]),
        everywhere,
        ([], []),
        lambda z: float(value(z)),
        into(gradient),
        into(both),
        into(jacobian),
        ipopt_options={"print_level": 0, "sb": "yes", "tol": 1e-11, "bound_relax_factor": 0.0},
    )
    multipliers, at_lower, at_upper = np.zeros(2), np.zeros(4), np.zeros(4)
    z, _, status = problem.solve(np.array(init), mult_g=multipliers, mult_x_L=at_lower, mult_x_U=at_upper)
    if status != 0:
        raise RuntimeError(f"Ipopt ended with status {status}")
    return z, multipliers[1:], np.concatenate([-multipliers[:1], at_lower, at_upper])


kkt = idf.optimality.kkt(cost, equations, inequalities)
shapes = tuple(jax.ShapeDtypeStruct((n,), float) for n in (4, 1, 9))
attempt = idf.host_solver(ipopt, shapes)


@jax.jit
def solution(product, square):
    x = attempt(jnp.array([1.0, 5.0, 5.0, 1.0]), *jax.lax.stop_gradient((product, square)))
    z, _, _ = idf.implicit_root(kkt, x, None, square, product)
    return z


print("z                   ", np.round(solution(25.0, 40.0), 5))
by_product, by_square = jax.jacobian(solution, (0, 1))(25.0, 40.0)
print("dz / d(product), 25 ", np.round(by_product, 5))
print("dz / d(square), 40  ", np.round(by_square, 5))
h = 1e-4
np.testing.assert_allclose(by_product, (solution(25.0 + h, 40.0) - solution(25.0 - h, 40.0)) / (2 * h), atol=1e-4)
np.testing.assert_allclose(by_square, (solution(25.0, 40.0 + h) - solution(25.0, 40.0 - h)) / (2 * h), atol=1e-4)

# %%
# The first unknown stays at its bound 1, so that its derivative is 0. The central differences of Ipopt agree.
#
# A C program: the friction in a pipe
# -----------------------------------
# Colebrook's equation gives the friction factor f of a pipe from the Reynolds number and the roughness of its wall.
# The solver is a bisection in C, compiled here with ``cc`` and called through ``ctypes``.

SOURCE = """
#include <math.h>

double friction(double reynolds, double roughness) {
    double low = 1e-3, high = 1.0;
    for (int i = 0; i < 60; i++) {
        double f = 0.5 * (low + high);
        if (1 / sqrt(f) + 2 * log10(roughness / 3.7 + 2.51 / (reynolds * sqrt(f))) > 0) low = f; else high = f;
    }
    return 0.5 * (low + high);
}
"""

with tempfile.TemporaryDirectory() as folder:
    source, library = Path(folder, "friction.c"), Path(folder, "friction.so")
    source.write_text(SOURCE)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
    in_c = ctypes.CDLL(str(library)).friction
in_c.argtypes, in_c.restype = [ctypes.c_double, ctypes.c_double], ctypes.c_double


def colebrook(f, reynolds, roughness):
    return 1 / jnp.sqrt(f) + 2 * jnp.log10(roughness / 3.7 + 2.51 / (reynolds * jnp.sqrt(f)))


host_friction = idf.host_solver(lambda *a: np.asarray(in_c(*map(float, a))), jax.ShapeDtypeStruct((), float))
friction = idf.custom_root(colebrook, has_init=False)(host_friction)

reynolds = jnp.geomspace(4e3, 1e8, 60)
roughnesses = [1e-5, 1e-4, 1e-3, 1e-2]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for roughness in roughnesses:
    factors, slopes = jax.jit(jax.vmap(jax.value_and_grad(friction, 1), (0, None)))(reynolds, roughness)
    left.loglog(reynolds, factors, label=f"roughness {roughness:.0e}")
    right.semilogx(reynolds, slopes * roughness / factors)
left.set(xlabel="Reynolds number", ylabel="friction factor")
left.legend(fontsize=8)
right.set(xlabel="Reynolds number", ylabel="d log f / d log roughness")
plt.show()

# %%
# A rough pipe at high speed feels its wall only, a smooth one not at all.
#
# Where to go on
# --------------
# - SciPy, scikit-learn, optimistix and optax have ready adapters: :mod:`implicitdiff.solvers`.
# - Under ``vmap`` a host solver runs once for each element, one after the other.
# - If the derivative is NaN: :doc:`/howto/nan`.
