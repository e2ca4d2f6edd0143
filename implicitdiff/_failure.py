"""How a derivative that cannot be trusted shows itself: NaN, an exception, or a printed warning.

A status is an int32 scalar, 0 for success, otherwise one more than an index into `CAUSES`; it is an array, so
that it exists for each element of a batch and under jit.
"""

import sys
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

OnFailure = Literal["nan", "raise", "warn", "ignore"]

# In the order of how much they say: where several apply, the last one is the cause.
CAUSES = (
    "the linear solve did not converge to its tolerance; use another linear_solver, a preconditioner, more "
    "max_steps, a looser rtol, or float64",
    "the Jacobian of F in x is singular to working precision: the solution is not unique, or x is where F is not "
    "differentiable; regularise the problem, or fix the gauge, or use float64",
    "the Jacobian of F in x is not what was declared: it is not symmetric, or not positive definite; drop "
    "symmetric/positive_definite, or look for a saddle point or maximum where a minimum was meant",
    "the Jacobian of F or the right-hand side is not finite; look for NaN in the solution and in the arguments",
    "F(x, *args) is larger than residual_tol at the solution: the solver stopped early, or F does not belong to it",
    "the Jacobian of F in x has entries outside of the band that was given; give more diagonals, or use "
    "implicitdiff.sparse.LU()",
)
OK, NOT_CONVERGED, SINGULAR, NOT_AS_DECLARED, NOT_FINITE, NOT_A_ROOT, OUTSIDE = range(7)
PREFIX = "implicitdiff: no derivative, because "

Status = Int[Array, ""]


def first(*statuses: Status) -> Status:
    """The first status that is a failure, or OK."""
    result = statuses[-1]
    for status in reversed(statuses[:-1]):
        result = jnp.where(status != OK, status, result)
    return result


def failed_if(condition: Array, status: int) -> Status:
    """`status` where the condition holds, else OK."""
    return jnp.where(condition, jnp.int32(status), jnp.int32(OK))


def settle(x: list[Array], status: Status, on_failure: OnFailure) -> list[Array]:
    """Return x, or what `on_failure` asks for where the status is a failure."""
    if on_failure == "ignore":
        return x
    failed = status != OK
    if on_failure == "raise":
        return eqx.branched_error_if(x, failed, jnp.maximum(status - 1, 0), [PREFIX + cause for cause in CAUSES])
    if on_failure == "warn":
        jax.debug.callback(_print_warning, status)
    return [jnp.where(failed, jnp.full((), jnp.nan, leaf.dtype), leaf) for leaf in x]


def _print_warning(status) -> None:
    # A callback cannot know whether its lane of a batch failed before it runs: it looks here.
    if int(status) != OK:
        print(PREFIX + CAUSES[int(status) - 1], file=sys.stderr, flush=True)
