"""What scikit-learn's SVC solves: the dual of the support vector machine with a kernel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..optimality._condition import Condition

# The parameters of each kernel that a derivative can be taken in.
KERNELS = {"linear": (), "rbf": ("gamma",), "poly": ("gamma", "coef0")}


class KernelModel(NamedTuple):
    """A fit f(x) = sum_i dual_coef_i k(x_i, x) + intercept: coefficients (n,), zero unless x_i supports, and ()."""

    dual_coef: Any
    intercept: Any


def kernel(parameter: Callable[[str], Any], settings: dict, X: Float[Array, "n p"]) -> Callable[[Array, Array], Array]:
    """The function k of two sets of samples, in rows; `gamma="scale"` depends on X, those of the fit."""
    name, gamma = settings["kernel"], parameter("gamma")
    if name == "linear":
        return lambda A, B: A @ B.T
    if isinstance(gamma, str):
        gamma = 1 / X.shape[1] if gamma == "auto" else 1 / (X.shape[1] * jnp.var(X))
    if name == "poly":
        return lambda A, B: (gamma * (A @ B.T) + parameter("coef0")) ** int(settings["degree"])
    # Only differences matter: |a|^2 - 2 ab + |b|^2 of samples far from zero would lose their digits.
    mean = jax.lax.stop_gradient(jnp.mean(X, axis=0))

    def squared_distances(A: Array, B: Array) -> Array:
        A, B = A - mean, B - mean
        return jnp.sum(A**2, axis=-1)[:, None] - 2 * A @ B.T + jnp.sum(B**2, axis=-1)

    return lambda A, B: jnp.exp(-gamma * squared_distances(A, B))


def svc(parameter: Callable, settings: dict) -> Condition:
    """min_u 1/2 u'Ku - s'u in 0 <= s_i u_i <= C w_i, sum(u) = 0, with s = 1 or -1 for the classes, w sample weights.

    The unknowns are u and the multiplier b of the equation, which is the intercept. Where u is strictly between its
    bounds Ku + b = s, elsewhere u is at its bound: a symmetric system, regular if the free samples determine u and b.
    """

    def F(model, X, y, given):
        s = jnp.where(y == 1, 1.0, -1.0).astype(X.dtype)
        bound = s * parameter(given, "C") * given.get("sample_weight", jnp.ones(X.shape[0], X.dtype))
        u, b = model
        slack = 8 * jnp.finfo(X.dtype).eps * jnp.abs(bound)
        free = (slack < s * u) & (s * u < jnp.abs(bound) - slack)
        K = kernel(lambda name: parameter(given, name), settings, X)(X, X)
        # Both bounds of a sample without weight are zero: were it to get one, its margin would choose.
        inside = s * (K @ jax.lax.stop_gradient(u) + b) < 1
        at_end = jnp.where(bound == 0, inside, 2 * s * u > jnp.abs(bound))
        end = jnp.where(at_end, bound, 0.0)
        settled = jnp.where(free, u, end)
        return KernelModel(jnp.where(free, K @ settled + b - s, u - end), jnp.sum(settled))

    return Condition(F, "sklearn", symmetric=True, is_root=True)
