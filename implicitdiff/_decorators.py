"""Decorators that give a solver the derivative of what it solves."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from ._adjoint import Adjoint, Unrolled
from ._program import name_of
from ._root import FixedPointResidual, attach


def custom_root(
    F: Callable[..., PyTree], has_aux: bool = False, adjoint: Adjoint | None = None, has_init: bool = True
) -> Callable[[Callable], "DifferentiableSolver"]:
    """Decorate a solver of F(x, *args, **kwargs) = 0 so that its solution can be differentiated.

    The solver `solver(init, *args, **kwargs)` runs as it is and is never differentiated: it may be JAX, NumPy, SciPy
    or a compiled library (under jit and vmap by way of `host_solver`). The derivative of the solution in args, in
    kwargs and in the arrays that F closes over is that of the root of F. It is zero in init, and in aux.

    Args:
        F: the conditions, written in JAX, called as F(x, *args, **kwargs) with what the solver got after init. Names
            that both have must stand at the same places.
        has_aux: the solver returns (x, aux). Aux may be anything; its derivative is zero, whatever it depends on.
        adjoint: how the derivative is computed, `Implicit()` by default; `Unrolled()` differentiates the solver.
        has_init: False for a `solver(*args, **kwargs)` without a starting point.

    Returns:
        A decorator. A method can be decorated: F does not receive self.

    Raises:
        TypeError: at decoration, when the solver and F name the same arguments in another order or with other
            defaults; at the call, when what the solver returns does not fit F.

    Source: Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022, section 2.2.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, implicitdiff as idf
        >>> def ridge(x, theta, A, b):
        ...     return jnp.sum((A @ x - b) ** 2) + theta * jnp.sum(x**2)
        >>> @idf.custom_root(idf.optimality.stationary(ridge))
        ... def solver(init, theta, A, b):
        ...     return np.linalg.solve(A.T @ A + theta * np.eye(A.shape[1]), A.T @ b)
        >>> A, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 1.0])
        >>> print(jax.jacobian(solver, argnums=1)(None, 1.0, A, b))
        [-0.25 -0.08]
    """
    return lambda solver: DifferentiableSolver(solver, F, has_aux, adjoint, has_init)


def custom_fixed_point(
    T: Callable[..., PyTree], has_aux: bool = False, adjoint: Adjoint | None = None, has_init: bool = True
) -> Callable[[Callable], "DifferentiableSolver"]:
    """Decorate a solver of x = T(x, *args, **kwargs) so that its solution can be differentiated.

    The same as `custom_root` with F = x - T. `Neumann(terms)` and `OneStep()` are adjoints too.

    Args:
        T: the fixed-point map, written in JAX, called as T(x, *args, **kwargs).
        has_aux: the solver returns (x, aux).
        adjoint: how the derivative is computed.
        has_init: False for a solver without a starting point.

    Returns:
        A decorator.

    Raises:
        TypeError: as `custom_root`.

    Source: Blondel et al., NeurIPS 2022, section 2.2.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> def T(x, a):
        ...     return 0.5 * (x + a / x)
        >>> @idf.custom_fixed_point(T)
        ... def heron(init, a):
        ...     return jax.lax.fori_loop(0, 20, lambda _, x: T(x, a), init)
        >>> float(jax.grad(heron, argnums=1)(1.0, 4.0))
        0.25
    """
    return lambda solver: DifferentiableSolver(solver, FixedPointResidual(T), has_aux, adjoint, has_init)


class DifferentiableSolver:
    """A solver with the derivative of its solution; made by `custom_root` and `custom_fixed_point`."""

    def __init__(self, solver: Callable, F: Callable, has_aux: bool, adjoint: Adjoint | None, has_init: bool):
        """Decorate `solver`; see `custom_root`."""
        self.solver, self.F = solver, F
        self.has_aux, self.adjoint, self.has_init = has_aux, adjoint, has_init
        check_same_arguments(solver, F, has_init)
        functools.update_wrapper(self, solver)

    def __get__(self, instance: Any, owner: type | None = None) -> "DifferentiableSolver":
        """A decorated method: bind self before init."""
        if instance is None:
            return self
        bound = object.__new__(DifferentiableSolver)
        bound.__dict__.update(self.__dict__, solver=self.solver.__get__(instance, owner))
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the solver and attach the derivative to its solution."""
        given: tuple = ()
        if self.has_init:
            init, args, kwargs = self._split_init(args, kwargs)
            given = (stop(init),)
        if isinstance(self.adjoint, Unrolled):
            return self.solver(*given, *args, **kwargs)
        try:
            x = self.solver(*given, *stop(args), **stop(kwargs))
        except jax.errors.TracerArrayConversionError as error:
            error.add_note(
                f"The solver {name_of(self.solver)} is NumPy code and was called under jit, vmap or with traced "
                "closed-over arrays: wrap it with implicitdiff.host_solver, and pass arrays as arguments."
            )
            raise
        aux = None
        if self.has_aux:
            if not isinstance(x, tuple) or len(x) != 2:
                raise TypeError(
                    f"With has_aux=True the solver {name_of(self.solver)} must return (x, aux), found "
                    f"{type(x).__name__}{f' of length {len(x)}' if isinstance(x, tuple) else ''}."
                )
            x, aux = x
        try:
            x = attach(self.F, x, args, kwargs, self.adjoint)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(x, tuple) and not self.has_aux:
                error.add_note(
                    f"The solver {name_of(self.solver)} returned a tuple of length {len(x)}, all of it taken as the "
                    "unknown x. If it is (x, aux), pass has_aux=True."
                )
            raise
        return (x, stop(aux)) if self.has_aux else x

    def _split_init(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        if args:
            return args[0], args[1:], kwargs
        names = positional_names(self.solver) or []
        if names and names[0] in kwargs:
            rest = dict(kwargs)
            return rest.pop(names[0]), (), rest
        raise TypeError(
            f"The solver {name_of(self.solver)} was called without its starting point, which comes first: "
            "solver(init, *args). Pass None if it needs none, or decorate it with has_init=False."
        )


def stop(tree: PyTree) -> PyTree:
    """Cut the derivative of the JAX arrays in a pytree; everything else passes as it is."""

    def cut(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            return lax.stop_gradient(leaf)
        return leaf

    return jax.tree.map(cut, tree)


def check_same_arguments(solver: Callable, F: Callable, has_init: bool) -> None:
    """Raise TypeError where the solver and F share names of arguments but not their places or defaults.

    F is called with the solver's positional arguments, so that another order would give a derivative of another
    problem, and where shapes agree nothing else would notice.
    """
    F = F.T if isinstance(F, FixedPointResidual) else F
    of_solver, of_F = positional_names(solver), positional_names(F)
    if of_solver is None or of_F is None:
        return
    of_solver, of_F = of_solver[1:] if has_init else of_solver, of_F[1:]
    moved = [name for name in of_solver if name in of_F and of_F.index(name) != of_solver.index(name)]
    if moved:
        raise TypeError(
            f"The solver {name_of(solver)} and the condition {name_of(F)} must take the same arguments in the same "
            f"order after {'init' if has_init else 'nothing'} and x: the solver has {tuple(of_solver)}, the "
            f"condition {tuple(of_F)}; {', '.join(map(repr, moved))} stand(s) elsewhere. Reorder one of them."
        )
    ours, theirs = inspect.signature(solver).parameters, inspect.signature(F).parameters
    for name in of_solver:
        if name in theirs and _differ(ours[name].default, theirs[name].default):
            raise TypeError(
                f"The argument {name!r} has the default {ours[name].default!r} in the solver {name_of(solver)} and "
                f"{theirs[name].default!r} in the condition {name_of(F)}: give it the same default in both."
            )


def _differ(a: Any, b: Any) -> bool:
    if a is inspect.Parameter.empty or b is inspect.Parameter.empty:
        return False
    try:
        return bool(a is not b and a != b)
    except (TypeError, ValueError):  # arrays and the like
        return False


def positional_names(function: Callable) -> Sequence[str] | None:
    """Names of the positional parameters without self; None when they cannot be known."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds]
    return names[1:] if names and names[0] in ("self", "cls") else names
