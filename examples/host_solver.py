"""A SciPy root finder under jit, vmap and grad.

A stirred tank holds two chemicals: A flows in and reacts, 2 A <-> B, and both flow out. `scipy.optimize.root` finds the
steady state; the derivatives in the feed and in the rate constants come from the equations it solves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)


def balance(concentrations, feed, rates):
    """What flows in, minus what flows out, minus what reacts: zero at the steady state."""
    a, b = concentrations
    reaction = rates[0] * a**2 - rates[1] * b
    return jnp.stack([feed - a - 2 * reaction, reaction - b])


# Called eagerly, a SciPy solver needs only the decorator. Under jit and vmap JAX has to know what comes back: the
# second argument of host_solver says it, from the shapes of the arguments.
def scipy_root(init, feed, rates):
    return scipy.optimize.root(balance, init, (feed, rates), tol=1e-12).x


host = idf.host_solver(scipy_root, lambda init, feed, rates: init)
steady_state = idf.custom_root(balance)(host)


def closed_over(feed, rates):
    """The same with the function form: F may close over the arrays it depends on, traced or not."""
    x = host(jnp.ones(2), *jax.lax.stop_gradient((feed, rates)))  # the solver itself has no derivative
    return idf.implicit_root(lambda x: balance(x, feed, rates), x)


def main():
    init, rates = jnp.ones(2), jnp.array([3.0, 0.5])
    feeds = jnp.linspace(0.5, 4.0, 6)

    def output(feed, rates):
        return steady_state(init, feed, rates)[1]  # how much B flows out

    slopes = jax.jit(jax.vmap(jax.grad(output), (0, None)))(feeds, rates)
    h = 1e-5
    differences = [(output(feed + h, rates) - output(feed - h, rates)) / (2 * h) for feed in feeds]
    print("feed of A              ", np.round(feeds, 2))
    print("d(B out) / d(feed)     ", np.round(slopes, 4))
    print("central differences    ", np.round(np.array(differences), 4))
    np.testing.assert_allclose(slopes, np.array(differences), rtol=1e-6)

    # Forward and reverse mode, and the function form, agree.
    forward = jax.jit(jax.jacfwd(steady_state, 2))(init, feeds[0], rates)
    reverse = jax.jit(jax.jacrev(steady_state, 2))(init, feeds[0], rates)
    closure = jax.jit(jax.jacrev(closed_over, 1))(feeds[0], rates)
    np.testing.assert_allclose(forward, reverse, rtol=1e-10)
    np.testing.assert_allclose(closure, reverse, rtol=1e-10)
    print(f"d(A, B) / d(rates)\n{np.round(reverse, 4)}")


if __name__ == "__main__":
    main()
