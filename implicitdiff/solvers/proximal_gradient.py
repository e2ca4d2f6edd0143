"""Gradient descent, projected and proximal gradient: accelerated, with a line search."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax.tree_utils as otu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .. import optimality
from .._varying import while_loop
from ._iterative import IterativeSolver

# More than that, and there is no descent: f is unbounded below, or its gradient is not.
HALVINGS = 60


class ProximalGradientState(NamedTuple):
    """Attributes: see `State`; stepsize, the point y from which the next step starts, and its momentum t."""

    iteration: Int[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    stepsize: Float[Array, ""]
    y: PyTree
    t: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class ProximalGradient(IterativeSolver):
    """The proximal-gradient method for min_x f(x, theta_f) + g(x, theta_g): `run(init, theta_f, theta_g)`.

    x+ = prox_{s g}(y - s grad f(y)), with Nesterov's acceleration of y, started afresh where it leads uphill. Without
    a step size, one is found by backtracking: s is halved until f(x+) <= f(y) + <grad f(y), x+ - y> + |x+ - y|^2/2s.
    `state.error` is |y - x+| / s, the norm of the generalised gradient.

    Attributes:
        f: smooth convex function `f(x, theta_f)` to a real scalar.
        prox: `prox(v, theta_g, scaling)`, as in `implicitdiff.prox`.
        stepsize: positive number, at most 1 / L for L the Lipschitz constant of the gradient; None searches.
        accelerated: whether to use momentum.

    Source: Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009; O'Donoghue, Candes, "Adaptive
    restart for accelerated gradient schemes", 2015.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> lasso = idf.solvers.ProximalGradient(f, idf.prox.lasso)
        >>> y = jnp.array([3.0, 0.5])
        >>> print(lasso.run(jnp.zeros(2), y, 1.0)[0].round(3))
        [2. 0.]
        >>> print(jax.jacobian(lambda weight: lasso.run(jnp.zeros(2), y, weight)[0])(1.0))
        [-1.  0.]
    """

    f: Callable[..., Scalar]
    prox: Callable[..., PyTree]
    stepsize: float | None = None
    accelerated: bool = True

    def own_condition(self, state: ProximalGradientState) -> Callable:
        """T of `optimality.proximal_gradient`."""
        return optimality.proximal_gradient(self.f, self.prox, state.stepsize)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_g: Any = None) -> ProximalGradientState:
        """No momentum yet."""
        del theta_g
        dtype = jnp.result_type(*jax.tree.leaves(init)).type(0).real.dtype
        if self.stepsize is None:
            stepsize = jnp.asarray(4 / _curvature(jax.grad(lambda x: self.f(x, theta_f)), init), dtype)
        else:
            stepsize = jnp.asarray(self.stepsize, dtype)
        one = jnp.ones((), dtype)
        return ProximalGradientState(jnp.int32(0), jnp.inf * one, jnp.array(False), stepsize, init, one)

    def update(self, x: PyTree, state: ProximalGradientState, theta_f: Any = None, theta_g: Any = None):
        """One step from y, and the next y."""
        y, s = state.y, state.stepsize
        value, gradient = jax.value_and_grad(self.f)(y, theta_f)

        def moved(s):
            return self.prox(otu.tree_add_scale(y, -s, gradient), theta_g, s)

        if self.stepsize is None:
            # Where the difference of two values of f is rounding error, it says nothing about the step.
            slack = 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)

            def too_long(carry):
                s, new, halvings = carry
                d = otu.tree_sub(new, y)
                model = value + otu.tree_vdot(gradient, d) + otu.tree_norm(d, squared=True) / (2 * s)
                return ~(self.f(new, theta_f) <= model + slack) & (halvings < HALVINGS)

            def halved(carry):
                s, _, halvings = carry
                return s / 2, moved(s / 2), halvings + 1

            s, new, halvings = while_loop(too_long, halved, (s, moved(s), 0))
        else:
            new, halvings = moved(s), 0
        step = otu.tree_sub(new, y)
        # A step that was halved until it is lost in rounding would pass for one of length 0.
        error = jnp.where(halvings < HALVINGS, _norm(step) / s, jnp.nan).astype(state.error.dtype)
        if self.accelerated:
            progress = otu.tree_sub(new, x)
            uphill = jnp.real(otu.tree_vdot(step, progress)) < 0
            t = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * state.t**2)) / 2).astype(state.t.dtype)
            momentum = jnp.where(uphill, 0.0, (state.t - 1) / t).astype(state.t.dtype)
            y = otu.tree_add_scale(new, momentum, progress)
        else:
            y, t = new, state.t
        return new, ProximalGradientState(state.iteration + 1, error, error <= self.tol, s, y, t)


@dataclasses.dataclass(frozen=True)
class ProjectedGradient(IterativeSolver):
    """The projected-gradient method for min f(x, theta_f) in a convex set C(theta_C): `run(init, theta_f, theta_C)`.

    `ProximalGradient` whose proximal operator is the projection; see there.

    Attributes:
        f: smooth convex function `f(x, theta_f)` to a real scalar.
        projection: `projection(v, theta_C)`, as in `implicitdiff.projection`.
        stepsize: positive number; None searches.
        accelerated: whether to use momentum.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> f = lambda x, y: 0.5 * jnp.sum((x - y) ** 2)
        >>> solver = idf.solvers.ProjectedGradient(f, idf.projection.simplex)
        >>> print(solver.run(jnp.zeros(2), jnp.array([3.0, 0.5]), 1.0)[0].round(3))
        [1. 0.]
    """

    f: Callable[..., Scalar]
    projection: Callable[..., PyTree]
    stepsize: float | None = None
    accelerated: bool = True

    def own_condition(self, state: ProximalGradientState) -> Callable:
        """T of `optimality.projected_gradient`."""
        return optimality.projected_gradient(self.f, self.projection, state.stepsize)

    def _proximal(self) -> ProximalGradient:
        prox = lambda v, theta_C, scaling: self.projection(v, theta_C)  # noqa: E731
        return ProximalGradient(self.f, prox, self.stepsize, self.accelerated, maxiter=self.maxiter, tol=self.tol)

    def init_state(self, init: PyTree, theta_f: Any = None, theta_C: Any = None) -> ProximalGradientState:
        """No momentum yet."""
        return self._proximal().init_state(init, theta_f, theta_C)

    def update(self, x: PyTree, state: ProximalGradientState, theta_f: Any = None, theta_C: Any = None):
        """One step from y, and the next y."""
        return self._proximal().update(x, state, theta_f, theta_C)


@dataclasses.dataclass(frozen=True)
class GradientDescent(IterativeSolver):
    """Gradient descent for min_x f(x, *args): `run(init, *args)`.

    `ProximalGradient` without proximal operator; see there. `state.error` is the norm of the gradient at y.

    Attributes:
        f: smooth function `f(x, *args)` to a real scalar.
        stepsize: positive number; None searches.
        accelerated: whether to use momentum.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> solver = idf.solvers.GradientDescent(lambda x, a: jnp.sum(jnp.cosh(x) - a * x), tol=1e-5)
        >>> print(jax.grad(lambda a: solver.run(jnp.zeros(()), a)[0])(0.0))
        1.0
    """

    f: Callable[..., Scalar]
    stepsize: float | None = None
    accelerated: bool = True

    def own_condition(self, state: ProximalGradientState) -> Callable:
        """F of `optimality.stationary`."""
        return optimality.stationary(self.f)

    def _proximal(self) -> ProximalGradient:
        return ProximalGradient(
            lambda x, args: self.f(x, *args), lambda v, *_: v, self.stepsize, self.accelerated,
            maxiter=self.maxiter, tol=self.tol,
        )  # fmt: skip

    def init_state(self, init: PyTree, *args: Any) -> ProximalGradientState:
        """No momentum yet."""
        return self._proximal().init_state(init, args)

    def update(self, x: PyTree, state: ProximalGradientState, *args: Any):
        """One step from y, and the next y."""
        return self._proximal().update(x, state, args)


def _norm(tree: PyTree) -> Array:
    # Its derivative at 0 is 0, so that unrolled iterations have one.
    squared = otu.tree_norm(tree, squared=True)
    return jnp.where(squared == 0, 0.0, jnp.sqrt(jnp.where(squared == 0, 1.0, squared)))


def _curvature(gradient: Callable[[PyTree], PyTree], x: PyTree) -> Array:
    """|grad f(x + d) - grad f(x)| / |d| for a short d downhill: at most the Lipschitz constant."""
    # Differentiable, for unrolled iterations: their step size depends on theta as well.
    g = gradient(x)
    size = _norm(g)
    nonzero = jnp.where(size > 0, size, 1.0)
    scale = jnp.where(size > 0, 1e-3 * (1 + _norm(x)) / nonzero, 1.0)
    moved = otu.tree_add_scale(x, -scale, g)
    change = _norm(otu.tree_sub(gradient(moved), g)) / (scale * nonzero)
    return jnp.where(change > 1e-10, change, 1.0)  # at a stationary point, and where it is NaN
