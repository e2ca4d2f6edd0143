"""What linear solvers and preconditioners with a pattern have in common: the matrix, on the device and on the host."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._structured import Structured
from .._varying import axes_of, varying
from ._detection import Sought
from ._entries import probe, products
from ._factors import KEPT, Backend, Matrix, complete
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

    def read(shown: Any) -> tuple[np.ndarray, np.ndarray]:
        shown = np.asarray(shown)
        key = KEPT.key(pattern, shown, backend)
        return np.frombuffer(key, np.uint32), KEPT.matrix(key, pattern, shown, eps, backend).unit.astype(shown.dtype)

    kinds = jax.ShapeDtypeStruct((4,), jnp.uint32), jax.ShapeDtypeStruct((pattern.n,), shown.dtype)
    key, unit = on_host(read, kinds, shown)
    sent = probe(system.right, unit)
    return Entries(key, shown, sent, jax.lax.stop_gradient(system.product(sent)))


def kept(pattern: Pattern, eps: float, backend: Backend, found: Any) -> Matrix:
    """The matrix of these entries on the host; raises ValueError where the pattern is incomplete."""
    key, shown, sent, image = map(np.asarray, found)
    matrix = KEPT.matrix(key.tobytes(), pattern, shown, eps, backend)
    if not complete(matrix, sent, image, eps):
        raise ValueError(
            f"The Jacobian of F in x has entries outside of the pattern that was given, {pattern}. Let "
            "implicitdiff.sparse.pattern(F, x, *args) find it, or give all places that may hold an entry."
        )
    return matrix


def on_host(function: Any, kinds: Any, *arrays: Any) -> Any:
    """The result of a function of NumPy arrays; of a batch, one call after the other."""
    found = jax.pure_callback(function, kinds, *arrays, vmap_method="sequential")
    return varying(found, axes_of(arrays))
