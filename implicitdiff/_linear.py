"""The linear solve A x = b inside a derivative: which method, and how far to trust what it returns.

A is known by its product v -> A v, x and b are pytrees of arrays of any inexact dtypes. Small systems are formed
and factorised, large ones solved by a Krylov method; in between, a Krylov method gets a limited number of
products, and where that is not enough the matrix is formed after all. Every result is checked.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.extend import core as jex
from jaxtyping import Array, Float, Int, PyTree

from . import _dense as dense
from ._batching import batchable
from ._check import by_row, check, least_norm
from ._cost import operations
from ._failure import NOT_CONVERGED, NOT_FINITE, OK, SINGULAR, OnFailure, Status, failed_if, first, settle
from ._forward_only import forward_only
from ._largest import largest, power_of_two
from ._precision import full_precision
from ._space import RealSpace
from ._structured import StructuredSolver
from ._varying import axes_of, varying, while_loop
from .krylov import CG, MINRES, BiCGStab, Krylov
from .krylov._composed import on_range
from .krylov._cycle import Product, rounding_unit, row_norms

# Up to this size a factorisation is the fastest way, by far where many right-hand sides share it.
DIRECT_SIZE = 400
# Conjugate gradients are cheaper sooner.
DIRECT_SIZE_DEFINITE = 100
# Up to this size (half a gigabyte in float64) the matrix is formed where a Krylov method fails.
DENSE_SIZE = 8192
# So many products a Krylov method gets before sparse LU is tried.
FIRST_PRODUCTS = 1000
# Up to this size a singular matrix is decomposed, to see whether the system is consistent.
SVD_SIZE = 1000


class LinearOptions(NamedTuple):
    """What is asked of a linear solve; see `Implicit` for the meaning of each."""

    solver: lx.AbstractLinearSolver | StructuredSolver | Callable | None = None
    symmetric: bool = False
    positive_definite: bool = False
    preconditioner: Callable | None = None
    rtol: float | None = None
    atol: float | Array | None = None
    on_failure: OnFailure = "nan"
    well_posed: bool = True
    # What finds the pattern of A, should it be needed.
    sought: Any = None
    # The products with symmetric W and M where A = I - M W.
    parts: tuple[Callable, Callable] | None = None


class TwoWay(tuple):
    """A linear solver of the user's that knows its matrix: b -> A^-1 b, and b -> A'^-1 b unless A has no transpose."""

    __slots__ = ()

    def __new__(cls, *ways: Callable) -> "TwoWay":
        """The one or the two."""
        return super().__new__(cls, ways)


class Solution(NamedTuple):
    """The solution of a linear system, and how the solve went.

    Attributes:
        x: like b.
        status: OK, or why x is not to be trusted; see `_failure`.
        steps: products with A; n where the matrix was formed, 0 where only the user's solver knows.
    """

    x: PyTree
    status: Status
    steps: Int[Array, ""]


@full_precision
def solve(matvec: Callable[[PyTree], PyTree], b: PyTree, options: LinearOptions) -> PyTree:
    """Solve A x = b; differentiable to any order in b and in what A is made of, in both modes.

    Args:
        matvec: v -> A v on pytrees like b; linear and transposable.
        b: pytree of inexact arrays.
        options: method, knowledge of A, tolerances, and what to do on failure.
    """
    system = System(matvec, b, options)
    if system.space.size == 0:
        return b

    def settled(transpose: bool) -> Callable:
        strategy = system.strategy(transpose)

        def solve(_: Product, b: Array) -> Array:
            found = strategy(b)
            return settle([found.x], found.status, options.on_failure)[0]

        return solve

    try:
        u = lax.custom_linear_solve(system.product, system.right, settled(False), settled(True))
    except (ValueError, NotImplementedError):
        # The product cannot be transposed, as where F holds a while_loop: that leaves forward mode.
        u = forward_only(lax.custom_linear_solve(system.product, system.right, settled(False)))
    return system.space.from_real(u)


@full_precision
def examine(matvec: Callable[[PyTree], PyTree], b: PyTree, options: LinearOptions, transpose: bool = False) -> Solution:
    """Solve A x = b, or A' x = b, as `solve` does, not to be differentiated, and tell how it went."""
    system = System(matvec, b, options)
    found = system.strategy(transpose)(system.right)
    return found._replace(x=system.space.from_real(found.x))


def method_of(size: int, options: LinearOptions) -> Any:
    """What solves a system of this size: `dense.lu`, `dense.cholesky`, a lineax solver or the user's function."""
    if options.solver is not None:
        factorisations: dict = {lx.LU: dense.lu, lx.Cholesky: dense.cholesky}
        return factorisations.get(type(options.solver), options.solver)
    definite = options.positive_definite
    if options.preconditioner is None:
        if size <= (DIRECT_SIZE_DEFINITE if definite and options.parts is None else DIRECT_SIZE):
            return dense.cholesky if definite else dense.lu
        if not options.well_posed and not options.symmetric and not definite and size <= SVD_SIZE:
            return dense.lu
        if options.parts is not None:
            return CG()
    return CG() if definite else MINRES() if options.symmetric else BiCGStab()


class System:
    """A linear system on real arrays: its product, a right-hand side, and the ways to solve it and its transpose."""

    def __init__(self, matvec: Callable[[PyTree], PyTree], b: PyTree, options: LinearOptions):
        """Put the system on real arrays."""
        space = RealSpace(b)
        self.space, self.options = space, options
        self.right = space.to_real(b)
        self.on_arrays = lambda call: lambda v: space.to_real(call(space.from_real(v)))
        self.product: Product = self.on_arrays(matvec)
        self._made: dict[Any, Any] = {}
        self.method = method_of(space.size, options)
        self.atol = getattr(self.method, "atol", 0.0) if isinstance(self.method, Krylov) else 0.0
        if options.atol is not None:
            self.atol = options.atol

    def shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once for A and its transpose."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def strategy(self, transpose: bool) -> Callable[[Array], Solution]:
        """The way to solve A x = b for arrays b like `right`, or A' x = b."""
        strategy = self._strategy(transpose)

        def scaled(b: Array) -> Solution:
            # To size 1: the squares of tiny and of huge numbers are not numbers.
            unit = power_of_two(largest(b))
            found = strategy(b * unit, jnp.asarray(self.atol, b.dtype) * unit)
            status = first(failed_if(~jnp.isfinite(unit), NOT_FINITE), found.status)
            return found._replace(x=found.x / unit, status=status)

        return scaled

    def _strategy(self, transpose: bool) -> Callable[[Array, Array], Solution]:
        method, options = self.method, self.options
        if isinstance(method, StructuredSolver):
            return method.strategy(self, transpose)
        if method in (dense.lu, dense.cholesky):
            return self._direct(transpose)
        if isinstance(method, Krylov):
            tolerances = [t for t in (options.rtol, method.rtol) if t is not None]
            rtol = tolerances[0] if tolerances else None
            if options.solver is None and self.space.mixed and rtol is None:
                rtol = rounding_unit(self.space.eps)
            method = dataclasses.replace(method, rtol=rtol)
            if options.solver is None and options.preconditioner is None:
                return self._automatic(method, transpose)
            parts = self._parts(method)
            product = self.product if parts else self._acting(self.product, transpose)
            return lambda b, atol: self._krylov(method, product, b, atol, transpose, parts)
        if isinstance(method, lx.AbstractLinearSolver):
            return self._lineax(method, transpose)
        return self._callable(method, transpose)

    def _acting(self, product: Product, transpose: bool) -> Product:
        """The product, or that of the transpose."""
        return (lambda v: jax.linear_transpose(product, self.right)(v)[0]) if transpose else product

    def _precondition(self, transpose: bool) -> Product:
        """The preconditioner, or its transpose, on arrays."""
        assert self.options.preconditioner is not None
        return self._acting(self.on_arrays(self.options.preconditioner), transpose)

    def _parts(self, method: Krylov) -> tuple[Product, ...]:
        """The products with W and M where A = I - M W, for the methods that make use of them."""
        if self.options.parts is None or self.options.preconditioner or not isinstance(method, CG | MINRES):
            return ()
        return tuple(map(self.on_arrays, self.options.parts))

    # Factorisations

    def _direct(self, transpose: bool) -> Callable[[Array, Array], Solution]:
        # Outside of the solve, so that the transpose shares it. Its own derivative is never needed:
        # custom_linear_solve differentiates through the product.
        factors = self.method(lax.stop_gradient(form(self.product, self.right)), self.space.eps)

        def many(factors: dense.Inverse | dense.Factors, bs: Array) -> Solution:
            return self._columns(factors, bs, transpose)

        def single(factors: dense.Inverse | dense.Factors, b: Array) -> Solution:
            return jax.tree.map(lambda leaf: leaf[0], many(factors, b[None]))

        solver = batchable(single, many)
        return lambda b, atol: solver(factors, b)

    def _columns(
        self, factors: dense.Inverse | dense.Factors, bs: Array, transpose: bool, decomposed: bool = True
    ) -> Solution:
        """Solve with factors for right-hand sides stacked along the first axis."""
        B = bs.reshape(len(bs), -1).T
        X, status = dense.solve_columns(factors, B, self.space.eps, transpose)
        if decomposed and (transpose or not self.options.well_posed):
            # Where A is singular the system may still be consistent. In reverse mode any solution u of A' u = x_bar
            # will do: x_bar' x_dot = u' A x_dot = -u' B theta_dot along every differentiable path of solutions.
            def decompose(state):
                X, status = state
                A = factors.A.T if transpose else factors.A
                A = A + 0 * status[0].astype(A.dtype)  # XLA would otherwise decompose it before the loop
                least, consistent = dense.least_squares(A, B, self.space.eps)
                # A negative status has been looked at.
                seen = jnp.where(status == SINGULAR, jnp.where(consistent, OK, -SINGULAR), status)
                return jnp.where((status == SINGULAR) & consistent, least, X), seen

            X, status = while_loop(lambda state: jnp.any(state[1] == SINGULAR), decompose, (X, status))
            status = jnp.abs(status)
        return Solution(X.T.reshape(bs.shape), status, jnp.full(status.shape, len(B), jnp.int32))

    # Krylov methods

    def _krylov(
        self, method: Krylov, product: Product, b: Array, atol: Array, transpose: bool, parts: tuple[Product, ...] = ()
    ) -> Solution:
        """Solve by products alone, and check each row."""
        options, eps = self.options, self.space.eps
        method = dataclasses.replace(method, atol=atol)
        precondition, cycle = None, None
        if options.preconditioner is not None:
            precondition = self._precondition(transpose)
        right = b
        if parts:
            W, M = parts
            cycle = on_range(method, W, M)
            # A' u = b with A = I - M W is solved by u = b + W y with A y = M b. Of a mirror map W may be huge where M
            # is tiny. The residual of u is W times that of y, but u is only needed behind M, where y is as good.
            right = M(b) if transpose else b
        # Reverse mode may have a right answer where A is singular, see `_columns`. But where unknowns are few, as they
        # may be for a method by name, an ill-conditioned A is also solved to a small residual, and looks like a gauge.
        probe = options.well_posed and (not transpose or options.solver is not None)
        rows = row_norms(product, right)
        found = method.solve(product, right, precondition, cycle, probe, least_norm(rows))
        converged = found.converged
        if method.rtol is None and isinstance(self.atol, float) and self.atol == 0:
            converged = converged & by_row(right - product(found.x), rows, found.x, right, eps)
        x = b + W(found.x) if parts and transpose else found.x
        return Solution(x, failed_if(~converged, NOT_CONVERGED), found.steps)

    def _automatic(self, method: Krylov, transpose: bool) -> Callable[[Array, Array], Solution]:
        """A Krylov method, and a factorisation where it fails or many right-hand sides share the matrix."""
        n, like, options = self.space.size, self.right, self.options
        maps, constants = hoisted([self.product, *self._parts(method)], like)
        product_cost = operations(maps[0].jaxpr)
        step_cost = product_cost + 50 * n  # with the method's own vectors
        dense_cost = n * product_cost + n**3
        if n <= DENSE_SIZE:
            method = dataclasses.replace(method, max_steps=min(max(64, dense_cost // (4 * step_cost)), 20_000))

        limit = min(max(10 * n, 200), 20_000) if method.max_steps is None else method.max_steps

        def by_products(constants: list, b: Array, atol: Array, limit: Array | int) -> Solution:
            product, *parts = (m(c) for m, c in zip(maps, constants, strict=True))
            acting = product if parts else self._acting(product, transpose)
            bounded = dataclasses.replace(method, max_steps=limit)
            return self._krylov(bounded, acting, b, atol, transpose, tuple(parts))

        def better(found: Solution, other: Callable[[], Solution]) -> Solution:
            """Solutions that have failed replaced by others."""
            new, keep = other(), found.status == OK
            x = jnp.where(keep.reshape(-1, *[1] * like.ndim), found.x, new.x)
            # Of two failures the one that says more.
            status = jnp.where(keep | (new.status == OK), OK, jnp.maximum(found.status, new.status))
            return Solution(x, status, found.steps + jnp.where(keep, 0, new.steps))

        def once(found: Solution, other: Callable[[Array], Solution], needed: Array | bool = True) -> Solution:
            """The same where some have failed, and else no work.

            A loop that runs at most once: unlike lax.cond, it costs nothing under vmap unless some element of the batch
            needs it. What it does depends on its state, or XLA would do it before the loop.
            """

            def body(state):
                found, turn = state
                return better(found, lambda: other(turn)), turn + 1

            start = (found, jnp.zeros((), jnp.int32))
            return while_loop(lambda s: jnp.any(s[0].status != OK) & (s[1] == 0) & needed, body, start)[0]

        def sparsely(run: Callable[[Array | int], Solution], constants: list, bs: Array) -> Solution:
            """A Krylov method, for a while; then sparse LU; and where A is not sparse the Krylov method to its end."""
            from .sparse._rescue import solve_sparsely

            turns = 2 if n > DENSE_SIZE and limit > FIRST_PRODUCTS else 1
            product = maps[0](constants[0])

            def by_pattern(turn: Array) -> Solution:
                return solve_sparsely(options.sought, product, bs, turn, self.space.eps, transpose)

            def body(state):
                found, turn = state
                budget = jnp.where(turn == 0, min(limit, FIRST_PRODUCTS), limit)
                found = better(found, lambda: run(budget))
                return once(found, by_pattern, turn == 0), turn + 1

            none = jnp.zeros(len(bs), jnp.int32)
            start = (Solution(jnp.zeros_like(bs), none + NOT_CONVERGED, none), jnp.zeros((), jnp.int32))
            return while_loop(lambda s: jnp.any(s[0].status != OK) & (s[1] < turns), body, start)[0]

        def by_factors(constants: list, bs: Array, decomposed: bool, shift: Array | int = 0) -> Solution:
            factors = dense.lu(form(maps[0](constants[0]), like, shift), self.space.eps)
            return self._columns(factors, bs, transpose, decomposed)

        def solved(run: Callable[[Array | int], Solution], constants: list, bs: Array) -> Solution:
            """By products, and where that fails by a factorisation, if memory allows."""
            found = run(limit) if options.sought is None else sparsely(run, constants, bs)
            if n > DENSE_SIZE:
                return found
            # Not decomposed: a Krylov method finds the solution of a system that is singular and consistent.
            return once(found, lambda turn: by_factors(constants, bs, False, turn))

        def single(constants: list, right: tuple) -> Solution:
            b, atol = right

            def run(limit: Array | int) -> Solution:
                return jax.tree.map(lambda leaf: leaf[None], by_products(constants, b, atol, limit))

            return jax.tree.map(lambda leaf: leaf[0], solved(run, constants, b[None]))

        def many(constants: list, right: tuple) -> Solution:
            bs, atols = right
            if n <= DENSE_SIZE and dense_cost <= 64 * len(bs) * step_cost:
                return by_factors(constants, bs, n <= SVD_SIZE)
            runs = jax.vmap(by_products, in_axes=(None, 0, 0, None))
            return solved(lambda limit: runs(constants, bs, atols, limit), constants, bs)

        solver = batchable(single, many)
        return lambda b, atol: solver(constants, (b, atol))

    # Other people's

    def _lineax(self, solver: lx.AbstractLinearSolver, transpose: bool) -> Callable[[Array, Array], Solution]:
        options, space = self.options, self.space
        structure = jax.ShapeDtypeStruct(self.right.shape, self.right.dtype)
        tags: list[Any] = []
        if options.symmetric or options.positive_definite:
            tags.append(lx.symmetric_tag)
        if options.positive_definite:
            tags.append(lx.positive_semidefinite_tag)
        product = self._acting(self.product, transpose)
        settings = {}
        if options.preconditioner is not None:
            precondition = self._precondition(transpose)
            settings["preconditioner"] = lx.FunctionLinearOperator(precondition, structure, tags)
        # Lineax bounds the residual it has updated on the way, entry by entry, by atol + rtol |b_i|: leave room for the
        # number of entries and for the drift of that residual from the true one.
        rtol = options.rtol
        if rtol is None and getattr(solver, "rtol", None) is not None:
            rtol = 100 * solver.rtol  # type: ignore[attr-defined]

        adjoint = self._acting(self.product, not transpose)

        def solve(b: Array, atol: Array) -> Solution:
            state = solver.init(lx.FunctionLinearOperator(product, structure, tags), settings)
            x, result, _ = solver.compute(state, b, settings)
            if options.atol is None:
                atol = jnp.asarray(10 * space.size**0.5 * getattr(solver, "atol", 0.0), b.dtype)
            if solver.assume_full_rank():
                status = check(product, x, b, space.eps, rtol, atol)
            else:  # the residual of a least-squares solution that must be small is A' (b - A x)
                status = check(lambda v: adjoint(product(v)), x, adjoint(b), space.eps, rtol, atol)
            return Solution(x, first(status, failed_if(result != lx.RESULTS.successful, NOT_CONVERGED)), jnp.int32(0))

        return solve

    def _callable(self, solver: Callable | TwoWay, transpose: bool) -> Callable[[Array, Array], Solution]:
        space, product = self.space, self._acting(self.product, transpose)
        if isinstance(solver, TwoWay) and len(solver) <= transpose:
            raise NotImplementedError("The product cannot be transposed.")

        def solve(b: Array, atol: Array) -> Solution:
            if isinstance(solver, TwoWay):
                x = solver[transpose](space.from_real(b))
            else:
                x = solver(lambda v: space.from_real(product(space.to_real(v))), space.from_real(b))
            x = space.to_real(x)
            return Solution(x, check(product, x, b, space.eps, self.options.rtol, atol), jnp.int32(0))

        return solve


class Hoisted(NamedTuple):
    """A linear map whose constants are arguments."""

    jaxpr: jex.Jaxpr

    def __call__(self, constants: list) -> Product:
        """The map with these constants."""
        run = jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, constants))
        return lambda v: run(v)[0]


def hoisted(maps: list[Product], like: Array) -> tuple[list[Hoisted], list[list]]:
    """Maps as functions of their constants: vmap then tells whether a batch has one matrix."""
    closed = [jax.make_jaxpr(one)(like) for one in maps]
    return [Hoisted(c.jaxpr) for c in closed], [list(c.consts) for c in closed]


def form(product: Product, like: Array, shift: Array | int = 0) -> Float[Array, "n n"]:
    """The matrix of a linear map on arrays, from its products with the unit vectors (`shift` is 0)."""
    number = jnp.arange(like.size)
    identity = varying((number[:, None] == number[None] + shift).astype(like.dtype), axes_of(like))
    rows = jax.vmap(lambda e: product(e.reshape(like.shape)).ravel())(identity)
    # An array of one dimension has one layout: XLA would otherwise ask the product for that of the transpose, which its
    # Fourier transform on the CPU cannot give.
    return lax.optimization_barrier(rows.ravel()).reshape(rows.shape).T
