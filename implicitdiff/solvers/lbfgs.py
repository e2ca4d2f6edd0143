"""L-BFGS on the device, free or in a box."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from .._varying import fori_loop
from ..optimality._condition import Condition
from . import _descent
from ._iterative import nothing_known, search_loop
from ._on_host import spread
from ._scipy_minimum import condition as conditions_in_a_box
from ._state import State, Trace, judged
from .gradient_descent import ObjectiveSolver

# Evaluations in one line search; each but the first few halves an interval.
TRIALS = 30
# Sufficient decrease and curvature of the strong Wolfe conditions.
DECREASE, CURVATURE = 1e-4, 0.9


class Memory(NamedTuple):
    """Attributes: the gradient and value at x; the last steps of x and of the gradient; the judge's."""

    gradient: Float[Array, " n"]
    value: Float[Array, ""]
    S: Float[Array, "m n"]
    Y: Float[Array, "m n"]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class LBFGS(ObjectiveSolver):
    """The limited-memory BFGS method for min_x f(x, *args): `run(init, *args, **kwargs)`.

    Steps x+ = x - a H g with the approximation H of the inverse Hessian that the last `history` steps define, and a by
    a line search for the strong Wolfe conditions. With `bounds=True` the last argument is a box,
    `run(init, *args, (lower, upper))`, each side a pytree like x, one number, or None: variables on a bound that the
    gradient pushes outwards are held, the method runs in the others, and steps are projected onto the box.
    `state.error` is the norm of the gradient, in a box of the projected one, relative to what a change of x by its own
    size would make it.

    Attributes:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar, x a pytree of real arrays.
        bounds: whether there is a box.
        history: how many steps are remembered.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).

    Raises:
        TypeError: x is complex; with `bounds=True`, the last argument is no pair.

    Source: Nocedal, Wright, "Numerical Optimization", 2006, algorithms 3.5, 3.6 and 7.4; for the box, Bertsekas,
    "Projected Newton methods for optimization problems with simple constraints", 1982.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, a: jnp.sum(jnp.cosh(x) - a * x)
        >>> solver = idf.solvers.LBFGS(f, tol=1e-9)
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
        >>> boxed = idf.solvers.LBFGS(f, bounds=True, tol=1e-9)
        >>> print(boxed.run(jnp.zeros(2), jnp.array([0.1, 3.0]), (0.0, 1.0))[0].round(3))
        [0.1 1. ]
    """

    bounds: bool = False
    history: int = 10

    def own_condition(self, state: State) -> Any:
        """F of `optimality.stationary`; in a box, of the free variables, the others being on their bounds."""
        if not self.bounds:
            return super().own_condition(state)
        boxed = conditions_in_a_box(lambda x, theta: self.objective(x, *theta[0], **theta[1]), None, None, True)

        def F(x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
            args, box = self._split(args)
            return boxed(x, (args, kwargs), box)

        return Condition(F, "LBFGS", symmetric=True, is_root=True)

    def finished(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> State:
        """The state with the value of f at x, which is known, and aux."""
        if self.has_aux:
            return super().finished(x, state, *self._split(args)[0], **kwargs)
        return state._replace(value=state.memory.value)

    def _split(self, args: tuple) -> tuple[tuple, Any]:
        if not self.bounds:
            return args, None
        return args[:-1], args[-1] if args else None

    def _problem(self, x: PyTree, args: tuple, kwargs: dict):
        """Value and gradient of flat x, the box, and back."""
        args, box = self._split(args)
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(x)):
            raise TypeError("LBFGS is for real x, found a complex leaf: pass real and imaginary parts as leaves.")
        flat, tree = ravel_pytree(x)

        def both(flat):
            value, gradient = self.objective.both(tree(flat), *args, **kwargs)
            return jnp.asarray(value, flat.dtype), ravel_pytree(gradient)[0].astype(flat.dtype)

        low, high = (None, None) if not self.bounds else (ravel_pytree(side)[0] for side in spread(box, x))
        return flat, tree, both, low, high

    def direction(self, g: Array, S: Array, Y: Array) -> tuple[Array, Bool[Array, ""]]:
        """H g, and whether the remembered steps say anything of H."""
        return _two_loops(g, S, Y)

    def init_state(self, init: PyTree, *args: Any, **kwargs: Any) -> State:
        """The gradient at the start, and no steps yet."""
        flat, _, both, low, high = self._problem(init, args, kwargs)
        value, gradient = both(_clip(flat, low, high))
        zeros = jnp.zeros((self.history, flat.size), flat.dtype)
        return nothing_known(init, Memory(gradient, value, zeros, zeros, Trace.new(flat)))

    def update(self, x: PyTree, state: State, *args: Any, **kwargs: Any) -> tuple[PyTree, State]:
        """One step of the method and of its memory."""
        flat, tree, both, low, high = self._problem(x, args, kwargs)
        at, memory = _clip(flat, low, high), state.memory
        g, value = memory.gradient, memory.value
        free = jnp.ones_like(at, bool)
        if low is not None:
            free = ~(((at <= low) & (g > 0)) | ((at >= high) & (g < 0)))
        S, Y = jnp.where(free, memory.S, 0.0), jnp.where(free, memory.Y, 0.0)
        reduced = jnp.where(free, g, 0.0)
        d, any_step = self.direction(reduced, S, Y)
        d = -d
        slope = jnp.vdot(d, reduced)
        downhill = slope < 0
        known = any_step & downhill
        d = jnp.where(downhill, d, -reduced)
        slope = jnp.where(downhill, slope, -jnp.vdot(reduced, reduced))
        # Nothing is known of the curvature at first: a step of 1/10 the size of x, or of the value.
        norm = jnp.sqrt(jnp.where(slope < 0, -slope, 1.0))
        length = _descent.norm(at)
        first = jnp.where(length > 0, 0.1 * length / norm, jnp.abs(value) / norm**2)
        first = jnp.where((first > 0) & jnp.isfinite(first), first, 1.0)
        size = jnp.where(known, 1.0, first).astype(at.dtype)
        new, new_value, new_g, ok = _search(both, at, value, g, d, slope, size, low, high, self.unrolled)
        s, y = new - at, new_g - g
        useful = ok & (jnp.vdot(s, y) > jnp.finfo(at.dtype).eps * jnp.linalg.norm(s) * jnp.linalg.norm(y))
        push = lambda rows, row: jnp.where(useful, jnp.roll(rows, -1, 0).at[-1].set(row), rows)  # noqa: E731
        # Without a step: once more with the gradient, and then there is none.
        forget = ~ok & known
        S, Y = (jnp.where(forget, 0.0, push(rows, row)) for rows, row in ((memory.S, s), (memory.Y, y)))
        new, new_value, new_g = (jnp.where(ok, a, b) for a, b in ((new, at), (new_value, value), (new_g, g)))
        projected = new_g if low is None else _projected(new, new_g, S, Y, low, high)
        error, trace = judged(memory.trace, new, projected, new_value)
        stuck = ~ok & ~known & (error > self.tol)
        error = jnp.where(stuck, jnp.nan, error)
        memory = Memory(new_g, new_value, S, Y, trace)
        return tree(new), State(state.iteration + 1, error, error <= self.tol, memory=memory)


@dataclasses.dataclass(frozen=True)
class NonlinearCG(LBFGS):
    """Nonlinear conjugate gradients for min_x f(x, *args): `run(init, *args, **kwargs)`.

    Directions d+ = -g + max(0, <g, y> / <s, y>) s, with s and y the last steps of x and of the gradient (Hestenes and
    Stiefel; started afresh where the factor is negative), and the line search of `LBFGS`; see there also for boxes.

    Attributes:
        f: smooth function `f(x, *args, **kwargs)` to a real scalar, x a pytree of real arrays.
        bounds: whether there is a box.
        has_aux: whether f returns (value, aux); `state.aux` is that at the solution, without a derivative.
        value_and_grad: whether f returns its gradient as well, (value, gradient) or ((value, aux), gradient).

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 5.2.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.NonlinearCG(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-9)
        >>> print(jax.grad(lambda a: solver.run(jnp.array(0.5), a)[0])(0.0).round(3))
        1.0
    """

    history: int = dataclasses.field(default=1, init=False)

    def direction(self, g: Array, S: Array, Y: Array) -> tuple[Array, Bool[Array, ""]]:
        """The conjugate direction, as long as the last step tells the curvature."""
        s, y = S[-1], Y[-1]
        sy = jnp.vdot(s, y)
        positive = jnp.where(sy > 0, sy, 1.0)
        d = (g - jnp.maximum(0.0, jnp.vdot(g, y) / positive) * s) * (jnp.vdot(s, s) / positive)
        return jnp.where(sy > 0, d, g), sy > 0


def _clip(x: Array, low: Array | None, high: Array | None) -> Array:
    return x if low is None else jnp.clip(x, low, high)


def _two_loops(g: Array, S: Array, Y: Array) -> tuple[Array, Bool[Array, ""]]:
    """H g by Nocedal's two loops over the steps, the last of which is the newest, and whether there is any step."""
    sy = jnp.sum(S * Y, axis=1)
    good = sy > 0
    rho = jnp.where(good, 1 / jnp.where(good, sy, 1.0), 0.0)
    count = S.shape[0]

    def backward(k, carry):
        q, alphas = carry
        j = count - 1 - k
        alpha = rho[j] * jnp.vdot(S[j], q)
        return q - alpha * Y[j], alphas.at[j].set(alpha)

    q, alphas = fori_loop(0, count, backward, (g, jnp.zeros_like(rho)))
    newest = count - 1 - jnp.argmax(good[::-1])
    scale = jnp.where(good[newest], sy[newest] / jnp.where(good[newest], jnp.vdot(Y[newest], Y[newest]), 1.0), 1.0)

    def forward(j, r):
        return r + (alphas[j] - rho[j] * jnp.vdot(Y[j], r)) * S[j]

    return fori_loop(0, count, forward, scale * q), jnp.any(good)


def _projected(x: Array, g: Array, S: Array, Y: Array, low: Array, high: Array) -> Array:
    """(x - clip(x - t g)) / t for t about the inverse of the curvature."""
    s, y = S[-1], Y[-1]
    sy, norm = jnp.vdot(s, y), jnp.linalg.norm(g)
    otherwise = jnp.linalg.norm(x) / jnp.where(norm > 0, norm, 1.0)
    t = jnp.where(sy > 0, jnp.vdot(s, s) / jnp.where(sy > 0, sy, 1.0), jnp.where(otherwise > 0, otherwise, 1.0))
    return (x - jnp.clip(x - t * g, low, high)) / t


def _search(both, x, value, g, d, slope, step, low, high, unrolled):
    """A step a for which x + a d, projected onto the box, satisfies the (weak) Wolfe conditions; in a box the first.

    A bracket is bisected, as Lewis and Overton do (2013), with a quadratic model where it begins at zero. Where the
    decrease of f is lost in rounding the slopes decide (Hager, Zhang 2005).
    """
    noise = 10 * jnp.finfo(x.dtype).eps * jnp.abs(value)

    def trial(a):
        new = _clip(x + a * d, low, high)
        new_value, new_g = both(new)
        moved = new - x
        promised = jnp.vdot(g, moved)
        decreased = new_value <= value + DECREASE * promised
        level = (new_value <= value + noise) & (jnp.vdot(new_g, moved) <= (2 * DECREASE - 1) * promised)
        enough = (decreased | level) & (promised <= 0)
        short = jnp.array(False) if low is not None else jnp.vdot(new_g, d) < CURVATURE * slope
        return new, new_value, new_g, enough, enough & short

    def unfinished(carry):
        return ~carry[-1] & (carry[0] < TRIALS)

    def body(carry):
        k, a, bottom, top, _, _ = carry
        new, new_value, new_g, enough, short = trial(a)
        done = enough & ~short
        bottom, top = jnp.where(enough, a, bottom), jnp.where(enough, top, a)
        excess = new_value - value - a * slope
        model = jnp.where(excess > 0, -slope * a**2 / (2 * jnp.where(excess > 0, excess, 1.0)), 0.5 * a)
        inside = jnp.where(bottom == 0, jnp.clip(model, 0.1 * top, 0.5 * top), 0.5 * (bottom + top))
        following = jnp.where(jnp.isfinite(top), jnp.where(jnp.isfinite(inside), inside, 0.1 * top), 2 * a)
        return k + 1, jnp.where(done, a, following), bottom, top, (new, new_value, new_g), done

    zero, infinite = jnp.zeros((), x.dtype), jnp.asarray(jnp.inf, x.dtype)
    start = (jnp.int32(0), step, zero, infinite, (x, value, g), jnp.array(False))
    # The first step is mostly the last: a loop inside of the solver's costs as much as some evaluations of f.
    _, _, bottom, _, found, done = search_loop(unfinished, body, body(start), TRIALS, unrolled)
    # A step that decreases f, though the slope is still steep, is better than none.
    return *found, done | ((bottom > 0) & (found[1] <= value))
