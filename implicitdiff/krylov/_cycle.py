"""What the Krylov methods share: their options, and the loop around them that measures the true residual.

A Krylov method updates its residual by recurrence, and in floating point the recurrence drifts away from
b - A x. `refine` therefore runs the method in cycles: each cycle solves for a correction, then the true residual
is computed, and only the true residual decides whether the solve succeeded.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._largest import largest, power_of_two
from .._varying import scattered, while_loop

# The largest relative error that rounding noise in the residual may cause; see `refine`.
LARGEST_ERROR = 3e-4
# Beyond 1 / (that many units of rounding) the ratio ||A|| ||x|| / ||b|| leaves no correct digits in x.
LARGEST_GROWTH = 400
# Up to this size several inner products are summed together, one number after the other. Beyond, that loses digits.
ONE_PASS = 4096

Product: TypeAlias = Callable[[Array], Array]


def rounding_unit(eps: float) -> float:
    """The normwise backward error to ask for, about what a good direct solver reaches.

    The relative error of the solution is at most the condition number times that. In float32 every digit counts, and
    a product that cannot be had to 4 eps is better left to a factorisation.
    """
    return 20 * eps if eps < 1e-12 else 4 * eps


def dot(x: Array, y: Array) -> Array:
    """The real inner product of two arrays of one shape."""
    if any(axis is not None for axis in jax.typeof(x).sharding.spec):  # vdot refuses an explicit sharding
        return jnp.sum(x * y)
    return jnp.vdot(x, y, precision=lax.Precision.HIGHEST)


def dots(*pairs: tuple[Array, Array]) -> list[Array]:
    """The inner products of pairs of arrays of one shape; of small ones in one pass, which is quicker to compile."""
    like = pairs[0][0]
    if like.size > ONE_PASS or any(axis is not None for axis in jax.typeof(like).sharding.spec):
        return [dot(x, y) for x, y in pairs]
    products = tuple(x * y for x, y in pairs)
    zeros = tuple(jnp.zeros((), product.dtype) for product in products)
    return list(lax.reduce(products, zeros, lambda x, y: tuple(map(jnp.add, x, y)), range(like.ndim)))


def norm(x: Array) -> Array:
    """The Euclidean norm."""
    return jnp.sqrt(dot(x, x))


def row_norms(product: Product, like: Array, seeds: Sequence[int] = (2, 3)) -> Array:
    """Estimates of the Euclidean norms of the rows of A, from products with vectors without pattern."""
    products = jax.vmap(product)(jnp.stack([scattered(like, seed) for seed in seeds]))
    unit = power_of_two(largest(products, axis=0))
    # The variance of the entries of the probes is 1/3.
    return jnp.sqrt(3 / len(seeds) * jnp.sum((unit * products) ** 2, axis=0)) / unit


class Cycle(NamedTuple):
    """What one cycle returns: a correction, the products used, a lower bound of ||A||, whether A is as it must be."""

    correction: Array
    steps: Array
    norm_A: Array  # noqa: N815
    sound: Array | bool = True


class Outcome(NamedTuple):
    """The solution of a linear system and how far to trust it."""

    x: Array
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
    max_steps: int | Array | None = None

    # A cycle that leaves more than this share of the residual has stagnated.
    stagnation: ClassVar[float] = 0.9

    def cycle(self, product: Product, r: Array, goal: Callable, budget: Array, precondition: Product | None) -> Cycle:
        """Solve A d = r in at most `budget` products.

        Stop where ||r - A d|| <= goal(norm_A, norm_d), given a lower bound of ||A|| and a function that returns ||d||.
        """
        raise NotImplementedError

    def solve(
        self,
        product: Product,
        b: Array,
        precondition: Product | None = None,
        cycle: Callable[..., Cycle] | None = None,
        probe: bool = False,
        norm_A: Array | float = 0.0,
    ) -> Outcome:
        """Solve A x = b given v -> A v; A is never formed.

        Args:
            product: v -> A v on arrays like b.
            b: right-hand side, an array of any shape.
            precondition: v -> M v with M close to the inverse of A.
            cycle: another way to corrections than the method's own.
            probe: also solve for rounding noise, and converge only where that changes x little; see `refine`.
            norm_A: a lower bound of ||A||, where one is known: the methods see it along their own directions only.
        """
        limit = min(max(10 * b.size, 200), 20_000) if self.max_steps is None else self.max_steps
        if cycle is not None:
            return refine(self, cycle, product, b, limit, precondition, probe, norm_A)
        # A is scaled to size 1: the squares of tiny and of huge numbers are not numbers.
        unit = power_of_two(largest(product(scattered(b))))
        up, down = jnp.maximum(unit, 1), jnp.minimum(unit, 1)
        inverse = None if precondition is None else lambda v: precondition(v / down) / up
        found = refine(self, self.cycle, lambda v: down * product(up * v), b, limit, inverse, probe, unit * norm_A)
        return found._replace(x=unit * found.x)

    # lineax's interface. The operator is its own state: there is nothing to factorise.
    def init(self, operator: lx.AbstractLinearOperator, options: dict) -> lx.AbstractLinearOperator:
        del options
        return lx.linearise(operator)

    def compute(self, state: lx.AbstractLinearOperator, vector: Any, options: dict):
        b, unravel = ravel_pytree(vector)
        precondition = options.get("preconditioner")

        def as_product(matrix):
            return lambda v: ravel_pytree(matrix.mv(unravel(v)))[0]

        outcome = self.solve(as_product(state), b, precondition and as_product(precondition))
        successful, unsuccessful = cast(Any, (lx.RESULTS.successful, lx.RESULTS.max_steps_reached))
        result = lx.RESULTS.where(outcome.converged, successful, unsuccessful)
        return unravel(outcome.x), result, {"num_steps": outcome.steps}

    def transpose(self, state: lx.AbstractLinearOperator, options: dict):
        return state.T, {k: v.T if k == "preconditioner" else v for k, v in options.items()}

    def conj(self, state: lx.AbstractLinearOperator, options: dict):
        return lx.conj(state), {k: lx.conj(v) if k == "preconditioner" else v for k, v in options.items()}

    def assume_full_rank(self) -> bool:
        return True


class _State(NamedTuple):
    x: Array
    right: Array  # of the system that the cycles work on: b, and then noise
    v: Array  # its solution so far: x, and then what the noise makes of x
    r: Array
    residual: Array
    norm_A: Array  # noqa: N815
    steps: Array
    improving: Array
    verifying: Array
    sound: Array


def refine(
    method: Krylov,
    cycle: Callable[..., Cycle],
    product: Product,
    b: Array,
    limit: int | Array,
    precondition: Product | None,
    probe: bool,
    norm_A: Array | float,
) -> Outcome:
    """Run cycles on the true residual until it is small, the budget is spent, or nothing improves.

    A residual of rounding size may hide an error of percents (condition 1e5 in float32), or a singular A. Wherever that
    matters, in float32 and with `probe`, the same cycles therefore solve for noise of the size of the residual: what
    comes out is how far x moves when b moves by its rounding error. Where that is more than LARGEST_ERROR of x, or
    cannot be had because the noise is not in the range of A, the solve has not converged.
    """
    dtype, norm_b = b.dtype, norm(b)
    eps = float(jnp.finfo(dtype).eps)
    unit, full = rounding_unit(eps), method.rtol is None
    single = eps > 1e-12
    verify = full and eps < 1e-3 and (probe or single)
    # In float32 the noise is the residual that is left, and x is the better for it. In float64 that may be smooth, and
    # the noise has no pattern: a null vector of A holds a share of about 1 / sqrt(n) of it.
    share = LARGEST_ERROR if single else 2e-3 / max(b.size, 1) ** 0.5

    def goal(norm_A, norm_x):
        if method.rtol is not None:
            return jnp.maximum(method.rtol * norm_b, method.atol).astype(dtype)
        # Where A is singular, x grows until any residual is small beside it.
        rounding = unit * (norm_A * norm_x + norm_b)
        return jnp.maximum(jnp.minimum(rounding, 1e-3 * norm_b), method.atol).astype(dtype)

    def small(x, residual, norm_A):
        # Doubled: the recurrence aims at the goal, and its drift shall not cost another cycle. NaN compares false.
        met = residual <= 2 * goal(norm_A, norm(x))
        if full:
            met = met & (LARGEST_GROWTH * eps * norm_A * norm(x) <= norm_b)
        return met

    def sure(s: _State):
        reached = s.residual <= 2 * share * norm(s.right)
        return s.verifying & s.sound & reached & (norm(s.v) <= LARGEST_ERROR * norm(s.x))

    def unfinished(s: _State):
        done = s.verifying & (s.residual <= share * norm(s.right)) if verify else small(s.x, s.residual, s.norm_A)
        return ~done & (s.steps < limit) & s.improving

    def body(s: _State):
        at_x = goal(s.norm_A, norm(s.x))

        def aim(norm_A, norm_d):
            target = at_x
            if full and not single and precondition is None:
                # The goal grows with the solution, which is 0 when the first cycle begins.
                target = jnp.maximum(target, jnp.minimum(unit * norm_A * norm_d(), 1e-3 * s.residual))
            return jnp.where(s.verifying, share * norm(s.right), target) if verify else target

        step = cycle(product, s.r, aim, limit - s.steps, precondition)
        v = s.v + step.correction
        r = s.right - product(v)
        residual, steps = norm(r), s.steps + step.steps
        norm_A = jnp.maximum(s.norm_A, step.norm_A)
        improving = residual < method.stagnation * s.residual
        if not verify:
            return s._replace(x=v, v=v, r=r, residual=residual, norm_A=norm_A, steps=steps, improving=improving)
        x = jnp.where(s.verifying, s.x, v)
        begins = ~s.verifying & small(x, residual, norm_A)
        noise = scattered(b, 1)
        noise = r if single else noise * (residual / norm(noise))
        right, v, r = jnp.where(begins, noise, s.right), jnp.where(begins, 0, v), jnp.where(begins, noise, r)
        sound = begins | jnp.asarray(step.sound)
        return _State(x, right, v, r, residual, norm_A, steps, improving | begins, s.verifying | begins, sound)

    zero, no, size = jnp.zeros_like(b), jnp.array(False), jnp.asarray(norm_A, dtype)
    start = _State(zero, b, zero, b, norm_b, size, jnp.zeros((), jnp.int32), ~no, no, ~no)
    end = while_loop(unfinished, body, start)
    if not verify:
        return Outcome(end.x, small(end.x, end.residual, end.norm_A), end.steps, end.residual)
    x = end.x + end.v if single else end.x
    x = jnp.where(end.verifying, x, end.x)
    residual = norm(b - product(x))
    return Outcome(x, (sure(end) & small(x, residual, end.norm_A)) | (norm_b == 0), end.steps, residual)
