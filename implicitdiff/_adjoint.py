"""How the derivative of a solution is computed: `adjoint=` of everything that attaches one."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jax import lax
from jaxtyping import Array

from ._fixed_point import FixedPointResidual
from ._program import Program
from ._varying import scan

Leaves = Sequence[Array]


class Adjoint:
    """A way to compute the derivative of the solution of F(x, theta) = 0: subclass it to write your own.

    A subclass defines `tangent`. It must compute with JAX, and its result must be linear in theta_dot: JAX transposes
    it for reverse mode, and differentiates it for higher orders. Make the subclass a frozen dataclass, or give it
    another `__hash__` by value: in eager mode what equal adjoints compute is compiled once.

    The program is F on lists of arrays, the leaves of x and the arrays theta that F depends on:

    - `program(x, theta)` is F(x, theta);
    - `program.product(x, theta)` is the function v -> dF/dx v;
    - `program.along(x, theta, theta_dot)` is the pair of F(x, theta) and dF/dtheta theta_dot.

    Example:
        A damped "phantom gradient" (Geng et al. 2021) of a fixed point, k steps from zero of the iteration
        u <- u - damping (A u + B theta_dot):

        >>> import dataclasses, jax, implicitdiff as idf
        >>> @dataclasses.dataclass(frozen=True)
        ... class Phantom(idf.Adjoint):
        ...     steps: int = 5
        ...     damping: float = 0.5
        ...     def tangent(self, program, x, theta, theta_dot):
        ...         _, b = program.along(x, theta, theta_dot)
        ...         A = program.product(x, theta)
        ...         u = [0 * leaf for leaf in b]
        ...         for _ in range(self.steps):
        ...             u = [u - self.damping * (a + b) for u, a, b in zip(u, A(u), b)]
        ...         return u
        >>> solution = lambda t: idf.implicit_fixed_point(lambda x, t: 0.5 * x + t, 2 * t, t, adjoint=Phantom())
        >>> round(float(jax.grad(solution)(1.0)), 3)  # 2 (1 - 0.75^5)
        1.525
    """

    # Whether the solver's own iterations are differentiated, so that there is nothing to attach.
    unrolls: ClassVar[bool] = False

    def tangent(self, program: Program, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """The derivative of x along theta_dot, in which None is no motion; linear in theta_dot."""
        raise NotImplementedError(f"{type(self).__name__} must define tangent(program, x, theta, theta_dot).")

    def prepare(self, F: Callable) -> "Adjoint":
        """The adjoint for this F; raises TypeError where it does not apply."""
        del F
        return self

    def traced(self, program: Program, x: Leaves, theta: Leaves) -> tuple["Adjoint", list[Array]]:
        """The adjoint with its functions traced, and the arrays that these read: none, unless it holds functions."""
        del program, x, theta
        return self, []

    def bound(self, arrays: Leaves) -> "Adjoint":
        """What `traced` took apart put together again."""
        del arrays
        return self

    def refined(self, program: Program, x: Leaves, theta: Leaves, arrays: Leaves = ()) -> tuple["Adjoint", Leaves]:
        """The point to differentiate at, and the adjoint to use there: x itself, unless that can be improved first."""
        del program, theta, arrays
        return self, x

    @property
    def reusable(self) -> bool:
        """Whether equal adjoints compute the same."""
        try:
            hash(self)
        except TypeError:  # such as one that holds an array
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Neumann(Adjoint):
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

    def prepare(self, F: Callable) -> "Neumann":
        """The same, for a fixed point."""
        if not isinstance(F, FixedPointResidual):
            raise TypeError(
                "Neumann and OneStep sum the series of a fixed-point map, but this is a root condition: use "
                "implicit_fixed_point or custom_fixed_point with T, or Implicit()."
            )
        return self

    def tangent(self, program: Program, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """Sum the series for F = x - T."""
        with explained():
            _, minus_b = program.along(x, theta, theta_dot)
            A = program.product(x, theta)
        first = [-leaf for leaf in shown_nan(x, minus_b)]

        def add(carry, _):
            term, total = carry
            term = [t - a for t, a in zip(term, A(term), strict=True)]
            return (term, [s + t for s, t in zip(total, term, strict=True)]), None

        return scan(add, (first, first), None, length=self.terms - 1)[0][1]


def OneStep() -> Neumann:
    """The derivative of one step of a fixed-point iteration: `Neumann(1)` (Bolte, Pauwels and Vaiter 2023).

    Exact where T contracts in no time, as in Newton's method; no linear solve at all.
    """
    return Neumann(1)


@dataclasses.dataclass(frozen=True)
class Unrolled(Adjoint):
    """Differentiate the solver's own iterations, for comparison; for the decorators and solver classes.

    Memory in reverse mode grows with the number of iterations, and JAX cannot reverse a `while_loop` at all.
    """

    unrolls: ClassVar[bool] = True

    def prepare(self, F: Callable) -> "Unrolled":
        """There are no iterations where only their result is known."""
        raise TypeError(
            "Unrolled() differentiates a solver's iterations, but here there is only its result: use it with the "
            "decorators custom_root and custom_fixed_point or with a solver class."
        )


def shown_nan(x: Leaves, b: Leaves) -> list[Array]:
    """b, NaN where x is not finite: F may hide that behind a comparison, and its Jacobian may not depend on x."""
    return [leaf * (1 + 0 * lax.stop_gradient(unknown)) for leaf, unknown in zip(b, x, strict=True)]


# What words in an error of JAX's mean for F, and what to do; the last one is for all others.
MEANINGS = {
    "custom_vjp function": "F holds a function with a jax.custom_vjp, which JAX cannot differentiate in forward mode. "
    "First derivatives are had in both modes all the same, and second ones in reverse over reverse mode: "
    "jax.jacrev(jax.jacrev(f)) in the place of jax.hessian(f).",
    "open an issue": "F holds a solver whose own derivative is another solve, as JAXopt's are. That is supported for "
    "up to 1,000 real unknowns; beyond, attach its solution with implicit_root.",
    "Transpose rule": "F holds a solver whose own derivative is another solve, as odeint's is. That is supported for "
    "up to 1,000 real unknowns; beyond, integrate with a lax.scan.",
    "": "all that F does must be differentiable by JAX. A callback to NumPy is not; only the solver may use one "
    "(implicitdiff.host_solver).",
}


@contextlib.contextmanager
def explained() -> Any:
    """Add to an error that JAX raises while it differentiates F what that means."""
    try:
        yield
    except (ValueError, NotImplementedError, TypeError) as error:
        meaning = next(meaning for words, meaning in MEANINGS.items() if words in str(error))
        error.add_note(f"This was raised while differentiating the conditions F: {meaning}")
        raise
