"""Implicit differentiation under JAXopt's names.

What differs: derivatives exist in forward mode and to every order; the default linear solve goes to the precision of
the dtype, is checked, and gives NaN where it fails; arguments of the solver and of the condition are matched by name,
and a different order is an error.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ... import optimality
from ..._decorators import custom_fixed_point as _custom_fixed_point
from ..._decorators import custom_root as _custom_root
from ..._root import root_jvp as _root_jvp
from ..._root import root_vjp as _root_vjp
from ._base import KKTSolution
from .linear_solve import adjoint_of


def custom_root(
    optimality_fun: Callable[..., PyTree],
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
) -> Callable[[Callable], Callable]:
    """Decorate a solver of optimality_fun(params, *args) = 0; see `implicitdiff.custom_root`.

    Args:
        optimality_fun: the conditions, `optimality_fun(params, *args)`.
        has_aux: whether the solver returns (params, aux).
        solve: a linear solver `(matvec, b) -> x`, such as those of `linear_solve`; None chooses.
        reference_signature: a function, or a signature, by which the arguments of the solver are brought into the
            order in which optimality_fun takes them.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> @jaxopt.implicit_diff.custom_root(lambda x, a: x**2 - a)
        ... def root(init, a):
        ...     return jnp.sqrt(a)
        >>> float(jax.jacfwd(root, argnums=1)(None, 4.0))
        0.25
    """
    return _custom_root(_with_signature(optimality_fun, reference_signature), has_aux, adjoint_of(solve))


def custom_fixed_point(
    fixed_point_fun: Callable[..., PyTree],
    has_aux: bool = False,
    solve: Callable | None = None,
    reference_signature: Callable | inspect.Signature | None = None,
) -> Callable[[Callable], Callable]:
    """Decorate a solver of params = fixed_point_fun(params, *args); see `custom_root`."""
    return _custom_fixed_point(_with_signature(fixed_point_fun, reference_signature), has_aux, adjoint_of(solve))


def _with_signature(F: Callable, reference: Any) -> Callable:
    if reference is None:
        return F
    if not isinstance(reference, inspect.Signature):
        reference = inspect.signature(getattr(reference, "subfun", reference))

    def condition(*args: Any, **kwargs: Any) -> PyTree:
        bound = reference.bind(*args, **kwargs)
        bound.apply_defaults()
        return F(*bound.args, **bound.kwargs)

    condition.__signature__ = reference  # type: ignore[attr-defined]
    return condition


def root_vjp(
    optimality_fun: Callable, sol: PyTree, args: tuple, cotangent: PyTree, solve: Callable | None = None
) -> tuple:
    """The products of a cotangent with the derivatives of the root `sol` in each of args."""
    return _root_vjp(optimality_fun, sol, args, cotangent, adjoint=adjoint_of(solve))


def root_jvp(
    optimality_fun: Callable, sol: PyTree, args: tuple, tangents: tuple, solve: Callable | None = None
) -> PyTree:
    """The derivative of the root `sol` along tangents of args."""
    return _root_jvp(optimality_fun, sol, args, tangents, adjoint=adjoint_of(solve))


def make_kkt_optimality_fun(obj_fun: Callable, eq_fun: Callable | None, ineq_fun: Callable | None = None) -> Callable:
    """The conditions of Karush, Kuhn and Tucker: F((primal, dual_eq, dual_ineq), params_obj, params_eq, params_ineq).

    F returns a `KKTSolution` of residuals. Multipliers that are None leave their constraints out.
    """

    def optimality_fun(params: Any, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> KKTSolution:
        primal, dual_eq, dual_ineq = params
        eq, ineq = (None if dual_eq is None else eq_fun), (None if dual_ineq is None else ineq_fun)
        if eq is None and ineq is None:
            return KKTSolution(jax.grad(obj_fun)(primal, params_obj))
        F = optimality.kkt(obj_fun, eq, ineq)
        return KKTSolution(*F((primal, dual_eq, dual_ineq), params_obj, params_eq if eq else None,
                              params_ineq if ineq else None))  # fmt: skip

    return optimality_fun
