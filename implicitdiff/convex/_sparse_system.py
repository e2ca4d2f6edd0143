"""The linear system of a conic program with sparse data, factorised sparsely.

The normal map has the Jacobian

    [ P   A'D   ]
    [ A   D - I ]

with D the derivative of the projection of v onto the dual cone, which has one block for each cone. For linear
inequalities D is one where a constraint is active and zero elsewhere, so that the inactive rows have an entry on the
diagonal besides their row of A, and nothing else depends on them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from scipy import sparse

from .._batching import batchable
from .._linear import Solution
from .._structured import StructuredSolver
from ..projection.cones import Cone, NonNegative, Zero, product_dual
from ..sparse._factors import KEPT, Matrix
from ..sparse._located import solve_on_host

if TYPE_CHECKING:
    from .._linear import System
    from .._program import Program


@dataclasses.dataclass(frozen=True)
class SparseSystem(StructuredSolver):
    """Sparse LU of the Jacobian of the normal map.

    Attributes:
        cones: of the program.
        tree: the structure of (P, q, A, b).
        operands: x, v and the leaves of (P, q, A, b), where a solve is under way.
    """

    cones: tuple[Cone, ...]
    tree: Any
    operands: tuple[Array, ...] | None = None

    def at(self, program: "Program", x: Sequence[Array], theta: Sequence[Array]) -> "SparseSystem":
        """The same with the data of a solve."""
        # The arguments of the conditions are the last of theta; a program that is traced for first derivatives has
        # constants of its own behind them.
        theta = theta[: getattr(program, "thetas", len(theta))]
        return dataclasses.replace(self, operands=(*x, *theta[len(theta) - self.tree.num_leaves :]))

    def strategy(self, system: "System", transpose: bool) -> Callable[[Array, Array], Solution]:
        """Factors are made outside of the solve, so that the transpose shares them."""
        assert self.operands is not None
        (x, v, *leaves), eps = self.operands, system.space.eps
        n, m = x.size, v.size
        data = [lax.stop_gradient(leaf) for leaf in leaves], lax.stop_gradient(self.derivative(v))

        def matrix(leaves: list, D: np.ndarray) -> tuple[Matrix, None]:
            # The same numbers mean another matrix with other cones.
            key = KEPT.key([*leaves, D], self.cones, self.tree, eps)
            return KEPT.get(key, lambda: Matrix(self.jacobian(leaves, D, n, m), False, eps)), None

        def many(data: tuple, bs: Array) -> Solution:
            x, status = solve_on_host(matrix, data, bs, transpose)
            return Solution(x, status, jnp.ones(status.shape, jnp.int32))

        def single(data: tuple, b: Array) -> Solution:
            return jax.tree.map(lambda leaf: leaf[0], many(data, b[None]))

        solver = batchable(single, many)
        return lambda b, atol: solver(data, b)

    def derivative(self, v: Array) -> Array:
        """The derivative of the projection of v: row k has its product with the k-th unit vector of every cone."""
        places = self.places()
        count = int(places.max(initial=0)) + 1
        # Behind a barrier, or XLA would compute these vectors when it compiles.
        seeds = (lax.optimization_barrier(jnp.asarray(places))[None] == jnp.arange(count)[:, None]).astype(v.dtype)
        return jax.vmap(lambda seed: jax.jvp(lambda v: product_dual(v, self.cones), (v,), (seed,))[1])(seeds)

    def places(self) -> np.ndarray:
        """The place of each row in its cone; those of linear cones are cones of their own."""
        parts = [
            np.zeros(cone.size, np.int32)
            if isinstance(cone, Zero | NonNegative)
            else np.arange(cone.size, dtype=np.int32)
            for cone in self.cones
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def jacobian(self, leaves: list, shown: np.ndarray, n: int, m: int) -> sparse.csc_array:
        """The matrix, in SciPy."""
        data = iter(leaves)
        P, _, A, _ = self.tree.unflatten([_Leaf(next(data)) for _ in leaves])
        P, A = _matrix(P, (n, n)), _matrix(A, (m, n))
        D = self.blocks(shown, m)
        jacobian = sparse.block_array([[P, A.T @ D], [A, D - sparse.eye_array(m)]], format="csc")
        return sparse.csc_array(jacobian)

    def blocks(self, shown: np.ndarray, m: int) -> sparse.csc_array:
        """D as a matrix with a block for each cone."""
        rows, columns, values, start = [], [], [], 0
        for cone in self.cones:
            size = cone.size
            at = np.arange(start, start + size)
            if isinstance(cone, Zero | NonNegative):
                rows.append(at)
                columns.append(at)
                values.append(shown[0, at])
            else:
                rows.append(np.tile(at, size))
                columns.append(np.repeat(at, size))
                values.append(shown[:size, at].ravel())
            start += size
        if not rows:
            return sparse.csc_array((m, m))
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        return sparse.csc_array(sparse.coo_array(entries, shape=(m, m)))


class _Leaf:
    """An array of the data, which JAX takes for a leaf."""

    def __init__(self, value: np.ndarray):
        self.value = value


def _matrix(matrix: Any, shape: tuple[int, int]) -> sparse.csc_array:
    """A matrix of SciPy from None, an array, or a BCOO, whose padding lies outside of it."""
    if matrix is None:
        return sparse.csc_array(shape)
    if isinstance(matrix, _Leaf):
        return sparse.csc_array(matrix.value.astype(float))
    values, indices = matrix.data.value, matrix.indices.value
    inside = np.all(indices < np.array(shape), axis=1)
    entries = values[inside].astype(float), (indices[inside, 0], indices[inside, 1])
    return sparse.csc_array(sparse.coo_array(entries, shape=shape))
