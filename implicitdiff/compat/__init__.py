"""Other libraries' names and conventions on top of this one; imported by nothing else."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import jaxopt as jaxopt


def __getattr__(name: str):
    if name == "jaxopt":
        return _import_module(f"{__name__}.jaxopt")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
