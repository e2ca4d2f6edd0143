"""The cost of the progress bar of a solver on a long run."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf

from ._harness import interleave
from ._report import Claim, Report, Table, timing_rows


def measure(quick: bool) -> Report:
    n, steps = (500, 2_000) if quick else (500, 40_000)
    random = np.random.default_rng(0)
    A, b = random.standard_normal((n, n)) / np.sqrt(n), random.standard_normal(n)

    def f(x, weight):
        return 0.5 * jnp.sum((A @ x - b) ** 2) + 0.5 * weight * jnp.sum(x**2)

    def run(progress: bool):
        # With tol=0 all steps are taken, both with and without the bar.
        solver = idf.solvers.GradientDescent(f, 0.1, maxiter=steps, tol=0.0, on_unconverged="ignore", progress=progress)
        jitted = jax.jit(lambda x: solver.run(x, 1e-3)[0])

        def call():
            x = jitted(np.zeros(n)).block_until_ready()
            jax.effects_barrier()  # waits until the bar is closed
            return x

        return call

    with contextlib.redirect_stderr(io.StringIO()) as shown:
        times = interleave({"without": run(False), "with": run(True)}, budget=2 if quick else 40, least=5)
    if f"{steps}/{steps}" not in shown.getvalue():
        raise RuntimeError("no bar was shown")
    claim = Claim.of_times("a run with the bar / without", times, "with", "without", 1.02)
    return Report([Table(f"{steps:,} steps", timing_rows(times, {}, "without"))], [claim])
