"""Derivatives of conic programs against diffcp, and the two forms of their conditions against each other.

The solution of each program is known to the last digit, because the data are made for it: what is compared is the
derivative alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import implicitdiff as idf
from implicitdiff.convex import Exponential, NonNegative, PositiveSemidefinite, Power, SecondOrder, Zero, solve_conic
from implicitdiff.projection.cones import product_dual

CONES = {  # in the order of diffcp, which is that of SCS; it knows no power cone
    "flat and quadratic": [
        Zero(1),
        NonNegative(3),
        SecondOrder(4),
        SecondOrder(2),
        PositiveSemidefinite(4),
        PositiveSemidefinite(2),
    ],
    "exponential": [NonNegative(2), Exponential(), Exponential(), Exponential()],
}


def program(cones):
    """A program with a linear objective, its solution x, multiplier z and slack s, and directions of the data."""
    random = np.random.default_rng(0)
    v = random.standard_normal(sum(cone.size for cone in cones))
    project = lambda v: product_dual(v, cones)
    z, D = jax.jit(lambda v: (project(v), jax.jacfwd(project)(v)))(v)
    # Regular if n lies between the number of eigenvalues 1 of D and its rank: so does its trace.
    n, z = round(float(np.trace(D))), np.asarray(z)
    A, x = random.standard_normal((v.size, n)), random.standard_normal(n)
    data = -A.T @ z, A, A @ x + z - v
    return data, (x, z, z - v), tuple(random.standard_normal(part.shape) for part in data)


def both_modes(f, data, tangents):
    """The product of the Jacobian with the tangents, and that of its transpose with cotangents of ones and twos."""

    @jax.jit
    def products(data, tangents):
        value, moved = jax.jvp(f, data, tangents)
        cotangents = jax.tree.map(lambda leaf: 1.0 + jnp.arange(leaf.size) % 2, value)
        return moved, jax.vjp(f, *data)[1](cotangents)

    return products(data, tangents)


def assert_close(got, expected, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def scs_order(cones):
    """Our rows in the order of SCS: of a symmetric matrix the lower triangle, column by column."""
    rows, start = [], 0
    for cone in cones:
        part = np.arange(start, start + cone.size)
        if isinstance(cone, PositiveSemidefinite):
            entries = [(i, j) for j in range(cone.n) for i in range(j + 1)]  # ours: the upper triangle
            part = part[[entries.index((j, i)) for j in range(cone.n) for i in range(j, cone.n)]]
        rows, start = [*rows, part], start + cone.size
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("cones", CONES.values(), ids=CONES)
def test_diffcp(cones, monkeypatch):
    """The published derivative of a cone program (Agrawal et al. 2019), in C++, by dense least squares."""
    cone_program = pytest.importorskip("diffcp.cone_program")
    (q, A, b), (x, z, s), (dq, dA, db) = program(cones)
    order = scs_order(cones)
    # Neither side runs a solver: with solutions to 1e-9 the derivatives would agree to 1e-6 only.
    monkeypatch.setattr(cone_program, "solve_internal", lambda *_, **__: dict(x=x, y=z[order], s=s[order]))
    of = lambda kind: [cone.n for cone in cones if isinstance(cone, kind)]
    sizes = dict(z=sum(of(Zero)), l=sum(of(NonNegative)), q=of(SecondOrder), s=of(PositiveSemidefinite))
    sizes["ep"] = sum(isinstance(cone, Exponential) for cone in cones)
    *_, push, pull = cone_program.solve_and_derivative(
        sparse.csc_matrix(A[order]), b[order], q, {key: size for key, size in sizes.items() if size}, mode="dense"
    )
    dx, dz, ds = push(sparse.csc_matrix(dA[order]), db[order], dq)
    back = np.argsort(order)
    forward = dx, dz[back], ds[back]
    cotangents = [1.0 + np.arange(part.size) % 2 for part in (x, z, s)]
    gA, gb, gq = pull(cotangents[0], cotangents[1][order], cotangents[2][order])
    expected = forward, (gq, gA.toarray()[back], gb[back])

    given = lambda *_: (x, z, s)
    got = both_modes(lambda q, A, b: tuple(solve_conic(None, q, A, b, cones, given)[:3]), (q, A, b), (dq, dA, db))
    assert_close(got, expected, 1e-6)


@pytest.mark.slow
def test_both_forms_have_the_same_derivative():
    """The homogeneous embedding of the paper, and the normal map that `solve_conic` uses, on all cones at once."""
    cones = [Zero(1), NonNegative(2), SecondOrder(3), PositiveSemidefinite(3), Exponential(), Power(0.3), Power(0.6)]
    data, (x, z, s), tangents = program(cones)
    solution, one = (jnp.asarray(x), jnp.asarray(z - s)), jnp.ones(())
    embedding, normal_map = idf.optimality.conic_residual(cones), idf.optimality.conic_normal_map(cones)

    def by_embedding(q, A, b):
        return idf.implicit_root(embedding, (*solution, one), q, A, b)[:2]

    def by_normal_map(q, A, b):
        return idf.implicit_root(normal_map, solution, None, q, A, b)

    got, expected = (both_modes(f, data, tangents) for f in (by_embedding, by_normal_map))
    assert_close(got, expected, 1e-8)
