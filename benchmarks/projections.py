"""Projections and their VJP beside JAXopt and Optax, and the VJP of iterative projections beside their forward pass.

A VJP is timed together with its forward pass: `jax.vjp(project, v)[1](u)`.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
from jaxopt import isotonic

from implicitdiff import projection

from ._harness import compiled, interleave, ready
from ._report import Claim, Report, Table, relative_error, timing_rows

theirs = jaxopt.projection
SIZES = {"n = 10": (10,), "n = 1,000": (1000,), "n = 100,000": (100_000,), "4096 x 10": (4096, 10)}
MATRICES = {"10 x 10": (10, 10), "300 x 300": (300, 300), "4096 of 10 x 10": (4096, 10, 10)}
SECTION = (0.0, 1.0, 1.0)

# Our projections take batches; those of the others are mapped by vmap.
VECTORS: dict[str, tuple[Callable, dict[str, Callable]]] = {
    "simplex": (
        projection.simplex,
        {"jaxopt": theirs.projection_simplex, "optax": optax.projections.projection_simplex},
    ),
    "l1-ball": (
        projection.l1_ball,
        {"jaxopt": theirs.projection_l1_ball, "optax": optax.projections.projection_l1_ball},
    ),
    "box section": (
        lambda v: projection.box_section(v, (*SECTION, v.shape[-1] / 4)),
        {"jaxopt": lambda v: theirs.projection_box_section(v, (*map(partial(jnp.full, v.shape), SECTION), v.size / 4))},
    ),
    "second-order cone": (
        projection.second_order,
        {"by hand": lambda v: _second_order(v)},
    ),
    "isotonic": (
        projection.isotonic,
        {"jaxopt": isotonic.isotonic_l2_pav},
    ),
}
QUICK = (("simplex", "n = 1,000"), ("isotonic", "n = 1,000"), ("second-order cone", "4096 x 10"))
SEMIDEFINITE = (projection.semidefinite, {"by hand": lambda V: _spectral(V)})


def measure(quick: bool) -> Report:
    report = Report([], [])
    budget = 0.3 if quick else 2.5
    for name, size in itertools.product(VECTORS, SIZES):
        if not quick or (name, size) in QUICK:
            (ours, peers), shape = VECTORS[name], SIZES[size]
            if name == "isotonic" and size == "n = 100,000":
                peers = {}  # JAXopt's derivative forms an n x n matrix
            compare(report, name, size, np.random.default_rng(0).normal(size=shape), ours, peers, 1, budget)
    for size, shape in list(MATRICES.items())[-1 if quick else 0 :]:
        V = np.random.default_rng(0).normal(size=shape)
        compare(report, "semidefinite", size, V + np.swapaxes(V, -1, -2), *SEMIDEFINITE, 2, budget)
    for name, (project, shape) in list(ITERATING.items())[: 1 if quick else None]:
        beside_forward(report, name, project, np.random.default_rng(0).normal(size=shape), budget)
    return report


def compare(
    report: Report,
    name: str,
    size: str,
    v: np.ndarray,
    ours: Callable,
    peers: dict[str, Callable],
    axes: int,
    budget: float,
) -> None:
    mapped = {peer: jax.vmap(project) if v.ndim > axes else project for peer, project in peers.items()}
    u = np.random.default_rng(1).normal(size=v.shape)
    for what, wrap in (("forward", _forward), ("VJP", _vjp)):
        runs, missing = ready({"ours": ours, **mapped}, lambda f, wrap=wrap: compiled(wrap(f), v, u))
        reference = np.asarray(runs["ours"]())
        errors = {label: relative_error(run(), reference) for label, run in runs.items()}
        times = interleave(runs, budget, least=5, missing=missing)
        title = f"{name}, {size}, {what}"
        report.tables.append(
            Table(title, timing_rows(times, errors, "ours"), "The error is the relative distance to our result.")
        )
        report.claims.extend([Claim.of_times(f"{title}: ours / {peer}", times, "ours", peer, 1.1) for peer in peers])


def _forward(project: Callable) -> Callable:
    return lambda v, u: project(v)


def _vjp(project: Callable) -> Callable:
    return lambda v, u: jax.vjp(project, v)[1](u)[0]


def _simplex_rows(n: int) -> tuple[Any, ...]:
    return np.ones((1, n)), np.ones(1), -np.eye(n), np.zeros(n)


ITERATING = {
    "box section": (lambda v: projection.box_section(v, (*SECTION, 250.0)), (1000,)),
    "transport": (lambda V: projection.transport(V, (np.ones(30), np.full(40, 0.75))), (30, 40)),
    "Birkhoff": (projection.birkhoff, (30, 30)),
    "polyhedron": (lambda v: projection.polyhedron(v, _simplex_rows(30)), (30,)),
}


def beside_forward(report: Report, name: str, project: Callable, v: np.ndarray, budget: float) -> None:
    """The ratio of VJP to forward pass; a VJP that stores and transposes iterations would take much more than 2."""
    u = np.random.default_rng(1).normal(size=v.shape)
    runs = {"forward": compiled(_forward(project), v, u), "VJP": compiled(_vjp(project), v, u)}
    times = interleave(runs, budget, least=5)
    report.tables.append(Table(f"{name}, {v.shape}", timing_rows(times, {}, "forward")))
    report.claims.append(Claim.of_times(f"{name}: VJP / forward", times, "VJP", "forward", 2.0))


def _second_order(v: jax.Array) -> jax.Array:
    """JAXopt has no second-order cone; this is the formula, whose derivative is NaN at z = 0."""
    t, z = v[0], v[1:]
    norm = jnp.linalg.norm(z)
    boundary = (t + norm) / 2 * jnp.append(1.0, z / norm)
    return jnp.where(norm <= -t, 0.0, jnp.where(norm <= t, v, boundary))


def _spectral(V: jax.Array) -> jax.Array:
    """JAXopt has no semidefinite cone; this is the usual formula, whose derivative is NaN at repeated eigenvalues."""
    values, Q = jnp.linalg.eigh(V)
    return (Q * jnp.maximum(values, 0)) @ Q.T
