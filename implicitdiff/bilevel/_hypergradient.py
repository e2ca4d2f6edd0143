"""Value and gradient of theta -> outer(theta, x*(theta)), with estimates of their errors."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._adjoint import Implicit
from .._linear import trial
from ..certify._linearised import Linearised
from ..optimality._condition import Condition

# Relative residuals of the linear solves: for the step that tells the distance to the solution, and for the adjoint.
STEP_RTOL = 1e-3
ADJOINT_RTOL = 1e-6


class Hypergradient(NamedTuple):
    """The outer problem at theta, from an approximate inner solution.

    Attributes:
        loss: outer(theta, x*), to second order in the error of x.
        loss_error: estimate of its error.
        gradient: of the same, flat.
        gradient_error: estimate of the norm of its error.
        x: the inner solution after one Newton step.
        adjoint: u = A'^-1 grad_x outer.
        residual: ||F(x, theta)||.
        linear_iterations: products with A; n for each matrix that was formed.
        sound: whether the linear solves succeeded.
    """

    loss: Float[Array, ""]
    loss_error: Float[Array, ""]
    gradient: Float[Array, " p"]
    gradient_error: Float[Array, ""]
    x: PyTree
    adjoint: Float[Array, " n"]
    residual: Float[Array, ""]
    linear_iterations: Int[Array, ""]
    sound: Bool[Array, ""]


def hypergradient(
    outer: Callable, F: Condition, theta_of: Callable, adjoint: Implicit, eta: Array, x: PyTree, u: Array
) -> Hypergradient:
    """Evaluate at theta = theta_of(eta), x near the inner solution, u near the adjoint one: both are warm starts.

    One Newton step d = A^-1 F on x, then value and gradient at x - d. Those at x differ from them by about their own
    error, and what the step leaves of the residual is what it leaves of the error.
    """
    condition = F.after(lambda eta: (theta_of(eta),))
    here = Linearised.of(condition, x, (eta,), dataclasses.replace(adjoint, on_failure="ignore"))
    start, norm = here.position(), jnp.linalg.norm

    def outer_flat(eta: Array, x: Array) -> Array:
        return outer(theta_of(eta), here.like_x(x))

    def solve(at: Linearised, b: Array, goal: Array, transpose: bool) -> tuple[Array, Array, Array]:
        """Solve to ||residual|| <= goal, where the user left the choice of the solver to us."""
        product, options = at.adjoint.system(at.program, at.x, at.theta)
        if options.solver is None and options.rtol is None:
            options = options._replace(rtol=0.0, atol=goal)
        found = trial(product, at.like_x(b), options, transpose)
        steps = jnp.int32(b.size) if found.steps is None else found.steps
        return at.unknowns.vector(jax.tree.leaves(found.x)), steps, found.converged

    residual = here.value()
    step, first, stepped = solve(here, residual, STEP_RTOL * norm(residual), False)
    # Where the step is no improvement, as across a kink, x is the better one.
    there = here.at(start - step)
    left = norm(there.value()) / jnp.where(norm(residual) > 0, norm(residual), 1.0)
    better = left <= 1.0
    polished = jnp.where(better, start - step, start)
    # What the step leaves of the distance to the solution, and so of the errors that the distance makes.
    left = jnp.where(better, left, 1.0)
    there = here.at(polished)

    loss, (direct, c) = jax.value_and_grad(outer_flat, argnums=(0, 1))(eta, polished)
    missing = c - there.A_transposed(u)
    correction, second, solved = solve(there, missing, ADJOINT_RTOL * norm(c), True)
    u = u + correction
    gradient = direct - there.B_transposed(u)

    # The same at x: its adjoint solution differs little.
    loss_here, (direct, c) = jax.value_and_grad(outer_flat, argnums=(0, 1))(eta, start)
    correction, third, _ = solve(here, c - here.A_transposed(u), STEP_RTOL * norm(c), True)
    gradient_here = direct - here.B_transposed(u + correction)
    return Hypergradient(
        loss, left * jnp.abs(loss_here - loss), gradient, left * norm(gradient_here - gradient),
        lax.stop_gradient(here.like_x(polished)), u, norm(residual), first + second + third,
        stepped & solved,
    )  # fmt: skip
