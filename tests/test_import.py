"""`import implicitdiff` brings the core, and every package of the public face when it is first asked for."""

import subprocess
import sys

import pytest

import implicitdiff as idf


def test_what_the_packages_stand_on_is_not_imported_with_the_core():
    code = """if True:
    import sys, implicitdiff
    assert not {"optax", "scipy.sparse", "clarabel", "sklearn", "implicitdiff.projection"} & set(sys.modules)
    assert not any(name.startswith("implicitdiff.compat") for name in sys.modules)
    implicitdiff.projection.simplex, implicitdiff.bilevel.minimize, implicitdiff.convex.solve_qp
    import implicitdiff.solvers, implicitdiff.prox as prox
    from implicitdiff import certify, mirror, optimality
    assert implicitdiff.prox is prox and "implicitdiff.solvers" in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_else_imports_the_names_of_jaxopt():
    code = """if True:
    import sys, implicitdiff
    for name in implicitdiff._PACKAGES:
        getattr(implicitdiff, name)
    assert not any(name.startswith("implicitdiff.compat.") for name in sys.modules)
    jaxopt = implicitdiff.compat.jaxopt
    assert "jaxopt" not in sys.modules and "cvxpy" not in sys.modules and jaxopt.LBFGS
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_packages_are_listed_and_others_are_an_error():
    assert {"bilevel", "krylov", "projection", "solvers", "implicit_root", "custom_root"} <= set(dir(idf))
    with pytest.raises(AttributeError, match="'implicitdiff' has no attribute 'projections'"):
        _ = idf.projections
