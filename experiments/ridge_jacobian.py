"""Figure 3 of the paper: the error of a Jacobian against the error of the solution it was computed at.

Ridge regression with one weight a feature on the diabetes data, x* = argmin ||X x - y||^2 + sum_i theta_i x_i^2, by
gradient descent that is stopped after t steps. Beside implicit and unrolled differentiation and the bound of theorem 1,
the estimate of the error and the derivative after one Newton step, which the paper has not. Then the same for a
logistic regression (breast cancer data), a lasso (diabetes) and a quadratic program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import lax
from sklearn.datasets import load_breast_cancer, load_diabetes

import implicitdiff as idf
from implicitdiff import certify, optimality

from ._results import COLOURS, Results


class Problem(NamedTuple):
    """A condition, theta, the iteration of a solver with its start, how its iterate becomes x, and the constants."""

    condition: Callable
    theta: jax.Array
    step: Callable[[Any, jax.Array], Any]
    start: Any
    read: Callable[[Any], Any]
    steps: tuple[int, ...]
    constants: dict[str, float]


def ridge() -> Problem:
    X, y = load_diabetes(return_X_y=True)
    X = X / np.linalg.norm(X, axis=0)
    y = (y - y.mean()) / y.std()
    f = lambda x, t: jnp.sum((X @ x - y) ** 2) + jnp.sum(t * x**2)  # noqa: E731
    theta = jnp.full(10, 0.1)
    values = np.linalg.eigvalsh(2 * X.T @ X + 0.2 * np.eye(10))
    gradient = jax.grad(f)
    # A = 2 (X'X + diag(theta)) does not depend on x, and B = 2 diag(x).
    return Problem(
        optimality.stationary(f, positive_definite=True), theta, lambda x, t: x - gradient(x, t) / values[-1],
        jnp.zeros(10), lambda x: x, (1, 3, 10, 30, 100, 300, 1000, 2000),
        dict(alpha=values[0], beta=2.0, gamma=0.0),
    )  # fmt: skip


def logistic() -> Problem:
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    s = np.where(data.target == 1, 1.0, -1.0)
    f = lambda x, t: jnp.mean(jax.nn.softplus(-s * (X @ x))) + 0.5 * jnp.sum(jnp.exp(t) * x**2)  # noqa: E731
    theta = jnp.full(30, -3.0)
    stepsize = 1 / (np.linalg.norm(X, 2) ** 2 / (4 * len(s)) + np.exp(-3.0))
    gradient = jax.grad(f)
    return Problem(
        optimality.stationary(f, positive_definite=True), theta, lambda x, t: x - stepsize * gradient(x, t),
        jnp.zeros(30), lambda x: x, (10, 30, 100, 200, 300, 500, 700, 1000), {},
    )  # fmt: skip


def lasso() -> Problem:
    X, y = load_diabetes(return_X_y=True)
    X = X / np.linalg.norm(X, axis=0)
    y = (y - y.mean()) / y.std()
    f = lambda x, _: 0.5 * jnp.sum((X @ x - y) ** 2)  # noqa: E731
    T = optimality.proximal_gradient(f, idf.prox.lasso, 1 / np.linalg.norm(X, 2) ** 2)
    theta = jnp.full(10, 1.0)
    return Problem(_of_weight(T), theta, lambda x, t: T(x, None, t), jnp.zeros(10), lambda x: x,
                   (1, 3, 10, 20, 30, 100, 200, 300), {})  # fmt: skip


def _of_weight(T: Callable) -> Callable:
    def F(x, weights):
        return x - T(x, None, weights)

    return F


def quadratic_program() -> Problem:
    """Theta adds to the diagonal of Q; alternating directions (ADMM) stopped after t steps, multipliers included."""
    random = np.random.default_rng(0)
    n, p, m = 10, 2, 15
    L = random.standard_normal((n, n))
    Q, c = jnp.asarray(L @ L.T / n), random.standard_normal(n)
    rows = random.standard_normal((p + m, n))
    low = rows @ random.standard_normal(n)
    high = low + np.append(np.zeros(p), random.uniform(0, 0.5, m))
    low = np.where(np.arange(p + m) < p, high, -np.inf)
    # The step size of equations is larger, as in OSQP.
    weight = np.where(np.arange(p + m) < p, 30.0, 1.0)

    def step(state, t):
        _, y, s = state  # z, multipliers of rows z = s, and s
        K = Q + jnp.diag(t) + rows.T @ (weight[:, None] * rows)
        z = jnp.linalg.solve(K, rows.T @ (weight * s - y) - c)
        s = jnp.clip(rows @ z + y / weight, low, high)
        return z, y + weight * (rows @ z - s), s

    F = optimality.quadratic_program("natural")

    def condition(x, t):
        return F(x, (Q + jnp.diag(t), c), (rows[:p], high[:p]), (rows[p:], high[p:]))

    return Problem(
        condition, jnp.full(n, 0.1), step, (jnp.zeros(n), jnp.zeros(p + m), jnp.asarray(np.clip(0.0, low, high))),
        lambda state: (state[0], state[1][:p], state[1][p:]), (10, 30, 50, 70, 100, 150, 200, 300), {},
    )  # fmt: skip


PROBLEMS = {
    "ridge (diabetes)": ridge,
    "logistic (breast cancer)": logistic,
    "lasso (diabetes)": lasso,
    "quadratic program": quadratic_program,
}
CONVERGED = 100_000


def errors(problem: Problem, points: int) -> list[dict[str, float]]:
    """One row for each number of steps; norms are Frobenius over all entries of the solution."""
    flat = lambda x: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(x)])  # noqa: E731
    condition, theta = problem.condition, problem.theta

    def iterate(theta, steps):
        state = lax.fori_loop(0, steps, lambda _, s: problem.step(s, theta), problem.start)
        return problem.read(state)

    @partial(jax.jit, static_argnums=1)
    def unrolled(theta, steps):
        # Forward mode: both directions give the same numbers, and this one needs no memory for the steps.
        return jax.jacfwd(lambda t: flat(iterate_fixed(t, steps)))(theta)

    def iterate_fixed(theta, steps):
        step = lambda s, _: (problem.step(s, theta), None)  # noqa: E731
        state = lax.scan(step, problem.start, None, length=steps)[0]
        return problem.read(state)

    def jacobian(x, polish=0):
        attached = lambda t: flat(idf.implicit_root(condition, x, t, adjoint=idf.Implicit(polish=polish)))  # noqa: E731
        return jax.jacobian(attached)(theta)

    implicit, polished = jax.jit(jacobian), jax.jit(partial(jacobian, polish=1))
    exact = jax.jit(iterate)(theta, CONVERGED)
    # Newton's method takes the last digits off.
    exact = jax.tree.map(lambda a, b: a - b, exact, idf.root_jvp(
        lambda x, s: jax.tree.map(lambda r, r0: r - s * r0, condition(x, theta), condition(exact, theta)),
        exact, (1.0,), (1.0,)))  # fmt: skip
    truth = implicit(exact)
    rows = []
    for steps in problem.steps[:: 2 if points < 8 else 1]:
        x = jax.jit(iterate)(theta, steps)
        difference = lambda J: float(jnp.linalg.norm(J - truth))  # noqa: E731
        rows.append(dict(
            steps=steps,
            solution=float(jnp.linalg.norm(flat(x) - flat(exact))),
            implicit=difference(implicit(x)),
            unrolled=difference(unrolled(theta, steps)),
            bound=float(certify.error_bound(condition, x, theta, **problem.constants).bound),
            estimate=float(certify.error_estimate(condition, x, theta).error),
            polished=difference(polished(x)),
        ))  # fmt: skip
    return rows


def run(results: Results, quick: bool, seed: int) -> None:
    """All four problems (two where it is to be quick), a table and a panel each."""
    del seed  # nothing is random
    names = list(PROBLEMS)[: 2 if quick else 4]
    figure, axes = plt.subplots(1, len(names), figsize=(3.75 * len(names), 3.8))
    for name, axis in zip(names, axes, strict=True):
        make = PROBLEMS[name]
        rows = errors(make(), 4 if quick else 8)
        results.table(name.split(" (")[0].replace(" ", "_"), rows)
        draw(axis, name, rows)
        claims(results, name, rows)
    axes[0].set_ylabel("error of the Jacobian")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, bbox_to_anchor=(0.5, -0.06), frameon=False)
    figure.tight_layout()
    results.figure("jacobian_error", figure)


STYLES = {
    "bound": ("bound", "--", ""), "unrolled": ("unrolled", "-", "s"), "implicit": ("implicit", "-", "o"),
    "estimate": ("estimate of implicit's error", ":", "x"), "polished": ("implicit after a Newton step", "-", "^"),
}  # fmt: skip


# What is smaller is drawn here.
ROUNDING = 1e-15


def draw(axis, name: str, rows: list[dict[str, float]]) -> None:
    """Errors against the error of the solution, on logarithmic axes."""
    for key, (label, line, marker) in STYLES.items():
        pairs = [
            (row["solution"], max(row[key], ROUNDING))
            for row in rows
            if np.isfinite(row[key]) and row["solution"] > 1e-13
        ]
        if pairs:
            axis.loglog(*zip(*pairs, strict=True), line, marker=marker, ms=4, color=COLOURS[key], label=label)
    axis.set_title(name)
    axis.set_xlabel("error of the solution")
    axis.invert_xaxis()
    axis.set_ylim(bottom=ROUNDING / 3)


def claims(results: Results, name: str, rows: list[dict[str, float]]) -> None:
    """What the figure is to show, in numbers."""
    rounding = 1e-10
    above = [row for row in rows if row["implicit"] > rounding]
    exact = sum(row["implicit"] <= rounding for row in rows)
    undefined = len(rows) - len(above) - exact
    beside = (f", exact to rounding at {exact}" if exact else "") + (f", NaN at {undefined}" if undefined else "")
    near = [row for row in above if row["solution"] < 0.1]
    for what, good in (
        ("implicit lies under the bound", [row["implicit"] <= row["bound"] * (1 + 1e-9) for row in above]),
        ("implicit lies under unrolled", [row["implicit"] <= row["unrolled"] for row in above]),
        ("the estimate is within a factor of 2 of the error where the solution's is below 0.1",
         [0.5 <= row["estimate"] / row["implicit"] <= 2 for row in near]),
    ):  # fmt: skip
        status = "reproduced" if all(good) else "partly" if any(good) or exact else "not reproduced"
        results.claim(f"{name}: {what}.", status, f"{sum(good)} of {len(good)} points with an error{beside}.")
    what = f"{name}: the polished derivative's error falls with slope 2."
    curved = [(row["solution"], row["polished"]) for row in near if row["polished"] > rounding]
    if len(curved) >= 3:
        slope = float(np.polyfit(*np.log(np.array(curved)).T, 1)[0])
        results.claim(what, "reproduced" if abs(slope - 2) < 0.3 else "partly", f"Slope {slope:.2f}.")
    else:
        best = sum(row["polished"] <= rounding for row in rows)
        results.claim(what, "partly", f"Better: it is exact to rounding at {best} of {len(rows)} points.")
