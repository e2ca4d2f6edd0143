"""The history of a run."""

from typing import Any, NamedTuple

import numpy as np


class History(NamedTuple):
    """One entry for each outer step and one for the start.

    Attributes:
        loss: outer(theta, x*(theta)).
        gradient_norm: norm of the hyper-gradient; under a projection, of the projected step.
        gradient_error: its estimated error.
        inner_iterations: iterations of all inner solves of the step (0 if the solver does not report them).
        linear_iterations: products with the Jacobian of the inner conditions; n for each matrix that was formed.
        evaluations: number of inner solves.
        tolerance: the tolerance of the inner solver.
        time: seconds since the start (NaN under jit and vmap).
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    gradient_error: np.ndarray
    inner_iterations: np.ndarray
    linear_iterations: np.ndarray
    evaluations: np.ndarray
    tolerance: np.ndarray
    time: np.ndarray

    def plot(self, axes: Any = None) -> Any:
        """A figure: the loss (left), the hyper-gradient and its error (right), against the number of inner solves."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("history.plot() draws with matplotlib: pip install matplotlib.") from error

        figure = None
        if axes is None:
            figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        spent = np.cumsum(np.asarray(self.evaluations))
        axes[0].plot(spent, self.loss, marker=".")
        axes[0].set(xlabel="inner solves", ylabel="outer loss")
        axes[1].semilogy(spent, self.gradient_norm, marker=".", label="hyper-gradient")
        axes[1].semilogy(spent, np.maximum(self.gradient_error, 1e-300), "--", label="its estimated error")
        shown = np.asarray(self.gradient_norm)[np.asarray(self.gradient_norm) > 0]
        if shown.size:
            axes[1].set_ylim(bottom=shown.min() / 1e4)
        axes[1].set(xlabel="inner solves", ylabel="norm")
        axes[1].legend(frameon=False)
        return axes[0].figure if figure is None else figure
