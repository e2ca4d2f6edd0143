"""What holds for every projection: units, numbers that are not finite, half precision, eager calls, containers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from projection_cases import CASES, WEIGHTS, A, B, G, H
from sweeps import COMPILATIONS, check_compiles_once, check_half_precision, check_loops, check_not_finite, check_units

from implicitdiff import projection

SEPARABLE = ("non_negative", "box", "hypercube", "linf_ball", "zero", "free", "product", "product_dual")
COMPOSED = ("product", "product_dual", "exponential_dual", "power_dual")
SLOW = ("power", "polyhedron", "transport", "birkhoff", "box_section")  # to compile


def slowly(slow, names):
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def lengths(theta, c):
    return jax.tree.map(lambda t: c * t, theta)


def offset(theta, c):
    return theta[0], c * theta[1]


# How the parameters follow the unit of v; all are lengths where nothing is said.
IN_UNITS = {
    "hyperplane": offset,
    "half_space": offset,
    "affine_set": offset,
    "polyhedron": lambda t, c: (t[0], c * t[1], t[2], c * t[3]),
    "box_section": lambda t, c: (c * t[0], c * t[1], t[2], c * t[3]),
    "power": lambda t, c: t,
    "power_dual": lambda t, c: t,
}


def point(name, seed=0):
    return np.random.default_rng(seed).normal(size=CASES[name].shape)


@pytest.mark.parametrize("name", slowly(COMPOSED, [name for name in CASES if name != "birkhoff"]))
def test_units_do_not_matter(name):
    case = CASES[name]
    for seed in range(3):
        check_units(case.project, point(name, seed), case.theta, IN_UNITS.get(name, lengths))


@pytest.mark.parametrize("name", CASES)
def test_not_finite(name):
    case = CASES[name]
    check_not_finite(case.project, point(name), case.theta, name in SEPARABLE)


@pytest.mark.parametrize("name", slowly(SLOW, [name for name in CASES if name not in COMPOSED]))
def test_second_derivatives_in_loops(name):
    check_loops(CASES[name].project, 0.5 * point(name, 4), CASES[name].theta)


@pytest.mark.parametrize("name", slowly((*COMPOSED, *SLOW), CASES))
def test_half_precision(name):
    check_half_precision(CASES[name].project, point(name), CASES[name].theta)


@pytest.mark.parametrize("name", CASES)
def test_eager_calls_compile_once(name):
    check_compiles_once(CASES[name].project, point(name), CASES[name].theta)


def test_compilations_are_counted():
    before = COMPILATIONS.count
    projection.simplex(jnp.ones(23))
    assert COMPILATIONS.count > before


@pytest.mark.parametrize("digits", [12, 6])
def test_units_of_rows_do_not_matter(digits):
    # An equation or an inequality times a number is the same one.
    dtype, rng = {12: np.float64, 6: np.float32}[digits], np.random.default_rng(0)
    cases = {
        "hyperplane": ((WEIGHTS[None], np.array([0.4])), lambda a, b: (a[0], b[0])),
        "half_space": ((WEIGHTS[None], np.array([-0.4])), lambda a, b: (a[0], b[0])),
        "affine_set": ((A, B), lambda a, b: (a, b)),
        "box_section": ((WEIGHTS[None], np.array([0.6])), lambda a, b: (-0.5, 0.7, a[0], b[0])),
        "polyhedron": ((np.vstack([A[:1], G]), np.append(B[:1], H)), lambda a, b: (a[:1], b[:1], a[1:], b[1:])),
    }
    for name, ((rows, sides), theta) in cases.items():
        f = getattr(projection, name)
        run = jax.jit(lambda v, t, f=f: (f(v, t), jax.jacfwd(f)(v, t)))
        for v in np.array([[0.5], [1], [5]]) * rng.normal(size=(3, 5)):
            expected = run(v, theta(rows, sides))
            for _ in range(3):
                unit = 10 ** rng.uniform(-digits, digits, size=len(sides))
                t = jax.tree.map(lambda t: np.asarray(t, dtype), theta(unit[:, None] * rows, unit * sides))
                for found, of_one in zip(run(v.astype(dtype), t), expected, strict=True):
                    np.testing.assert_allclose(found, of_one, atol=1e-11 if digits == 12 else 2e-4, err_msg=name)


LENGTHS = (1, 2, 29, 30, 31, 33, 1000)


@pytest.mark.parametrize("n", LENGTHS)
def test_all_lengths(n):
    """Two projections that are known in closed form from others, at lengths that fill no vector of the processor."""
    rng = np.random.default_rng(n)
    x, ball, section, free = jax.jit(
        lambda v: (
            projection.simplex(v, 2.0),
            projection.l1_ball(v, 2.0),
            projection.box_section(v, (0.0, jnp.inf, 1.0, 2.0)),
            projection.sparse_simplex(v, 2.0, max_nonzeros=n),
        )
    )(v := 3 * rng.normal(size=n))
    # The conditions of optimality: x = max(v - tau, 0), and the sum.
    x = np.asarray(x)
    tau = np.max((v - x)[x > 0])
    np.testing.assert_allclose(x, np.maximum(v - tau, 0), atol=1e-14 * max(1, abs(tau)))
    np.testing.assert_allclose(x.sum(), 2.0, rtol=1e-14)
    np.testing.assert_allclose(section, x, atol=1e-14)
    np.testing.assert_allclose(free, x, atol=1e-15)
    if np.sum(abs(v)) > 2:
        np.testing.assert_allclose(ball, np.sign(v) * projection.simplex(abs(v), 2.0), atol=1e-14)


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in SEPARABLE and name not in ("semidefinite", "birkhoff", "transport")]
)
def test_containers_are_not_stacked(name):
    case = CASES[name]
    v = jnp.asarray(point(name))
    for container in ((v, v), [v, v], {"a": v}):
        with pytest.raises(TypeError, match=r"ravel_pytree"):
            case.project(container, case.theta)


def test_lists_of_numbers_are_arrays():
    np.testing.assert_array_equal(projection.simplex([1.0, 0.5, -2.0]), [0.75, 0.25, 0.0])
    x = projection.polyhedron(jnp.ones(2), ([[1.0, 1.0]], [1.0], [[1.0, 0.0]], [0.25]))
    np.testing.assert_allclose(x, [0.25, 0.75], atol=1e-15)
    np.testing.assert_allclose(projection.hyperplane([2.0, 2.0], ([1.0, 1.0], 1.0)), [0.5, 0.5], atol=1e-15)


@pytest.mark.parametrize("name", ["non_negative", "birkhoff", "semidefinite", "second_order", "exponential", "free"])
def test_refuses_parameters_that_it_does_not_have(name):
    with pytest.raises(TypeError, match="no parameters"):
        getattr(projection, name)(jnp.ones(CASES[name].shape), 2.0)
