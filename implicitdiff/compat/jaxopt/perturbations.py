"""Perturbed optimisers: piecewise constant functions made smooth by noise.

E[f(x + sigma z)] is estimated by samples, and its derivatives by the score of their density, in both modes and to
every order: the f of each sample is weighted by the ratio of the density of its point to that with which it was drawn.

Source: Berthet, Blondel, Teboul, Cuturi, Vert, Bach, "Learning with differentiable perturbed optimizers", NeurIPS 2020.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class Normal:
    """Standard normal noise."""

    def sample(self, seed: Array, sample_shape: tuple[int, ...]) -> Array:
        """Samples."""
        return jax.random.normal(seed, sample_shape)

    def log_prob(self, inputs: Array) -> Array:
        """The logarithm of the density of each entry, up to a constant."""
        return -0.5 * inputs**2


class Gumbel:
    """Standard Gumbel noise, with which the perturbed argmax is the softmax."""

    def sample(self, seed: Array, sample_shape: tuple[int, ...]) -> Array:
        """Samples."""
        return jax.random.gumbel(seed, sample_shape)

    def log_prob(self, inputs: Array) -> Array:
        """The logarithm of the density of each entry."""
        return -inputs - jnp.exp(-inputs)


def make_perturbed_fun(
    fun: Callable[[Array], Array],
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = Gumbel(),  # noqa: B008
    control_variate: bool = False,
) -> Callable[[Array, Array], Array]:
    """E[fun(x + sigma z)] as a function of (x, rng); `control_variate` subtracts fun(x), which lowers the variance.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff.compat.jaxopt as jaxopt
        >>> smooth = jaxopt.perturbations.make_perturbed_fun(jnp.sign, 10000, 0.5, jaxopt.perturbations.Normal())
        >>> print(jax.grad(smooth)(0.0, jax.random.key(0)).round(1))  # 2 / sqrt(2 pi) / 0.5
        1.6
    """

    def perturbed(inputs: Array, rng: Array) -> Array:
        inputs = jnp.asarray(inputs)
        z = noise.sample(rng, (num_samples, *inputs.shape)).astype(inputs.dtype)
        points = lax.stop_gradient(inputs + sigma * z)
        score = jnp.sum(noise.log_prob((points - inputs) / sigma).reshape(num_samples, -1), axis=1)
        weight = jnp.exp(score - lax.stop_gradient(score))
        values = lax.stop_gradient(jax.vmap(fun)(points))
        centre = lax.stop_gradient(fun(lax.stop_gradient(inputs))) if control_variate else jnp.zeros(())
        return jnp.mean(weight.reshape(-1, *[1] * (values.ndim - 1)) * (values - centre), axis=0) + centre

    return perturbed


def make_perturbed_argmax(
    argmax_fun: Callable[[Array], Array],
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = Gumbel(),  # noqa: B008
    control_variate: bool = False,
) -> Callable[[Array, Array], Array]:
    """The mean of argmax_fun(x + sigma z), such as a one-hot argmax or ranks, as a function of (x, rng)."""
    return make_perturbed_fun(argmax_fun, num_samples, sigma, noise, control_variate)


def make_perturbed_max(
    argmax_fun: Callable[[Array], Array],
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = Gumbel(),  # noqa: B008
) -> Callable[[Array, Array], Array]:
    """The mean of max_y <y, x + sigma z>, whose gradient is the perturbed argmax."""
    argmax = make_perturbed_argmax(argmax_fun, num_samples, sigma, noise)

    @jax.custom_jvp
    def perturbed(inputs: Array, rng: Array) -> Array:
        points = inputs + sigma * noise.sample(rng, (num_samples, *inputs.shape))
        return jnp.mean(jax.vmap(jnp.vdot)(points, jax.vmap(argmax_fun)(points)))

    perturbed.defjvps(lambda dot, _, inputs, rng: jnp.vdot(argmax(inputs, rng), dot), None)
    return perturbed
