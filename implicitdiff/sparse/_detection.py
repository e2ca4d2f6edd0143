"""The pattern of a Jacobian, read off the program of F by `asdex`."""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from .._fixed_point import FixedPointResidual
from .._program import Program, trace
from .._root import check_unknowns
from .._rule import dependence, depending, ruled_p
from .._space import RealSpace
from ._pattern import Pattern

Leaves = Sequence[Array]

# Patterns found, the last ones used: finding one takes seconds where there are 100,000 unknowns.
_KEPT = 32
_found: OrderedDict["Sought", Pattern] = OrderedDict()

# Primitives that only call another program.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat": "jaxpr",
          "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
          "custom_vjp_call_jaxpr": "fun_jaxpr", "custom_vmap_call": "call"}  # fmt: skip


def pattern(F: Callable[..., PyTree], x: PyTree, *args: Any, **kwargs: Any) -> Pattern:
    """Find where dF/dx may have entries that are not zero, for all x and all floating-point arguments.

    The pattern is read off the operations that F is made of, not off numbers: an entry that happens to vanish at this x
    is part of it. Integer arrays among the arguments, such as the indices of a mesh, steer the pattern and must be
    known: call this outside of `jit`, and pass the result to `LU(pattern=...)`. What the analysis cannot see through,
    such as a general `while_loop`, a sort or a nested solution, counts as dense from its inputs to its outputs.

    Args:
        F: the conditions, a root F(x, *args) = 0 or a fixed-point condition of `implicitdiff.optimality`.
        x: the unknowns, of which only shapes and dtypes matter.
        *args: what F depends on besides.
        **kwargs: its keyword arguments.

    Returns:
        A `Pattern`, which can be printed, drawn (`spy`), saved and passed to `LU`. It is kept, and found at once the
        next time the same F is asked for.

    Raises:
        ImportError: `asdex` is not installed: `pip install 'implicitdiff[sparse]'`.

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
        given = [zeros(leaf) for leaf in self.theta if isinstance(leaf, jax.ShapeDtypeStruct)]
        dense = {"ruled"}

        def residual(x, *given):
            supply = iter(given)
            theta = [next(supply) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf for leaf in self.theta]
            leaves = self.program.x_tree.flatten_up_to(space.from_real(x.reshape(self.shape(space))))
            closed = jax.make_jaxpr(lambda *x: self.program(x, theta))(*leaves)
            value = _conservative(closed.jaxpr, closed.consts, leaves, dense)
            return space.to_real(self.program.x_tree.unflatten(value)).ravel()

        like = zeros(jax.ShapeDtypeStruct((space.size,), space.dtype))
        while True:
            try:
                return _by_asdex(residual, like, given)
            except NotImplementedError as error:
                unknown = re.search(r"No handler for primitive '([^']+)'", str(error))
                if not unknown or unknown[1] in dense:
                    raise
                dense.add(unknown[1])

    @staticmethod
    def shape(space: RealSpace) -> tuple[int, ...]:
        """The shape of the real array that stands for x."""
        return space.shapes[0] if len(space.shapes) == 1 else (space.size,)

    def __hash__(self) -> int:
        return hash((self.program, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sought) and self.key == other.key and self.program == other.program


def zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    """An array in the memory of one number: of examples `asdex` needs the shapes and dtypes."""
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def _by_asdex(residual: Callable, x: np.ndarray, given: list) -> Pattern:
    try:
        from asdex import jacobian_sparsity
    except ImportError as error:
        raise ImportError(
            "To find the sparsity pattern of F needs asdex: pip install 'implicitdiff[sparse]'. Without it, give the "
            "pattern: LU(pattern=...) takes any SciPy sparse matrix."
        ) from error
    from scipy import sparse

    with jax.ensure_compile_time_eval():  # also where this is asked for under jit
        found = jacobian_sparsity(residual, x, *given, argnums=0)
    ones = np.ones(len(found.rows), np.int8)
    return Pattern(sparse.coo_array((ones, (np.asarray(found.rows), np.asarray(found.cols))), shape=found.shape))


def _conservative(jaxpr: jex.Jaxpr, consts: Sequence, inputs: Sequence, dense: set[str]) -> list:
    """Evaluate a program, with sums of all inputs in the place of the primitives that are named in `dense`."""
    if not _holds(jaxpr, dense):
        return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, list(consts)))(*inputs)
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if eqn.primitive is ruled_p:
            found = dependence(operands, **eqn.params)
        elif name in dense:
            found = [_sum_of(operands, var.aval) for var in eqn.outvars]
        elif any(_holds(inner, dense) for inner in jex.jaxprs_in_params(eqn.params)):
            inner = eqn.params.get(_CALLS.get(name, ""))
            if inner is None:  # a loop or a branch with something dense in it
                found = [_sum_of(operands, var.aval) for var in eqn.outvars]
            elif hasattr(inner, "jaxpr"):
                found = _conservative(inner.jaxpr, inner.consts, operands, dense)
            else:
                found = _conservative(inner, [], operands, dense)
        else:
            variables = [atom for atom in eqn.invars if not isinstance(atom, jex.Literal)]
            alone = jex.Jaxpr((), variables, eqn.outvars, [eqn])
            found = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))(*[values[atom] for atom in variables])
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _holds(jaxpr: jex.Jaxpr, names: set[str]) -> bool:
    return any(
        eqn.primitive.name in names or any(_holds(inner, names) for inner in jex.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


def _sum_of(operands: Sequence, like: Any) -> Array:
    """What stands for an output of a primitive that depends on all of its inputs."""
    if not jnp.issubdtype(like.dtype, jnp.inexact):  # integers and booleans have no derivative
        return jnp.zeros(like.shape, like.dtype)
    return depending(operands, like.shape, like.dtype)
