"""Value and gradient of theta -> outer(theta, x*(theta)), with estimates of their errors."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._failure import OK
from .._implicit import Implicit
from .._linear import examine
from .._linearised import Linearised
from .._varying import scan
from ..optimality._condition import Condition

# Relative residuals of the linear solves for the step that measures the distance to the solution, and for the adjoints.
STEP_RTOL = 1e-3
ADJOINT_RTOL = 1e-6


class Hypergradient(NamedTuple):
    """The outer problem at theta, from an approximate inner solution.

    Attributes:
        loss: outer(theta, x*), to second order in the error of x.
        loss_error: estimate of its error.
        gradient: its gradient, as a vector.
        gradient_error: estimate of the norm of the error of the gradient.
        x: the inner solution after one Newton step.
        adjoint: u = A'^-1 grad_x outer.
        residual: ||F(x, theta)||.
        linear_iterations: number of products with A; n for each matrix that was formed.
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
    """Evaluate at theta = theta_of(eta), from warm starts x near the inner solution and u near the adjoint one.

    Loss and gradient are evaluated at x and, after one Newton step d = A^-1 F, at x - d. The difference is about the
    error of those at x, and the factor by which the step reduces the residual is that by which it reduces the error.
    One loop evaluates both points, because F, outer and two linear solves take most of the compilation time.
    """
    condition = F.after(lambda eta: ((theta_of(eta),), {}))
    here = Linearised.of(condition, x, (eta,), dataclasses.replace(adjoint, on_failure="ignore"))
    norm = jnp.linalg.norm

    def outer_flat(eta: Array, x: Array) -> Array:
        return outer(theta_of(eta), here.like_x(x))

    def solve(at: Linearised, b: Array, goal: Array, transpose: bool) -> tuple[Array, Array, Array]:
        """Solve to ||residual|| <= goal, if the user has not chosen the linear solver."""
        product, options = at.adjoint.system(at.program, at.x, at.theta)
        if options.solver is None and options.rtol is None:
            options = options._replace(rtol=0.0, atol=goal)
        found = examine(product, at.like_x(b), options, transpose)
        return at.unknowns.vector(jax.tree.leaves(found.x)), found.steps, found.status == OK

    def evaluate(carry: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], tuple]:
        position, u = carry
        at = here.at(position)
        residual = at.value()
        # There is no step at the second point: its right-hand side is 0, which takes no iterations.
        b = jnp.where(first, residual, 0)
        step, forward, stepped = solve(at, b, STEP_RTOL * norm(b), False)
        loss, (direct, c) = jax.value_and_grad(outer_flat, argnums=(0, 1))(eta, position)
        correction, backward, solved = solve(at, c - at.A_transposed(u), ADJOINT_RTOL * norm(c), True)
        u = u + correction
        found = (
            position,
            u,
            loss,
            direct - at.B_transposed(u),
            norm(residual),
            forward + backward,
            jnp.where(first, stepped, True) & solved,
        )
        return (position - step, u), found

    _, found = scan(evaluate, (here.position(), u), jnp.array([True, False]))
    positions, adjoints, losses, gradients, residuals, steps, sound = found
    # The factor by which the step reduces the distance to the solution, and with it the errors. If the step is no
    # improvement, as across a kink, x is the better point, and its errors are as large as the change by the step.
    left = residuals[1] / jnp.where(residuals[0] > 0, residuals[0], 1.0)
    better = left <= 1.0
    left = jnp.where(better, left, 1.0)
    x, u, loss, gradient = (jnp.where(better, pair[1], pair[0]) for pair in (positions, adjoints, losses, gradients))
    return Hypergradient(
        loss=loss,
        loss_error=left * jnp.abs(losses[0] - losses[1]),
        gradient=gradient,
        gradient_error=left * norm(gradients[0] - gradients[1]),
        x=lax.stop_gradient(here.like_x(x)),
        adjoint=u,
        residual=residuals[0],
        linear_iterations=jnp.sum(steps, dtype=jnp.int32),
        sound=jnp.all(sound),
    )
