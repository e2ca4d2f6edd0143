"""The derivative by the implicit function theorem: one linear solve."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array

from ._adjoint import Adjoint, explained, shown_nan
from ._failure import NOT_A_ROOT, OnFailure, failed_if, settle
from ._largest import largest
from ._linear import LinearOptions, solve
from ._program import Program, as_operand
from ._structured import Automatic, Structured, located
from ._traced import Traced

Leaves = Sequence[Array]


@dataclasses.dataclass(frozen=True)
class Implicit(Adjoint):
    """The implicit function theorem: one linear solve with the Jacobian of F, none through the solver.

    Attributes:
        linear_solver: how to solve A u = b with A = dF/dx or its transpose. None chooses: small systems are formed
            and factorised, large ones solved by CG, MINRES or BiCGStab, whichever fits what is known of A, and formed
            after all where that does not converge and memory allows. Otherwise any `lineax` solver (also
            `implicitdiff.krylov.CG`, `MINRES`, `BiCGStab`, `GMRES`), one of `implicitdiff.sparse` (`LU`, `Banded`),
            or a callable `(matvec, b) -> x` on pytrees like x.
        symmetric: whether A is symmetric; None takes what the condition says of itself.
        positive_definite: whether A is symmetric positive definite; None as above.
        preconditioner: callable `v -> M v` with M linear and close to the inverse of A, on pytrees like x. Makes
            the automatic choice a Krylov method.
        rtol: the linear solve has converged when ||b - A u|| <= max(rtol ||b||, atol). The default asks for the
            precision of the dtype; for a callable it is sqrt(eps).
        atol: see rtol.
        on_failure: what to do when the linear solve did not converge, A is singular, or F is not satisfied: "nan"
            makes the derivative NaN, "raise" raises an exception with the cause, also under jit, "warn" prints the
            cause and gives NaN, "ignore" gives whatever number there is.
        polish: take this many Newton steps on x before differentiating. The solution returned is x all the same,
            but the error of the derivative falls from first to second order in the error of x, at the price of one
            linear solve a step (Ablin, Peyre and Moreau 2020).
        residual_tol: the largest |F(x, *args)| that still counts as a root; None does not check. Catches a solver
            that stopped early and an F that does not belong to it.
        well_posed: what forward mode gives where A is singular. The velocity x_dot of such a solution is not unique:
            with True, the default, it is NaN. With False it is the x_dot of least norm that satisfies
            A x_dot + B theta_dot = 0, and NaN where none does; beyond 1,000 unknowns A must be symmetric. Reverse mode
            needs no choice: where the output does not depend on the gauge (a translation of all points, a common shift
            of logits), its gradient is unique, and where it does, the gradient is NaN. Only a Krylov method chosen by
            name, which cannot tell a gauge from an ill-conditioned A, gives NaN there as well, unless this is False.
    """

    linear_solver: lx.AbstractLinearSolver | Structured | Callable | None = None
    symmetric: bool | None = None
    positive_definite: bool | None = None
    preconditioner: Callable | None = None
    rtol: float | None = None
    atol: float | None = None
    on_failure: OnFailure = "nan"
    polish: int = 0
    residual_tol: float | None = None
    well_posed: bool = True

    def __post_init__(self):
        if self.on_failure not in ("nan", "raise", "warn", "ignore"):
            raise ValueError(f'on_failure must be "nan", "raise", "warn" or "ignore", found {self.on_failure!r}.')
        if (
            self.linear_solver is not None
            and not callable(self.linear_solver)
            and not isinstance(self.linear_solver, Traced | Structured)
        ):
            if not isinstance(self.linear_solver, lx.AbstractLinearSolver):
                raise TypeError(
                    "linear_solver must be None, a lineax solver (an instance, such as lineax.CG(1e-8, 1e-8)) or a "
                    f"callable (matvec, b) -> x, found {self.linear_solver!r}."
                )
        elif inspect.isclass(self.linear_solver):
            raise TypeError(f"linear_solver must be an instance, found the class {self.linear_solver.__name__}.")
        if not isinstance(self.polish, int) or self.polish < 0:
            raise ValueError(f"polish must be a number of Newton steps, 0 or more, found {self.polish!r}.")
        for name in ("rtol", "atol", "residual_tol"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be None or a number >= 0, found {value!r}.")

    @property
    def reusable(self) -> bool:
        """Whether equal adjoints compute the same: so do those without functions of the user's, or with traced ones."""
        functions: list[Any] = [self.preconditioner]
        if not isinstance(self.linear_solver, lx.AbstractLinearSolver):
            functions.append(self.linear_solver)
        return all(f is None or getattr(f, "reusable", False) for f in functions) and super().reusable

    def prepare(self, F: Callable) -> "Implicit":
        """Fill in what F says of its own Jacobian where the user said nothing."""
        symmetric, definite = getattr(F, "symmetric", None), getattr(F, "positive_definite", None)
        return dataclasses.replace(
            self,
            symmetric=symmetric if self.symmetric is None else self.symmetric,
            positive_definite=definite if self.positive_definite is None else self.positive_definite,
        )

    def traced(self, program: Program, x: Leaves, theta: Leaves) -> tuple["Implicit", list[Array]]:
        """The same with the user's functions traced, and the arrays that these read."""
        tree, x, theta = program.x_tree, list(x), list(theta)
        arrays: list[Array] = []
        solver: Any = located(self.linear_solver, program, x, theta)
        M: Any = self.preconditioner
        if M is not None and isinstance(solver, Automatic):
            solver = None

        def with_program(call: Callable, *like: Any) -> Program:
            closed = jax.make_jaxpr(call)(*like)
            arrays.extend(map(as_operand, closed.consts))
            return Program(closed.jaxpr, tree, derivatives=False)

        if M is not None:
            precondition = M
            M = Traced(with_program(lambda v: tree.flatten_up_to(precondition(tree.unflatten(v))), x))
        if solver is not None and not isinstance(solver, lx.AbstractLinearSolver | Structured):
            user = solver

            def solved(transpose: bool, x: list, theta: list, b: list) -> list[Array]:
                A, right = on_trees(program.product(x, theta), tree), tree.unflatten(b)
                conj = partial(jax.tree.map, jnp.conj)  # the system is one of real arrays, whose transpose is A^H
                acting = (lambda v: conj(jax.linear_transpose(A, right)(conj(v))[0])) if transpose else A
                return tree.flatten_up_to(user(acting, right))

            forward = with_program(partial(solved, False), x, theta, x)
            try:
                solver = Traced(forward, with_program(partial(solved, True), x, theta, x))
            except (ValueError, NotImplementedError):  # F cannot be transposed: that leaves forward mode
                solver = Traced(forward)
        return dataclasses.replace(self, linear_solver=solver, preconditioner=M), arrays

    def bound(self, arrays: Leaves) -> "Implicit":
        """The traced functions with the arrays that they read."""
        supply = iter(arrays)

        def bound(function: Any) -> Any:
            if not isinstance(function, Traced):
                return function
            return function.bound([[next(supply) for _ in range(p.constants)] for p in function.programs])

        M, solver = bound(self.preconditioner), bound(self.linear_solver)
        return dataclasses.replace(self, preconditioner=M, linear_solver=solver)

    def refined(self, program: Program, x: Leaves, theta: Leaves, arrays: Leaves = ()) -> tuple["Implicit", Leaves]:
        """The point after the Newton steps of `polish`, and the adjoint that takes none."""
        for _ in range(self.polish):
            x = self.bound(arrays).newton(program, lax.stop_gradient(x), lax.stop_gradient(theta))
        return dataclasses.replace(self, polish=0), x

    def tangent(self, program: Program, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """Solve A x_dot = -B theta_dot with A = dF/dx and B = dF/dtheta."""
        with explained():
            value, b = program.along(x, theta, theta_dot)
        b = [-leaf for leaf in shown_nan(x, b)]
        if self.residual_tol is not None:
            # Through a factor on b, so that the transpose, which starts from the other side, fails as well.
            residual = largest(jnp.stack([largest(leaf) for leaf in value]))
            status = failed_if(~(residual <= self.residual_tol), NOT_A_ROOT)
            sound = settle([jnp.ones((), residual.dtype)], status, self.on_failure)[0]
            b = [leaf * sound.astype(leaf.real.dtype) for leaf in b]
        return self.solve(program, x, theta, b)

    def newton(self, program: Program, x: Leaves, theta: Leaves) -> list[Array]:
        """One Newton step on F(x, theta) = 0."""
        step = self.solve(program, x, theta, program(x, theta))
        return [a - b for a, b in zip(x, step, strict=True)]

    def solve(self, program: Program, x: Leaves, theta: Leaves, b: Leaves) -> list[Array]:
        """A^-1 b, differentiable to any order."""
        product, options = self.system(program, x, theta)
        return program.x_tree.flatten_up_to(solve(product, program.x_tree.unflatten(b), options))

    def system(self, program: Program, x: Leaves, theta: Leaves) -> tuple[Callable, LinearOptions]:
        """The product v -> A v, and how to solve with it."""
        # On pytrees like x: these are what a user's linear solver and preconditioner work on.
        tree = program.x_tree
        with explained():
            maps = program.products(x, theta)
        solver: Any = self.linear_solver
        M: Any = self.preconditioner
        if isinstance(solver, Traced):
            solver = solver.with_operands(tree, list(x), list(theta))
        if isinstance(M, Traced):
            M = M.with_operands(tree)[0]
        sought = None
        if isinstance(solver, Automatic):
            solver, sought = None, solver.sought
        elif isinstance(solver, Structured):
            solver = solver.at(program, x, theta)
        return on_trees(program.product_of(maps), tree), LinearOptions(
            solver=solver,
            symmetric=bool(self.symmetric),
            positive_definite=bool(self.positive_definite),
            preconditioner=M,
            rtol=self.rtol,
            atol=self.atol,
            on_failure=self.on_failure,
            well_posed=self.well_posed,
            sought=sought,
            parts=(on_trees(maps[0], tree), on_trees(maps[1], tree)) if len(maps) > 1 else None,
        )


def on_trees(push: Callable, tree: Any) -> Callable:
    """A function of lists as a function of pytrees."""
    return lambda v: tree.unflatten(push(tree.flatten_up_to(v)))
