"""Outer steps by an optax transformation, with its step sizes and our hyper-gradients."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._state import CONVERGED, NOT_FINITE, RUNNING, Problem, State, fault, unknown

# The steps of a transformation need not decrease the loss, so there is nothing to adapt to: one tolerance for all.
TOLERANCE = 1e-4


class Optax:
    """Steps by the updates of a transformation; a step to a point where the loss is not finite is halved."""

    def __init__(self, problem: Problem, transformation: optax.GradientTransformation, floor: float):
        """`floor` is the smallest tolerance for the inner solver."""
        self.problem, self.transformation = problem, transformation
        self.tolerance = max(TOLERANCE, floor)

    def init(self, eta: Array, x: PyTree, adjoint: Array) -> State:
        """The state before the first step, which only evaluates the start."""
        eta = self.problem.project(eta)
        return unknown(eta, x, adjoint, self.tolerance, self.transformation.init(eta))

    def step(self, state: State) -> State:
        """One outer step."""
        start = state.iteration < 0
        updates, memory = self.transformation.update(state.gradient, state.memory, state.eta)
        eta = self.problem.project(jnp.asarray(optax.apply_updates(state.eta, updates)))
        memory = jax.tree.map(lambda old, new: jnp.where(start, old, new), state.memory, memory)
        new = self._at(
            jnp.where(start, state.eta, eta),
            state.x,
            state.adjoint,
            memory,
            state.iteration + 1,
        )
        bad = (new.status == NOT_FINITE) & ~start
        # The point cannot be used: go back, keep the memory of the transformation, and take a smaller gradient.
        kept = state._replace(
            gradient=state.gradient / 2,
            iteration=state.iteration + 1,
            rejected=jnp.int32(1),
            cause=new.cause,
            inner_iterations=new.inner_iterations,
            linear_iterations=new.linear_iterations,
            evaluations=jnp.int32(1),
        )
        return jax.tree.map(lambda a, b: jnp.where(bad, a, b), kept, new)

    def _at(self, eta: Array, x: PyTree, adjoint: Array, memory: PyTree, iteration: Array) -> State:
        tolerance = jnp.asarray(self.tolerance, eta.dtype)
        found, inner = self.problem.evaluate(eta, x, adjoint, tolerance)
        norm = self.problem.stationarity(eta, found.gradient)
        cause = fault(found)
        status = jnp.where(cause == 0, jnp.where(norm <= self.problem.tol, CONVERGED, RUNNING), NOT_FINITE)
        return State(
            eta=eta,
            x=found.x,
            adjoint=found.adjoint,
            tolerance=tolerance,
            loss=found.loss,
            loss_error=found.loss_error,
            gradient=found.gradient,
            gradient_norm=norm,
            gradient_error=found.gradient_error,
            memory=memory,
            iteration=iteration,
            inner_iterations=inner,
            linear_iterations=found.linear_iterations,
            evaluations=jnp.int32(1),
            rejected=(cause > 0).astype(jnp.int32),
            cause=cause,
            status=status.astype(jnp.int32),
        )
