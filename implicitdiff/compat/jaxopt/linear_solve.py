"""Linear solves by themselves, with a ridge, and the same as `solve` and `implicit_diff_solve`.

Called by themselves they go to the precision of the dtype, where JAXopt's iterative ones stop at 1e-5. Given as
`solve`, the method is named, and its result is checked: a system that it does not solve gives NaN. `solve_normal_cg`,
JAXopt's default, stands for our default there: its normal equations square the condition number.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ... import krylov
from ..._implicit import Implicit
from ..._linear import LinearOptions, solve


def _ridged(matvec: Callable, ridge: float | None) -> Callable:
    if ridge is None:
        return matvec
    return lambda v: jax.tree.map(lambda a, b: a + ridge * b, matvec(v), v)


def _solve(solver: Any, matvec: Callable, b: PyTree, ridge: float | None, **properties: Any) -> PyTree:
    """The solution, checked, and differentiable in b and in what matvec closes over."""
    b = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, jnp.float32)), b)
    return solve(_ridged(matvec, ridge), b, LinearOptions(solver=solver, **properties))


def solve_lu(matvec: Callable, b: Array, ridge: float | None = None) -> Array:
    """Solve A x = b, or (A + ridge I) x = b, by an LU factorisation."""
    return _solve(lx.LU(), matvec, b, ridge)


def solve_cholesky(matvec: Callable, b: Array, ridge: float | None = None) -> Array:
    """Solve A x = b with A symmetric positive definite by a Cholesky factorisation."""
    return _solve(lx.Cholesky(), matvec, b, ridge, symmetric=True, positive_definite=True)


def solve_inv(matvec: Callable, b: Array, ridge: float | None = None) -> Array:
    """Solve A x = b as `solve_lu` does: an inverse would lose digits."""
    return _solve(lx.LU(), matvec, b, ridge)


def solve_qr(matvec: Callable, b: Array, ridge: float | None = None) -> Array:
    """Solve A x = b by a QR factorisation."""
    return _solve(lx.QR(), matvec, b, ridge)


def solve_cg(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree | None = None, **kwargs: Any):
    """Solve A x = b with A symmetric positive definite by conjugate gradients.

    Args:
        matvec: v -> A v.
        b: pytree.
        ridge: solve with A + ridge I.
        init: where to start.
        **kwargs: options of `jax.scipy.sparse.linalg.cg` (tol, atol, maxiter, M); tol is the precision of the dtype.
    """
    return _iterative(jax.scipy.sparse.linalg.cg, matvec, b, ridge, init, kwargs)


def solve_normal_cg(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree | None = None, **kwargs: Any):
    """Solve A'A x = A'b, or (A'A + ridge I) x = A'b, by conjugate gradients.

    Args:
        matvec: v -> A v; A may have more rows than columns, if `init` shows what x looks like.
        b: pytree.
        ridge: weight of the ridge.
        init: where to start.
        **kwargs: as `solve_cg`.

    Raises:
        TypeError: A is not square and there is no init.
    """
    like = b if init is None else init
    try:
        transposed = jax.linear_transpose(matvec, like)
        right = transposed(b)[0]
    except TypeError as error:
        raise TypeError("solve_normal_cg: the matrix is not square, and needs init to show what x is.") from error
    return _iterative(
        jax.scipy.sparse.linalg.cg, lambda v: transposed(matvec(v))[0], right, ridge, init, kwargs
    )  # fmt: skip


def solve_gmres(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree | None = None, **kwargs: Any):
    """Solve A x = b by GMRES; see `solve_cg` for the arguments."""
    return _iterative(jax.scipy.sparse.linalg.gmres, matvec, b, ridge, init, kwargs)


def solve_bicgstab(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree | None = None, **kwargs: Any):
    """Solve A x = b by BiCGStab; see `solve_cg` for the arguments."""
    return _iterative(jax.scipy.sparse.linalg.bicgstab, matvec, b, ridge, init, kwargs)


def _iterative(method: Callable, matvec: Callable, b: PyTree, ridge: float | None, init: Any, kwargs: dict) -> PyTree:
    b = jax.tree.map(jnp.asarray, b)
    eps = float(jnp.finfo(ravel_pytree(b)[0].dtype).eps)
    return method(_ridged(matvec, ridge), b, x0=init, **{"tol": 10 * eps, **kwargs})[0]


_METHODS: dict[Any, dict[str, Any]] = {
    solve_lu: dict(linear_solver=lx.LU()),
    solve_inv: dict(linear_solver=lx.LU()),
    solve_qr: dict(linear_solver=lx.QR()),
    solve_cholesky: dict(linear_solver=lx.Cholesky(), symmetric=True, positive_definite=True),
    solve_cg: dict(linear_solver=krylov.CG()),
    solve_gmres: dict(linear_solver=krylov.GMRES()),
    solve_bicgstab: dict(linear_solver=krylov.BiCGStab()),
    solve_normal_cg: {},
}


def adjoint_of(solve: Callable | None, polish: int = 0) -> Implicit:
    """The adjoint that a `solve` of JAXopt's stands for."""
    if solve is None:
        return Implicit(polish=polish)
    if solve in _METHODS:
        return Implicit(polish=polish, **_METHODS[solve])
    if isinstance(solve, functools.partial) and solve.keywords.get("ridge"):
        # The user asks for the solution of another system, which no check of this one can pass.
        return Implicit(linear_solver=solve, on_failure="ignore")
    return Implicit(linear_solver=solve, polish=polish)
