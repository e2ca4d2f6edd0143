"""The complete state of a run in one file."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


class Checkpoint(NamedTuple):
    """A file with the complete state of a run, written at regular intervals.

    Attributes:
        path: path of the file; a run that finds the file continues from there.
        every: number of outer steps (epochs of a stochastic method) between two writes.
    """

    path: str | os.PathLike
    every: int = 10

    @classmethod
    def of(cls, given: "Checkpoint | str | os.PathLike | None") -> "Checkpoint | None":
        """A checkpoint; from a path, one with the default interval."""
        return cls(given) if isinstance(given, str | os.PathLike) else given

    def save(self, state: PyTree, rows: Sequence[tuple]) -> None:
        """Write a temporary file and rename it, so that a file that exists is complete."""
        leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, rows=np.array(rows), **leaves)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def load(self, like: PyTree) -> tuple[PyTree, list[tuple]] | None:
        """State and rows, or None if there is no file; `like` is a state, or its shapes.

        Raises:
            ValueError: the file belongs to another problem.
        """
        if not Path(self.path).exists():
            return None
        shapes, tree = jax.tree.flatten(like)
        with np.load(self.path) as file:
            leaves = [file[f"leaf{i}"] for i in range(len(file.files) - 1)]
            rows = [tuple(row) for row in file["rows"].tolist()]
        if [(leaf.shape, leaf.dtype) for leaf in leaves] != [(s.shape, s.dtype) for s in shapes]:
            raise ValueError(
                f"The checkpoint {self.path} is of another problem or another optimizer; remove it to start again."
            )
        return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in leaves]), rows
