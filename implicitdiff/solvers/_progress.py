"""A progress bar for a loop inside of JAX."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

# So often, in all, the loop tells the host where it is: half a millisecond each time.
UPDATES = 50


class Progress:
    """Shows iteration and error of a compiled loop in one bar."""

    def __init__(self, name: str, maxiter: int, bar: bool = True, callback: Callable[[int, float], Any] | None = None):
        """Prepare a bar of `maxiter` steps, which opens with the first iteration, and a function that is told, too."""
        self.name, self.maxiter = name, maxiter
        self.with_bar, self.callback = bar, callback
        self.every = max(1, maxiter // UPDATES)
        self.bar: Any = None

    def show(self, iteration: Array, error: Array) -> None:
        """For the body of the loop: every so many iterations the bar moves."""
        lax.cond(iteration % self.every == 0, lambda: self.tell(iteration, error), lambda: None)

    def tell(self, iteration: Array, error: Array) -> None:
        """The bar moves."""
        jax.debug.callback(self._move, iteration, error, ordered=True)

    def close(self, iteration: Array, error: Array) -> None:
        """For after the loop."""
        jax.debug.callback(self._close, iteration, error, ordered=True)

    def _move(self, iteration, error) -> None:
        if self.callback is not None:
            self.callback(int(iteration), float(error))
        if not self.with_bar:
            return
        if self.bar is None:
            from tqdm import tqdm  # optional: only who wants a bar needs it

            self.bar = tqdm(total=self.maxiter, desc=self.name, leave=True)
        self.bar.set_postfix_str(f"error {float(error):.1e}", refresh=False)
        self.bar.update(int(iteration) - self.bar.n)  # draws ten times a second at most

    def _close(self, iteration, error) -> None:
        self._move(iteration, error)
        if self.bar is None:
            return
        self.bar.refresh()
        self.bar.close()
        self.bar = None
