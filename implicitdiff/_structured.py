"""Linear solvers that know where the entries of A are: what `implicitdiff.sparse` is made of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
from jaxtyping import Array

if TYPE_CHECKING:
    from ._linear import Solution, System
    from ._program import Program

# From this size on a Krylov method that fails makes the library look whether A is sparse.
SPARSE_SIZE = 2000


class Structured:
    """Something that needs more of A than its products. Subclasses are frozen dataclasses, equal by value."""

    # Two that are equal compute the same, so that what one has compiled serves the other.
    reusable: ClassVar[bool] = True

    def located(self, program: "Program", x: Sequence[Array], theta: Sequence[Array]) -> Self:
        """The same for the conditions of a program, of which integers among theta may still be known here."""
        del program, x, theta
        return self

    def at(self, program: "Program", x: Sequence[Array], theta: Sequence[Array]) -> Self:
        """The same for a solve at (x, theta), where it needs more of them than products."""
        del program, x, theta
        return self


class StructuredSolver(Structured):
    """A linear solver that knows where the entries of A are."""

    def strategy(self, system: "System", transpose: bool) -> Callable[[Array, Array], "Solution"]:
        """The function (b, atol) -> solution of A x = b, or of A' x = b."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Automatic(Structured):
    """The automatic choice of a large system, with what finds its pattern where that is needed."""

    sought: Any


def located(solver: Any, program: "Program", x: Sequence[Array], theta: Sequence[Array]) -> Any:
    """A linear solver, told of the program if it asks for that."""
    # Nobody has chosen; `sparse` stands above the core, and is asked for where a large system may need it. Not where
    # there are several devices: arrays may lie on all of them, and would have to be brought together.
    if solver is None and sum(leaf.size for leaf in x) > SPARSE_SIZE and jax.device_count() == 1:
        from .sparse._detection import Sought

        return Automatic(Sought(program, x, theta))
    return solver.located(program, x, theta) if isinstance(solver, Structured) else solver
