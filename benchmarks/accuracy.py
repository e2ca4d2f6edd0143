"""Accuracy of a ridge hyper-gradient on real data, with default settings."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

import implicitdiff as idf

from ._report import Claim, Report, Table, largest
from ._systems import solution

LU = jaxopt.linear_solve.solve_lu
DATA = {"breast_cancer": (load_breast_cancer, 1e-3), "digits": (load_digits, 1e-4)}
PRECISIONS = (np.float64, np.float32)


def measure(quick: bool) -> Report:
    """The derivative of a validation loss in the weight of ridge regression; x is the exact solution, rounded."""
    told = idf.optimality.stationary(_ridge, positive_definite=True)
    competitors = {
        "ours, default": idf.custom_root(told)(_given),
        "ours, not told": idf.custom_root(idf.optimality.stationary(_ridge))(_given),
        "jaxopt, default": jaxopt.implicit_diff.custom_root(jax.grad(_ridge))(_given),
        "jaxopt, LU": jaxopt.implicit_diff.custom_root(jax.grad(_ridge), solve=LU)(_given),
    }
    rows: list[dict] = []
    judged: dict[type, list[float]] = {dtype: [] for dtype in PRECISIONS}
    for name in list(DATA)[: 1 if quick else None]:
        load, weight = DATA[name]
        for scaling in ("standardised",) if quick else ("raw", "standardised"):
            for dtype in PRECISIONS:
                train, validation, condition, x, exact = _split(load, scaling, weight, dtype)
                row = {"data": name, "features": scaling, "dtype": dtype.__name__, "condition": condition}
                for who, solver in competitors.items():
                    gradient = jax.grad(partial(_validation_loss, solver, x, train, validation))
                    row[who] = abs(float(gradient(jnp.asarray(weight, dtype))) / exact - 1)
                rows.append(row)
                if condition * np.finfo(dtype).eps < 1:
                    judged[dtype] += [row["ours, default"], row["ours, not told"]]
    note = "Half of the samples are for training, half for validation; the loss is a mean."
    claims = [
        Claim(f"{dtype.__name__}: largest error by default where condition x eps < 1", largest(judged[dtype]), target)
        for dtype, target in zip(PRECISIONS, (1e-8, 1e-2), strict=True)
    ]
    return Report([Table("relative error of the hyper-gradient", rows, note)], claims)


def _ridge(x, weight, A, b):
    return 0.5 * jnp.mean((A @ x - b) ** 2) + 0.5 * weight * jnp.sum(x**2)


def _given(x, *_):
    return x


def _validation_loss(solver, x, train, validation, weight):
    A, b = validation
    return 0.5 * jnp.mean((A @ solver(x, weight, *train) - b) ** 2)


def _split(load, scaling: str, weight: float, dtype):
    """Data rounded to the dtype, the condition of the Hessian, the solution, and the exact hyper-gradient for them."""
    A, b = load(return_X_y=True)
    if scaling == "standardised":
        A = (A - A.mean(0)) / np.where(A.std(0) > 0, A.std(0), 1)
    A, b = A.astype(dtype), b.astype(dtype)
    train, validation = (A[::2], b[::2]), (A[1::2], b[1::2])
    long_A, long_b = (value.astype(np.longdouble) for value in train)
    # The weight, too, is rounded to the dtype.
    hessian = long_A.T @ long_A / len(long_b) + np.longdouble(dtype(weight)) * np.eye(A.shape[1])
    hessian = hessian.astype(np.float64)
    x = solution(hessian, (long_A.T @ long_b / len(long_b)).astype(np.float64))
    slope = validation[0].T.astype(float) @ (validation[0].astype(float) @ x - validation[1]) / len(validation[1])
    return train, validation, float(np.linalg.cond(hessian)), jnp.asarray(x, dtype), -x @ solution(hessian, slope)
