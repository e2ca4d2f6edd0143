"""The automatic choice where a Krylov method has failed: sparse LU, if the Jacobian turns out to be sparse.

Whether it is, is found out on the host when the need arises, so that nobody waits for it who does not need it. How many
products show the entries is therefore not known when the program is compiled: they are made one after the other.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .._varying import fori_loop
from ._detection import Sought
from ._factors import Matrix
from ._located import checked, matrix_of, on_host, shown_entries, solve_on_host

if TYPE_CHECKING:
    from .._linear import Solution

# At most so many products are made, and fewer where they would take more memory than this many numbers.
PRODUCTS = 32
MEMORY = 2**25


def solve_sparsely(sought: Sought, product: Any, bs: Array, turn: Array, eps: float, transpose: bool) -> "Solution":
    """Solve A x = b, or A' x = b, for right-hand sides stacked along a first axis; NOT_CONVERGED if A is not sparse.

    `turn` is a number of the loop around: the work depends on it, or XLA would do it before the loop.
    """
    from .._linear import Solution

    like, n = bs[0], bs[0].size
    most = max(min(PRODUCTS, MEMORY // n), 1)

    def colours(turn: Any) -> tuple[np.ndarray, np.ndarray]:
        del turn
        try:
            found = sought.find().colours
        except Exception:  # what cannot be analysed is not rescued; nobody asked for it
            return np.full(n, -1, np.int32), np.array(0, np.int32)
        possible = found.reverse == 0 and found.forward <= most
        return found.columns.astype(np.int32), np.array(found.forward if possible else 0, np.int32)

    integers = jax.ShapeDtypeStruct((n,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    colour, count = on_host(colours, integers, turn)

    def show(i: Array, shown: Array) -> Array:
        seed = (colour == i).astype(like.dtype).reshape(like.shape)
        return lax.dynamic_update_index_in_dim(shown, product(seed).ravel(), i, 0)

    shown = fori_loop(0, count, show, jnp.zeros((most, n), like.dtype))

    def made(shown: np.ndarray, count: np.ndarray) -> tuple[bytes, Matrix] | None:
        return matrix_of(sought.find(), shown[: int(count)], eps, "superlu") if int(count) else None

    found = shown_entries(shown, product, like, made, count)

    def matrix(count: np.ndarray, key: np.ndarray, shown: np.ndarray, *others: np.ndarray) -> Any:
        if not int(count):
            return None
        A, doubt = checked(sought.find(), (key, shown[: int(count)], *others), eps, "superlu")
        return None if doubt is None else (A, doubt)

    x, status = solve_on_host(matrix, (count, *found), bs, transpose)
    return Solution(x, status, jnp.broadcast_to(count, status.shape))
