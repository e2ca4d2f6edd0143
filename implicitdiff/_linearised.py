"""The conditions F, linearised at a point, as maps of flat real vectors; the basis of estimates, bounds and reports."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax import tree_util as jtu
from jaxtyping import Array, Float, PyTree

from ._adjoint import Adjoint
from ._compiled import compiled_call
from ._fixed_point import as_root
from ._implicit import Implicit
from ._program import CONCRETE_NEEDED, Program, is_inexact, trace
from ._root import check_unknowns
from ._space import RealSpace

Vector = Float[Array, " n"]
Covector = Float[Array, " p"]

# The relative residual for a step of which only the size matters: two digits at condition number 100.
LOOSE = 1e-4


def compiled(f: Callable[..., PyTree], *args: Any) -> PyTree:
    """f(*args), compiled once for all calls that compute the same, unless f needs concrete numbers."""
    try:
        return compiled_call(f, *args)
    except CONCRETE_NEEDED:
        return f(*args)


class Flat:
    """Conversion of pytrees of one structure to real vectors, and back."""

    def __init__(self, leaves: Sequence[Array]):
        """Remember shapes and dtypes."""
        self.space = RealSpace(list(leaves))
        self.size = self.space.size
        self.dtype = self.space.dtype

    def vector(self, leaves: Sequence[Array]) -> Array:
        """One real vector from leaves."""
        return self.space.to_real(list(leaves)).ravel()

    def leaves(self, vector: Array) -> list[Array]:
        """The leaves of a vector."""
        return self.space.from_real(vector)


@dataclasses.dataclass(frozen=True)
class Linearised:
    """F and its Jacobians A = dF/dx (n x n) and B = dF/dargs (n x p) at x.

    Attributes:
        program: F.
        adjoint: how systems with A are solved.
        x: the point.
        theta: all arrays that F depends on.
        moving: indices into theta of the inexact arrays among args.
        unknowns: x as vectors of size n.
        parameters: the moving arrays as vectors of size p.
        args_tree: leaves and structure of args.
    """

    program: Program
    adjoint: Implicit
    x: list[Array]
    theta: list[Array]
    moving: list[int]
    unknowns: Flat
    parameters: Flat
    args_tree: tuple[list, Any]

    @classmethod
    def of(cls, F: Callable, x: PyTree, args: tuple, adjoint: Adjoint | None) -> "Linearised":
        """F at x, which may be a root condition or a fixed-point map made by `implicitdiff.optimality`."""
        adjoint = Implicit() if adjoint is None else adjoint
        if not isinstance(adjoint, Implicit):
            raise TypeError(f"adjoint must be Implicit here, found {type(adjoint).__name__}.")
        root = as_root(F) if hasattr(F, "is_root") else F
        x = lax.stop_gradient(check_unknowns(x))
        leaves, tree = jtu.tree_flatten(args)
        leaves = [jnp.asarray(leaf) if is_inexact(leaf) else leaf for leaf in leaves]
        program, theta = trace(root, x, jtu.tree_unflatten(tree, leaves), {})
        theta = lax.stop_gradient(theta)
        moving = [i for i in range(program.constants, len(theta)) if jnp.issubdtype(theta[i].dtype, jnp.inexact)]
        x_leaves = jtu.tree_leaves(x)
        return cls(
            program,
            adjoint.prepare(root),
            x_leaves,
            theta,
            moving,
            Flat(x_leaves),
            Flat([theta[i] for i in moving]),
            (leaves, tree),
        )

    def at(self, x: Vector) -> "Linearised":
        """The same F at another point."""
        return dataclasses.replace(self, x=self.unknowns.leaves(x))

    def loosely(self) -> "Linearised":
        """The same, but with solves to few digits; a linear solver of the user keeps its own tolerance."""
        adjoint = self.adjoint
        if adjoint.linear_solver is None:
            adjoint = dataclasses.replace(adjoint, rtol=max(LOOSE, adjoint.rtol or 0.0))
        return dataclasses.replace(self, adjoint=adjoint)

    def position(self) -> Vector:
        """The point x as a vector."""
        return self.unknowns.vector(self.x)

    def value(self) -> Vector:
        """F(x)."""
        return self.unknowns.vector(self.program(self.x, self.theta))

    def A(self, v: Vector) -> Vector:
        """The product A v."""
        return self.unknowns.vector(self.program.product(self.x, self.theta)(self.unknowns.leaves(v)))

    def A_transposed(self, u: Vector) -> Vector:
        """The product A' u."""
        return jax.linear_transpose(self.A, self.position())(u)[0]

    def B(self, v: Covector) -> Vector:
        """The product B v."""
        if not self.moving:
            return jnp.zeros(self.unknowns.size, self.unknowns.dtype)
        theta_dot: list = [None] * len(self.theta)
        for i, leaf in zip(self.moving, self.parameters.leaves(v), strict=True):
            theta_dot[i] = leaf
        return self.unknowns.vector(self.program.along(self.x, self.theta, theta_dot)[1])

    def B_transposed(self, u: Vector) -> Covector:
        """The product B' u."""
        like = jnp.zeros(self.parameters.size, self.parameters.dtype)
        return jax.linear_transpose(self.B, like)(u)[0] if self.moving else like

    def solve(self, b: Vector) -> Vector:
        """A^-1 b."""
        solved = self.adjoint.solve(self.program, self.x, self.theta, self.unknowns.leaves(b))
        return self.unknowns.vector(solved)

    def solve_transposed(self, c: Vector) -> Vector:
        """A'^-1 c."""
        return jax.linear_transpose(self.solve, self.position())(c)[0]

    def tangent_vector(self, tangents: tuple) -> Covector:
        """Tangents of args as a vector; None means that an argument does not change."""
        leaves, tree = self.args_tree
        parts = tree.children()
        if len(tangents) != len(parts):
            raise TypeError(f"tangents must have one entry for each of the {len(parts)} args, found {len(tangents)}.")
        given: list = []
        for part, tangent in zip(parts, tangents, strict=True):
            given += [None] * part.num_leaves if tangent is None else part.flatten_up_to(tangent)
        arrays = [(leaf, t) for leaf, t in zip(leaves, given, strict=True) if is_inexact(leaf)]
        return self.parameters.vector(
            [
                jnp.zeros_like(leaf) if t is None else jnp.broadcast_to(jnp.asarray(t, leaf.dtype), leaf.shape)
                for leaf, t in arrays
            ]
        )

    def cotangent_vector(self, cotangent: PyTree) -> Vector:
        """A cotangent of x as a vector (complex cotangents in JAX are conjugates of gradients)."""
        return self.unknowns.vector([jnp.conj(leaf) for leaf in self.program.x_tree.flatten_up_to(cotangent)])

    def cotangent_of_args(self, u: Covector) -> tuple:
        """A vector as cotangents of args."""
        return jax.tree.map(jnp.conj, self.like_args(u))

    def like_x(self, v: Vector) -> PyTree:
        """A vector as a pytree like x."""
        return self.program.x_tree.unflatten(self.unknowns.leaves(v))

    def like_args(self, v: Covector) -> tuple:
        """A vector as a tuple like args, None where a leaf has no derivative."""
        leaves, tree = self.args_tree
        supply = iter(self.parameters.leaves(v))
        return tree.unflatten([next(supply) if is_inexact(leaf) else None for leaf in leaves])
