"""Functions of the user's, traced: preconditioners and linear solvers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from ._linear import TwoWay
from ._program import Program


class Traced:
    """A function of the user's as programs on arrays, equal by what they compute.

    It may be a new object at each call, read variables that have been rebound, or arrays that are being differentiated:
    all arrays that it reads are operands.
    """

    def __init__(self, *programs: Program, arrays: Sequence[Sequence[Array]] | None = None):
        """Hold programs, and the arrays that each reads once these are known."""
        self.programs, self.arrays = programs, arrays

    @property
    def reusable(self) -> bool:
        """Whether another trace gives an equal one."""
        return all(program.reusable for program in self.programs)

    def bound(self, arrays: Sequence[Sequence[Array]]) -> "Traced":
        """The same with its arrays."""
        return Traced(*self.programs, arrays=arrays)

    def with_operands(self, tree: Any, *operands: list) -> "TwoWay":
        """The functions of the last operand, a pytree."""

        def on_tree(program: Program, arrays: Sequence[Array]) -> Callable:
            return lambda b: tree.unflatten(program([], [*arrays, *jax.tree.leaves(operands), *tree.flatten_up_to(b)]))

        assert self.arrays is not None
        return TwoWay(*(on_tree(program, arrays) for program, arrays in zip(self.programs, self.arrays, strict=True)))

    def __hash__(self) -> int:
        return hash(self.programs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.programs == other.programs and self.arrays is other.arrays
