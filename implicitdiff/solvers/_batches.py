"""A Python loop over batches of data, with steps that are compiled once."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._decorators import stop
from .._program import Program
from .._rule import bind
from ._progress import Progress


def iterate(
    update: Callable, x: PyTree, state: Any, batches: Iterable, args: tuple, maxiter: int, progress: Progress | None,
    differentiable: bool,
) -> tuple[PyTree, Any, list[Array]]:  # fmt: skip
    """x, state = update(x, state, *args, batch) for each batch, `maxiter` of them at most.

    Returns:
        x, state and all arrays that a derivative of them could be taken in: those among args and in the first state,
        those that update closes over, and traced ones in batches. Unless `differentiable`, the derivative is cut.

    Raises:
        TypeError: called under jit.
        ValueError: there is no batch.
    """
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        raise TypeError(
            "run_iterator was called under jit, where the batches would be drawn once, while tracing: call it outside "
            "(each of its steps is compiled)."
        )
    arrays = [leaf for leaf in jax.tree.leaves((args, state)) if isinstance(leaf, jax.Array)]
    step = _Step(update, args, differentiable)
    state = state if differentiable else stop(state)
    done = 0
    for batch in itertools.islice(batches, maxiter):
        arrays += [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.core.Tracer)]
        x, state = step(x, state, batch if differentiable else stop(batch))
        done += 1
        if progress is not None and done % progress.every == 0:
            progress.tell(state.iteration, state.error)
    if not done:
        raise ValueError("run_iterator: the iterator gave no batch (a generator can be run through only once).")
    if progress is not None:
        progress.close(state.iteration, state.error)
    return x, state, arrays + step.constants


class _Step:
    """`update(x, state, *args, batch)`, traced once for each shape of a batch; equal traces are compiled once."""

    def __init__(self, update: Callable, args: tuple, differentiable: bool):
        self.update, self.differentiable = update, differentiable
        self.args = args if differentiable else stop(args)
        self.constants: list[Array] = []
        self.known: dict[Any, tuple[Program, list[Array]]] = {}

    def __call__(self, x: PyTree, state: Any, batch: PyTree) -> tuple[PyTree, Any]:
        leaves, tree = jax.tree.flatten((x, state, batch))
        arrays = [jnp.asarray(leaf) for leaf in leaves]
        shapes = tree, tuple((leaf.shape, leaf.dtype) for leaf in arrays)
        if shapes not in self.known:
            self.known[shapes] = self._traced(arrays, tree)
        program, constants = self.known[shapes]
        return jax.tree.unflatten(program.x_tree, _run(program, [*constants, *arrays]))

    def _traced(self, arrays: list[Array], tree: Any) -> tuple[Program, list[Array]]:
        out_tree: Any = None

        def flat(*arrays):
            nonlocal out_tree
            x, state, batch = jax.tree.unflatten(tree, arrays)
            result, out_tree = jax.tree.flatten(self.update(x, state, *self.args, batch))
            return result

        closed = jax.make_jaxpr(flat)(*arrays)
        self.constants += closed.consts
        constants = closed.consts if self.differentiable else stop(list(closed.consts))
        return Program(closed.jaxpr, out_tree), list(constants)


@partial(jax.jit, static_argnums=0)
def _run(program: Program, theta: list[Array]) -> list[Array]:
    return program([], theta)


def as_arrays(args: PyTree) -> PyTree:
    """Arguments with their Python floats as arrays, so that another value is not another program."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float | complex | np.ndarray | np.generic) else leaf, args
    )


def without_derivative(x: PyTree, theta: list[Array]) -> PyTree:
    """X, which depends on theta in a way that nobody has told: to differentiate it is an error."""
    leaves, tree = jax.tree.flatten(x)
    return jax.tree.unflatten(tree, bind(_refuse, leaves, theta))


def _refuse(x, theta, theta_dot):
    raise TypeError(
        "run_iterator: its result has no derivative, because f sees one batch at a time and nothing says which "
        "problem the whole run solves. Give the solver that problem's condition, such as "
        "condition=implicitdiff.optimality.stationary(whole) with whole(x, *args); or take lax.stop_gradient of "
        "the arguments."
    )
