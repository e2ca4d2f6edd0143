"""Bounds for the error of a derivative that was computed at x instead of at the solution."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from .._adjoint import Adjoint
from .._largest import largest
from .._linearised import Linearised, Vector, compiled
from . import _spectrum as spectrum

# Sampled Lipschitz constants are lower bounds; they are enlarged by this factor.
SAFETY = 2.0
FIELDS = ["bound", "distance", "alpha", "beta", "gamma", "R"]


@partial(jax.tree_util.register_dataclass, data_fields=FIELDS, meta_fields=["estimated"])
@dataclasses.dataclass(frozen=True)
class ErrorBound:
    """A bound for the error of a derivative, and the constants that it is made of.

    Attributes:
        bound: bound for the Euclidean norm of the error (Frobenius for the Jacobian); inf if nothing can be
            guaranteed, because x is too far from a solution for the curvature of F.
        distance: bound for ||x - x*||.
        alpha: lower bound of the smallest singular value of A = dF/dx in the ball of that radius around x.
        beta: ||B(y) - B(x)|| <= beta ||y - x|| in the ball, B = dF/dargs.
        gamma: ||A(y) - A(x)|| <= gamma ||y - x|| in the ball.
        R: bound for ||B|| in the ball.
        estimated: names of the constants that were estimated and not given; with beta or gamma among them, the bound
            is an estimate as well.
    """

    bound: Float[Array, ""]
    distance: Float[Array, ""]
    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    gamma: Float[Array, ""]
    R: Float[Array, ""]
    estimated: tuple[str, ...]

    @property
    def rigorous(self) -> bool:
        """Whether the bound rests on given constants only (alpha, distance and R follow from beta and gamma)."""
        return not {"beta", "gamma"} & set(self.estimated)


def error_bound(
    F: Callable[..., PyTree],
    x: PyTree,
    *args: Any,
    cotangent: PyTree | None = None,
    tangents: tuple | None = None,
    alpha: float | Scalar | None = None,
    beta: float | Scalar | None = None,
    gamma: float | Scalar | None = None,
    R: float | Scalar | None = None,
    distance: float | Scalar | None = None,
    cotangent_lipschitz: float | Scalar = 0.0,
    adjoint: Adjoint | None = None,
    samples: int = 8,
) -> ErrorBound:
    """Bound the error of the derivative at x of the solution of F(x, *args) = 0.

    For the Jacobian (neither cotangent nor tangents are given), with ||A v|| >= alpha ||v||, ||B|| <= R,
    ||A(y) - A(x)|| <= gamma ||y - x|| and ||B(y) - B(x)|| <= beta ||y - x|| in a ball that contains x and x*,

        ||J(x) - J(x*)|| <= (beta / alpha + gamma R / alpha^2) ||x - x*||.

    For a product, the bound is a posteriori. For the vector-Jacobian product J'c = -B'u with ||A'u - c|| = delta,

        error <= beta d ||u|| + (||B|| + beta d) (gamma d ||u|| + L d + delta) / alpha,    d = ||x - x*||,

    where L is the Lipschitz constant in x of a cotangent that depends on x, as the gradient of an outer loss does. For
    J v = w with ||A w + B v|| = delta, error <= (gamma d ||w|| + beta d ||v|| + delta) / alpha.

    Constants that are not given are computed. Let sigma be the smallest singular value of A(x) and
    eta = ||A(x)^-1 F(x)||. If h = gamma eta / sigma <= 1/2, there is a solution within
    d = (1 - sqrt(1 - 2h)) sigma / gamma (Kantorovich), and alpha = sigma - gamma d. beta and gamma are sampled along
    the Newton step and in random directions, doubled, and named in `estimated`. Singular values are exact up to
    n = 600, and Lanczos estimates beyond.

    Args:
        F: the conditions, differentiable around x; see `error_estimate`.
        x: what the solver returned.
        *args: what F depends on.
        cotangent: a pytree like x, for the error of the vector-Jacobian product.
        tangents: a tuple with an entry for each of args, for the error of the Jacobian-vector product.
        alpha: see above; positive.
        beta: see above, in the Frobenius norm (which bounds the spectral norm).
        gamma: see above, in the spectral norm.
        R: see above, in the Frobenius norm.
        distance: a bound for ||x - x*||.
        cotangent_lipschitz: L above.
        adjoint: the `Implicit` that the derivative is computed with.
        samples: number of random directions for the constants that are estimated.

    Returns:
        An `ErrorBound`.

    Raises:
        TypeError: both cotangent and tangents are given, or the arguments do not match.

    Source: Blondel et al., NeurIPS 2022, theorem 1; Ehrhardt, Roberts, "Analyzing inexact hypergradients for bilevel
    learning", IMA J. Appl. Math. 2024; Kantorovich, Akilov, "Functional Analysis", chapter 18.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> F = lambda x, a: x**2 - a  # A = 2x, B = -1
        >>> bound = idf.certify.error_bound(F, jnp.array(2.1), 4.0, beta=0.0, gamma=2.0)
        >>> print(bound.rigorous, round(float(bound.distance), 4), round(float(bound.bound), 4))  # true: 0.1, 0.0119
        True 0.1 0.0125
    """
    if cotangent is not None and tangents is not None:
        raise TypeError("error_bound takes cotangent or tangents or neither of them, not both.")

    def bound(x: PyTree, args: tuple, cotangent: PyTree, tangents: tuple | None, given: dict, L: Array) -> ErrorBound:
        return bounded(Linearised.of(F, x, args, adjoint), cotangent, tangents, given, L, samples)

    given = dict(alpha=alpha, beta=beta, gamma=gamma, R=R, distance=distance)
    return compiled(bound, x, args, cotangent, tangents, given, cotangent_lipschitz)


def bounded(
    here: Linearised, cotangent: PyTree, tangents: tuple | None, given: dict, cotangent_lipschitz: Array, samples: int
) -> ErrorBound:
    """See `error_bound`."""
    alpha, beta, gamma, R, distance = (given[name] for name in ("alpha", "beta", "gamma", "R", "distance"))
    estimated = tuple(name for name, value in given.items() if value is None)
    n, p, dtype = here.unknowns.size, here.parameters.size, here.unknowns.dtype
    norm = jnp.linalg.norm

    step = here.solve(here.value()) if {"distance", "beta", "gamma"} & set(estimated) else jnp.zeros(n, dtype)
    if beta is None or gamma is None:
        sampled_beta, sampled_gamma = _sampled_lipschitz(here, step, distance, samples)
        beta = SAFETY * sampled_beta if beta is None else beta
        gamma = SAFETY * sampled_gamma if gamma is None else gamma
    sigma = jnp.asarray(jnp.nan, dtype)
    if alpha is None or distance is None:
        sigma = smallest(here) if alpha is None else jnp.asarray(alpha, dtype)
    if distance is None:
        eta = norm(step)
        h = gamma * eta / sigma
        # (1 - sqrt(1 - 2h)) / h without cancellation, and for h = 0.
        distance = jnp.where(h <= 0.5, 2 * eta / (1 + jnp.sqrt(jnp.maximum(1 - 2 * h, 0))), jnp.inf)
    if alpha is None:
        alpha = jnp.maximum(sigma - gamma * jnp.where(jnp.isfinite(distance), distance, 0), 0)
    B_norm = jnp.asarray(jnp.nan, dtype)
    if R is None or cotangent is not None:
        B_norm = spectrum.frobenius(here.B, here.B_transposed, n, p, dtype)
    R = B_norm + beta * distance if R is None else R
    alpha, beta, gamma, R, distance = (jnp.asarray(value, dtype) for value in (alpha, beta, gamma, R, distance))

    if tangents is not None:
        v = here.tangent_vector(tangents)
        Bv = here.B(v)
        w = here.solve(-Bv)
        delta = norm(here.A(w) + Bv)
        bound = (gamma * distance * norm(w) + beta * distance * norm(v) + delta) / alpha
    elif cotangent is not None:
        c = here.cotangent_vector(cotangent)
        u = here.solve_transposed(c)
        delta = norm(here.A_transposed(u) - c) + cotangent_lipschitz * distance
        bound = beta * distance * norm(u) + R * (gamma * distance * norm(u) + delta) / alpha
    else:
        bound = (beta / alpha + gamma * R / alpha**2) * distance
    certain = (alpha > 0) & jnp.isfinite(distance)
    # NaN is kept: if the linear solve failed, nothing is known, and inf would claim that the bound is vacuous.
    bound = jnp.where(certain | jnp.isnan(alpha) | jnp.isnan(distance), bound, jnp.inf)
    return ErrorBound(bound, distance, alpha, beta, gamma, R, estimated)


def smallest(here: Linearised) -> Float[Array, ""]:
    """The smallest singular value of A; beyond `FORMED_SIZE`, an estimate of 1 / ||A^-1|| from above."""
    n, dtype = here.unknowns.size, here.unknowns.dtype
    if n <= spectrum.FORMED_SIZE:
        return jnp.linalg.norm(spectrum.matrix(here.A, n, dtype), -2)
    loose = here.loosely()
    return 1 / spectrum.bidiagonal(loose.solve, loose.solve_transposed, n, dtype, steps=12)[0]


def _sampled_lipschitz(here: Linearised, step: Vector, distance, samples: int) -> tuple[Array, Array]:
    """The largest difference quotients of B and A around x, along the Newton step and in random directions."""
    n, p, dtype = here.unknowns.size, here.parameters.size, here.unknowns.dtype
    x = here.position()
    radius = 2 * (jnp.linalg.norm(step) if distance is None else jnp.asarray(distance, dtype))
    # In a smaller ball there are only rounding errors.
    radius = jnp.maximum(radius, jnp.finfo(dtype).eps ** (1 / 3) * (1 + largest(x)))
    random = spectrum.noise(2, (samples, n), dtype)
    random = random / jnp.linalg.norm(random, axis=1, keepdims=True)
    size = jnp.linalg.norm(step)
    along = jnp.where(size > 0, step / jnp.where(size > 0, size, 1), random[0])
    shares = jnp.array([-1.0, -0.5, -0.25, 0.5, 1.0], dtype)
    moves = jnp.concatenate([shares[:, None] * along, random]) * radius

    def quotients(move):
        there = here.at(x + move)
        difference = lambda f, g: lambda v: f(v) - g(v)  # noqa: E731
        A = spectrum.largest(
            difference(there.A, here.A), difference(there.A_transposed, here.A_transposed), n, n, dtype
        )
        B = spectrum.frobenius(
            difference(there.B, here.B), difference(there.B_transposed, here.B_transposed), n, p, dtype
        )
        return B / jnp.linalg.norm(move), A / jnp.linalg.norm(move)

    # One after the other, because each may hold a matrix.
    B, A = jax.lax.map(quotients, moves)
    return jnp.max(B), jnp.max(A)
