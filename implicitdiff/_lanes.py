"""The adjoint of conditions that exchange their unknowns along a named axis, of `vmap`, `shard_map` or `pmap`.

Lane i knows x_i and F_i(x_1, ..., x_N), and the system to be solved is that of all lanes (`_collectives`). Every lane
solves it, the same one: the system is

    coupled:  X -> (F_1(X), ..., F_N(X)) with X = (x_1, ..., x_N) collected from all lanes, of which lane i takes x_i;
    shared:   x -> F(x), which is the same in all lanes.

Both are written so that the adjoint of what the lanes do together, which is what JAX derives, is the adjoint of this
system: what all lanes know alike passes through a mean over the lanes, on its way in and on its way out. Then the
iterations of a Krylov method are the same in all lanes, and so is their number.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from ._adjoint import Adjoint
from ._collectives import Kind, Value, lanes, names_of
from ._implicit import Implicit
from ._program import Composition, Derivatives, Program
from ._varying import axes_of, varying

Leaves = Sequence[Array]


@dataclasses.dataclass(frozen=True)
class OneSystem(Adjoint):
    """An adjoint of the system of all lanes."""

    adjoint: Adjoint
    axes: tuple[tuple[Any, Kind], ...]

    @property
    def reusable(self) -> bool:
        """Whether equal adjoints compute the same."""
        return self.adjoint.reusable

    def traced(self, program: Any, x: Leaves, theta: Leaves) -> tuple["OneSystem", list[Array]]:
        """The same with the functions of the adjoint traced."""
        adjoint, arrays = self.adjoint.traced(self.whole(program, x), self.collected(x), theta)
        return dataclasses.replace(self, adjoint=adjoint), arrays

    def bound(self, arrays: Leaves) -> "OneSystem":
        """What `traced` took apart put together again."""
        return dataclasses.replace(self, adjoint=self.adjoint.bound(arrays))

    def refined(self, program: Any, x: Leaves, theta: Leaves, arrays: Leaves = ()) -> tuple["OneSystem", Leaves]:
        """This lane's part of the refined point of the whole."""
        adjoint, point = self.adjoint.refined(self.whole(program, x), self.collected(x), theta, arrays)
        return dataclasses.replace(self, adjoint=adjoint), self.own(point, x)

    def tangent(self, program: Any, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> list[Array]:
        """This lane's part of the derivative of the whole."""
        return self.own(self.adjoint.tangent(self.whole(program, x), self.collected(x), theta, theta_dot), x)

    def whole(self, program: Any, x: Leaves) -> Any:
        """The conditions of all lanes, made of those of a lane with its x."""
        return Whole(program, self, x)

    def collected(self, leaves: Leaves) -> list[Array]:
        """What all lanes know of values of one lane each."""
        for axis, kind in self.axes:
            if kind == "coupled":
                leaves = [lax.all_gather(leaf, axis) for leaf in leaves]
            else:
                leaves = [varying(lax.pmean(leaf, axis), axes_of(leaf)) for leaf in leaves]
        return list(leaves)

    def own(self, leaves: Leaves, like: Leaves) -> list[Array]:
        """This lane's part of what all lanes know."""
        for axis, kind in reversed(self.axes):
            leaves = [lax.pmean(leaf, axis) for leaf in leaves]
            if kind == "coupled":
                leaves = [lax.dynamic_index_in_dim(leaf, lax.axis_index(axis), keepdims=False) for leaf in leaves]
        return [varying(leaf, axes_of(other)) for leaf, other in zip(leaves, like, strict=True)]


class Whole(Derivatives):
    """The conditions of all lanes as a program, computed by every lane."""

    def __init__(self, program: Any, lanes: OneSystem, like: Leaves):
        """Make it of the program of a lane, whose x is like `like`."""
        self.program, self.lanes, self.like = program, lanes, like
        self.x_tree = program.x_tree

    def __call__(self, x: Leaves, theta: Leaves) -> list[Array]:
        """Evaluate the conditions."""
        return self.lanes.collected(self.program(self.lanes.own(x, self.like), theta))

    def products(self, x: Leaves, theta: Leaves) -> tuple[Callable, ...]:
        """The product v -> dF/dx v."""
        product = self.program.product(self.lanes.own(x, self.like), theta)
        return (lambda v: self.lanes.collected(product(self.lanes.own(v, self.like))),)

    def along(self, x: Leaves, theta: Leaves, theta_dot: Sequence[Array | None]) -> tuple[list[Array], list[Array]]:
        """F(x, theta), and its derivative along theta_dot."""
        value, b = self.program.along(self.lanes.own(x, self.like), theta, theta_dot)
        return self.lanes.collected(value), self.lanes.collected(b)


def across_lanes(adjoint: Adjoint, program: Program, x: Leaves, theta: Leaves) -> Adjoint:
    """The adjoint, of the system of all lanes where the conditions exchange x between lanes."""
    parts = [program.inner, program.outer] if isinstance(program, Composition) else [program]
    names = set().union(*[names_of(part.jaxpr) for part in parts])
    if not names:
        return adjoint
    closed = jax.make_jaxpr(program)(list(x), list(theta))
    axes = []
    for axis in sorted(names, key=str):
        same = _known_same([*x, *theta], axis)
        if all(same[: len(x)]) and _is_tracked(axis):
            continue  # JAX knows that x is one, and differentiates accordingly
        inputs = [Value(i < len(x), not known) for i, known in enumerate(same)]
        constants = [Value(False, False)] * len(closed.jaxpr.constvars)
        kind = lanes(closed.jaxpr, axis, [*constants, *inputs])
        if kind != "independent":
            axes.append((axis, kind))
    if any(kind == "coupled" for _, kind in axes) and isinstance(adjoint, Implicit) and adjoint.linear_solver is None:
        # What is known of a lane's Jacobian need not hold for that of all lanes.
        adjoint = dataclasses.replace(adjoint, symmetric=False, positive_definite=False)
    return OneSystem(adjoint, tuple(axes)) if axes else adjoint


def _is_tracked(axis: Hashable) -> bool:
    """Whether JAX keeps track of what varies along this axis, as in a checked `shard_map`."""
    return axis in axes_of(lax.axis_index(axis))


def _known_same(leaves: Leaves, axis: Hashable) -> list[bool]:
    """Of which values it is known that they are the same in all lanes."""
    if _is_tracked(axis):
        return [axis not in axes_of(leaf) for leaf in leaves]
    batched = [_is_batched(leaf, axis) for leaf in leaves]
    if any(batched):  # this runs within vmap itself, and not within a jit in it
        return [not is_batched for is_batched in batched]
    return [not isinstance(leaf, jax.core.Tracer) for leaf in leaves]


def _is_batched(leaf: Any, axis: Hashable) -> bool:
    while isinstance(leaf, jax.core.Tracer):
        if hasattr(leaf, "batch_dim"):
            if leaf._trace.axis_data.name == axis:
                return leaf.batch_dim is not None
            leaf = leaf.val
        elif hasattr(leaf, "primal"):
            leaf = leaf.primal
        else:
            return False
    return False
