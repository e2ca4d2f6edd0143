"""JAXopt, where it is installed: the tests that need it are skipped where it is not."""

import importlib
import warnings

import pytest


def original():
    """The package, without its warning that it is no longer maintained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jaxopt = pytest.importorskip("jaxopt")
        for name in ("linear_solve", "perturbations", "tree_util"):
            importlib.import_module(f"jaxopt.{name}")
    return jaxopt
