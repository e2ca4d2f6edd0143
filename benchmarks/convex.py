"""Quadratic programs as layers: value and gradient in all data, beside qpax, cvxpylayers (diffcp) and ProxQP.

A library with a tolerance or a smoothing parameter gets the loosest power of ten whose gradient is accurate enough. The
exact gradient comes from the equations of the active set, which Clarabel finds.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

import implicitdiff as idf

from ._harness import compiled, interleave, reason
from ._report import Claim, Report, Table, relative_error, timing_rows

ACCURACY = 1e-6


class Layers(NamedTuple):
    """A batch of programs min 1/2 x'Px + q'x s.t. Ax = b, Gx <= h with P = LL', and the exact gradient of sum_i c'x_i.

    Attributes:
        data: P, q, A, b, G, h, each with a leading axis.
        L: factors of P, which is what cvxpylayers is given.
        c: direction of the gradient.
        gradient: with respect to q, b and h, one after the other, one row a program.
    """

    data: tuple[np.ndarray, ...]
    L: np.ndarray
    c: np.ndarray
    gradient: np.ndarray

    def error(self, gradients: tuple) -> float:
        """The relative error of a competitor's gradients in (P, q, A, b, G, h)."""
        parts = [np.asarray(gradients[i]).reshape(len(self.gradient), -1) for i in (1, 3, 5)]
        return relative_error(np.concatenate(parts, axis=1), self.gradient)


def measure(quick: bool) -> Report:
    budget = 1 if quick else 12
    report = Report([], [])
    cases = (
        ("batch", (16 if quick else 128, 20, 0, 20), (_cvxpylayers, _qpax, _proxqp)),
        ("single", (1, 30, 5, 40), (_cvxpylayers, _qpax, _proxqp)),
        ("large", (1, 500, 0, 500), (_qpax, _proxqp)),
    )
    for title, sizes, peers in cases[:1] if quick else cases:
        layers = _random(*sizes)
        runs: dict[str, Callable[[], Any]] = {f"ours, {name}": _ours(layers, name) for name in ("jax", "clarabel")}
        missing = {}
        for peer in peers:
            try:
                runs |= peer(layers)
            except Exception as error:
                missing[peer.__name__.strip("_")] = reason(error)
        errors = {name: layers.error(run()[1]) for name, run in runs.items()}
        runs["ours, jax, value alone"] = _ours(layers, "jax", gradient=False)
        times = interleave(runs, budget, least=5, missing=missing)
        count, n, p, m = sizes
        name = f"{title}: {count} programs, n = {n}, {p} equations, {m} inequalities"
        report.tables.append(Table(name, timing_rows(times, errors, "ours, jax")))
        report.claims.append(Claim(f"{title}: error of ours, jax", errors["ours, jax"], ACCURACY))

        def claim(other, target, title=title, times=times):
            match = [name for name in (*times.seconds, *times.missing) if name.startswith(other)]
            for name in match:
                what = f"{title}: value and gradient, ours, jax / {name}"
                report.claims.append(Claim.of_times(what, times, "ours, jax", name, target))

        if title != "large":
            claim("cvxpylayers", 1 / 5 if title == "batch" else 1 / 10)
        if title == "batch":
            claim("qpax", 1.2)
        if title == "large":
            what = "large: value and gradient / value alone"
            report.claims.append(Claim.of_times(what, times, "ours, jax", "ours, jax, value alone", 2.0))
    return report


def _random(count: int, n: int, p: int, m: int) -> Layers:
    random = np.random.default_rng(0)
    L = random.standard_normal((count, n, n)) / np.sqrt(n)
    A, G = random.standard_normal((count, p, n)), random.standard_normal((count, m, n))
    inside = random.standard_normal((count, n))
    b, h = (np.einsum("kij,kj->ki", M, inside) for M in (A, G))
    L += 0.3 * np.eye(n)
    P = L @ np.swapaxes(L, 1, 2) + 0.1 * np.eye(n)
    data = (P, random.standard_normal((count, n)), A, b, G, h + random.uniform(0, 0.5, (count, m)))
    c = random.standard_normal(n)
    gradient = np.stack([_of_active_set(c, *(part[i] for part in data)) for i in range(count)])
    return Layers(data, np.linalg.cholesky(P), c, gradient)


def _of_active_set(c, P, q, A, b, G, h) -> np.ndarray:
    """The gradient of c'x in q, b and h."""
    options = clarabel.DefaultSettings()
    options.verbose = False
    cones = [make(k) for make, k in ((clarabel.ZeroConeT, len(b)), (clarabel.NonnegativeConeT, len(h))) if k]
    found = clarabel.DefaultSolver(
        sparse.triu(sparse.csc_matrix(P), format="csc"),
        q,
        sparse.csc_matrix(np.vstack([A, G])),
        np.append(b, h),
        cones,
        options,
    ).solve()
    active = np.asarray(found.z)[len(b) :] > np.asarray(found.s)[len(b) :]
    rows = np.vstack([A, G[active]])
    K = np.block([[P, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    u = np.linalg.solve(K, np.append(c, np.zeros(len(rows))))
    dh = np.zeros(len(h))
    dh[active] = u[len(q) + len(b) :]
    return np.concatenate([-u[: len(q)], u[len(q) : len(q) + len(b)], dh])


def _with_gradient(layers: Layers, solve: Callable) -> Callable[[], Any]:
    """Value and gradient of a batch, compiled, of a function from one program to its x."""
    f = jax.vmap(solve)
    value = jax.value_and_grad(lambda *data: jnp.sum(f(*data) @ layers.c), argnums=range(6))
    return compiled(value, *map(jnp.asarray, layers.data))


def _ours(layers: Layers, solver: str, gradient: bool = True) -> Callable[[], Any]:
    def solve(*data):
        return idf.convex.solve_qp(*data, solver=solver, raise_on_failure=False).x

    if gradient:
        return _with_gradient(layers, solve)
    return compiled(lambda *data: jnp.sum(jax.vmap(solve)(*data) @ layers.c), *map(jnp.asarray, layers.data))


def _qpax(layers: Layers) -> dict[str, Callable[[], Any]]:
    qpax = importlib.import_module("qpax")

    def value(tol, *data):
        f = jax.vmap(lambda *data: qpax.solve_qp_primal(*data, solver_tol=tol, target_kappa=tol))
        return jax.value_and_grad(lambda *data: jnp.sum(f(*data) @ layers.c), argnums=range(6))(*data)

    data = tuple(map(jnp.asarray, layers.data))
    executable = jax.jit(value).lower(1e-4, *data).compile()

    def run(tol):
        return lambda: executable(tol, *data)

    return _loosest(layers, "qpax", run)


def _cvxpylayers(layers: Layers) -> dict[str, Callable[[], Any]]:
    """With the dense derivative, because the default one is 6 % off on the single program, without a warning."""
    cp, module = importlib.import_module("cvxpy"), importlib.import_module("cvxpylayers.jax")
    shapes = [(part.shape[1:] if part.shape[1] else None) for part in (layers.L, *layers.data[1:])]
    L, q, A, b, G, h = (None if shape is None else cp.Parameter(shape) for shape in shapes)
    x = cp.Variable(layers.c.size)
    constraints = [G @ x <= h, *([] if A is None else [A @ x == b])]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L.T @ x) + q @ x), constraints)
    given = [parameter for parameter in (L, q, A, b, G, h) if parameter is not None]
    layer = module.CvxpyLayer(problem, given, [x], solver_args=dict(mode="dense", solve_method="Clarabel"))
    # One program goes without the leading axis.
    one = len(layers.gradient) == 1
    values = [
        jnp.asarray(value[0] if one else value)
        for value, shape in zip((layers.L, *layers.data[1:]), shapes, strict=True)
        if shape is not None
    ]
    value = jax.value_and_grad(lambda *given: jnp.sum(layer(*given)[0] @ layers.c), argnums=range(len(values)))

    def run():
        number, gradients = value(*values)
        supply = iter(gradients)
        return number, [np.zeros(0) if shape is None else next(supply) for shape in shapes]

    return {"cvxpylayers, dense": run}


def _proxqp(layers: Layers) -> dict[str, Callable[[], Any]]:
    """ProxQP in C++, one program after the other, without JAX."""
    dense = importlib.import_module("proxsuite").proxqp.dense
    P, q, A, b, G, h = layers.data

    def run(tol):
        def solve(i):
            qp = dense.QP(q.shape[1], b.shape[1], h.shape[1])
            qp.settings.eps_abs = tol
            qp.init(P[i], q[i], A[i], b[i], G[i], np.full(h.shape[1], -1e20), h[i])
            qp.solve()
            towards = np.concatenate([layers.c, np.zeros(b.shape[1] + h.shape[1])])
            dense.compute_backward(qp, towards, tol, tol, tol)
            found = qp.model.backward_data
            return [
                np.array(part)
                for part in (found.dL_dH, found.dL_dg, found.dL_dA, found.dL_db, found.dL_dC, found.dL_du)
            ]

        return lambda: (None, [np.stack(parts) for parts in zip(*map(solve, range(len(q))), strict=True)])

    return _loosest(layers, "proxqp", run)


def _loosest(layers: Layers, name: str, make: Callable[[float], Callable]) -> dict[str, Callable[[], Any]]:
    """The run with the loosest tolerance that is accurate enough, or the most accurate run if none is."""
    found: dict[float, tuple[float, Callable]] = {}
    for tol in 10.0 ** -np.arange(4, 13):
        run = make(float(tol))
        error = layers.error(run()[1])
        found[np.nan_to_num(error, nan=np.inf)] = tol, run
        if error <= ACCURACY:
            return {f"{name}, tol {tol:.0e}": run}
    tol, run = found[min(found)]
    return {f"{name}, tol {tol:.0e}, no better": run}
