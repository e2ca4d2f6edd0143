"""The default outer method. There is no step size to choose, and inner solves are as loose as error estimates allow.

Directions are those of L-BFGS or, under a projection, of the spectral projected gradient method. A step is accepted
when the loss falls enough (Armijo) and the estimated errors of both losses are small beside the decrease. Otherwise the
inner problem is solved more precisely, or the step is shortened. After the step, the relative error of the gradient
must be at most a third.

Source: Pedregosa, "Hyperparameter optimization with approximate gradient", 2016; Salehi, Mukherjee, Roberts, Ehrhardt,
"An adaptively inexact first-order method for bilevel optimization", 2024; Birgin, Martinez, Raydan, "Nonmonotone
spectral projected gradient methods on convex sets", 2000.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._varying import scan, while_loop
from ._hypergradient import Hypergradient
from ._state import CONVERGED, NOT_FINITE, RUNNING, STALLED, Problem, State, fault, unknown

PAIRS = 10
ARMIJO = 1e-4
# The accepted error of a loss relative to its decrease, and of a gradient relative to the gradient.
LOSS_SHARE, GRADIENT_SHARE = 0.2, 0.3
FIRST_TOLERANCE = 1e-2
TIGHTEN, LOOSEN = 0.1, 2.0
TRIALS = 30


class Memory(NamedTuple):
    """Steps s and changes y of the gradient, newest first, and zero where there are none yet."""

    s: Float[Array, "pairs p"]
    y: Float[Array, "pairs p"]


class _Search(NamedTuple):
    """A line search: the last trial point, and the work so far."""

    found: Hypergradient
    eta: Array
    step: Array
    tolerance: Array
    trials: Array
    inner: Array
    linear: Array
    rejected: Array
    cause: Array
    accepted: Array
    stalled: Array
    # Loss and error where the search starts, and whether they have to be computed more precisely first.
    base: Array
    base_error: Array
    rebase: Array


class Adaptive:
    """Quasi-Newton steps with inexact values and gradients."""

    def __init__(self, problem: Problem, floor: float):
        """`floor` is the smallest tolerance for the inner solver."""
        self.problem, self.floor = problem, floor

    def init(self, eta: Array, x: PyTree, adjoint: Array) -> State:
        """The state before the first step, which only evaluates the start, so that there is one program to compile."""
        memory = Memory(*jnp.zeros((2, PAIRS, eta.size), eta.dtype))
        return unknown(self.problem.project(eta), x, adjoint, max(FIRST_TOLERANCE, self.floor), memory)

    def _converged(self, norm: Array, found: Hypergradient) -> Array:
        return (norm <= self.problem.tol) & (
            (found.gradient_error <= self.problem.tol) | (found.gradient_error <= norm)
        )

    def step(self, state: State) -> State:
        """One outer step."""
        direction, slope = self._direction(state)
        search = self._search(state, direction, slope)
        found, accepted = search.found, search.accepted
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)  # noqa: E731
        s, y = search.eta - state.eta, found.gradient - state.gradient
        # A pair is kept if its curvature is positive, and larger than the errors of the gradients can explain.
        curved = s @ y > 1e-10 * jnp.linalg.norm(s) * jnp.linalg.norm(y)
        push = lambda old, new: jnp.where(curved, jnp.concatenate([new[None], old[:-1]]), old)  # noqa: E731
        has_memory = jnp.any(state.memory.s != 0)
        memory = pick(
            Memory(push(state.memory.s, s), push(state.memory.y, y)), jax.tree.map(jnp.zeros_like, state.memory)
        )
        eta = pick(search.eta, state.eta)
        gradient = pick(found.gradient, state.gradient)
        norm = self.problem.stationarity(eta, gradient)
        # Without a memory the direction was the negative gradient, and there is nothing else to try.
        status = jnp.where(accepted & self._converged(norm, found), CONVERGED, RUNNING)
        status = jnp.where(~accepted & ~has_memory, STALLED, status)
        status = jnp.where(~accepted & (state.iteration < 0), NOT_FINITE, status)
        quiet = found.gradient_error <= 0.03 * jnp.linalg.norm(gradient)
        tolerance = jnp.where(accepted & quiet, LOOSEN, 1.0) * search.tolerance
        return State(
            eta=eta,
            x=pick(found.x, state.x),
            adjoint=pick(found.adjoint, state.adjoint),
            tolerance=jnp.clip(tolerance, self.floor, FIRST_TOLERANCE),
            loss=pick(found.loss, state.loss),
            loss_error=pick(found.loss_error, state.loss_error),
            gradient=gradient,
            gradient_norm=norm,
            gradient_error=pick(found.gradient_error, state.gradient_error),
            memory=memory,
            iteration=state.iteration + 1,
            inner_iterations=search.inner,
            linear_iterations=search.linear,
            evaluations=search.trials,
            rejected=search.rejected,
            cause=search.cause,
            status=status.astype(jnp.int32),
        )

    def _direction(self, state: State) -> tuple[Array, Array]:
        """The direction, and the slope of the loss along it."""
        g, (S, Y) = state.gradient, state.memory
        size = jnp.linalg.norm(g)
        # The first step changes theta by at most a tenth.
        first = 0.1 * jnp.maximum(1.0, jnp.linalg.norm(state.eta)) / jnp.where(size > 0, size, 1.0)
        known = jnp.any(S[0] != 0)
        sy = S[0] @ Y[0]
        scale = jnp.where(known, sy / jnp.where(known, Y[0] @ Y[0], 1.0), first)
        if self.problem.projection is not None:
            longer = jnp.where(known, S[0] @ S[0] / jnp.where(known, sy, 1.0), first)
            direction = self.problem.project(state.eta - longer * g) - state.eta
        else:
            direction = -_two_loops(g, S, Y, scale)
            direction = jnp.where(direction @ g < 0, direction, -first * g)
            shares = jnp.abs(direction) / self.problem.longest
            direction = direction / jnp.maximum(1.0, jnp.max(shares, initial=0.0))
        return direction, direction @ g

    def _search(self, state: State, direction: Array, slope: Array) -> _Search:
        """Shorten the step, or solve the inner problem more precisely, until the loss certainly falls."""
        before = Hypergradient(
            loss=state.loss,
            loss_error=state.loss_error,
            gradient=state.gradient,
            gradient_error=state.gradient_error,
            x=state.x,
            adjoint=state.adjoint,
            residual=state.gradient_norm,
            linear_iterations=jnp.int32(0),
            sound=jnp.array(False),
        )
        start = state.iteration < 0

        def unfinished(s: _Search) -> Array:
            return ~s.accepted & ~s.stalled & (s.trials < TRIALS)

        def attempt(s: _Search) -> _Search:
            eta = jnp.where(s.rebase, state.eta, state.eta + s.step * direction)
            # Start from the last good solution, because a failed trial may have ended anywhere.
            found, inner = self.problem.evaluate(eta, state.x, state.adjoint, s.tolerance)
            cause = fault(found)
            good, rebased = cause == 0, s.rebase & (cause == 0)
            base = jnp.where(rebased, found.loss, s.base)
            base_error = jnp.where(rebased, found.loss_error, s.base_error)

            promised = -s.step * slope
            error = found.loss_error + base_error
            known = (start | (error <= LOSS_SHARE * promised)) & self._gradient_known(found)
            falls = found.loss <= base - ARMIJO * promised
            tightest = s.tolerance <= self.floor
            # If the losses cannot be computed more precisely, a decrease is accepted in spite of their errors.
            accepted = good & ~s.rebase & (jnp.where(tightest, found.loss + error <= base, known & falls))
            # An increase by more than the errors is certain.
            rises = ~good | (found.loss - error > base - ARMIJO * promised) | (known & ~falls)
            shorten = ~s.rebase & ~accepted & (rises | tightest)
            tighten = ~s.rebase & ~accepted & ~shorten
            a, b = slope * s.step, found.loss - base
            fitted = jnp.clip(-a / (2 * jnp.where(b - a > 0, b - a, -a)), 0.1, 0.5)  # minimum of the parabola
            step = jnp.where(shorten, s.step * jnp.where(good, fitted, 0.1), s.step)
            noise = 10 * jnp.finfo(eta.dtype).eps
            stalled = shorten & (step * jnp.linalg.norm(direction) <= noise * (1 + jnp.linalg.norm(eta)))
            return _Search(
                found=found,
                eta=eta,
                step=step,
                tolerance=jnp.where(tighten, jnp.maximum(TIGHTEN * s.tolerance, self.floor), s.tolerance),
                trials=s.trials + 1,
                inner=s.inner + inner,
                linear=s.linear + found.linear_iterations,
                rejected=s.rejected + ~good,
                cause=jnp.where(good, s.cause, cause),
                accepted=accepted,
                stalled=stalled,
                base=base,
                base_error=base_error,
                rebase=tighten & (base_error > found.loss_error),
            )

        zero, no = jnp.int32(0), jnp.array(False)
        search = _Search(
            found=before,
            eta=state.eta,
            step=jnp.ones((), state.eta.dtype),
            tolerance=state.tolerance,
            trials=zero,
            inner=zero,
            linear=zero,
            rejected=zero,
            cause=zero,
            accepted=no,
            stalled=no,
            base=state.loss,
            base_error=state.loss_error,
            rebase=no,
        )
        return while_loop(unfinished, attempt, search)

    def _gradient_known(self, found: Hypergradient) -> Array:
        enough = GRADIENT_SHARE * jnp.linalg.norm(found.gradient)
        return found.gradient_error <= jnp.maximum(enough, self.problem.tol)


def _two_loops(g: Array, S: Array, Y: Array, scale: Array) -> Array:
    """The product H g of L-BFGS with H0 = scale (Nocedal, Wright, algorithm 7.4); pairs that are 0 have no effect."""
    curvature = jnp.sum(S * Y, axis=1)
    rho = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 0)

    def first(q, pair):
        s, y, r = pair
        alpha = r * (s @ q)
        return q - alpha * y, alpha

    def second(q, pair):
        s, y, r, alpha = pair
        return q + s * (alpha - r * (y @ q)), None

    q, alphas = scan(first, g, (S, Y, rho))
    return scan(second, scale * q, (S, Y, rho, alphas), reverse=True)[0]
