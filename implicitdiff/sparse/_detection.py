"""The pattern of a Jacobian, read off the program of F."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from scipy import sparse

from .._fixed_point import FixedPointResidual
from .._program import Program, trace
from .._root import check_unknowns
from .._space import RealSpace
from ._dependence import Known, TooDenseError
from ._pattern import Pattern
from ._propagation import dependences

Leaves = Sequence[Array]

# Patterns found, the last ones used: finding one takes seconds where there are 100,000 unknowns.
_KEPT = 32
_found: OrderedDict["Sought", Pattern] = OrderedDict()

REMEDY = (
    "Use a method that only multiplies with it: linear_solver=None, or one of implicitdiff.krylov. If you know of "
    "fewer entries, give them: pattern=. Where integer arrays that steer F, such as the indices of a mesh, are "
    "arguments of a function under jit, their values are not known: find the pattern outside of it, by "
    "implicitdiff.sparse.pattern(F, x, *args), and pass it."
)


def pattern(F: Callable[..., PyTree], x: PyTree, *args: Any, **kwargs: Any) -> Pattern:
    """Find where dF/dx may have entries that are not zero, for all x and all floating-point arguments.

    The pattern is read off the operations that F is made of, not off numbers: an entry that happens to vanish at this x
    is part of it. Integer arrays among the arguments, such as the indices of a mesh, steer the pattern and must be
    known: call this outside of `jit`, and pass the result to `LU(pattern=...)`. What the analysis cannot see through,
    such as a `while_loop` that couples all, or a nested solution, counts as dense from its inputs to its outputs.

    Args:
        F: the conditions, a root F(x, *args) = 0 or a fixed-point condition of `implicitdiff.optimality`.
        x: the unknowns, of which only shapes and dtypes matter.
        *args: what F depends on besides.
        **kwargs: its keyword arguments.

    Returns:
        A `Pattern`, which can be printed, drawn (`spy`), saved and passed to `LU`. It is kept, and found at once the
        next time the same F is asked for.

    Raises:
        ValueError: nearly every equation may depend on every unknown; the message names the primitive that does it.

    Source: Hill and Dalle, "Sparser, better, faster, stronger: sparsity detection for efficient automatic
    differentiation", TMLR 2025.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> def F(x, c):  # a chain of springs
        ...     force = c * jnp.diff(x, prepend=0.0, append=1.0) ** 3
        ...     return jnp.diff(force)
        >>> idf.sparse.pattern(F, jnp.zeros(100), 2.0)
        Pattern(100 x 100, 298 entries, 3 products)
    """
    if getattr(F, "is_root", True) is False:
        F = FixedPointResidual(F)
    x = check_unknowns(x)
    program, theta = trace(F, x, args, kwargs)
    return Sought(program, jax.tree.leaves(x), theta).find()


class Sought:
    """The pattern of a program, looked for when it is needed; equal to others by what they will find."""

    def __init__(self, program: Program, x: Leaves, theta: Leaves):
        """Remember the program, shapes and dtypes, and the values of integers that are known."""
        self.program = program
        self.x = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in x]
        self.theta: list[Any] = []
        for leaf in theta:
            known = not isinstance(leaf, jax.core.Tracer) and not jnp.issubdtype(leaf.dtype, jnp.inexact)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                self.theta.append(leaf)
            else:
                self.theta.append(np.asarray(leaf) if known else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        values = tuple(
            (leaf.shape, str(leaf.dtype), leaf.tobytes() if isinstance(leaf, np.ndarray) else None)
            for leaf in self.theta
        )
        self.key = tuple((leaf.shape, str(leaf.dtype)) for leaf in self.x), values

    def find(self) -> Pattern:
        """The pattern."""
        if self in _found:
            _found.move_to_end(self)
            return _found[self]
        pattern = self._look()
        if self.program.reusable:
            _found[self] = pattern
            while len(_found) > _KEPT:
                _found.popitem(last=False)
        return pattern

    def _look(self) -> Pattern:
        space = RealSpace(self.program.x_tree.unflatten(self.x))
        n, shape = space.size, self.shape(space)
        given = [leaf for leaf in self.theta if isinstance(leaf, jax.ShapeDtypeStruct)]

        def residual(x, *given):
            supply = iter(given)
            theta = [next(supply) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in self.theta]
            leaves = self.program.x_tree.flatten_up_to(space.from_real(x))
            return space.to_real(self.program.x_tree.unflatten(self.program(leaves, theta)))

        with jax.ensure_compile_time_eval():  # also where this is asked for under jit
            closed = jax.make_jaxpr(residual)(jax.ShapeDtypeStruct(shape, space.dtype), *given)
        unknowns = Known(sparse.eye_array(n, dtype=bool, format="csr"))
        try:
            found = dependences(closed, [unknowns, *[Known() for _ in given]])[0].on
        except TooDenseError as error:
            raise ValueError(f"The Jacobian of F in x is not sparse: {error}. {REMEDY}") from error
        return Pattern(sparse.csr_array((n, n), dtype=bool) if found is None else found)

    @staticmethod
    def shape(space: RealSpace) -> tuple[int, ...]:
        """The shape of the real array that stands for x."""
        return space.shapes[0] if len(space.shapes) == 1 else (space.size,)

    def __hash__(self) -> int:
        return hash((self.program, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sought) and self.key == other.key and self.program == other.program
