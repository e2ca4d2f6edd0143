"""The linear solve A x = b inside a derivative: which method, and how far to trust what it returns.

A is known by its product v -> A v, x and b are pytrees of arrays of any inexact dtypes. Small systems are formed
and factorised, large ones solved by a Krylov method; in between, a Krylov method gets a limited number of
products, and where that is not enough the matrix is formed after all. Every result is checked.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, PyTree

from ._dense import Factors, cholesky, lu
from ._failure import NOT_CONVERGED, NOT_FINITE, OK, OnFailure, Status, failed_if, first, settle
from ._precision import full_precision
from ._program import name_of
from ._varying import axes_of, varying, while_loop
from .krylov import CG, MINRES, BiCGStab, Krylov, Outcome
from .krylov._composed import on_range
from .krylov._cycle import Product, Vector, dot, norm, rounding_unit

# Up to this size a factorisation is the fastest way, by far where many right-hand sides share it.
DIRECT_SIZE = 400
# Up to this size (half a gigabyte in float64) the matrix is formed where a Krylov method fails.
DENSE_SIZE = 8192

Strategy = Callable[[Product, Vector], tuple[Vector, Status]]


class LinearOptions(NamedTuple):
    """What is asked of a linear solve; see `Implicit` for the meaning of each."""

    solver: lx.AbstractLinearSolver | Callable | None = None
    symmetric: bool = False
    positive_definite: bool = False
    preconditioner: Callable | None = None
    rtol: float | None = None
    atol: float | Array | None = None
    on_failure: OnFailure = "nan"
    # The products with symmetric W and M where A = I - M W.
    parts: tuple[Callable, Callable] | None = None


class RealSpace:
    """A pytree of inexact arrays as one real array of one dtype (in a list, which is what the Krylov methods take).

    A complex unknown is two real ones: F need not be holomorphic, so its derivative is linear over the reals only.
    """

    def __init__(self, like: PyTree):
        """Remember the structure, shapes and dtypes of `like`."""
        leaves, self.tree = jax.tree.flatten(like)
        self.dtypes = [leaf.dtype for leaf in leaves]
        reals = [jnp.finfo(dtype).dtype for dtype in self.dtypes]
        self.dtype = jnp.result_type(jnp.float32, *reals) if reals else jnp.dtype("float32")
        self.eps = max((float(jnp.finfo(real).eps) for real in reals), default=0.0)
        self.mixed = any(jnp.finfo(real).eps != jnp.finfo(self.dtype).eps for real in reals)
        self.part_shapes = [leaf.shape for leaf in leaves for _ in range(2 if jnp.iscomplexobj(leaf) else 1)]
        self.size = sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves)

    def to_real(self, tree: PyTree) -> Vector:
        """The real array of a pytree; real and imaginary parts one after the other."""
        result = []
        for leaf in jax.tree.leaves(tree):
            parts = (jnp.real(leaf), jnp.imag(leaf)) if jnp.iscomplexobj(leaf) else (leaf,)
            result += [part.astype(self.dtype) for part in parts]
        # One array where there are several: JAX transposes a linear solve only where every leaf of b depends on the
        # tangents, and the equations of one leaf may be without theta.
        return [join(result)] if len(result) > 1 else result

    def from_real(self, arrays: Vector) -> PyTree:
        """The pytree of a real array."""
        parts = [jax.ShapeDtypeStruct(shape, self.dtype) for shape in self.part_shapes]
        supply = iter(split(arrays[0], parts) if len(parts) > 1 else arrays)
        leaves = []
        for dtype in self.dtypes:
            if jnp.issubdtype(dtype, jnp.complexfloating):
                part = jnp.finfo(dtype).dtype
                leaves.append(lax.complex(next(supply).astype(part), next(supply).astype(part)))
            else:
                leaves.append(next(supply).astype(dtype))
        return jax.tree.unflatten(self.tree, leaves)


@full_precision
def solve(matvec: Callable[[PyTree], PyTree], b: PyTree, options: LinearOptions) -> PyTree:
    """Solve A x = b; differentiable to any order in b and in what A is made of, in both modes.

    Args:
        matvec: v -> A v on pytrees like b; linear and transposable.
        b: pytree of inexact arrays.
        options: method, knowledge of A, tolerances, and what to do on failure.
    """
    space = RealSpace(b)
    if space.size == 0:
        return b

    def product(v: Vector) -> Vector:
        return space.to_real(matvec(space.from_real(v)))

    right = space.to_real(b)
    forward, transposed = _strategies(product, right, space, options)

    def settled(strategy: Strategy):
        return lambda product, b: settle(*strategy(product, b), options.on_failure)

    try:
        u = lax.custom_linear_solve(product, right, settled(forward), settled(transposed))
    except (ValueError, NotImplementedError):
        # The product cannot be transposed, as where F holds a while_loop: that leaves forward mode.
        u = lax.custom_linear_solve(product, right, settled(forward))
    return space.from_real(u)


class Trial(NamedTuple):
    """A linear solve that is looked at, not differentiated.

    Attributes:
        x: the solution.
        method: the name of the method.
        steps: its products with A; None where the matrix was formed.
        converged: whether it succeeded.
        residual: ||b - A x|| / ||b||.
    """

    x: PyTree
    method: str
    steps: Array | None
    converged: Array
    residual: Array


@full_precision
def trial(matvec: Callable[[PyTree], PyTree], b: PyTree, options: LinearOptions, transpose: bool = False) -> Trial:
    """Solve A x = b, or A' x = b, as `solve` does, and tell how it went."""
    space = RealSpace(b)
    right = space.to_real(b)

    def product(v: Vector) -> Vector:
        return space.to_real(matvec(space.from_real(v)))

    def transposed(v: Vector) -> Vector:
        return jax.linear_transpose(product, right)(v)[0]

    acting = transposed if transpose else product
    method: Any = automatic(space, options) if options.solver is None else options.solver
    name = "LU" if method is lu else "Cholesky" if method is cholesky else name_of(method)
    steps = None
    if isinstance(method, Krylov):
        outcome = method.solve(acting, right, *_helpers(method, right, space, options)[transpose])
        steps = outcome.steps
        x, status = _rescued(outcome, acting, right, space, options)
    else:
        x, status = _strategies(product, right, space, options)[transpose](acting, right)
    size = norm(right)
    residual = norm([a - c for a, c in zip(right, acting(x), strict=True)]) / jnp.where(size > 0, size, 1)
    return Trial(space.from_real(x), name, steps, status == OK, residual)


def _strategies(product: Product, b: Vector, space: RealSpace, options: LinearOptions) -> tuple[Strategy, Strategy]:
    """How to solve with A, and how with its transpose."""
    solver = options.solver
    if solver is None:
        method = automatic(space, options)
        if isinstance(method, Krylov):
            return _krylov(method, b, space, options)
        return _direct(product, b, space, method)
    if isinstance(solver, lx.LU):
        return _direct(product, b, space, lu)
    if isinstance(solver, lx.Cholesky):
        return _direct(product, b, space, cholesky)
    if isinstance(solver, Krylov):
        return _krylov(solver, b, space, options)
    if isinstance(solver, lx.AbstractLinearSolver):
        return _lineax(solver, b, space, options)
    return _callable(solver, space, options)


def automatic(space: RealSpace, options: LinearOptions) -> Krylov | Callable[[Array, float], Factors]:
    """The method where the user chose none: a factorisation, or a Krylov method with a budget."""
    if space.size <= DIRECT_SIZE and options.preconditioner is None:
        return cholesky if options.positive_definite else lu
    composed = options.parts is not None and options.preconditioner is None
    symmetric = options.symmetric or options.positive_definite
    method = CG if options.positive_definite or composed else MINRES if symmetric else BiCGStab
    rtol = rounding_unit(space.eps) if options.rtol is None and space.mixed else options.rtol
    budget = max(64, space.size // 4) if space.size <= DENSE_SIZE else None
    return method(rtol=rtol, atol=0.0 if options.atol is None else options.atol, max_steps=budget)


def _direct(product: Product, b: Vector, space: RealSpace, factorise) -> tuple[Strategy, Strategy]:
    # Outside of the solve, so that all right-hand sides and the transpose share one factorisation. Its own
    # derivative is never needed: custom_linear_solve differentiates through the product.
    factors: Factors = factorise(lax.stop_gradient(form(product, b)), space.eps)

    def with_transpose(transpose):
        def strategy(product, b):
            del product
            x = split(factors.solve(join(b), transpose), b)
            return x, factors.status

        return strategy

    return with_transpose(False), with_transpose(True)


def _krylov(method: Krylov, b: Vector, space: RealSpace, options: LinearOptions) -> tuple[Strategy, Strategy]:
    def with_helpers(precondition, cycle):
        def strategy(product, b):
            outcome = method.solve(product, b, precondition, cycle)
            x, status = _rescued(outcome, product, b, space, options)
            return x, first(_finite(b), status)

        return strategy

    forward, transposed = _helpers(method, b, space, options)
    return with_helpers(*forward), with_helpers(*transposed)


def _rescued(outcome: Outcome, product: Product, b: Vector, space: RealSpace, options: LinearOptions):
    """Solution and status of a Krylov method; where it was our choice and failed, of a factorisation if memory allows.

    A loop that runs at most once: unlike lax.cond, it costs nothing under vmap unless some element of the batch needs
    it. The unit vectors depend on the state, or XLA would form the matrix before the loop as a constant of it.
    """
    if options.solver is not None or space.size > DENSE_SIZE:
        return outcome.x, failed_if(~outcome.converged, NOT_CONVERGED)

    def densely(state):
        x, converged, tried, _ = state
        shift = tried.astype(jnp.int32)
        factors = lu(form(product, b, shift), space.eps, shift)
        dense = split(factors.solve(join(b)), b)
        x = [jnp.where(converged, old, new) for old, new in zip(x, dense, strict=True)]
        return x, converged, jnp.array(True), jnp.where(converged, OK, factors.status)

    start = (outcome.x, outcome.converged, jnp.array(False), jnp.int32(OK))
    x, _, _, status = while_loop(lambda s: ~s[1] & ~s[2], densely, start)
    return x, status


def _helpers(method: Krylov, b: Vector, space: RealSpace, options: LinearOptions) -> tuple[tuple, tuple]:
    """Preconditioner and cycle of a Krylov method, for the system and for its transpose."""
    if options.preconditioner is None:
        if options.parts is None or not isinstance(method, CG | MINRES):
            return (None, None), (None, None)
        inner, outer = (lambda v, part=part: space.to_real(part(space.from_real(v))) for part in options.parts)
        # Both are symmetric, so that neither has to be transposed.
        return (None, on_range(method, inner, outer)), (None, on_range(method, inner, outer, transpose=True))

    M = options.preconditioner

    def precondition(v):
        return space.to_real(M(space.from_real(v)))

    return (precondition, None), (lambda v: jax.linear_transpose(precondition, b)(v)[0], None)


def _lineax(solver: lx.AbstractLinearSolver, b: Vector, space: RealSpace, options) -> tuple[Strategy, Strategy]:
    structure = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in b]
    tags: list[Any] = []
    if options.symmetric or options.positive_definite:
        tags.append(lx.symmetric_tag)
    if options.positive_definite:
        tags.append(lx.positive_semidefinite_tag)

    def with_preconditioner(precondition):
        def strategy(product, b):
            settings = {}
            if precondition is not None:
                settings["preconditioner"] = lx.FunctionLinearOperator(precondition, structure, tags)
            state = solver.init(lx.FunctionLinearOperator(product, structure, tags), settings)
            x, result, _ = solver.compute(state, b, settings)
            # Lineax bounds the residual it has updated on the way, entry by entry, by atol + rtol |b_i|: leave room
            # for the number of entries and for the drift of that residual from the true one.
            rtol, atol = options.rtol, options.atol
            if rtol is None:
                rtol = 100 * own if (own := getattr(solver, "rtol", None)) is not None else None
            if atol is None:
                atol = 10 * space.size**0.5 * getattr(solver, "atol", 0.0)
            least_squares = not solver.assume_full_rank()
            status = check(product, x, b, space, rtol, atol, least_squares)
            return x, first(status, failed_if(result != lx.RESULTS.successful, NOT_CONVERGED))

        return strategy

    if options.preconditioner is None:
        return with_preconditioner(None), with_preconditioner(None)

    def precondition(v):
        return space.to_real(options.preconditioner(space.from_real(v)))

    return with_preconditioner(precondition), with_preconditioner(lambda v: jax.linear_transpose(precondition, b)(v)[0])


def _callable(solver: Callable, space: RealSpace, options: LinearOptions) -> tuple[Strategy, Strategy]:
    def strategy(product, b):
        x = solver(lambda v: space.from_real(product(space.to_real(v))), space.from_real(b))
        x = space.to_real(x)
        return x, check(product, x, b, space, options.rtol, options.atol or 0.0)

    return strategy, strategy


def check(product, x: Vector, b: Vector, space: RealSpace, rtol, atol, least_squares: bool = False) -> Status:
    """The status of a solution that somebody else computed, from its true residual.

    Without a tolerance the limit is ||b - A x|| <= sqrt(eps) ||b||. For a least-squares solution the residual that
    must be small is A' (b - A x).
    """
    residual = [right - left for right, left in zip(b, product(x), strict=True)]
    scale = norm(b)
    if least_squares:
        transpose = jax.linear_transpose(product, b)
        residual, scale = transpose(residual)[0], norm(transpose(b)[0])
    limit = jnp.maximum((space.eps**0.5 if rtol is None else rtol) * scale, atol)
    return first(_finite(b), failed_if(~(norm(residual) <= limit), NOT_CONVERGED))


def _finite(b: Vector) -> Status:
    return failed_if(~jnp.isfinite(dot(b, b)), NOT_FINITE)


def form(product: Product, like: Vector, shift: Array | int = 0) -> Array:
    """The matrix of a linear map on lists of arrays, from its products with the unit vectors (`shift` is 0)."""
    number = jnp.arange(sum(leaf.size for leaf in like))
    identity = varying((number[:, None] == number + shift).astype(like[0].dtype), axes_of(like))
    return jax.vmap(lambda e: join(product(split(e, like))))(identity).T


def join(arrays: Vector) -> Array:
    """One vector from a list of arrays."""
    return arrays[0].ravel() if len(arrays) == 1 else jnp.concatenate([leaf.ravel() for leaf in arrays])


def split(vector: Array, like: Sequence[Any]) -> Vector:
    """A list of arrays with the shapes of `like` from one vector."""
    result, start = [], 0
    for leaf in like:
        result.append(vector[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return result
