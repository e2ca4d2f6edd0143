"""Solvers and their hyper-gradients, to a given accuracy, beside JAXopt's solvers of the same name.

Each competitor stops by its own criterion, with the loosest power of ten as tolerance whose solution is accurate
enough. The time of a first call includes tracing, compilation and one run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import Lasso

import implicitdiff as idf

from ._harness import Times, compilation, compiled, interleave
from ._report import Claim, Report, Table, relative_error, timing_rows

ACCURACY = 1e-6
MAXITER = 40_000


class Problem(NamedTuple):
    """A starting point, the data, the exact solution, and functions that make a solver with a given tolerance."""

    init: np.ndarray
    args: tuple
    solution: np.ndarray
    ours: Callable[[float], Any]
    theirs: Callable[[float], Any]
    foreign: dict[str, Callable[[], Any]]


def measure(quick: bool) -> Report:
    report = Report([], [])
    for name in QUICK if quick else PROBLEMS:
        problem = PROBLEMS[name](quick)
        solutions: dict[str, Callable] = {}
        gradients: dict[str, Callable] = {}
        for title, maker in (("ours", problem.ours), ("jaxopt", problem.theirs)):
            tol, solver = _loosest(maker, problem, step=2 if quick else 1)
            solutions[f"{title}, tol {tol:.0e}"] = partial(_solution, solver)
            gradients[title] = partial(_gradient, solver)
        arguments = problem.init, *problem.args
        for what, makers, target in (("solution", solutions, 1.0), ("with gradient", gradients, 1 / 1.5)):
            ours, theirs = makers
            runs: dict[str, Callable] = {title: compiled(make(), *arguments) for title, make in makers.items()}
            errors = {}
            if what == "solution":
                runs |= problem.foreign
                errors = {title: relative_error(run(), problem.solution) for title, run in runs.items()}
            times = interleave(runs, budget=0.5 if quick else 8, least=5)
            table = f"{name}: {what}" + (f" to {ACCURACY:g}" if errors else "")
            report.tables.append(Table(table, timing_rows(times, errors, ours), ""))
            report.claims.append(Claim.of_times(f"{name}: {what}, ours / jaxopt", times, ours, theirs, target))
            first = _first_call(makers, arguments, times, rounds=1 if quick else 5)
            report.tables.append(Table(f"{name}: {what}, first call", timing_rows(first, {}, ours), ""))
            what += ", first call"
            report.claims.append(Claim.of_times(f"{name}: {what}, ours / jaxopt", first, ours, theirs, 1.1))
    return report


def _solution(solver: Any) -> Callable:
    return lambda x, *args: solver.run(x, *args)[0]


def _gradient(solver: Any) -> Callable:
    gradient = jax.grad(lambda args, x: jnp.sum(jnp.sin(solver.run(x, *args)[0])), allow_int=True)
    return lambda x, *args: gradient(args, x)


def _first_call(makers: dict[str, Callable], arguments: tuple, runs: Times, rounds: int) -> Times:
    problems: dict[str, Callable] = {
        name: partial(lambda make: (make(), arguments), make) for name, make in makers.items()
    }
    total = compilation(problems, rounds)["total"]
    return Times({name: seconds + runs.minimum(name) for name, seconds in total.seconds.items()})


def _loosest(maker: Callable[[float], Any], problem: Problem, step: int) -> tuple[float, Any]:
    for tol in 10.0 ** -np.arange(1, 14, step):
        solver = maker(tol)
        x = jax.jit(lambda x, *args, s=solver: s.run(x, *args)[0])(problem.init, *problem.args)
        if relative_error(x, problem.solution) <= ACCURACY:
            return tol, solver
    raise RuntimeError("no tolerance gives a solution that is accurate enough")


def _polished(solver: Any, init: Any, *args: Any) -> np.ndarray:
    return np.asarray(jax.jit(solver.run)(init, *args)[0])


def _lasso(quick: bool) -> Problem:
    m, p = (100, 300) if quick else (500, 2000)
    random = np.random.default_rng(0)
    X = random.standard_normal((m, p)) / np.sqrt(m)
    truth = np.where(np.arange(p) < p // 20, random.uniform(0.5, 1.5, p), 0)
    y = X @ truth + 0.02 * random.standard_normal(m)
    weight = 0.05
    A = jnp.asarray(X)
    f = lambda x, y: 0.5 * jnp.sum((A @ x - y) ** 2)  # noqa: E731
    exact = Lasso(weight / m, fit_intercept=False, tol=1e-15, max_iter=1_000_000).fit(X, y).coef_
    step = float(1 / np.linalg.norm(X, 2) ** 2)
    return Problem(
        np.zeros(p),
        (y, weight),
        exact,
        lambda tol: idf.solvers.ProximalGradient(f, idf.prox.lasso, step, tol=tol, maxiter=MAXITER),
        lambda tol: _Swapped(
            jaxopt.ProximalGradient(
                lambda x, y: f(x, y), jaxopt.prox.prox_lasso, stepsize=step, tol=tol, maxiter=MAXITER
            )
        ),
        {
            "scikit-learn, tol 1e-8": lambda: (
                Lasso(weight / m, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(X, y).coef_
            )
        },
    )


class _Swapped:
    """JAXopt's proximal and projected solvers take theta_g before theta_f."""

    def __init__(self, solver: Any):
        self.solver = solver

    def run(self, init: Any, theta_f: Any, theta_g: Any = None):
        return self.solver.run(init, theta_g, theta_f)


def _non_negative(quick: bool) -> Problem:
    m, p = (100, 50) if quick else (1000, 300)
    random = np.random.default_rng(1)
    X = np.abs(random.standard_normal((m, p)))
    y = X @ np.maximum(random.standard_normal(p), 0) + random.standard_normal(m)
    A = jnp.asarray(X)
    f = lambda x, y: 0.5 * jnp.sum((A @ x - y) ** 2) / m  # noqa: E731
    step = float(m / np.linalg.norm(X, 2) ** 2)
    ours = lambda tol: idf.solvers.ProjectedGradient(  # noqa: E731
        f, idf.projection.non_negative, step, tol=tol, maxiter=MAXITER
    )
    import scipy.optimize

    def theirs(tol):
        project = jaxopt.projection.projection_non_negative
        return _Swapped(jaxopt.ProjectedGradient(f, project, stepsize=step, tol=tol, maxiter=MAXITER))

    return Problem(
        np.zeros(p),
        (y, None),
        scipy.optimize.nnls(X, y)[0],
        ours,
        theirs,
        {"SciPy nnls": lambda: scipy.optimize.nnls(X, y)[0]},
    )


def _svm(quick: bool) -> Problem:
    """The dual of a multiclass SVM: rows in the simplex."""
    samples = 100 if quick else 500
    data = load_digits()
    X = data.data[:samples] / 16
    Y = np.eye(10)[data.target[:samples]]
    A = jnp.asarray(X)
    f = lambda x, theta: 0.5 / theta * jnp.sum((A.T @ (Y - x)) ** 2) + jnp.vdot(x, Y) + 0.1 * jnp.sum(x**2)  # noqa: E731
    theta = 10.0
    step = float(1 / (np.linalg.norm(X, 2) ** 2 / theta + 0.2))
    ours = lambda tol: idf.solvers.ProjectedGradient(  # noqa: E731
        f, lambda v, _: idf.projection.simplex(v), step, tol=tol, maxiter=MAXITER
    )
    rows = jax.vmap(jaxopt.projection.projection_simplex)

    def theirs(tol):
        project = lambda v, _: rows(v)  # noqa: E731
        return _Swapped(jaxopt.ProjectedGradient(f, project, stepsize=step, tol=tol, maxiter=MAXITER))

    init = np.full(Y.shape, 0.1)
    return Problem(init, (theta, None), _polished(ours(1e-12), init, theta, None), ours, theirs, {})


def _logistic(quick: bool) -> Problem:
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    A, s = jnp.asarray(X), jnp.asarray(np.where(data.target == 1, 1.0, -1.0))
    f = lambda x, t: jnp.mean(jax.nn.softplus(-s * (A @ x))) + 0.5 * t * jnp.sum(x**2)  # noqa: E731
    step = float(1 / (0.25 * np.linalg.norm(X, 2) ** 2 / X.shape[0] + 1e-2))
    ours = lambda tol: idf.solvers.GradientDescent(f, step, tol=tol, maxiter=MAXITER)  # noqa: E731
    theirs = lambda tol: jaxopt.GradientDescent(f, stepsize=step, tol=tol, maxiter=MAXITER)  # noqa: E731
    init = np.zeros(X.shape[1])
    return Problem(init, (1e-2,), _polished(ours(1e-13), init, 1e-2), ours, theirs, {})


PROBLEMS = {
    "lasso": _lasso,
    "non-negative least squares": _non_negative,
    "SVM dual on simplices": _svm,
    "logistic regression": _logistic,
}
QUICK = ("lasso",)
