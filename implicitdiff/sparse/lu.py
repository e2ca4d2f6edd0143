"""Sparse LU factorisation of a Jacobian, from coloured products."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._batching import batchable
from .._structured import StructuredSolver
from ._factors import Backend, Matrix
from ._located import Entries, Located, checked, entries, solve_on_host

if TYPE_CHECKING:
    from .._linear import Solution, System


@dataclasses.dataclass(frozen=True)
class LU(Located, StructuredSolver):
    """A direct linear solver for large sparse Jacobians: `Implicit(linear_solver=LU())`.

    A = dF/dx and its transpose come from one set of coloured products, A S and A' R with few columns in S and R, and
    are factorised once on the host, in float64 whatever the dtype of x. Factors are shared by A and A', by all
    right-hand sides, and by later calls with the same entries. Every solution is refined once and its error bounded;
    where the bound exceeds 1 %, as for a singular A, the derivative fails as `on_failure` says, and in a batch only the
    element that is singular does. One more product of A with a vector that has no pattern checks that no entry was left
    out.

    Attributes:
        pattern: where A may have entries: a `Pattern`, any SciPy sparse matrix or dense array that is not zero there,
            or None. Then it is read off F when the first derivative is asked for, once for each F; see `pattern`.
        backend: "superlu", SciPy's; or a function of a `scipy.sparse.csc_array` that returns an object with the method
            `solve(b, trans)`, trans being "N" or "T", and raises RuntimeError where the matrix is singular. Another
            library's factorisation is plugged in this way. Make such a function once: factors are shared between calls
            with the same function.

    Raises:
        ValueError: A has entries outside of the pattern that was given; or no few products show all entries.

    Sources: Curtis, Powell and Reid, "On the estimation of sparse Jacobian matrices", 1974 (colouring); Demmel et al.,
    "A supernodal approach to sparse partial pivoting", SIAM J. Matrix Anal. 1999 (SuperLU).

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, scipy.sparse as sp, implicitdiff as idf
        >>> def F(u, source):  # -u'' + u^3 = source
        ...     return jnp.diff(u, n=2, prepend=0.0, append=0.0) * -1e4 + u**3 - source
        >>> chain = sp.eye_array(100) + sp.eye_array(100, k=1) + sp.eye_array(100, k=-1)
        >>> by_lu = idf.Implicit(linear_solver=idf.sparse.LU(chain))
        >>> mean = lambda source: jnp.mean(idf.implicit_root(F, jnp.zeros(100), source, adjoint=by_lu))
        >>> print(f"{jax.grad(mean)(jnp.zeros(100))[50]:.6f}")
        0.001275
    """

    backend: Backend = "superlu"

    def __post_init__(self):
        super().__post_init__()
        if self.backend != "superlu" and not callable(self.backend):
            raise ValueError(f'backend must be "superlu" or a function of a matrix, found {self.backend!r}.')

    def strategy(self, system: "System", transpose: bool) -> Callable[[Array, Array], "Solution"]:
        """Factors are made outside of the solve, so that the transpose shares them."""
        from .._linear import Solution

        pattern, eps = self.found(), system.space.eps
        shape, steps = system.right.shape, pattern.colours.products

        def matrix(*found: np.ndarray) -> tuple[Matrix, np.ndarray]:
            A, doubt = checked(pattern, found, eps, self.backend)
            if doubt is None:
                raise ValueError(
                    f"The Jacobian of F in x has entries outside of the pattern that was given, {pattern}. Let "
                    "implicitdiff.sparse.pattern(F, x, *args) find it, or give all places that may hold an entry."
                )
            return A, doubt

        def many(found: Entries, bs: Array) -> Solution:
            x, status = solve_on_host(matrix, found, bs, transpose)
            return Solution(x, status, jnp.full(status.shape, steps, jnp.int32))

        def single(found: Entries, b: Array) -> Solution:
            return jax.tree.map(lambda leaf: leaf[0], many(found, b[None]))

        solver, found = batchable(single, many), system.shared(self, lambda: entries(system, pattern, self.backend))
        return lambda b, atol: solver(found, b.reshape(shape))
