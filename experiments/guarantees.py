"""Error estimates, bounds and diagnoses of `implicitdiff.certify` on random problems, against the true errors.

The problems are smooth, constrained and non-smooth, well and ill conditioned, with solvers that are stopped at
random. Faults are planted in some of them: conditions of another problem, solutions that are not unique, solutions on
a kink. The true derivative is given by central differences of a solver that is run to the precision of float64.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

import implicitdiff as idf
from implicitdiff.optimality._condition import Condition

from ._results import Results
from ._verdicts import Claim, graded, of_count

certify, optimality = idf.certify, idf.optimality


class Family(NamedTuple):
    """A kind of problem: its fixed-point map for given data, how to draw data and theta, and the planted fault."""

    condition: Callable[[Any], Callable]
    draw: Callable[[np.random.Generator], tuple[Any, Any]]
    n: int
    fault: str = ""


def _step(H) -> Any:
    return 1 / jnp.linalg.norm(H, 2)


def _logistic(data):
    X, s = data
    f = lambda x, t: jnp.mean(jax.nn.softplus(-s * (X @ x))) + 0.5 * jnp.sum(jnp.exp(t) * x**2)  # noqa: E731
    return optimality.gradient_descent(f, _step(X.T @ X / (4 * s.size) + 0.1 * jnp.eye(X.shape[1])))


def _draw_logistic(condition, random):
    X = random.standard_normal((30, 6)) * np.logspace(0, -0.5 * np.log10(condition), 6)
    return (X, np.where(random.random(30) < 0.5, 1.0, -1.0)), random.uniform(-5, -2.5, 6)


def _network(data):
    (W,) = data
    return optimality.root(lambda x, t: x - jnp.tanh(W @ x + t))


def _draw_network(random):
    W = random.standard_normal((6, 6))
    return (0.8 * W / np.linalg.norm(W, 2),), random.standard_normal(6)


def _quadratic(data):
    X, y = data
    return lambda x, t: 0.5 * jnp.sum((X @ x - y * t[0]) ** 2) + 0.5 * t[1] * jnp.sum(x**2)


def _of_quadratic(builder, piece, data):
    X, _ = data
    stepsize = 0.5 * _step(X.T @ X)
    T = builder(_quadratic(data), piece, stepsize)
    return Condition(
        lambda x, t: T(x, t[:2], t[2]),
        T.__qualname__,
        parts=(lambda x, t: T.parts[0](x, t[:2], t[2]), lambda v, t: T.parts[1](v, t[:2], t[2])),
    )


def _draw_regression(weight, random, rows=20, n=6):
    X = random.standard_normal((rows, n))
    y = X @ np.where(random.random(n) < 0.5, 0.0, random.standard_normal(n)) + 0.1 * random.standard_normal(rows)
    return (X, y), np.array([1.0, 0.1, weight * rows])


def _draw_kink(random):
    """A lasso weight for which one coefficient is, in exact arithmetic, exactly at its threshold."""
    (X, y), theta = _draw_regression(0.0, random)
    theta[1] = 0.0
    Q = np.linalg.qr(X)[0]
    correlations = Q.T @ y
    theta[2] = np.sort(np.abs(correlations))[3]
    return (Q, y), theta


def _draw_singular(random):
    (X, y), theta = _draw_regression(0.0, random, rows=4)
    return (X, y), theta * np.array([1.0, 0.0, 0.0])


def _wrong(data):
    """The conditions of another problem than the solver's: with twice the ridge and another target."""
    f = _quadratic(data)
    return optimality.stationary(lambda x, t: f(x, t * jnp.array([1.3, 2.0, 1.0])))


def _ridge(data):
    X, _ = data
    return optimality.gradient_descent(_quadratic(data), 0.5 * _step(X.T @ X))


_projected = partial(_of_quadratic, optimality.projected_gradient)
_proximal = partial(_of_quadratic, optimality.proximal_gradient)
FAMILIES = {
    "logistic regression": Family(_logistic, partial(_draw_logistic, 1.0), 6),
    "logistic, ill-conditioned": Family(_logistic, partial(_draw_logistic, 1e4), 6),
    "fixed point of a network": Family(_network, _draw_network, 6),
    "non-negative least squares": Family(
        partial(_projected, lambda v, _: idf.projection.non_negative(v)), partial(_draw_regression, 0.0), 6
    ),
    "least squares on a simplex": Family(
        partial(_projected, lambda v, c: idf.projection.simplex(v, 1 + c)), partial(_draw_regression, 0.0), 6
    ),
    "lasso": Family(partial(_proximal, idf.prox.lasso), partial(_draw_regression, 0.1), 6),
    "lasso, strong": Family(partial(_proximal, idf.prox.lasso), partial(_draw_regression, 0.4), 6),
    "group lasso": Family(
        partial(_proximal, lambda v, w, s: idf.prox.group_lasso(v.reshape(3, 2), w, s).ravel()),
        partial(_draw_regression, 0.2),
        6,
    ),
    "planted: another F": Family(_ridge, partial(_draw_regression, 0.0), 6, "F"),
    "planted: not unique": Family(_ridge, _draw_singular, 6, "singular"),
    "planted: on a kink": Family(partial(_proximal, idf.prox.lasso), _draw_kink, 6, "kink"),
}


@partial(jax.jit, static_argnums=0)
def iterate(name: str, data: Any, theta: Any, steps: Any) -> jax.Array:
    """x after a number of steps of the fixed-point iteration from 0."""
    T = as_map(FAMILIES[name].condition(data))
    return lax.fori_loop(0, steps, lambda _, x: T(x, theta), jnp.zeros(FAMILIES[name].n))


@partial(jax.jit, static_argnums=0)
def solution(name: str, data: Any, theta: Any) -> jax.Array:
    """x to the precision of float64: many steps, then Newton's method, in the least-squares sense if A is singular."""
    T = as_map(FAMILIES[name].condition(data))
    residual = lambda x: x - T(x, theta)  # noqa: E731
    x = lax.fori_loop(0, 5_000, lambda _, x: T(x, theta), jnp.zeros(FAMILIES[name].n))
    for _ in range(4):
        step = jnp.linalg.lstsq(jax.jacobian(residual)(x), residual(x), rcond=1e-9)[0]
        x = x - step
    return x


@partial(jax.jit, static_argnums=0)
def differences(name: str, data: Any, theta: Any, v: Any) -> tuple[jax.Array, jax.Array]:
    """Central differences of the solution along v, with steps h and h / 2."""
    h = 1e-5
    return tuple(
        (solution(name, data, theta + s * v) - solution(name, data, theta - s * v)) / (2 * s) for s in (h, h / 2)
    )


def as_map(condition: Callable) -> Callable:
    """The fixed-point map to iterate: the condition, or x - F(x) for a root condition."""
    return (lambda x, t: x - condition(x, t)) if getattr(condition, "is_root", False) else condition


def examine(name: str, seed: int) -> dict[str, Any]:
    """One random problem of a family: estimates, bound and verdict beside the true error."""
    family, random = FAMILIES[name], np.random.default_rng(seed)
    data, theta = jax.tree.map(jnp.asarray, family.draw(random))
    steps = int(10 ** random.uniform(0.5, 2.8))
    x, exact = iterate(name, data, theta, steps), solution(name, data, theta)
    if family.fault == "kink":
        x = exact
    condition = _wrong(data) if family.fault == "F" else family.condition(data)
    v = jnp.asarray(random.standard_normal(theta.shape)) * jnp.abs(theta)
    true, other = differences(name, data, theta, v)
    estimate = certify.error_estimate(condition, x, theta, tangents=(v,))
    bound = certify.error_bound(condition, x, theta, tangents=(v,))
    diagnosis = certify.diagnose(condition, x, theta)
    size = jnp.linalg.norm(true)
    polished = jnp.linalg.norm(estimate.corrected - true)
    return dict(
        family=name,
        seed=seed,
        steps=steps,
        distance=float(jnp.linalg.norm(x - exact)),
        relative_distance=float(jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact)),
        estimated_distance=float(estimate.distance),
        error=float(jnp.linalg.norm(estimate.derivative - true)),
        estimate=float(estimate.error),
        bound=float(bound.bound),
        corrected=float(polished),
        norm=float(size),
        noise=float(jnp.linalg.norm(true - other)),
        verdict=diagnosis.verdict,
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts on which the claims rest."""
    planted = lambda row: row["family"].startswith("planted")  # noqa: E731
    # Central differences have few digits, so small errors cannot be measured by them; and some derivatives are 0.
    floor = lambda row: 10 * row["noise"] + 1e-7 * row["norm"] + 1e-12  # noqa: E731
    honest = [row for row in rows if not planted(row)]
    near = [row for row in honest if row["relative_distance"] < 0.1]
    told = [row for row in near if row["error"] > floor(row) or row["estimate"] > floor(row)]
    within = [row for row in told if 1 / 3 <= row["estimate"] / max(row["error"], 1e-300) <= 3]
    finite = [row for row in honest if np.isfinite(row["bound"])]
    broken = [row for row in finite if not row["error"] <= row["bound"] + floor(row)]
    wrong = [row for row in rows if not row["error"] <= 1e-2 * row["norm"] + 1e-12]
    unflagged = [row for row in wrong if row["verdict"] == "fine"]
    false_alarms = [row for row in honest if row["error"] <= 1e-3 * row["norm"] and row["verdict"] != "fine"]
    return dict(
        problems=len(rows),
        near=len(near),
        measurable=len(told),
        within_factor_3=len(within),
        bounds_finite=len(finite),
        bounds_broken=len(broken),
        wrong=len(wrong),
        unflagged=len(unflagged),
        right=len([row for row in honest if row["error"] <= 1e-3 * row["norm"]]),
        false_alarms=len(false_alarms),
    )


def run(results: Results, quick: bool, seed: int) -> None:
    """Examine the problems and write the tables."""
    count = 22 if quick else 220
    names = list(FAMILIES)
    bar = tqdm(range(count), desc="random problems", disable=None)
    rows = [examine(names[i % len(names)], seed * 100_000 + i) for i in bar]
    results.table("problems", rows, ())
    counts = summary(rows)
    results.table("summary", [counts])
    verdicts = [
        dict(family=name, **{v: sum(row["family"] == name and row["verdict"] == v for row in rows) for v in VERDICTS})
        for name in names
    ]
    results.table("verdicts", verdicts)
    results.claim(*claims(counts))


def claims(counts: dict[str, Any]) -> Iterator[Claim]:
    """The claims, from the counts of `summary`."""
    yield Claim(
        "The error is below the bound in every case.",
        of_count(counts["bounds_finite"] - counts["bounds_broken"], counts["bounds_finite"], part=1.0),
        f"{counts['bounds_finite']} finite bounds, {counts['bounds_broken']} broken.",
    )
    measurable, within = counts["measurable"], counts["within_factor_3"]
    yield Claim(
        "The estimate is within a factor of 3 of the error in 95 % of the problems with relative distance below 0.1.",
        graded(within >= 0.95 * measurable, within >= 0.8 * measurable) if measurable else "vacuous",
        f"{within} of {measurable} whose error can be measured.",
    )
    yield Claim(
        "No derivative with an error over 1 % has the verdict fine.",
        of_count(counts["wrong"] - counts["unflagged"], counts["wrong"], part=1.0),
        f"{counts['wrong']} wrong ones, {counts['unflagged']} unflagged; {counts['false_alarms']} false alarms among "
        f"{counts['right']} with an error under 0.1 %.",
    )


VERDICTS = tuple(certify.VERDICTS)
