"""The state of an outer method, and the outer problem in flat coordinates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ._hypergradient import Hypergradient, hypergradient
from ._inner import Inner

RUNNING, CONVERGED, STALLED, OUT_OF_STEPS, OUT_OF_TIME, INTERRUPTED, NOT_FINITE = range(7)
MEANING = {
    RUNNING: "running",
    CONVERGED: "converged: the norm of the hyper-gradient is at most tol",
    STALLED: "stalled: no step decreases the loss by more than the inner solver's errors",
    OUT_OF_STEPS: "max_steps reached",
    OUT_OF_TIME: "time_limit reached",
    INTERRUPTED: "interrupted",
    NOT_FINITE: "the loss or the hyper-gradient is not finite",
}


class State(NamedTuple):
    """Everything on which the next step depends, as arrays; a checkpoint stores it.

    Attributes:
        eta: theta in the coordinates of the search, as a vector.
        x: the inner solution.
        adjoint: the adjoint solution.
        tolerance: the tolerance of the inner solver.
        loss, loss_error, gradient, gradient_norm, gradient_error: values at eta.
        memory: the memory of the method.
        iteration: number of outer steps made.
        inner_iterations, linear_iterations, evaluations: work of the last step.
        rejected: number of trial points of the last step that could not be used.
        cause: why the last of these could not be used; see `CAUSES`.
        status: see `MEANING`.
    """

    eta: Float[Array, " p"]
    x: PyTree
    adjoint: Float[Array, " n"]
    tolerance: Float[Array, ""]
    loss: Float[Array, ""]
    loss_error: Float[Array, ""]
    gradient: Float[Array, " p"]
    gradient_norm: Float[Array, ""]
    gradient_error: Float[Array, ""]
    memory: Any
    iteration: Int[Array, ""]
    inner_iterations: Int[Array, ""]
    linear_iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    rejected: Int[Array, ""]
    cause: Int[Array, ""]
    status: Int[Array, ""]


class Problem:
    """The outer problem in flat coordinates eta, which are theta or its logarithm."""

    def __init__(
        self, outer: Callable, inner: Inner, theta: PyTree, projection: Callable | None, log: bool | PyTree, tol: float
    ):
        """See `minimize`."""
        self.outer, self.inner, self.projection, self.tol = outer, inner, projection, tol
        self.flags = jax.tree.map(bool, _flags(theta, log))
        # A step changes a logarithm by at most 2, and so theta by at most a factor of 7.
        logs, _ = ravel_pytree(jax.tree.map(lambda leaf, flag: jnp.full(jnp.shape(leaf), flag), theta, self.flags))
        self.longest = jnp.where(logs, 2.0, jnp.inf)
        _, self.unravel = ravel_pytree(self._coordinates(theta))

    def _coordinates(self, theta: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, log: jnp.log(leaf) if log else jnp.asarray(leaf), theta, self.flags)

    def eta_of(self, theta: PyTree) -> Array:
        """The coordinates of theta."""
        return ravel_pytree(self._coordinates(theta))[0]

    def theta_of(self, eta: Array) -> PyTree:
        """Theta from its coordinates."""
        return jax.tree.map(lambda leaf, log: jnp.exp(leaf) if log else leaf, self.unravel(eta), self.flags)

    def project(self, eta: Array) -> Array:
        """The nearest feasible point (in theta, not in eta)."""
        return eta if self.projection is None else self.eta_of(self.projection(self.theta_of(eta)))

    def stationarity(self, eta: Array, gradient: Array) -> Array:
        """The norm of the gradient; under a projection, of the projected step."""
        if self.projection is None:
            return jnp.linalg.norm(gradient)
        return jnp.linalg.norm(eta - self.project(eta - gradient))

    def evaluate(self, eta: Array, x: PyTree, adjoint: Array, tolerance: Array) -> tuple[Hypergradient, Array]:
        """Solve the inner problem from x, and evaluate loss and gradient; also returns the inner iterations."""
        solved = self.inner.solve(x, self.theta_of(eta), tolerance)
        found = hypergradient(self.outer, solved.F, self.theta_of, self.inner.adjoint, eta, solved.x, adjoint)
        return found, solved.iterations


def _flags(theta: PyTree, log: bool | PyTree) -> PyTree:
    return jax.tree.map(lambda _: log, theta) if isinstance(log, bool) else log


def check_log(theta: PyTree, log: bool | PyTree) -> None:
    """Raise ValueError where the search is over the logarithm of a theta that is not positive."""
    good = jax.tree.map(lambda leaf, flag: not flag or bool(jnp.all(leaf > 0)), theta, _flags(theta, log))
    if not all(jax.tree.leaves(good)):
        raise ValueError("log=True searches over log(theta): theta must be positive.")


def unknown(eta: Array, x: PyTree, adjoint: Array, tolerance: float, memory: Any) -> State:
    """The state before anything is evaluated: the loss is inf and the iteration is -1."""
    zero, none = jnp.zeros((), eta.dtype), jnp.int32(0)
    return State(
        eta=eta,
        x=x,
        adjoint=adjoint,
        tolerance=zero + tolerance,
        loss=zero + jnp.inf,
        loss_error=zero,
        gradient=jnp.zeros_like(eta),
        gradient_norm=zero,
        gradient_error=zero,
        memory=memory,
        iteration=jnp.int32(-1),
        inner_iterations=none,
        linear_iterations=none,
        evaluations=none,
        rejected=none,
        cause=none,
        status=jnp.int32(RUNNING),
    )


CAUSES = (
    "",
    "the outer loss is not finite",
    "the linear solve for the hyper-gradient failed: the Jacobian of the inner conditions is singular or not finite",
    "the hyper-gradient is not finite",
)


def fault(found: Hypergradient) -> Int[Array, ""]:
    """Why a trial point cannot be used, as an index into `CAUSES`; 0 if it can be used."""
    bad = ~jnp.isfinite(found.loss), ~found.sound, ~jnp.all(jnp.isfinite(found.gradient))
    return jnp.where(bad[0], 1, jnp.where(bad[1], 2, jnp.where(bad[2], 3, 0))).astype(jnp.int32)
