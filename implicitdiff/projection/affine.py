"""Hyperplanes, half-spaces and affine sets."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .._precision import full_precision
from .._rule import ruled
from ._arrays import check, floating, guarded, half_as_single, like, magnitude, per_vector, sound


@half_as_single
def hyperplane(
    v: Float[Array, "... n"], normal_and_offset: tuple[Float[Array, "... n"], ArrayLike]
) -> Float[Array, "... n"]:
    """Project onto the hyperplane {x : a'x = b}.

    x = v - a (a'v - b) / a'a; the derivative is I - aa'/a'a in v, and follows from the formula in a and b.

    Args:
        v: real array; vectors lie along the last axis.
        normal_and_offset: `(a, b)`: a vector that is not 0, and a number; or one of each for each vector of v.

    Returns:
        An array like v.

    Raises:
        ValueError: a is 0, or NaN among the parameters, if concrete; traced ones give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> hyperplane(jnp.array([2.0, 2.0]), (jnp.array([1.0, 1.0]), 1.0)).tolist()
        [0.5, 0.5]
    """
    v = floating(v)
    a, b, factor = _plane("hyperplane", v, normal_and_offset)
    return guarded(_onto_hyperplane, factor, v, a, b)


@half_as_single
def half_space(
    v: Float[Array, "... n"], normal_and_offset: tuple[Float[Array, "... n"], ArrayLike]
) -> Float[Array, "... n"]:
    """Project onto the half-space {x : a'x <= b}.

    x = v - a max(a'v - b, 0) / a'a; the derivative is the identity inside, that of `hyperplane` outside. On the
    boundary the constraint counts as active.

    Args:
        v: real array; vectors lie along the last axis.
        normal_and_offset: `(a, b)`: a vector that is not 0, and a number; or one of each for each vector of v.

    Returns:
        An array like v.

    Raises:
        ValueError: a is 0, or NaN among the parameters, if concrete; traced ones give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> half_space(jnp.array([2.0, 2.0]), (jnp.array([1.0, 1.0]), 5.0)).tolist()
        [2.0, 2.0]
    """
    v = floating(v)
    a, b, factor = _plane("half_space", v, normal_and_offset)
    return guarded(_onto_half_space, factor, v, a, b)


@half_as_single
@full_precision
def affine_set(
    v: Float[Array, "... n"], equations: tuple[Float[Array, "m n"], Float[Array, "... m"]]
) -> Float[Array, "... n"]:
    """Project onto the affine set {x : Ax = b}.

    x = v - A^+ (Av - b), A^+ the pseudo-inverse: rows of A may depend on each other if the equations are consistent.
    The derivative in v is the orthogonal projector I - A^+ A; in A and b it follows from that of the pseudo-inverse
    (for dependent rows, along changes that keep the rank; a change of b is projected onto the range of A).

    Args:
        v: real array; vectors lie along the last axis.
        equations: `(A, b)`; b may be one for each vector of v.

    Returns:
        An array like v.

    Raises:
        ValueError: the equations have no solution, or NaN among the parameters, if concrete; traced ones give NaN.

    Source: Golub, Pereyra, "The differentiation of pseudo-inverses", SIAM J. Numer. Anal. 1973.

    Example:
        >>> import jax.numpy as jnp
        >>> affine_set(jnp.array([2.0, 2.0]), (jnp.array([[1.0, 1.0]]), jnp.array([1.0]))).round(5).tolist()
        [0.5, 0.5]
    """
    v = floating(v)
    A, b = equations
    A, b = like(v, A), like(v, b)
    if A.ndim != 2 or A.shape[-1] != v.shape[-1] or b.shape[-1:] != A.shape[:1]:
        raise ValueError(
            f"affine_set: expected A of shape (m, {v.shape[-1]}) and b of shape (m,) or (..., m), found {A.shape} and "
            f"{b.shape} (v has shape {v.shape})."
        )
    # An equation times a number is the same equation.
    size = magnitude(A)
    A, b = A / size, b / size[:, 0]
    inverse = pseudo_inverse(A)
    solution = project_affine(jnp.zeros_like(b, shape=(*b.shape[:-1], v.shape[-1])), b, A, inverse)
    factor = check(
        lambda residual, terms: (residual <= terms * jnp.finfo(v.dtype).eps ** 0.5).all(-1)[..., None],
        "affine_set: the equations Ax = b have no solution; in the least-squares one they are violated by {}, where "
        "their terms are of size {} (both over the power of two below the largest entry of the row).",
        lax.stop_gradient(jnp.abs(solution @ A.T - b)),
        lax.stop_gradient(jnp.abs(solution) @ jnp.abs(A).T + jnp.abs(b)),
    )
    return guarded(partial(project_affine, A=A, inverse=inverse), sound(v) * factor, v, b)


def pseudo_inverse(A: Float[Array, "... m n"]) -> Float[Array, "... n m"]:
    """A^+; derivatives along changes of A that keep the rank."""
    return ruled(_pseudo_inverse_tangent, [jnp.linalg.pinv(lax.stop_gradient(A))], A)[0]


@full_precision
def _pseudo_inverse_tangent(x, theta, theta_dot):
    (X,), (A,), (A_dot,) = x, theta, theta_dot
    m, n = A.shape[-2:]
    Xt, At_dot = jnp.swapaxes(X, -1, -2), jnp.swapaxes(A_dot, -1, -2)
    of_rows = (jnp.eye(n, dtype=A.dtype) - X @ A) @ At_dot @ (Xt @ X)
    of_columns = (X @ Xt) @ At_dot @ (jnp.eye(m, dtype=A.dtype) - A @ X)
    return [of_rows + of_columns - X @ A_dot @ X]


@full_precision
def project_affine(
    v: Float[Array, "... n"], b: Float[Array, "... m"], A: Float[Array, "... m n"], inverse: Float[Array, "... n m"]
) -> Float[Array, "... n"]:
    """The point nearest to v among the least-squares solutions of Ax = b, given A^+; nothing is checked."""
    # The second step removes most of the rounding error of the first.
    for _ in range(2):
        violation = jnp.einsum("...mn,...n->...m", A, v) - b
        v = v - jnp.einsum("...nm,...m->...n", inverse, violation)
    return v


def _plane(name: str, v: Array, parameters: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array, Array]:
    """The normal a, the offset b, and the factor of the checks."""
    a, b = parameters
    a = like(v, a)
    if a.ndim == 0 or a.shape[-1] != v.shape[-1]:
        raise ValueError(
            f"{name}: the normal a must have the length {v.shape[-1]} of the vectors of v, found {a.shape}."
        )
    b = per_vector(v, b, "the offset b")
    factor = check(
        lambda a, b: (
            (abs(a).max(-1, keepdims=True) > 0) & (abs(a).max(-1, keepdims=True) < jnp.inf) & (abs(b) < jnp.inf)
        ),
        f"{name}: the normal a must be finite and not 0, and the offset b must be finite, found a = {{}}, b = {{}}.",
        a,
        b,
    )
    return a, b, sound(v) * factor


def _onto_hyperplane(v: Array, a: Array, b: Array) -> Array:
    return v - _violation(v, a, b)[0]


def _onto_half_space(v: Array, a: Array, b: Array) -> Array:
    step, inside = _violation(v, a, b)
    return jnp.where(inside, v, v - step)


@jax.jit
def _violation(v: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """The step a (a'v - b) / a'a, and whether a'v < b."""
    size = magnitude(a)  # a'a neither overflows nor vanishes
    a, b = a / size, b / size
    square = jnp.sum(a * a, axis=-1, keepdims=True)
    violation = jnp.sum(a * v, axis=-1, keepdims=True) - b
    return a * (violation / jnp.where(square == 0, 1.0, square)), violation < 0
