"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import pkgutil

import pytest

import implicitdiff as idf

MODULES = sorted(module.name for module in pkgutil.walk_packages(idf.__path__, "implicitdiff."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


FUNCTIONS = [
    "implicit_root",
    "implicit_fixed_point",
    "custom_root",
    "custom_fixed_point",
    "root_jvp",
    "root_vjp",
    "host_solver",
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_have_an_example(name):
    assert ">>>" in getattr(idf, name).__doc__
