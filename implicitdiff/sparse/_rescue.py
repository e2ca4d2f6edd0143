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

from .._failure import NOT_CONVERGED
from .._varying import fori_loop
from ._detection import Sought
from ._entries import probe
from ._factors import KEPT, complete
from ._located import on_host

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

    def read(count: Any, shown: Any) -> tuple[np.ndarray, np.ndarray]:
        if not int(count):
            return np.zeros(4, np.uint32), np.ones(n, like.dtype)
        pattern, shown = sought.find(), np.asarray(shown)[: int(count)]
        key = KEPT.key(pattern, shown, "superlu")
        return np.frombuffer(key, np.uint32), KEPT.matrix(key, pattern, shown, eps, "superlu").unit.astype(like.dtype)

    kinds = jax.ShapeDtypeStruct((4,), jnp.uint32), jax.ShapeDtypeStruct((n,), like.dtype)
    key, unit = on_host(read, kinds, count, shown)
    sent = probe(like, unit)
    image = product(sent)

    def solved(count: Any, key: Any, shown: Any, sent: Any, image: Any, bs: Any) -> tuple[np.ndarray, np.ndarray]:
        bs, failed = np.asarray(bs), np.full(len(bs), NOT_CONVERGED, np.int32)
        if not int(count):
            return np.zeros_like(bs), failed
        pattern, shown = sought.find(), np.asarray(shown)[: int(count)]
        matrix = KEPT.matrix(np.asarray(key).tobytes(), pattern, shown, eps, "superlu")
        if not complete(matrix, np.asarray(sent), np.asarray(image), eps):
            return np.zeros_like(bs), failed
        X, status = matrix.solve(bs.reshape(len(bs), -1).T.astype(np.float64), transpose)
        with np.errstate(over="ignore"):
            return X.T.reshape(bs.shape).astype(bs.dtype), status

    kinds = jax.ShapeDtypeStruct(bs.shape, bs.dtype), jax.ShapeDtypeStruct((len(bs),), jnp.int32)
    x, status = on_host(solved, kinds, count, key, shown, sent, image, bs)
    return Solution(x, status, jnp.broadcast_to(count, status.shape))
