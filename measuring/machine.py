"""Where, when and with what something was measured: everything by name, no path and no host."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Results are kept in the repository: a new one does not mean that the code has changed.
RESULTS = ("benchmarks/results", "docs/results")


def today() -> str:
    return datetime.date.today().isoformat()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions; "none" for a package that is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def system() -> str:
    return f"{platform.system()} {platform.machine()}"


def cpu() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        return platform.processor()


def memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError):
        return "unknown"


def commit() -> str:
    """The commit of this checkout, with "-dirty" where tracked files other than results differ from it."""
    name = _git("rev-parse", "--short", "HEAD")
    ignored = [f":(exclude){folder}" for folder in RESULTS]
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *ignored)
    return f"{name}-dirty" if dirty else name or "unknown"


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except FileNotFoundError:
        return ""
