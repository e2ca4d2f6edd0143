"""How wrong a derivative is because x is not exactly the solution: an estimate from one more Newton step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._adjoint import Adjoint
from .._linearised import Covector, Linearised, Vector, compiled
from ._spectrum import noise


class ErrorEstimate(NamedTuple):
    """Estimates for a derivative that was computed at x instead of x*.

    Attributes:
        distance: estimate of ||x - x*||.
        error: estimate of the Euclidean norm of the error of the derivative at x (for a Jacobian, the Frobenius norm).
        norm: norm of the derivative itself.
        residual: ||F(x, *args)||.
        derivative: the derivative at x: a pytree like x for `tangents`, a tuple like args for `cotangent`, None for
            the whole Jacobian.
        corrected: the derivative minus its estimated error; what is left is of second order in ||x - x*||.
    """

    distance: Float[Array, ""]
    error: Float[Array, ""]
    norm: Float[Array, ""]
    residual: Float[Array, ""]
    derivative: PyTree
    corrected: PyTree


def error_estimate(
    F: Callable[..., PyTree],
    x: PyTree,
    *args: Any,
    cotangent: PyTree | None = None,
    tangents: tuple | None = None,
    adjoint: Adjoint | None = None,
    samples: int = 32,
) -> ErrorEstimate:
    """Estimate how far x is from the solution of F(x, *args) = 0, and how wrong this makes the derivative at x.

    With A = dF/dx and B = dF/dargs the derivative is J(x) = -A(x)^-1 B(x). The Newton step d = A(x)^-1 F(x)
    gives ||x - x*|| to second order, and J(x - d) is second-order accurate, so that J(x) - J(x - d) estimates the error
    of J(x). This difference is solved for directly: for a tangent v and w = J(x) v,

        J(x) v - J(x - d) v = A(x - d)^-1 (A(x - d) w + B(x - d) v),

    which includes the residual of the linear solve for w; the same holds for the transpose. This takes two linear
    solves to four digits beside that of the derivative. It works under jit and vmap. It is an estimate; for a bound,
    see `error_bound`.

    Args:
        F: the conditions; see `implicit_root`. A fixed-point map T made by `implicitdiff.optimality` means x - T.
        x: what the solver returned.
        *args: what F depends on.
        cotangent: a pytree like x; gives the error of the vector-Jacobian product.
        tangents: a tuple with an entry for each of args, None where an argument does not change; gives the error of the
            Jacobian-vector product. With neither cotangent nor tangents, the error is that of the whole Jacobian.
        adjoint: the `Implicit` that the derivative is computed with.
        samples: with up to this many columns (or rows, if there are fewer rows), the error of the Jacobian is computed
            from all of them; beyond, its Frobenius norm is estimated from as many random directions.

    Returns:
        An `ErrorEstimate`; NaN where a linear solve fails.

    Raises:
        TypeError: both cotangent and tangents are given, or the arguments do not match.

    Source: Ablin, Peyre, Moreau, "Super-efficiency of automatic differentiation for functions defined as a minimum",
    ICML 2020; Blondel et al., NeurIPS 2022, theorem 1.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> estimate = idf.certify.error_estimate(lambda x, a: x**2 - a, jnp.array(2.1), 4.0, tangents=(1.0,))
        >>> print(round(float(estimate.distance), 3), round(float(estimate.error), 4))  # true: 0.1, -0.0119
        0.098 0.0116
    """
    if cotangent is not None and tangents is not None:
        raise TypeError("error_estimate takes cotangent or tangents or neither of them, not both.")

    def estimate(x: PyTree, args: tuple, cotangent: PyTree, tangents: tuple | None) -> ErrorEstimate:
        return estimated(Linearised.of(F, x, args, adjoint), cotangent, tangents, samples)

    return compiled(estimate, x, args, cotangent, tangents)


def estimated(
    here: Linearised, cotangent: PyTree, tangents: tuple | None, samples: int, step: Vector | None = None
) -> ErrorEstimate:
    """See `error_estimate`; `step` is A^-1 F if it is known already."""
    value = here.value()
    step = here.loosely().solve(value) if step is None else step
    there = here.loosely().at(here.position() - step)
    if tangents is not None:
        derivative, error = _forward(here, there, here.tangent_vector(tangents))
        trees = here.like_x(derivative), here.like_x(derivative - error)
    elif cotangent is not None:
        derivative, error = _reverse(here, there, here.cotangent_vector(cotangent))
        trees = here.cotangent_of_args(derivative), here.cotangent_of_args(derivative - error)
    else:
        derivative, error = _jacobian(here, there, samples)
        trees = None, None
    norm = jnp.linalg.norm
    return ErrorEstimate(norm(step), norm(error), norm(derivative), norm(value), *trees)


def _forward(here: Linearised, there: Linearised, v: Covector) -> tuple[Vector, Vector]:
    """J(x) v, and J(x) v - J(x - d) v."""
    w = here.solve(-here.B(v))
    return w, there.solve(there.A(w) + there.B(v))


def _reverse(here: Linearised, there: Linearised, c: Vector) -> tuple[Covector, Covector]:
    """J(x)' c, and J(x)' c - J(x - d)' c."""
    u = here.solve_transposed(c)
    there_u = u - there.solve_transposed(there.A_transposed(u) - c)
    derivative = -here.B_transposed(u)
    return derivative, derivative + there.B_transposed(there_u)


def _jacobian(here: Linearised, there: Linearised, samples: int) -> tuple[Array, Array]:
    """Columns or rows of the Jacobian and of its error, or random combinations with the same Frobenius norm."""
    n, p = here.unknowns.size, here.parameters.size
    product, size, dtype = (_forward, p, here.parameters.dtype) if p <= n else (_reverse, n, here.unknowns.dtype)
    if size <= samples:
        directions = jnp.eye(size, dtype=dtype)
    else:
        # E ||E z||^2 = ||E||_F^2 for random signs z.
        directions = jnp.sign(noise(0, (samples, size), dtype)) / jnp.sqrt(samples).astype(dtype)
    derivative, error = jax.vmap(partial(product, here, there))(directions)
    return derivative.ravel(), error.ravel()
