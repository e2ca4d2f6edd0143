"""Decorators that give a solver the derivative of what it solves."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PyTree

from ._adjoint import Adjoint, Unrolled
from ._arguments import Arguments
from ._fixed_point import FixedPointResidual
from ._program import CONCRETE_NEEDED, name_of
from ._root import attach


def custom_root(
    F: Callable[..., PyTree], has_aux: bool = False, adjoint: Adjoint | None = None, has_init: bool = True
) -> Callable[[Callable], "DifferentiableSolver"]:
    """Decorate a solver of F(x, *args, **kwargs) = 0 so that its solution can be differentiated.

    The solver `solver(init, *args, **kwargs)` runs as it is and is never differentiated: it may be JAX, NumPy, SciPy
    or a compiled library (under jit and vmap by way of `host_solver`). The derivative of the solution in args, in
    kwargs and in the arrays that F closes over is that of the root of F. It is zero in init, and in aux.

    Args:
        F: the conditions, written in JAX, called as F(x, *args, **kwargs) with what the solver got after init, its
            defaults included. An argument goes to the one of the same name, by keyword where one of the two is
            keyword-only; other names are matched by their places. A default that F does not take is left out.
        has_aux: the solver returns (x, aux). Aux may be anything; its derivative is zero, whatever it depends on.
        adjoint: how the derivative is computed, `Implicit()` by default; `Unrolled()` differentiates the solver.
        has_init: False for a `solver(*args, **kwargs)` without a starting point.

    Returns:
        A decorator. A method can be decorated: F does not receive self.

    Raises:
        TypeError: at decoration, when the names of arguments show that init or x is not first, or that the solver and
            F take the same arguments in another order; at the call, when F does not take what the solver was given,
            or what the solver returns does not fit F.

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
    check_condition(F, "custom_root(F)", has_aux)
    return decorator(F, has_aux, adjoint, has_init)


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
    check_condition(T, "custom_fixed_point(T)", has_aux)
    return decorator(FixedPointResidual(T), has_aux, adjoint, has_init)


def check_condition(F: Callable, use: str, has_aux: bool) -> None:
    """Raise TypeError where the arguments of a decorator are none."""
    if not callable(F):
        raise TypeError(f"{use} decorates a solver with its conditions, a callable; found {type(F).__name__}.")
    if not isinstance(has_aux, bool | np.bool_):
        raise TypeError(f"has_aux must be True or False, found {type(has_aux).__name__}: give adjoint by keyword.")


def decorator(
    F: Callable, has_aux: bool, adjoint: Adjoint | None, has_init: bool
) -> Callable[[Callable], "DifferentiableSolver"]:
    """What `custom_root` and `custom_fixed_point` return."""

    def decorate(*solver: Any, **kwargs: Any) -> DifferentiableSolver:
        descriptor = len(solver) == 1 and (callable(solver[0]) or isinstance(solver[0], classmethod))
        if kwargs or not descriptor:
            found = [type(value).__name__ for value in (*solver, *kwargs.values())]
            raise TypeError(
                f"A decorator made with the condition {name_of(F)} was called with ({', '.join(found)}), where it "
                f"takes a solver alone. If {name_of(F)} is the solver, decorate it with its conditions: "
                f"@custom_root(F), and not @custom_root. A solver of implicitdiff.solvers needs no decorator."
            )
        return DifferentiableSolver(solver[0], F, has_aux, adjoint, has_init)

    return decorate


class DifferentiableSolver:
    """A solver with the derivative of its solution; made by `custom_root` and `custom_fixed_point`."""

    def __init__(self, solver: Callable, F: Callable, has_aux: bool, adjoint: Adjoint | None, has_init: bool):
        """Decorate `solver`; see `custom_root`."""
        self.solver, self.F = solver, F
        self.has_aux, self.adjoint, self.has_init = has_aux, adjoint, has_init
        self.arguments = self._arguments_of(solver)
        self.needs_self = self.arguments.takes_self
        functools.update_wrapper(self, solver)

    def _arguments_of(self, solver: Callable) -> Arguments:
        return Arguments(solver, self.F.T if isinstance(self.F, FixedPointResidual) else self.F, self.has_init)

    def __get__(self, instance: Any, owner: type | None = None) -> "DifferentiableSolver":
        """A decorated method: bind self before init, as Python binds the solver itself."""
        if isinstance(self.solver, functools.partial) or not hasattr(type(self.solver), "__get__"):
            return self
        solver = self.solver.__get__(instance, owner)
        if solver is self.solver:
            return self
        bound = object.__new__(DifferentiableSolver)
        arguments = self.arguments if self.needs_self else self._arguments_of(solver)
        bound.__dict__.update(self.__dict__, solver=solver, arguments=arguments, needs_self=False, __wrapped__=solver)
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the solver and attach the derivative to its solution."""
        if self.needs_self and args:  # Class.solver(self, init, ...)
            return self.__get__(args[0], type(args[0]))(*args[1:], **kwargs)
        if isinstance(self.adjoint, Unrolled):
            own = self.arguments.split(args, kwargs)
            return self.solver(*((stop(own.init),) if self.has_init else ()), *own.args, **own.kwargs)
        call = self.arguments.of_F(args, kwargs)
        x, aux = self._run(stop(args), stop(kwargs)), None
        if self.has_aux:
            if not isinstance(x, tuple) or len(x) != 2:
                raise TypeError(
                    f"With has_aux=True the solver {name_of(self.solver)} must return (x, aux), found "
                    f"{type(x).__name__}{f' of length {len(x)}' if isinstance(x, tuple) else ''}."
                )
            x, aux = x
        try:
            x = attach(self.F, x, call.args, call.kwargs, self.adjoint)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            self._explain(error, x, args, kwargs)
            raise
        return (x, stop(aux)) if self.has_aux else x

    def _run(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        try:
            return self.solver(*args, **kwargs)
        except CONCRETE_NEEDED as error:
            error.add_note(
                f"The solver {name_of(self.solver)} needs the values of its arguments, but was called under jit, vmap "
                "or with traced closed-over arrays. If it is NumPy code, wrap it with implicitdiff.host_solver, and "
                "pass arrays as arguments; if it is JAX, use jax.numpy.where, jax.lax.cond or jax.lax.while_loop."
            )
            raise
        except TypeError as error:
            if self.has_init and self.arguments.bind(args, kwargs) is None:
                error.add_note(
                    f"The solver {name_of(self.solver)} is called as solver(init, *args), its starting point first: "
                    "pass None if it needs none, or decorate it with has_init=False."
                )
            raise

    def _explain(self, error: Exception, x: PyTree, args: tuple, kwargs: dict[str, Any]) -> None:
        """Add to an error what the solver's arguments and its result have to do with it."""
        name = name_of(self.solver)
        if isinstance(x, tuple) and not self.has_aux:
            error.add_note(
                f"The solver {name} returned a tuple of length {len(x)}, all of it taken as the "
                "unknown x. If it is (x, aux), pass has_aux=True."
            )
        if isinstance(x, list):
            error.add_note(
                f"The solver {name} returned a list of length {len(x)}, a pytree of as many unknowns. If it is one "
                "array, return jax.numpy.asarray(x)."
            )
        if any(isinstance(leaf, np.ndarray) and leaf.dtype == object for leaf in jax.tree.leaves((args, kwargs))):
            error.add_note(
                f"The solver {name} was given an array of dtype object, which JAX cannot compute with: make it one of "
                "numbers, numpy.asarray(a, float), or a list or tuple of arrays."
            )


def stop(tree: PyTree) -> PyTree:
    """Cut the derivative of the JAX arrays in a pytree; everything else passes as it is."""

    def cut(leaf):
        # Only what is traced can have a derivative.
        if isinstance(leaf, jax.core.Tracer) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            return lax.stop_gradient(leaf)
        return leaf

    return jax.tree.map(cut, tree)
