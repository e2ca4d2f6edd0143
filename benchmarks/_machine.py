"""Where, when and with what something was measured."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from ._harness import ROOT

PACKAGES = (
    "jax", "jaxlib", "numpy", "scipy", "lineax", "optax", "optimistix", "jaxopt", "scikit-learn", "cvxpylayers",
    "diffcp", "qpax", "clarabel",
)  # fmt: skip
RESULTS = "benchmarks/results"


def machine() -> dict[str, Any]:
    """Everything by name; no path and no host."""
    import jax

    found = dict(
        date=datetime.date.today().isoformat(), commit=_commit(), platform=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(), cores=os.cpu_count(), memory=_memory(), device=str(jax.devices()[0]),
        load=[round(x, 2) for x in os.getloadavg()], blas_threads=os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        python=platform.python_version(),
    )  # fmt: skip
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError):
        return "unknown"


def _commit() -> str:
    """The results themselves, which are in the repository, do not make it dirty."""
    commit = _git("rev-parse", "--short", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){RESULTS}")
    return f"{commit}-dirty" if dirty else commit or "unknown"


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except FileNotFoundError:
        return ""
