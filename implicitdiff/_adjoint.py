"""How the derivative of a solution is computed: `adjoint=` of everything that attaches one.

Each adjoint has a method `tangent(program, x, theta, theta_dot)`: the derivative of x along theta_dot, as a
linear function of theta_dot that JAX can transpose. The program is F; see `_root` for the theorem.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array

from ._failure import NOT_A_ROOT, OnFailure, failed_if, settle
from ._linear import LinearOptions, solve
from ._program import Composition, Program

Leaves = Sequence[Array]


@dataclasses.dataclass(frozen=True)
class Implicit:
    """The implicit function theorem: one linear solve with the Jacobian of F, none through the solver.

    Attributes:
        linear_solver: how to solve A u = b with A = dF/dx or its transpose. None chooses: small systems are formed
            and factorised, large ones solved by CG, MINRES or BiCGStab, whichever fits what is known of A, and formed
            after all where that does not converge and memory allows. Otherwise any `lineax` solver (also
            `implicitdiff.krylov.CG`, `MINRES`, `BiCGStab`, `GMRES`), or a callable `(matvec, b) -> x` on pytrees
            like x.
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
    """

    linear_solver: lx.AbstractLinearSolver | Callable | None = None
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
        if self.linear_solver is not None and not callable(self.linear_solver):
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

    def informed_by(self, F: Callable) -> "Implicit":
        """Fill in what F says of its own Jacobian where the user said nothing."""
        symmetric, definite = getattr(F, "symmetric", None), getattr(F, "positive_definite", None)
        return dataclasses.replace(
            self,
            symmetric=symmetric if self.symmetric is None else self.symmetric,
            positive_definite=definite if self.positive_definite is None else self.positive_definite,
        )

    def tangent(self, program: Program, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """Solve A x_dot = -B theta_dot with A = dF/dx and B = dF/dtheta."""
        with _explained(program):
            value, b = pushforward_theta(program, x, theta, theta_dot)
            b = [-leaf for leaf in shown_nan(x, b)]
            if self.residual_tol is not None:
                # Through a factor on b, so that the transpose, which starts from the other side, fails as well.
                residual = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in value]))
                status = failed_if(~(residual <= self.residual_tol), NOT_A_ROOT)
                sound = settle([jnp.ones((), residual.dtype)], status, self.on_failure)[0]
                b = [leaf * sound.astype(leaf.real.dtype) for leaf in b]
            return self.solve(program, x, theta, b)

    def newton(self, program: Program, x: Leaves, theta: Leaves) -> list[Array]:
        """One Newton step on F(x, theta) = 0."""
        with _explained(program):
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

        def on_trees(push):
            return lambda v: tree.unflatten(push(tree.flatten_up_to(v)))

        parts = None
        if isinstance(program, Composition):
            W, M = pushforward_parts(program, x, theta)
            parts = on_trees(W), on_trees(M)
            product = on_trees(lambda v: [a - b for a, b in zip(v, M(W(v)), strict=True)])
        else:
            product = on_trees(pushforward_x(program, x, theta))
        return product, LinearOptions(
            solver=self.linear_solver,
            symmetric=bool(self.symmetric),
            positive_definite=bool(self.positive_definite),
            preconditioner=self.preconditioner,
            rtol=self.rtol,
            atol=self.atol,
            on_failure=self.on_failure,
            well_posed=self.well_posed,
            parts=parts,
        )


@dataclasses.dataclass(frozen=True)
class Neumann:
    """The first terms of the Neumann series of a fixed point: cheap, and wrong by what is left out.

    With T = dT/dx and B = dT/dtheta the derivative is (I - T)^-1 B = B + T B + T^2 B + ...; this takes `terms` of
    them, each one product with T. The error falls like the contraction factor of T to the power `terms`.

    Attributes:
        terms: number of terms, at least 1.
    """

    terms: int

    def __post_init__(self):
        if not isinstance(self.terms, int) or self.terms < 1:
            raise ValueError(f"terms must be a number of terms, 1 or more, found {self.terms!r}.")

    def tangent(self, program: Program, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """Sum the series for F = x - T."""
        with _explained(program):
            _, minus_b = pushforward_theta(program, x, theta, theta_dot)
            A = pushforward_x(program, x, theta)
        first = [-leaf for leaf in shown_nan(x, minus_b)]

        def add(carry, _):
            term, total = carry
            term = [t - a for t, a in zip(term, A(term), strict=True)]
            return (term, [s + t for s, t in zip(total, term, strict=True)]), None

        return lax.scan(add, (first, first), None, length=self.terms - 1)[0][1]


def OneStep() -> Neumann:
    """The derivative of one step of a fixed-point iteration: `Neumann(1)` (Bolte, Pauwels and Vaiter 2023).

    Exact where T contracts in no time, as in Newton's method; no linear solve at all.
    """
    return Neumann(1)


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Differentiate the solver's own iterations, for comparison; for the decorators and solver classes.

    Memory in reverse mode grows with the number of iterations, and JAX cannot reverse a `while_loop` at all.
    """


Adjoint = Implicit | Neumann | Unrolled


def pushforward_theta(program: Program, x, theta, theta_dot) -> tuple[list[Array], list[Array]]:
    """F(x, theta), and its derivative along theta_dot, where None is no motion."""
    moving = [i for i, dot in enumerate(theta_dot) if dot is not None]

    def f(*values):
        merged = list(theta)
        for i, value in zip(moving, values, strict=True):
            merged[i] = value
        return program(x, merged)

    primals, tangents = [theta[i] for i in moving], [theta_dot[i] for i in moving]
    if program.has_custom_vjp:
        value, push = _pushforward(f, *primals)
        return value, push(*tangents)
    return jax.jvp(f, primals, tangents)


def shown_nan(x: Leaves, b: Leaves) -> list[Array]:
    """b, NaN where x is not finite: F may hide that behind a comparison, and its Jacobian may not depend on x."""
    return [leaf * (1 + 0 * lax.stop_gradient(unknown)) for leaf, unknown in zip(b, x, strict=True)]


def pushforward_x(program: Program, x, theta) -> Callable[[Leaves], list[Array]]:
    """The product v -> dF/dx v."""

    def f(*x):
        return program(x, theta)

    push = _pushforward(f, *x)[1] if program.has_custom_vjp else jax.linearize(f, *x)[1]
    return lambda v: push(*v)


def pushforward_parts(program: Composition, x, theta) -> tuple[Callable[[Leaves], list[Array]], ...]:
    """The products with the Jacobians W of inner and M of outer: dF/dx = I - M W."""
    of_inner, of_outer = program.thetas(theta)
    return (
        pushforward_x(program.inner, x, of_inner),
        pushforward_x(program.outer, program.inner(x, of_inner), of_outer),
    )


def _pushforward(f, *primals):
    # Code with a custom_vjp has no forward rule, but the transpose of its reverse rule is one.
    value, pull = jax.vjp(f, *primals)
    return value, lambda *tangents: jax.linear_transpose(pull, value)(tangents)[0]


@contextlib.contextmanager
def _explained(program: Program):
    try:
        yield
    except (ValueError, NotImplementedError, TypeError) as error:
        error.add_note(
            "This was raised while differentiating the conditions F: all that F does must be differentiable by JAX. "
            "A callback to NumPy is not; only the solver may use one (implicitdiff.host_solver)."
        )
        raise
