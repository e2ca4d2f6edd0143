"""The matrix of a system on the host: its entries, and solves with it."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._failure import NOT_CONVERGED
from .._structured import Structured
from .._varying import axes_of, varying
from ._detection import Sought
from ._entries import probe, products
from ._factors import KEPT, Backend, Matrix, doubts
from ._pattern import Pattern

if TYPE_CHECKING:
    from .._linear import System
    from .._program import Program


class Entries(NamedTuple):
    """A matrix on the device, known to the host.

    Attributes:
        key: by which the host finds what it has made of the entries, as four integers.
        shown: the products that show the entries.
        sent: a vector without a pattern.
        image: A times that vector.
    """

    key: Array
    shown: Array
    sent: Array
    image: Array


@dataclasses.dataclass(frozen=True)
class Located(Structured):
    """Something that needs the pattern of A: `pattern` is one, or what it can be made of, or None."""

    pattern: Any = None

    def __post_init__(self):
        if self.pattern is not None and not isinstance(self.pattern, Pattern | Sought):
            object.__setattr__(self, "pattern", Pattern(self.pattern))

    def located(self, program: "Program", x: Sequence[Array], theta: Sequence[Array]) -> Self:
        """The same with the pattern of this program, unless one was given."""
        return self if self.pattern is not None else dataclasses.replace(self, pattern=Sought(program, x, theta))

    def found(self) -> Pattern:
        """The pattern, looked for if need be."""
        return self.pattern.find() if isinstance(self.pattern, Sought) else self.pattern


def entries(system: "System", pattern: Pattern, backend: Backend = "superlu") -> Entries:
    """The entries of A, which a solve and its transpose share."""
    shown, eps = products(system, pattern), system.space.eps
    return shown_entries(shown, system.product, system.right, lambda shown: matrix_of(pattern, shown, eps, backend))


def shown_entries(shown: Array, product: Any, like: Array, made: Any, *operands: Array) -> Entries:
    """Entries with a product that checks them; `made(shown, *operands)` is their key and their matrix, or None."""

    def read(*found: Any) -> tuple[np.ndarray, np.ndarray]:
        key, matrix = made(*map(np.asarray, found)) or (bytes(16), None)
        unit = np.ones(like.size) if matrix is None else matrix.unit
        return np.frombuffer(key, np.uint32), unit.astype(like.dtype)

    kinds = jax.ShapeDtypeStruct((4,), jnp.uint32), jax.ShapeDtypeStruct((like.size,), like.dtype)
    key, unit = on_host(read, kinds, shown, *operands)
    sent = probe(like, unit)
    return Entries(key, shown, sent, jax.lax.stop_gradient(product(sent)))


def matrix_of(
    pattern: Pattern, shown: np.ndarray, eps: float, backend: Backend, key: bytes | None = None
) -> tuple[bytes, Matrix]:
    """The matrix whose entries products show, and its key, which need not be computed again where it is known."""
    if key is None:
        key = KEPT.key([shown], pattern.digest, eps, backend if isinstance(backend, str) else id(backend))

    def make() -> Matrix:
        return Matrix(pattern.matrix(shown.reshape(-1)[pattern.places]), pattern.symmetric, eps, backend)

    return key, KEPT.get(key, make)


def checked(pattern: Pattern, found: Any, eps: float, backend: Backend) -> tuple[Matrix, np.ndarray | None]:
    """The matrix of these entries, and its doubts; see `doubts`."""
    key, shown, sent, image = found
    _, matrix = matrix_of(pattern, shown, eps, backend, key.tobytes())
    return matrix, doubts(matrix, sent, image, eps)


def solve_on_host(matrix: Any, operands: Any, bs: Array, transpose: bool) -> tuple[Array, Array]:
    """Solutions of A x = b, or A' x = b, for right-hand sides stacked along the first axis, and a status for each.

    `matrix(*operands)` is a `Matrix` with its doubts, given NumPy arrays, or None where there is none: the status is
    then NOT_CONVERGED.
    """

    def solved(operands: Any, bs: Any) -> tuple[np.ndarray, np.ndarray]:
        bs = np.asarray(bs)
        found = matrix(*jax.tree.map(np.asarray, operands))
        if found is None:
            return np.zeros_like(bs), np.full(len(bs), NOT_CONVERGED, np.int32)
        X, status = found[0].solve(bs.reshape(len(bs), -1).T.astype(np.float64), transpose, found[1])
        with np.errstate(over="ignore"):
            return X.T.reshape(bs.shape).astype(bs.dtype), status

    kinds = jax.ShapeDtypeStruct(bs.shape, bs.dtype), jax.ShapeDtypeStruct((len(bs),), jnp.int32)
    return on_host(solved, kinds, operands, bs)


def on_host(function: Any, kinds: Any, *arrays: Any) -> Any:
    """The result of a function of NumPy arrays; of a batch, one call after the other."""
    found = jax.pure_callback(function, kinds, *arrays, vmap_method="sequential")
    return varying(found, axes_of(arrays))
