"""What a solver does with a result that did not converge."""

import math
import warnings
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

OnUnconverged = Literal["warn", "nan", "raise", "ignore"]


def check_policy(policy: str) -> None:
    """Raise ValueError unless the policy is one of the four."""
    if policy not in get_args(OnUnconverged):
        raise ValueError(f"on_unconverged must be one of {get_args(OnUnconverged)}, found {policy!r}.")


def settle(x: PyTree, state: Any, policy: OnUnconverged, name: str, remedy: str) -> PyTree:
    """Return x, or what `policy` asks for where `state.converged` is false.

    Args:
        x: the result of the solver.
        state: its state.
        policy: "warn" warns where the values are known, that is when called eagerly, and returns x; "nan" returns NaN,
            which makes every derivative NaN as well; "raise" raises a RuntimeError, also under jit; "ignore" returns x.
        name: that of the solver, for the message.
        remedy: what the user can do, a sentence.

    Raises:
        RuntimeError: with the policy "raise", where the solver did not converge.
    """
    # Where its error is NaN the data were, or f was: some methods then still hold a finite point, that of the start.
    spoilt = jnp.where(jnp.isnan(state.error), jnp.nan, 1.0)
    if isinstance(spoilt, jax.core.Tracer) or bool(jnp.any(jnp.isnan(spoilt))):
        x = jax.tree.map(lambda leaf: leaf * lax.convert_element_type(spoilt, leaf.dtype), x)
    if policy == "ignore":
        return x
    known = not isinstance(state.converged, jax.core.Tracer)
    if known and bool(jnp.all(state.converged)):
        return x
    if policy == "nan":
        # A product, and not a selection: the derivative of unrolled iterations is to be NaN, too.
        factor = jnp.where(state.converged, 1.0, jnp.nan)
        return jax.tree.map(lambda leaf: leaf * lax.convert_element_type(factor, leaf.dtype), x)
    if not known:
        message = _message(name, "", remedy)
        return eqx.error_if(x, ~state.converged, message) if policy == "raise" else x
    error = math.nan if isinstance(state.error, jax.core.Tracer) else float(jnp.max(state.error))
    steps = "" if isinstance(state.iteration, jax.core.Tracer) else f" after {int(jnp.max(state.iteration))} iterations"
    if not math.isfinite(error):
        remedy = (
            "Its error is not finite: f may be unbounded below, or the iterations diverge; else look for NaN or "
            "infinity in the arguments, in f and in its gradient."
        )
    message = _message(name, f"{steps} (state.error is {error:.1e})", remedy)
    if policy == "raise":
        raise RuntimeError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)
    return x


def _message(name: str, how: str, remedy: str) -> str:
    return (
        f"implicitdiff: {name} did not converge{how}, so that its result and the derivative may be far off. {remedy} "
        "What happens then is chosen by on_unconverged='warn', 'nan', 'raise' or 'ignore'."
    )
