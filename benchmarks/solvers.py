"""Solvers and their hyper-gradients, to a given accuracy, beside all of JAXopt's methods for the problem.

Each competitor stops by its own criterion, with the loosest power of ten as tolerance whose solution is accurate
enough. The fastest of ours is compared with the fastest of JAXopt's, whatever their names: with a fixed step, with line
searches, quasi-Newton methods. The time of a first call includes tracing, compilation and one run.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import Lasso

import implicitdiff as idf

from ._harness import Times, compilation, compiled, interleave
from ._report import Claim, Report, Table, relative_error, timing_rows

ACCURACY = 1e-6
MAXITER = 40_000
# Seconds for one run of a method.
PATIENCE = 2
OPTIONS = dict(maxiter=MAXITER, on_unconverged="ignore")


class Problem(NamedTuple):
    """A starting point, the data, the exact solution, and functions that make solvers with a given tolerance."""

    init: np.ndarray
    args: tuple
    solution: np.ndarray
    ours: dict[str, Callable[[float], Any]]
    theirs: dict[str, Callable[[float], Any]]
    foreign: dict[str, Callable[[], Any]]


def measure(quick: bool) -> Report:
    report = Report([], [])
    for name in QUICK if quick else PROBLEMS:
        problem = PROBLEMS[name](quick)
        arguments = problem.init, *problem.args
        solvers, missing = {}, {}
        for whose, makers in (("ours", problem.ours), ("jaxopt", problem.theirs)):
            for method, maker in makers.items():
                try:
                    tol, solvers[f"{whose}: {method}"] = _loosest(maker, problem, step=2 if quick else 1)
                except InaccurateError as why:
                    missing[f"{whose}: {method}"] = f"{why}"
                else:
                    print(f"{name}, {whose}: {method}, tol {tol:.0e}", flush=True)
        runs: dict[str, Callable] = {
            title: compiled(_solution(solver), *arguments) for title, solver in solvers.items()
        }
        runs |= problem.foreign
        errors = {title: relative_error(run(), problem.solution) for title, run in runs.items()}
        times = interleave(runs, budget=0.5 if quick else 12, least=5, missing=missing)
        groups = [[title for title in solvers if title.startswith(whose)] for whose in ("ours", "jaxopt")]
        if not all(groups):  # nobody of one side was accurate in time: there is nothing to compare
            rows = timing_rows(times, errors, next(iter(solvers)))
            report.tables.append(Table(f"{name}: solution to {ACCURACY:g}", rows, ""))
            continue
        best = [times.fastest(group) for group in groups]
        ours, theirs = best
        report.tables.append(Table(f"{name}: solution to {ACCURACY:g}", timing_rows(times, errors, ours), ""))
        report.claims.append(Claim.of_times(f"{name}: {ours} / {theirs}", times, ours, theirs, 1.1))
        makers = {title: partial(_gradient, solvers[title]) for title in best}
        gradients = interleave(
            {title: compiled(make(), *arguments) for title, make in makers.items()}, budget=0.5 if quick else 4, least=5
        )
        first = _first_call(makers, arguments, gradients, rounds=1 if quick else 3)
        for what, measured, target in (("with gradient", gradients, 1.1), ("with gradient, first call", first, 1.1)):
            report.tables.append(Table(f"{name}: {what}", timing_rows(measured, {}, ours), ""))
            report.claims.append(Claim.of_times(f"{name}: {what}, ours / jaxopt", measured, ours, theirs, target))
    return report


class InaccurateError(Exception):
    """No tolerance gives a solution that is accurate enough, or not in time."""


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
        solver = maker(float(tol))
        run = jax.jit(lambda x, *args, s=solver: s.run(x, *args)[0])
        error = relative_error(run(problem.init, *problem.args), problem.solution)
        if error <= ACCURACY:
            return tol, solver
        begin = time.perf_counter()
        jax.block_until_ready(run(problem.init, *problem.args))
        if time.perf_counter() - begin > PATIENCE:
            raise InaccurateError(f"error {error:.0e} after {PATIENCE} s")
    raise InaccurateError("no tolerance gives a solution that is accurate enough")


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

    def proximal(tol, step):
        method = jaxopt.ProximalGradient(f, jaxopt.prox.prox_lasso, stepsize=step, tol=tol, maxiter=MAXITER)
        return _Swapped(method)

    return Problem(
        np.zeros(p),
        (y, weight),
        exact,
        {
            "ProximalGradient, fixed step": lambda tol: idf.solvers.ProximalGradient(
                f, idf.prox.lasso, step, tol=tol, **OPTIONS
            ),
            "ProximalGradient, line search": lambda tol: idf.solvers.ProximalGradient(
                f, idf.prox.lasso, tol=tol, **OPTIONS
            ),
            "BlockCoordinateDescent": lambda tol: idf.solvers.BlockCoordinateDescent(
                idf.solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2), A), idf.prox.lasso, tol=tol, **OPTIONS
            ),
        },
        {
            "ProximalGradient, fixed step": lambda tol: proximal(tol, step),
            "ProximalGradient, line search": lambda tol: proximal(tol, 0.0),
            "BlockCoordinateDescent": lambda tol: _BlockCoordinates(jaxopt.prox.prox_lasso, A, tol),
        },
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


class _BlockCoordinates:
    """JAXopt's block coordinate descent on 1/2 |A x - y|^2 / m, with the penalty divided by m as well."""

    def __init__(self, prox: Callable, A: Any, tol: float):
        self.A = A
        self.solver = jaxopt.BlockCoordinateDescent(jaxopt.objective.least_squares, prox, tol=tol, maxiter=MAXITER)

    def run(self, init: Any, y: Any, weight: Any = None):
        return self.solver.run(init, None if weight is None else weight / len(y), (self.A, y))


class _Boxed:
    """Non-negative x by a method for boxes."""

    def __init__(self, solver: Any, box: tuple, last: bool):
        self.solver, self.box, self.last = solver, box, last

    def run(self, init: Any, y: Any, _: Any = None):
        return self.solver.run(init, *((y, self.box) if self.last else (self.box, y)))


def _non_negative(quick: bool) -> Problem:
    m, p = (100, 50) if quick else (1000, 300)
    random = np.random.default_rng(1)
    X = np.abs(random.standard_normal((m, p)))
    y = X @ np.maximum(random.standard_normal(p), 0) + random.standard_normal(m)
    A = jnp.asarray(X)
    f = lambda x, y: 0.5 * jnp.sum((A @ x - y) ** 2) / m  # noqa: E731
    step = float(m / np.linalg.norm(X, 2) ** 2)
    box = jnp.zeros(p), jnp.full(p, jnp.inf)
    mean = idf.solvers.Composite(lambda u, y: 0.5 * jnp.sum((u - y) ** 2) / m, A, smoothness=1 / m)
    positive = lambda v, *_: jnp.maximum(v, 0.0)  # noqa: E731

    def projected(tol, step):
        project = jaxopt.projection.projection_non_negative
        return _Swapped(jaxopt.ProjectedGradient(f, project, stepsize=step, tol=tol, maxiter=MAXITER))

    return Problem(
        np.zeros(p),
        (y, None),
        scipy.optimize.nnls(X, y)[0],
        {
            "ProjectedGradient, fixed step": lambda tol: idf.solvers.ProjectedGradient(
                f, idf.projection.non_negative, step, tol=tol, **OPTIONS
            ),
            "ProjectedGradient, line search": lambda tol: idf.solvers.ProjectedGradient(
                f, idf.projection.non_negative, tol=tol, **OPTIONS
            ),
            "BlockCoordinateDescent": lambda tol: idf.solvers.BlockCoordinateDescent(
                mean, positive, tol=tol, **OPTIONS
            ),
            "LBFGS": lambda tol: _Boxed(idf.solvers.LBFGS(f, bounds=True, tol=tol, **OPTIONS), box, last=True),
        },
        {
            "ProjectedGradient, fixed step": lambda tol: projected(tol, step),
            "ProjectedGradient, line search": lambda tol: projected(tol, 0.0),
            "BlockCoordinateDescent": lambda tol: _BlockCoordinates(positive, A, tol),
            "LBFGSB": lambda tol: _Boxed(jaxopt.LBFGSB(f, tol=tol, maxiter=MAXITER), box, last=False),
        },
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
    rows = jax.vmap(jaxopt.projection.projection_simplex)

    def ours(tol, step):
        return idf.solvers.ProjectedGradient(f, lambda v, _: idf.projection.simplex(v), step, tol=tol, **OPTIONS)

    def theirs(tol, step):
        project = lambda v, _: rows(v)  # noqa: E731
        return _Swapped(jaxopt.ProjectedGradient(f, project, stepsize=step, tol=tol, maxiter=MAXITER))

    init = np.full(Y.shape, 0.1)
    return Problem(
        init,
        (theta, None),
        _polished(ours(1e-12, step), init, theta, None),
        {"fixed step": partial(ours, step=step), "line search": partial(ours, step=None)},
        {"fixed step": partial(theirs, step=step), "line search": partial(theirs, step=0.0)},
        {},
    )


def _logistic(quick: bool) -> Problem:
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    A, s = jnp.asarray(X), jnp.asarray(np.where(data.target == 1, 1.0, -1.0))
    f = lambda x, t: jnp.mean(jax.nn.softplus(-s * (A @ x))) + 0.5 * t * jnp.sum(x**2)  # noqa: E731
    step = float(1 / (0.25 * np.linalg.norm(X, 2) ** 2 / X.shape[0] + 1e-2))
    init = np.zeros(X.shape[1])
    descent = partial(jaxopt.GradientDescent, f, maxiter=MAXITER)
    quasi_newton = partial(jaxopt.LBFGS, f, maxiter=MAXITER)
    return Problem(
        init,
        (1e-2,),
        _polished(idf.solvers.GradientDescent(f, step, tol=1e-13, **OPTIONS), init, 1e-2),
        {
            "GradientDescent, fixed step": lambda tol: idf.solvers.GradientDescent(f, step, tol=tol, **OPTIONS),
            "GradientDescent, line search": lambda tol: idf.solvers.GradientDescent(f, tol=tol, **OPTIONS),
            "LBFGS": lambda tol: idf.solvers.LBFGS(f, tol=tol, **OPTIONS),
            "NonlinearCG": lambda tol: idf.solvers.NonlinearCG(f, tol=tol, **OPTIONS),
            "BFGS": lambda tol: idf.solvers.BFGS(f, tol=tol, **OPTIONS),
        },
        {
            "GradientDescent, fixed step": lambda tol: descent(stepsize=step, tol=tol),
            "GradientDescent, line search": lambda tol: descent(tol=tol),
            "LBFGS, zoom": lambda tol: quasi_newton(tol=tol),
            "LBFGS, backtracking": lambda tol: quasi_newton(tol=tol, linesearch="backtracking"),
            "LBFGS, Hager and Zhang": lambda tol: quasi_newton(tol=tol, linesearch="hager-zhang"),
            "BFGS": lambda tol: jaxopt.BFGS(f, tol=tol, maxiter=MAXITER),
            "NonlinearCG": lambda tol: jaxopt.NonlinearCG(f, tol=tol, maxiter=MAXITER),
        },
        {},
    )


PROBLEMS = {
    "lasso": _lasso,
    "non-negative least squares": _non_negative,
    "SVM dual on simplices": _svm,
    "logistic regression": _logistic,
}
QUICK = ("lasso",)
