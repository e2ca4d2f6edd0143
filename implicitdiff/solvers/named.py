"""Solvers of optimistix under names of their own: quasi-Newton methods and nonlinear least squares."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax.tree_utils as otu
from jaxtyping import PyTree

from .._adjoint import Adjoint
from .._decorators import stop
from .._fixed_point import as_root
from ..optimality._condition import Condition
from ._state import Result, State, floating, real_dtype, size
from ._unconverged import OnUnconverged, check_policy
from .optimistix import OptimistixSolver, optimistix_solver


@dataclasses.dataclass(frozen=True)
class Named:
    """Base: `run(init, *args, **kwargs)` by a solver of optimistix.

    optimistix gets x in units of the start and the function in units of its value there: its tolerances are absolute
    where x or the function are zero.
    """

    f: Callable[..., Any]
    _: dataclasses.KW_ONLY
    tol: float = 1e-8
    maxiter: int = 1000
    adjoint: Adjoint | None = None
    condition: Callable | None = None
    has_aux: bool = False
    on_unconverged: OnUnconverged = "warn"

    def __post_init__(self):
        """Check the policy."""
        check_policy(self.on_unconverged)

    @abstractmethod
    def solver(self) -> Any:
        """The solver of optimistix."""

    def run(self, init: PyTree, *args: Any, **kwargs: Any) -> Result:
        """Solve from `init`.

        Args:
            init: where to start: a pytree of floating-point arrays.
            *args: what f depends on besides x.
            **kwargs: the same, by name.

        Returns:
            (x, state); x is differentiable in args and in what f closes over. See `optimistix_solver` for the state.

        Raises:
            RuntimeError: not converged, with `on_unconverged="raise"`.
        """
        x, state = self._adapted(init).run(*self._scaled(init, args, kwargs))
        return Result(self._back(x, init), state)

    def solved(self, init: PyTree, *args: Any) -> tuple[PyTree, State, Callable, tuple]:
        """(x, state, F, args) with F(x, *args) = 0; nothing is attached to x."""
        y, state, F, packed = self._adapted(init).solved(*self._scaled(init, args, {}))
        fixed = packed[0][2:]
        own = lambda x, *args: F(self._forth(x, init), (args, {}, *fixed))  # noqa: E731
        return self._back(y, init), state, Condition(own, "own", is_root=True), args

    @property
    def _squares(self) -> bool:
        return isinstance(self, GaussNewton | LevenbergMarquardt | Dogleg)

    def _unit(self, init: PyTree) -> Any:
        init = stop(floating(init))
        count = sum(leaf.size for leaf in jax.tree.leaves(init))
        root_mean_square = size(init) / max(count, 1) ** 0.5
        return jnp.where(root_mean_square > 0, root_mean_square, 1.0)

    def _back(self, y: PyTree, init: PyTree) -> PyTree:
        return _times(y, self._unit(init), floating(init))

    def _forth(self, x: PyTree, init: PyTree) -> PyTree:
        unit = self._unit(init)
        # optimistix's trust regions are for no other precision than the platform's.
        dtype = lambda leaf: jnp.result_type(leaf, jnp.zeros(())) if self._squares else leaf.dtype  # noqa: E731
        return jax.tree.map(lambda leaf: jnp.asarray(leaf / unit, dtype(leaf)), floating(x))

    def _scaled(self, init: PyTree, args: tuple, kwargs: dict) -> tuple[PyTree, tuple]:
        """The start and the arguments of the scaled function: those of f, and the units of x and of f."""
        init, unit = floating(init), self._unit(init)
        value = self.f(init, *stop(args), **stop(kwargs))
        first = otu.tree_norm(stop(value[0] if self.has_aux else value))
        of_f = jnp.where((first > 0) & jnp.isfinite(first), first, 1.0)
        return self._forth(init, init), (args, kwargs, unit, of_f)

    def _adapted(self, init: PyTree) -> OptimistixSolver:
        like = jax.eval_shape(floating, init)

        def function(y, packed):
            args, kwargs, unit, of_f = packed
            result = self.f(_times(y, unit, like), *args, **kwargs)
            value, aux = result if self.has_aux else (result, None)
            # optimistix's trust regions ask for one dtype; its line searches lose no digits to another.
            dtype = lambda leaf: real_dtype(y) if self._squares else leaf.dtype  # noqa: E731
            value = jax.tree.map(lambda leaf: (leaf / of_f).astype(dtype(leaf)), value)
            return (value, aux) if self.has_aux else value

        condition = None
        if self.condition is not None:
            given = as_root(self.condition)

            def scaled(y, packed):
                args, kwargs, unit, _ = packed
                return given(_times(y, unit, like), *args, **kwargs)

            condition = Condition(scaled, "condition", is_root=True)
        return optimistix_solver(
            function, self.solver(), has_aux=self.has_aux, max_steps=self.maxiter, condition=condition,
            adjoint=self.adjoint, on_unconverged=self.on_unconverged,
        )  # fmt: skip


def _times(y: PyTree, unit: Any, like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, x: (leaf * unit).astype(x.dtype), y, like)


@dataclasses.dataclass(frozen=True)
class BFGS(Named):
    """The method of Broyden, Fletcher, Goldfarb and Shanno for min_x f(x, *args), with a dense matrix.

    `run(init, *args, **kwargs)`, by optimistix.

    Attributes:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar.
        tol: the accuracy of x and f, relative to the start, at which optimistix stops.
        maxiter: the largest number of steps.
        adjoint: how the derivative is computed; `Unrolled()` differentiates the iterations.
        condition: another condition for the derivative, called like f.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        on_unconverged: what happens to a result that did not converge: "warn", "nan", "raise" or "ignore".

    Source: Nocedal, Wright, "Numerical Optimization", 2006, chapter 6.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.BFGS(lambda x, a: jnp.sum(jnp.cosh(x) - a * x))
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """

    def solver(self) -> Any:
        """The solver of optimistix."""
        import optimistix as optx

        return optx.BFGS(rtol=self.tol, atol=self.tol)


@dataclasses.dataclass(frozen=True)
class GaussNewton(Named):
    """The method of Gauss and Newton for min_x 1/2 |f(x, *args)|^2.

    `run(init, *args, **kwargs)`, by optimistix.

    Attributes:
        f: residuals `f(x, *args, **kwargs)`, a pytree of real arrays.
        tol: the accuracy of x and f, relative to the start, at which optimistix stops.
        maxiter: the largest number of steps.
        adjoint: how the derivative is computed; `Unrolled()` differentiates the iterations.
        condition: another condition for the derivative, called like f.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        on_unconverged: what happens to a result that did not converge: "warn", "nan", "raise" or "ignore".

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 10.3.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.GaussNewton(lambda x, a: jnp.sinh(x) - a)
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """

    def solver(self) -> Any:
        """The solver of optimistix."""
        import optimistix as optx

        return optx.GaussNewton(rtol=self.tol, atol=self.tol)


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt(Named):
    """The method of Levenberg and Marquardt for min_x 1/2 |f(x, *args)|^2.

    `run(init, *args, **kwargs)`, by optimistix.

    Attributes:
        f: residuals `f(x, *args, **kwargs)`, a pytree of real arrays.
        tol: the accuracy of x and f, relative to the start, at which optimistix stops.
        maxiter: the largest number of steps.
        adjoint: how the derivative is computed; `Unrolled()` differentiates the iterations.
        condition: another condition for the derivative, called like f.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        on_unconverged: what happens to a result that did not converge: "warn", "nan", "raise" or "ignore".

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 10.3.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.LevenbergMarquardt(lambda x, a: jnp.sinh(x) - a)
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """

    def solver(self) -> Any:
        """The solver of optimistix."""
        import optimistix as optx

        return optx.LevenbergMarquardt(rtol=self.tol, atol=self.tol)


@dataclasses.dataclass(frozen=True)
class Dogleg(Named):
    """Powell's dogleg method, in a trust region, for min_x 1/2 |f(x, *args)|^2.

    `run(init, *args, **kwargs)`, by optimistix.

    Attributes:
        f: residuals `f(x, *args, **kwargs)`, a pytree of real arrays.
        tol: the accuracy of x and f, relative to the start, at which optimistix stops.
        maxiter: the largest number of steps.
        adjoint: how the derivative is computed; `Unrolled()` differentiates the iterations.
        condition: another condition for the derivative, called like f.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        on_unconverged: what happens to a result that did not converge: "warn", "nan", "raise" or "ignore".

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 4.1.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.Dogleg(lambda x, a: jnp.sinh(x) - a)
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """

    def solver(self) -> Any:
        """The solver of optimistix."""
        import optimistix as optx

        return optx.Dogleg(rtol=self.tol, atol=self.tol)
