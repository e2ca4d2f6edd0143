"""What the Krylov methods share: vector algebra on lists of arrays, and the loop around them that tells the truth.

A Krylov method updates its residual by recurrence, and in floating point the recurrence drifts away from
b - A x. `refine` therefore runs the method in cycles: each cycle solves for a correction, then the true residual
is computed, and only the true residual decides whether the solve succeeded.
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, PyTree

from .._dense import SMALLEST_PIVOT
from .._varying import while_loop

# The relative error that float32 results may have by a test with noise, some times smaller than what is promised.
LARGEST_ERROR = 3e-4

Vector: TypeAlias = list[Array]
Product: TypeAlias = Callable[[Vector], Vector]


def rounding_unit(eps: float) -> float:
    """The normwise backward error to ask for: about what a good direct solver reaches.

    The relative error of the solution is at most the condition number times that. In float32 every digit counts, and
    a product that cannot be had to 4 eps is better left to a factorisation.
    """
    return 20 * eps if eps < 1e-12 else 4 * eps


def dot(a: Vector, b: Vector) -> Array:
    """The real inner product."""
    return reduce(operator.add, map(_inner, a, b))


def _inner(x: Array, y: Array) -> Array:
    if any(axis is not None for axis in jax.typeof(x).sharding.spec):  # an explicit sharding: vdot refuses it
        return jnp.sum(x * y)
    return jnp.vdot(x, y, precision=lax.Precision.HIGHEST)


def norm(a: Vector) -> Array:
    """The Euclidean norm."""
    return jnp.sqrt(dot(a, a))


def axpy(scale: Array, x: Vector, y: Vector) -> Vector:
    """`scale * x + y`."""
    return [scale * a + b for a, b in zip(x, y, strict=True)]


def times(scale: Array, x: Vector) -> Vector:
    """`scale * x`."""
    return [scale * a for a in x]


def stopping(method: "Krylov", r: Vector, target: Array, precondition: Product | None) -> Callable[..., Array]:
    """The residual at which a cycle may stop, of a lower bound of ||A|| and a function for the norm of the correction.

    The goal of `refine` grows with the solution, which is 0 when the first cycle begins.
    """
    eps = float(jnp.finfo(r[0].dtype).eps)
    if method.rtol is not None or precondition is not None or eps > 1e-12:
        return lambda norm_A, norm_d: target
    largest = 1e-3 * norm(r)
    return lambda norm_A, norm_d: jnp.maximum(target, jnp.minimum(rounding_unit(eps) * norm_A * norm_d(), largest))


class Cycle(NamedTuple):
    """What one cycle returns: a correction, the products used, a lower bound of ||A||, whether A is as it must be."""

    correction: Vector
    steps: Array
    norm_A: Array  # noqa: N815
    sound: Array | bool = True


class Outcome(NamedTuple):
    """The solution of a linear system and how far to trust it."""

    x: Vector
    converged: Array
    steps: Array
    residual: Array


class Krylov(lx.AbstractLinearSolver):
    """Base of the Krylov methods: options, the outer loop, and lineax's interface to them.

    Attributes:
        rtol: stop when ||b - A x|| <= max(rtol ||b||, atol). None, the default, asks for all that the precision
            holds: ||b - A x|| <= 20 eps (||A|| ||x|| + ||b||), in float32 4 eps, so that the relative error of x is at
            most about that times the condition number of A.
        atol: see rtol.
        max_steps: the largest number of products with A; None means 10 n, at least 200 and at most 20,000.
    """

    rtol: float | None = None
    atol: float | Array = 0.0
    max_steps: int | None = None

    # A cycle that leaves more than this share of the residual has stagnated.
    stagnation: ClassVar[float] = 0.9

    def cycle(self, product: Product, r: Vector, target: Array, budget: Array, precondition: Product | None) -> Cycle:
        """Solve A d = r to ||r - A d|| <= target in at most `budget` products."""
        raise NotImplementedError

    def solve(
        self,
        product: Product,
        b: Vector,
        precondition: Product | None = None,
        cycle: Callable[..., Cycle] | None = None,
    ) -> Outcome:
        """Solve A x = b given v -> A v; A is never formed. `cycle` is another way to corrections than the method's."""
        size = sum(leaf.size for leaf in b)
        limit = min(max(10 * size, 200), 20_000) if self.max_steps is None else self.max_steps
        return refine(self, cycle or self.cycle, product, b, limit, precondition)

    # lineax's interface. The operator is its own state: there is nothing to factorise.
    def init(self, operator: lx.AbstractLinearOperator, options: dict) -> lx.AbstractLinearOperator:
        del options
        return lx.linearise(operator)

    def compute(self, state: lx.AbstractLinearOperator, vector: PyTree, options: dict):
        leaves, tree = jax.tree.flatten(vector)
        precondition = options.get("preconditioner")

        def as_product(matrix):
            return lambda v: jax.tree.leaves(matrix.mv(jax.tree.unflatten(tree, v)))

        outcome = self.solve(as_product(state), leaves, precondition and as_product(precondition))
        successful, unsuccessful = cast(Any, (lx.RESULTS.successful, lx.RESULTS.max_steps_reached))
        result = lx.RESULTS.where(outcome.converged, successful, unsuccessful)
        return jax.tree.unflatten(tree, outcome.x), result, {"num_steps": outcome.steps}

    def transpose(self, state: lx.AbstractLinearOperator, options: dict):
        return state.T, {k: v.T if k == "preconditioner" else v for k, v in options.items()}

    def conj(self, state: lx.AbstractLinearOperator, options: dict):
        return lx.conj(state), {k: lx.conj(v) if k == "preconditioner" else v for k, v in options.items()}

    def assume_full_rank(self) -> bool:
        return True


def refine(
    method: Krylov,
    cycle: Callable[..., Cycle],
    product: Product,
    b: Vector,
    limit: int,
    precondition: Product | None,
) -> Outcome:
    """Run cycles on the true residual until it is small, the budget is spent, or nothing improves.

    In float32 a residual of rounding size may hide an error of percents (condition 1e5). There one more cycle solves
    for the residual that is left, which is rounding noise and shows what A makes of that: a correction of x that is
    not small is the size of its error.
    """
    dtype = jnp.result_type(*b)
    norm_b = norm(b)
    eps = float(jnp.finfo(dtype).eps)
    noise_tells = method.rtol is None and 1e-12 < eps < 1e-3

    def goal(x, norm_A):
        if method.rtol is None:
            rounding = rounding_unit(eps) * (norm_A * norm(x) + norm_b)
            # Where A is singular, x grows until any residual is small beside it.
            return jnp.maximum(jnp.minimum(rounding, 1e-3 * norm_b), method.atol).astype(dtype)
        return jnp.maximum(method.rtol * norm_b, method.atol).astype(dtype)

    def small(x, residual, norm_A):
        # Doubled: the recurrence aims at the goal, and its drift shall not cost another cycle. NaN compares false.
        met = residual <= 2 * goal(x, norm_A)
        if method.rtol is None:
            # Where x is that large, it is made of directions that A shrinks to its rounding noise (see _dense).
            met = met & (SMALLEST_PIVOT * eps * norm_A * norm(x) <= norm_b)
        return met

    def unfinished(state):
        x, _, residual, norm_A, steps, improving, sure = state
        return ~(small(x, residual, norm_A) & sure) & (steps < limit) & improving

    def body(state):
        x, r, residual, norm_A, steps, _, _ = state
        target, verifying = goal(x, norm_A), small(x, residual, norm_A)
        if noise_tells:
            target = jnp.where(verifying, 3e-4 * residual, target)
        step = cycle(product, r, target, limit - steps, precondition)
        x = axpy(jnp.ones((), dtype), step.correction, x)
        r = axpy(-jnp.ones((), dtype), product(x), b)
        new = norm(r)
        sure = jnp.asarray(step.sound)
        improving = new < method.stagnation * residual
        if noise_tells:
            sure = sure & (norm(step.correction) <= LARGEST_ERROR * norm(x))
            improving = ~verifying & (improving | small(x, new, norm_A))
        return x, r, new, jnp.maximum(norm_A, step.norm_A), steps + step.steps, improving, sure

    zero = [jnp.zeros_like(leaf) for leaf in b]
    start = (
        zero,
        b,
        norm_b,
        jnp.zeros((), dtype),
        jnp.zeros((), jnp.int32),
        jnp.array(True),
        jnp.array(not noise_tells),
    )
    x, _, residual, norm_A, steps, _, sure = while_loop(unfinished, body, start)
    return Outcome(x, small(x, residual, norm_A) & sure, steps, residual)
