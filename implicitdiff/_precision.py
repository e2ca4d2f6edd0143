"""Products of matrices in the precision of their dtype, on accelerators, too.

GPUs and TPUs multiply float32 matrices with 10 or 7 bits of the 23 unless told otherwise. A Jacobian in such products
is another Jacobian: the residual of the linear solve is measured with the same products, and cannot tell.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, traced with JAX's matmul precision "highest", unless the user set `default_matmul_precision`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if cast(Any, jax.config).jax_default_matmul_precision is not None:
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
