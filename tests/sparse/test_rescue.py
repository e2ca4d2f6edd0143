"""The automatic choice of large systems: where a Krylov method fails, a sparse A is factorised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

import implicitdiff as idf

N = 2500
RANDOM = np.random.default_rng(0)
X, W = jnp.asarray(RANDOM.standard_normal(N)), jnp.asarray(RANDOM.standard_normal(N))
JUMPS = jnp.asarray(np.where(np.arange(N + 1) % 50 < 25, 1e6, 1.0))


def springs(x, stiffness):
    """A chain between two walls."""
    return -jnp.diff(stiffness * jnp.diff(x, prepend=0.0, append=0.0)) - 1.0


def expected(stiffness, w=W, x=X):
    """The gradient of w'x in the stiffness, by a factorisation of the tridiagonal matrix."""
    s = np.asarray(stiffness)
    A = sp.diags_array([s[:-1] + s[1:], -s[1:-1], -s[1:-1]], offsets=[0, 1, -1]).tocsc()
    factors, w = splu(A), np.asarray(w)
    u = factors.solve(w)
    u += factors.solve(w - A @ u)
    return -np.diff(u, prepend=0, append=0) * np.diff(np.asarray(x), prepend=0, append=0)


def gradient(stiffness, adjoint=None):
    return jax.grad(lambda s: jnp.vdot(W, idf.implicit_root(springs, X, s, adjoint=adjoint)))(stiffness)


def close(found, reference):
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5 * np.max(np.abs(reference)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_ill_conditioned_chain_is_right_by_default(symmetric):
    how = idf.Implicit(symmetric=symmetric)
    assert np.all(np.isnan(gradient(JUMPS, idf.Implicit(linear_solver=idf.krylov.BiCGStab(max_steps=1000)))))
    close(gradient(JUMPS, how), expected(JUMPS))


def test_under_jit_and_vmap_each_element_is_solved_as_it_needs():
    """One that is easy, one that is not, and one that floats freely."""
    easy = jnp.asarray(RANDOM.uniform(1, 2, N + 1)).at[::5].set(1e3)
    floating = JUMPS.at[jnp.array([0, -1])].set(0.0)
    found = jax.jit(jax.vmap(gradient))(jnp.stack([easy, JUMPS, floating]))
    close(found[0], expected(easy))
    close(found[1], expected(JUMPS))
    assert np.all(np.isnan(found[2]))


def test_forward_mode_and_a_batch_of_right_hand_sides():
    tangents = jnp.eye(N + 1)[:3]
    push = jax.jit(lambda t: jax.jvp(lambda s: idf.implicit_root(springs, X, s), (JUMPS,), (t,))[1])
    found = jax.vmap(push)(tangents)
    np.testing.assert_allclose(found @ W, expected(JUMPS)[:3], rtol=1e-5)


def test_what_is_not_sparse_is_left_to_the_others():
    """Every unknown depends on the mean, so that no few products show the entries."""
    n = 2100
    scales = jnp.logspace(0, 6, n)

    def F(x, t):
        return scales * x + jnp.mean(jnp.cumsum(x)) * t - 1.0

    x, w = jnp.zeros(n), jnp.ones(n)
    found = jax.grad(lambda t: jnp.vdot(w, idf.implicit_root(F, x + 1.0, t)))(jnp.ones(n))
    A = np.diag(np.asarray(scales)) + np.ones((n, 1)) * np.arange(n, 0, -1)[None] / n
    u = np.linalg.solve(A.T, np.ones(n))
    reference = -u * np.mean(np.cumsum(np.ones(n)))
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-8 * np.max(np.abs(reference)))
