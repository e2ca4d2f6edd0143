"""Figure 3 of the paper: the error of a Jacobian against the error of the solution at which it was computed.

Ridge regression with one weight for each feature of the diabetes data,

    x*(theta) = argmin_x |X x - y|^2 + sum_i theta_i x_i^2,

solved by gradient descent that is stopped after t steps. The paper compares implicit and unrolled differentiation
with the bound of its Theorem 1; added here are the estimate of the error and the derivative after one Newton step.
The same is done for a logistic regression (breast cancer data), a lasso (diabetes data) and a quadratic program with
2 equations and 15 inequalities (by ADMM). Errors are Frobenius norms.
"""

from collections.abc import Callable, Iterator
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
from ._verdicts import Claim, Status, graded, of_cases


class Problem(NamedTuple):
    """A condition and theta; a solver (step, start, and how to read x from its state); constants of the bound."""

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
        optimality.stationary(f, positive_definite=True),
        theta,
        lambda x, t: x - gradient(x, t) / values[-1],
        jnp.zeros(10),
        lambda x: x,
        (1, 3, 10, 30, 100, 300, 1000, 2000),
        dict(alpha=values[0], beta=2.0, gamma=0.0),
    )


def logistic() -> Problem:
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    s = np.where(data.target == 1, 1.0, -1.0)
    f = lambda x, t: jnp.mean(jax.nn.softplus(-s * (X @ x))) + 0.5 * jnp.sum(jnp.exp(t) * x**2)  # noqa: E731
    theta = jnp.full(30, -3.0)
    stepsize = 1 / (np.linalg.norm(X, 2) ** 2 / (4 * len(s)) + np.exp(-3.0))
    gradient = jax.grad(f)
    return Problem(
        optimality.stationary(f, positive_definite=True),
        theta,
        lambda x, t: x - stepsize * gradient(x, t),
        jnp.zeros(30),
        lambda x: x,
        (10, 30, 100, 200, 300, 500, 700, 1000),
        {},
    )


def lasso() -> Problem:
    X, y = load_diabetes(return_X_y=True)
    X = X / np.linalg.norm(X, axis=0)
    y = (y - y.mean()) / y.std()
    f = lambda x, _: 0.5 * jnp.sum((X @ x - y) ** 2)  # noqa: E731
    T = optimality.proximal_gradient(f, idf.prox.lasso, 1 / np.linalg.norm(X, 2) ** 2)
    theta = jnp.full(10, 1.0)
    return Problem(
        _of_weight(T),
        theta,
        lambda x, t: T(x, None, t),
        jnp.zeros(10),
        lambda x: x,
        (1, 3, 10, 20, 30, 100, 200, 300),
        {},
    )


def _of_weight(T: Callable) -> Callable:
    def F(x, weights):
        return x - T(x, None, weights)

    return F


def quadratic_program() -> Problem:
    """Theta is added to the diagonal of Q; ADMM is stopped after t steps; x includes the multipliers."""
    random = np.random.default_rng(0)
    n, p, m = 10, 2, 15
    L = random.standard_normal((n, n))
    Q, c = jnp.asarray(L @ L.T / n), random.standard_normal(n)
    rows = random.standard_normal((p + m, n))
    low = rows @ random.standard_normal(n)
    high = low + np.append(np.zeros(p), random.uniform(0, 0.5, m))
    low = np.where(np.arange(p + m) < p, high, -np.inf)
    # As in OSQP, equations have a larger step size.
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
        condition,
        jnp.full(n, 0.1),
        step,
        (jnp.zeros(n), jnp.zeros(p + m), jnp.asarray(np.clip(0.0, low, high))),
        lambda state: (state[0], state[1][:p], state[1][p:]),
        (10, 30, 50, 70, 100, 150, 200, 300),
        {},
    )


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
        # Both modes give the same numbers; forward mode stores no steps.
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
    # A Newton step removes the last error.
    exact = jax.tree.map(
        lambda a, b: a - b,
        exact,
        idf.root_jvp(
            lambda x, s: jax.tree.map(lambda r, r0: r - s * r0, condition(x, theta), condition(exact, theta)),
            exact,
            (1.0,),
            (1.0,),
        ),
    )
    truth = implicit(exact)
    rows = []
    for steps in problem.steps[:: 2 if points < 8 else 1]:
        x = jax.jit(iterate)(theta, steps)
        difference = lambda J: float(jnp.linalg.norm(J - truth))  # noqa: E731
        row = dict(
            steps=steps,
            solution=float(jnp.linalg.norm(flat(x) - flat(exact))),
            implicit=difference(implicit(x)),
            unrolled=difference(unrolled(theta, steps)),
            bound=float(certify.error_bound(condition, x, theta, **problem.constants).bound),
            estimate=float(certify.error_estimate(condition, x, theta).error),
            polished=difference(polished(x)),
        )
        rows.append(row)
    return rows


def run(results: Results, quick: bool, seed: int) -> None:
    """All four problems (two in the quick version), each with a table and a panel of the figure."""
    del seed  # nothing is random
    names = list(PROBLEMS)[: 2 if quick else 4]
    figure, axes = plt.subplots(1, len(names), figsize=(3.75 * len(names), 3.8))
    for name, axis in zip(names, axes, strict=True):
        make = PROBLEMS[name]
        rows = errors(make(), 4 if quick else 8)
        results.table(name.split(" (")[0].replace(" ", "_"), rows)
        draw(axis, name, rows)
        results.claim(*claims(name, rows))
    axes[0].set_ylabel("error of the Jacobian")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, bbox_to_anchor=(0.5, -0.06), frameon=False)
    figure.tight_layout()
    results.figure("jacobian_error", figure)


STYLES = {
    "bound": ("bound", "--", ""),
    "unrolled": ("unrolled", "-", "s"),
    "implicit": ("implicit", "-", "o"),
    "estimate": ("estimate of implicit's error", ":", "x"),
    "polished": ("implicit after a Newton step", "-", "^"),
}


FLOOR = 1e-15  # smaller errors are drawn here


def draw(axis, name: str, rows: list[dict[str, float]]) -> None:
    """Draw errors against the error of the solution, on logarithmic axes."""
    for key, (label, line, marker) in STYLES.items():
        pairs = [
            (row["solution"], max(row[key], FLOOR)) for row in rows if np.isfinite(row[key]) and row["solution"] > 1e-13
        ]
        if pairs:
            axis.loglog(*zip(*pairs, strict=True), line, marker=marker, ms=4, color=COLOURS[key], label=label)
    axis.set_title(name)
    axis.set_xlabel("error of the solution")
    axis.invert_xaxis()
    axis.set_ylim(bottom=FLOOR / 3)


ROUNDING = 1e-10  # an error of the Jacobian below this is rounding


def claims(name: str, rows: list[dict[str, float]]) -> Iterator[Claim]:
    """What the figure is meant to show, in numbers. A bound is tested only where it is finite."""
    defined = [row for row in rows if not np.isnan(row["implicit"])]
    bounded = [row for row in defined if np.isfinite(row["bound"]) and row["implicit"] > ROUNDING]
    holds = [row["implicit"] <= row["bound"] * (1 + 1e-9) for row in bounded]
    infinite = sum(np.isinf(row["bound"]) for row in rows)
    yield Claim(
        f"{name}: implicit lies under the bound.",
        of_cases(holds),
        f"At {sum(holds)} of {len(holds)} points with an error above rounding and a finite bound; the bound is "
        f"infinite at {infinite} of {len(rows)}.",
    )
    apart = [row for row in defined if max(row["implicit"], row["unrolled"]) > ROUNDING]
    holds = [row["implicit"] <= row["unrolled"] for row in apart]
    undefined = len(rows) - len(defined)
    yield Claim(
        f"{name}: implicit lies under unrolled.",
        of_cases(holds),
        f"At {sum(holds)} of {len(holds)} points at which one of the two has an error above rounding"
        + (f"; implicit is NaN at {undefined}." if undefined else "."),
    )
    near = [row for row in defined if row["implicit"] > ROUNDING and row["solution"] < 0.1]
    holds = [0.5 <= row["estimate"] / row["implicit"] <= 2 for row in near]
    yield Claim(
        f"{name}: the estimate is within a factor of 2 of the error where the error of the solution is below 0.1.",
        of_cases(holds),
        f"At {sum(holds)} of {len(holds)} such points with an error above rounding.",
    )
    yield Claim(f"{name}: after a Newton step, the error falls with slope 2.", *slope_of_polished(rows, near))


def slope_of_polished(rows: list[dict[str, float]], near: list[dict[str, float]]) -> tuple[Status, str]:
    """The slope of the error after a Newton step against that of the solution, on logarithmic axes."""
    undefined = sum(np.isnan(row["polished"]) for row in rows)
    if undefined:
        return "not reproduced", f"The derivative after the step is NaN at {undefined} of {len(rows)} points."
    curved = [(row["solution"], row["polished"]) for row in near if row["polished"] > ROUNDING]
    if len(curved) < 3:
        exact = sum(row["polished"] <= ROUNDING for row in rows)
        return "vacuous", f"No slope can be measured: it is exact to rounding at {exact} of {len(rows)} points."
    slope = float(np.polyfit(*np.log(np.array(curved)).T, 1)[0])
    return graded(abs(slope - 2) < 0.3, slope > 1.3), f"Slope {slope:.2f}."
