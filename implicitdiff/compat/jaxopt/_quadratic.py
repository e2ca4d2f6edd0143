"""Quadratic programs, from matrices or from products with them."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ... import convex
from ..._linear import LinearOptions, solve
from ...solvers import _state
from ._base import KKTSolution, OptStep, warn_of
from .implicit_diff import make_kkt_optimality_fun
from .linear_solve import adjoint_of, solve_gmres
from .tree_util import tree_vdot

ADMM = "the program is solved by an interior-point method, to the precision of the dtype"
REMEDY = "the Jacobian of an interior-point method's iterations is not that of the solution: leave implicit_diff=True"


class QPState(NamedTuple):
    """How a program was solved: the norm of the residual of its conditions, and one of the statuses of `BoxOSQP`."""

    error: Any
    status: Any


def _product(matvec: Callable | None, parameters: Any) -> Callable[[PyTree], PyTree]:
    """X -> A x, by the user's function or leaf by leaf."""
    if matvec is not None:
        return lambda x: matvec(parameters, x)
    return lambda x: jax.tree.map(jnp.dot, parameters, x)


def _matrix(product: Callable, like: PyTree) -> Array:
    """The matrix of a linear function of pytrees."""
    flat, tree = ravel_pytree(like)
    return jax.vmap(lambda e: ravel_pytree(product(tree(e)))[0], out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Quadratic:
    """Base: 1/2 x'Qx + c'x in three forms.

    Attributes:
        matvec_Q: `matvec_Q(params_Q, x)`, with params_obj = (params_Q, c); None where params_Q is a matrix, or a pytree
            of matrices that act leaf by leaf.
        matvec_A: `matvec_A(params_A, x)`, the same for the constraints.
        fun: `fun(x, params_obj)`, a quadratic function, in place of Q and c; `init_params` then shows what x is.
        implicit_diff_solve: a linear solver `(matvec, b) -> x`, such as those of `linear_solve`; None chooses.
    """

    matvec_Q: Callable | None = None  # noqa: N815
    matvec_A: Callable | None = None  # noqa: N815
    fun: Callable | None = None
    implicit_diff_solve: Callable | None = None
    jit: bool = True

    without_effect: ClassVar[dict[str, str]] = {}

    def __post_init__(self):
        """Check what is given."""
        if self.fun is not None and self.matvec_Q is not None:
            raise ValueError(f"{type(self).__name__}: give fun or matvec_Q, not both.")
        warn_of(self, self.without_effect)

    def _objective(self, init: Any, params_obj: Any) -> tuple[Callable, PyTree]:
        """X -> Q x, and c."""
        if self.fun is None:
            if not isinstance(params_obj, tuple | list) or len(params_obj) != 2:
                raise ValueError(
                    f"{type(self).__name__}: params_obj must be (Q, c), found {type(params_obj).__name__}."
                )
            return _product(self.matvec_Q, params_obj[0]), jax.tree.map(jnp.asarray, params_obj[1])
        primal = init.primal if isinstance(init, KKTSolution) else init
        if primal is None:
            raise ValueError(f"{type(self).__name__}: with fun, init_params must show what the primal solution is.")
        gradient = jax.grad(lambda x: self.fun(x, params_obj))  # type: ignore[misc]
        zero = jax.tree.map(jnp.zeros_like, primal)
        return (lambda x: jax.jvp(gradient, (zero,), (x,))[1]), gradient(zero)

    def _value(self, x: PyTree, params_obj: Any) -> Array:
        if self.fun is not None:
            return self.fun(x, params_obj)
        Q, c = self._objective(None, params_obj)
        return 0.5 * tree_vdot(x, Q(x)) + tree_vdot(x, c)

    def _rows(self, x: PyTree, params_eq: Any) -> PyTree:
        """A x - b."""
        return jax.tree.map(jnp.subtract, _product(self.matvec_A, params_eq[0])(x), params_eq[1])

    def l2_optimality_error(self, params: KKTSolution, *args: Any, **kwargs: Any) -> Array:
        """The Euclidean norm of the residuals of the conditions; see `optimality_fun`."""
        own: Any = self
        return _state.size(own.optimality_fun(params, *args, **kwargs))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EqualityConstrainedQP(Quadratic):
    """min 1/2 x'Qx + c'x subject to Ax = b: `run(init_params=None, params_obj=(Q, c), params_eq=(A, b))`.

    One linear system, solved from products with Q and A, to the precision of the dtype. Rows of A may depend on each
    other: the multipliers are then those of least norm. params is a `KKTSolution`, state is None as in JAXopt.

    Example:
        >>> import jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> qp = jaxopt.EqualityConstrainedQP()
        >>> found = qp.run(params_obj=(jnp.eye(2), jnp.zeros(2)), params_eq=(jnp.ones((1, 2)), jnp.ones(1))).params
        >>> print(found.primal.round(3), found.dual_eq.round(3))
        [0.5 0.5] [-0.5]
    """

    solve: Callable = solve_gmres
    refine_regularization: float = 0.0
    refine_maxiter: int = 10
    maxiter: int = 1000
    tol: float = 1e-5

    without_effect: ClassVar[dict[str, str]] = {
        "jit": "it runs as it is called, compiled where that is",
        **dict.fromkeys(
            ["refine_regularization", "refine_maxiter", "maxiter", "tol"], "the system is solved to full precision"
        ),
    }

    def optimality_fun(self, params: KKTSolution, params_obj: Any, params_eq: Any) -> KKTSolution:
        """Stationarity and A x - b."""
        return make_kkt_optimality_fun(self._value, self._rows)(params, params_obj, params_eq)

    def run(self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None) -> OptStep:
        """Solve; init_params matters with fun only. Differentiable in params_obj and params_eq."""
        Q, c = self._objective(init_params, params_obj)
        A, b = _product(self.matvec_A, params_eq[0]), params_eq[1]
        transposed = jax.linear_transpose(A, c)
        add = lambda x, y: jax.tree.map(jnp.add, x, y)  # noqa: E731
        system = lambda u: (add(Q(u[0]), transposed(u[1])[0]), A(u[0]))  # noqa: E731
        chosen = self.implicit_diff_solve if self.solve is solve_gmres else self.solve
        solver: Any = adjoint_of(chosen).linear_solver
        options = LinearOptions(solver=solver, symmetric=True, well_posed=False)
        target = (jax.tree.map(jnp.negative, c), jax.tree.map(jnp.asarray, b))
        return OptStep(KKTSolution(*solve(system, target, options)), None)


class _InteriorPoint(Quadratic):
    """What BoxOSQP, OSQP and CvxpyQP share."""

    def _solved(self, P: Array, q: Array, **data: Any) -> convex.QPSolution:
        raises = isinstance(self, CvxpyQP) or not self.jit
        return convex.solve_qp(
            0.5 * (P + P.T), q, **data, adjoint=adjoint_of(self.implicit_diff_solve), raise_on_failure=raises
        )

    def _step(self, params: KKTSolution, status: Array, *args: Any) -> OptStep:
        error = jax.lax.stop_gradient(self.l2_optimality_error(params, *args))
        return OptStep(params, QPState(error, jnp.asarray([1, 1, 3, 2, 0])[status]))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OSQP(_InteriorPoint):
    """min 1/2 x'Qx + c'x s.t. Ax = b, Gx <= h: `run(init_params, params_obj, params_eq=None, params_ineq=None)`.

    params is a `KKTSolution` (x, multipliers of Ax = b, multipliers of Gx <= h), state has `error` and `status`, which
    is `BoxOSQP.SOLVED` where it is solved; else params are NaN, and with jit=False it is an error. The method is not
    OSQP's but `implicitdiff.convex.solve_qp`: matrices are formed, also from products, and its options warn.

    Example:
        >>> import jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> found = jaxopt.OSQP().run(
        ...     params_obj=(jnp.eye(2), jnp.array([-2.0, 0.0])), params_ineq=(jnp.ones((1, 2)), jnp.ones(1)))
        >>> print(found.params.primal.round(3), found.params.dual_ineq.round(3))
        [ 1.5 -0.5] [0.5]
    """

    matvec_G: Callable | None = None  # noqa: N815
    check_primal_dual_infeasability: str | bool = "auto"
    sigma: float = 1e-6
    momentum: float = 1.6
    eq_qp_solve: str = "cg"
    rho_start: float = 0.1
    rho_min: float = 1e-6
    rho_max: float = 1e6
    stepsize_updates_frequency: int = 10
    primal_infeasible_tol: float = 1e-3
    dual_infeasible_tol: float = 1e-3
    maxiter: int = 4000
    tol: float = 1e-3
    termination_check_frequency: int = 5
    verbose: bool | int = False
    implicit_diff: bool = True
    unroll: str | bool = "auto"

    without_effect: ClassVar[dict[str, str]] = {
        "check_primal_dual_infeasability": "feasibility is always checked",
        **dict.fromkeys(
            [
                "sigma", "momentum", "eq_qp_solve", "rho_start", "rho_min", "rho_max", "stepsize_updates_frequency",
                "primal_infeasible_tol", "dual_infeasible_tol", "maxiter", "tol", "termination_check_frequency",
                "verbose",
            ],
            ADMM,
        ),
    }  # fmt: skip

    def __post_init__(self):
        """Refuse what has no meaning here."""
        if not self.implicit_diff:
            raise NotImplementedError(f"{type(self).__name__}: {REMEDY}.")
        super().__post_init__()

    def optimality_fun(self, params: KKTSolution, params_obj: Any, params_eq: Any = None, params_ineq: Any = None):
        """Stationarity, A x - b, and the products of G x - h with their multipliers."""
        G = lambda x, p: jax.tree.map(jnp.subtract, _product(self.matvec_G, p[0])(x), p[1])  # noqa: E731
        eq = params.dual_eq if params_eq is not None else None
        ineq = params.dual_ineq if params_ineq is not None else None
        F = make_kkt_optimality_fun(self._value, self._rows, G)
        return F(KKTSolution(params.primal, eq, ineq), params_obj, params_eq, params_ineq)

    def run(
        self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        """Solve; init_params matters with fun only. Differentiable in all parameters."""
        Q, c = self._objective(init_params, params_obj)
        q, tree = ravel_pytree(c)
        data: dict[str, Any] = {}
        back = {}
        for matrix, side, matvec, given in (
            ("A", "b", self.matvec_A, params_eq),
            ("G", "h", self.matvec_G, params_ineq),
        ):
            if given is not None:
                data[matrix] = _matrix(_product(matvec, given[0]), c)
                data[side], back[side] = ravel_pytree(jax.tree.map(jnp.asarray, given[1]))
        found = self._solved(_matrix(Q, c), q, **data)
        duals: Any = (found.eq_dual, found.ineq_dual)
        params = KKTSolution(
            tree(found.x),
            back["b"](duals[0]) if "b" in back else None,
            back["h"](duals[1]) if "h" in back else None,
        )
        return self._step(params, found.status, params_obj, params_eq, params_ineq)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BoxOSQP(OSQP):
    """min 1/2 x'Qx + c'x s.t. l <= Ax <= u: `run(init_params, params_obj, params_eq=A, params_ineq=(l, u))`.

    params is a `KKTSolution` ((x, Ax), y, (mu, phi)), y the multipliers of Ax = z, mu = max(y, 0) those of z <= u, and
    phi = max(-y, 0) those of l <= z; l = u makes an equation, infinite sides are none. See `OSQP` for the rest.

    Example:
        >>> import jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> found = jaxopt.BoxOSQP().run(
        ...     params_obj=(jnp.eye(2), jnp.array([-2.0, 0.5])), params_eq=jnp.eye(2),
        ...     params_ineq=(jnp.zeros(2), jnp.ones(2)))
        >>> print(found.params.primal[0].round(3) + 0.0, found.params.dual_eq.round(3))
        [1. 0.] [ 1.  -0.5]
    """

    UNSOLVED: ClassVar[int] = 0
    SOLVED: ClassVar[int] = 1
    DUAL_INFEASIBLE: ClassVar[int] = 2
    PRIMAL_INFEASIBLE: ClassVar[int] = 3

    def optimality_fun(self, params: KKTSolution, params_obj: Any, params_eq: Any = None, params_ineq: Any = None):
        """Stationarity in x and z, A x - z, and the products of the slacks with their multipliers."""
        (x, z), y, (mu, phi) = params
        lower, upper = params_ineq
        A = _product(self.matvec_A, params_eq)
        Ax, pull = jax.vjp(A, x)
        in_x = jax.tree.map(jnp.add, jax.grad(self._value)(x, params_obj), pull(y)[0])
        in_z = jax.tree.map(lambda y, m, p: m - p - y, y, mu, phi)
        slack = lambda m, z, side: jnp.where(jnp.isfinite(side), m * (z - jnp.where(jnp.isfinite(side), side, 0.0)), m)  # noqa: E731
        products = jax.tree.map(slack, mu, z, upper), jax.tree.map(slack, phi, z, lower)
        return KKTSolution((in_x, in_z), jax.tree.map(jnp.subtract, Ax, z), products)

    def run(
        self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        """Solve; init_params matters with fun only. Differentiable in all parameters."""
        if isinstance(init_params, KKTSolution):
            init_params = KKTSolution(init_params.primal[0])
        Q, c = self._objective(init_params, params_obj)
        q, tree = ravel_pytree(c)
        lower, rows = ravel_pytree(jax.tree.map(jnp.asarray, params_ineq[0]))
        upper = ravel_pytree(jax.tree.map(jnp.asarray, params_ineq[1]))[0]
        A, (n, m) = _matrix(_product(self.matvec_A, params_eq), c), (q.size, lower.size)
        P = jnp.zeros((n + m, n + m), q.dtype).at[:n, :n].set(_matrix(Q, c))
        free = jnp.full(n, jnp.inf, q.dtype)
        found = self._solved(
            P, jnp.concatenate([q, jnp.zeros(m, q.dtype)]), A=jnp.hstack([A, -jnp.eye(m, dtype=q.dtype)]),
            b=jnp.zeros(m, q.dtype), lb=jnp.concatenate([-free, lower]), ub=jnp.concatenate([free, upper]),
        )  # fmt: skip
        y = found.eq_dual
        assert y is not None
        duals = rows(jnp.maximum(y, 0.0)), rows(jnp.maximum(-y, 0.0))
        params = KKTSolution((tree(found.x[:n]), rows(found.x[n:])), rows(y), duals)
        return self._step(params, found.status, params_obj, params_eq, params_ineq)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CvxpyQP(_InteriorPoint):
    """min 1/2 x'Qx + c'x s.t. Ax = b, Gx <= h, as `OSQP`, from matrices; an error where there is no solution.

    It needs no CVXPY, and works under jit and vmap, where JAXopt's does not. `solver` is "clarabel", or "scs".

    Example:
        >>> import jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> found = jaxopt.CvxpyQP().run(
        ...     None, (jnp.eye(2), jnp.array([-2.0, 0.0])), None, (jnp.ones((1, 2)), jnp.ones(1))).params
        >>> print(found.primal.round(3), found.dual_eq, found.dual_ineq.round(3))
        [ 1.5 -0.5] None [0.5]
    """

    solver: str = "OSQP"

    without_effect: ClassVar[dict[str, str]] = {"jit": "it runs as it is called"}

    def __post_init__(self):
        """Check what is given."""
        super().__post_init__()
        if self.fun is not None or self.matvec_Q is not None or self.matvec_A is not None:
            raise ValueError("CvxpyQP takes matrices: use OSQP for products with matrices.")
        if self.solver.lower() not in ("osqp", "clarabel", "scs"):
            raise ValueError(
                f'CvxpyQP: solver must be "OSQP" (done by Clarabel), "CLARABEL" or "SCS", not {self.solver}.'
            )

    optimality_fun = OSQP.optimality_fun
    matvec_G: ClassVar[None] = None  # noqa: N815

    def run(self, init_params: Any, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> OptStep:
        """Solve: (`KKTSolution`, None). Differentiable in all parameters."""
        del init_params  # as in JAXopt, where it is there for the signature alone
        (A, b), (G, h) = params_eq or (None, None), params_ineq or (None, None)
        name = "scs" if self.solver.lower() == "scs" else "clarabel"
        found = self._solved(jnp.asarray(params_obj[0]), jnp.asarray(params_obj[1]), A=A, b=b, G=G, h=h, solver=name)
        return OptStep(KKTSolution(found.x, found.eq_dual, found.ineq_dual), None)
