"""Projections under JAXopt's names and conventions.

Balls, hyperplanes and half-spaces take the whole pytree as one vector. What differs: projections onto polyhedra,
transportation polytopes and sections of boxes are exact to the precision of the dtype, where JAXopt's defaults stop
at 1e-3; parameters that make no sense are an error or NaN.
"""

import warnings
from collections.abc import Callable
from typing import Any

from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ... import mirror
from ... import projection as ours


def _whole(project: Callable, x: PyTree, *args: Any) -> PyTree:
    """A projection of vectors, of all leaves together."""
    flat, tree = ravel_pytree(x)
    return tree(project(flat, *args))


def projection_non_negative(x: PyTree, hyperparams: Any = None) -> PyTree:
    """Project onto {x : x >= 0}."""
    del hyperparams  # JAXopt's is there for the signature alone, and so is this one
    return ours.non_negative(x)


def projection_box(x: PyTree, hyperparams: tuple) -> PyTree:
    """Project onto the box between the two of hyperparams, (lower, upper)."""
    return ours.box(x, hyperparams)


def projection_hypercube(x: PyTree, unit: Any = 1.0) -> PyTree:
    """Project onto {x : 0 <= x <= unit}."""
    return ours.hypercube(x, unit)


def projection_simplex(x: Array, value: Any = 1.0) -> Array:
    """Project onto the simplex of the sum `value`; rows of a matrix are projected one by one."""
    return ours.simplex(x, value)


def projection_sparse_simplex(x: Array, max_nz: int, use_approx_max_nz: bool = False, value: Any = 1.0) -> Array:
    """Project onto the vectors of the simplex with at most max_nz entries that are not zero."""
    if use_approx_max_nz:
        warnings.warn("projection_sparse_simplex: the largest entries are found exactly.", stacklevel=2)
    return ours.sparse_simplex(x, value, max_nonzeros=max_nz)


def projection_l1_sphere(x: Array, value: Any = 1.0) -> Array:
    """Project onto the l1 sphere of a vector."""
    return ours.l1_sphere(x, value)


def projection_l1_ball(x: Array, max_value: Any = 1.0) -> Array:
    """Project onto the l1 ball of a vector."""
    return ours.l1_ball(x, max_value)


def projection_l2_sphere(x: PyTree, value: Any = 1.0) -> PyTree:
    """Project onto the l2 sphere, the whole pytree one vector."""
    return _whole(ours.l2_sphere, x, value)


def projection_l2_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    """Project onto the l2 ball, the whole pytree one vector."""
    return _whole(ours.l2_ball, x, max_value)


def projection_linf_ball(x: PyTree, max_value: Any = 1.0) -> PyTree:
    """Project onto the l-infinity ball."""
    return ours.box(x, (-max_value, max_value))


def projection_hyperplane(x: PyTree, hyperparams: tuple) -> PyTree:
    """Project onto {x : a'x = b}, hyperparams = (a, b), with x and a pytrees of the same structure."""
    a, b = hyperparams
    return _whole(ours.hyperplane, x, (ravel_pytree(a)[0], b))


def projection_halfspace(x: PyTree, hyperparams: tuple) -> PyTree:
    """Project onto {x : a'x <= b}, hyperparams = (a, b), with x and a pytrees of the same structure."""
    a, b = hyperparams
    return _whole(ours.half_space, x, (ravel_pytree(a)[0], b))


def projection_affine_set(x: Array, hyperparams: tuple) -> Array:
    """Project onto {x : Ax = b}, hyperparams = (A, b)."""
    return ours.affine_set(x, hyperparams)


def projection_polyhedron(x: Array, hyperparams: tuple, check_feasible: bool = True) -> Array:
    """Project onto {x : Ax = b, Gx <= h}, hyperparams = (A, b, G, h).

    An empty polyhedron is always looked for: an error where the values are known, else NaN. So check_feasible=False
    saves nothing.
    """
    _always_checked("projection_polyhedron", not check_feasible)
    return ours.polyhedron(x, hyperparams)


def projection_box_section(x: Array, hyperparams: tuple, check_feasible: bool = False) -> Array:
    """Project onto {x : alpha <= x <= beta, w'x = c}, hyperparams = (alpha, beta, w, c); w may have any sign.

    An empty section is an error where the values are known, else NaN, also with check_feasible=False.
    """
    del check_feasible  # True asks for what is always done; False is the default
    return ours.box_section(x, hyperparams)


def projection_transport(
    sim_matrix: Array, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> Array:
    """Project a similarity matrix onto the transportation polytope of the marginals."""
    _own_solver(make_solver, use_semi_dual)
    return ours.transport(sim_matrix, marginals)


def kl_projection_transport(
    sim_matrix: Array, marginals: tuple, make_solver: Callable | None = None, use_semi_dual: bool = True
) -> Array:
    """The Kullback-Leibler projection of exp(sim_matrix) onto the transportation polytope of the marginals."""
    _own_solver(make_solver, use_semi_dual)
    return mirror.transport(sim_matrix, marginals)


def projection_birkhoff(sim_matrix: Array, make_solver: Callable | None = None, use_semi_dual: bool = True) -> Array:
    """Project onto the Birkhoff polytope, the matrices >= 0 whose rows and columns sum to one."""
    _own_solver(make_solver, use_semi_dual)
    return ours.birkhoff(sim_matrix)


def kl_projection_birkhoff(sim_matrix: Array, make_solver: Callable | None = None, use_semi_dual: bool = True) -> Array:
    """As `projection_birkhoff`, in the Kullback-Leibler divergence from exp(sim_matrix)."""
    _own_solver(make_solver, use_semi_dual)
    return mirror.birkhoff(sim_matrix)


def _own_solver(make_solver: Callable | None, use_semi_dual: bool) -> None:
    if make_solver is not None or not use_semi_dual:
        warnings.warn("make_solver and use_semi_dual have no effect: Newton's method is exact.", stacklevel=3)


def _always_checked(name: str, unchecked: bool) -> None:
    if unchecked:
        warnings.warn(f"{name}: feasibility is always checked, it is part of the method.", stacklevel=3)
