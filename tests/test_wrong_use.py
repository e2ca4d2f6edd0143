"""Wrong use is an error at trace time that says what was found, what was expected and how to mend it."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

import implicitdiff as idf

X = {"w": jnp.ones(3), "b": jnp.ones(())}


def notes(info):
    return str(info.value) + "\n".join(getattr(info.value, "__notes__", []))


OUTPUTS = {
    "another shape": (lambda x, t: {"w": x["w"][:2] - t, "b": x["b"]}, ["x['w']", "(3,)", "(2,)"]),
    "another structure": (lambda x, t: (x["w"], x["b"]), ["structure", "'w'", "expected", "found"]),
    "a scalar": (lambda x, t: jnp.sum(x["w"]) * t, ["structure"]),
    "integers": (
        lambda x, t: {"w": jnp.round(x["w"]).astype(int), "b": x["b"]},
        ["not differentiable", "int64", "x['w']"],
    ),
    "complex": (lambda x, t: {"w": x["w"] * 1j, "b": x["b"]}, ["complex128", "x['w']"]),
}


@pytest.mark.parametrize("case", OUTPUTS)
@pytest.mark.parametrize("fixed_point", [False, True])
def test_output_of_F_that_does_not_match_x(case, fixed_point):
    F, words = OUTPUTS[case]
    attach = idf.implicit_fixed_point if fixed_point else idf.implicit_root
    with pytest.raises(TypeError) as info:
        attach(F, X, 1.0)
    assert all(word in notes(info) for word in [*words, "<lambda>"])
    with pytest.raises(TypeError):
        jax.jit(lambda t: attach(F, X, t))(1.0)


def test_F_that_forgets_an_argument():
    with pytest.raises(TypeError) as info:
        idf.implicit_root(lambda x: x, 1.0, 2.0, 3.0)
    assert "2 positional argument(s) after x" in notes(info)
    solver = idf.custom_root(lambda x, a: x - a)(lambda init, a, tol=1e-3: a)
    with pytest.raises(TypeError) as info:
        solver(None, 1.0, tol=1e-6)
    assert "['tol']" in notes(info)


def test_F_in_numpy():
    with pytest.raises(jax.errors.TracerArrayConversionError) as info:
        idf.implicit_root(lambda x, t: np.sin(np.asarray(x)) - t, 1.0, 0.5)
    assert "must be written in JAX" in notes(info)


def test_F_that_is_a_callback():
    def F(x, t):
        return jax.pure_callback(lambda x, t: np.asarray(x - t), jax.ShapeDtypeStruct((), jnp.float64), x, t)

    with pytest.raises(Exception) as info:  # noqa: PT011
        jax.grad(lambda t: idf.implicit_root(F, 1.0, t))(1.0)
    assert "must be differentiable" in notes(info)


def test_integer_unknowns():
    with pytest.raises(TypeError, match=r"leaf x\['n'\] has dtype int64.*has_aux"):
        idf.implicit_root(lambda x, t: x, {"n": jnp.arange(3)}, 1.0)
    with pytest.raises(TypeError, match=r"x must be an array, found object"):
        idf.implicit_root(lambda x, t: x, object(), 1.0)


def test_a_tuple_without_has_aux():
    solver = idf.custom_root(lambda x, a: x - a)(lambda init, a: (a, {"iterations": jnp.ones(())}))
    with pytest.raises(TypeError) as info:
        solver(None, 1.0)
    assert "has_aux=True" in notes(info)


@pytest.mark.parametrize("returned", [jnp.ones(2), (jnp.ones(2),), (1.0, 2.0, 3.0)])
def test_has_aux_without_aux(returned):
    solver = idf.custom_root(lambda x, a: x - a, has_aux=True)(lambda init, a: returned)
    with pytest.raises(TypeError, match=r"must return \(x, aux\)"):
        solver(None, 1.0)


ORDERS = {
    "swapped": (lambda x, b, a: x, lambda x, b, a: x, lambda init, a, b: a),
    "shifted": (lambda x, extra, a: x, lambda x, extra, a: x, lambda init, a: a),
    "stationary": (
        idf.optimality.stationary(lambda x, b, a: x),
        idf.optimality.gradient_descent(lambda x, b, a: x),
        lambda init, a, b: a,
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_the_same_arguments_in_another_order(case):
    F, T, solver = ORDERS[case]
    with pytest.raises(TypeError, match=r"same order.*'a'"):
        idf.custom_root(F)(solver)
    with pytest.raises(TypeError, match="same order"):
        idf.custom_fixed_point(T)(solver)


def test_a_method_in_another_order():
    with pytest.raises(TypeError, match="same order"):

        class _Model:
            @idf.custom_root(lambda x, b, a: x)
            def solve(self, init, a, b):
                return a


FIRST = {
    "init comes second": (lambda x, theta: x, lambda theta, init: init, {}, ["'theta'", "init first"]),
    "init comes second, under other names": (lambda x, t: x, lambda theta, x0: x0, {}, ["'theta'", "'x0' later"]),
    "no init": (lambda x, theta: x, lambda theta: theta, {}, ["'theta'", "has_init=False"]),
    "an init that is not wanted": (lambda x, a: x, lambda init, a: a, {"has_init": False}, ["same order", "'a'"]),
    "x comes second": (lambda theta, x: x, lambda init, theta: init, {}, ["begins with 'theta'", "Reorder"]),
    "solver and F exchanged": (lambda init, a: a, lambda x, a: x - a, {}, ["exchanged", "@custom_root(F)"]),
    "a condition with self": (lambda self, x, a: x, lambda init, a: a, {}, ["takes self"]),
    "two defaults, two names": (lambda x, a, w=1.0: x, lambda init, a, tol=1e-3: a, {}, ["tol=0.001", "w=1.0"]),
}


@pytest.mark.parametrize("case", FIRST)
@pytest.mark.parametrize("decorator", [idf.custom_root, idf.custom_fixed_point])
def test_arguments_whose_names_show_that_they_are_misplaced(case, decorator):
    F, solver, settings, words = FIRST[case]
    with pytest.raises(TypeError) as info:
        decorator(F, **settings)(solver)
    assert all(word in notes(info) for word in words)


def test_a_decorator_without_its_condition():
    @idf.custom_root
    def solver(init, a):
        return a

    for call in (lambda: solver(None, 1.0), lambda: solver(1.0), lambda: solver(init=None, a=1.0)):
        with pytest.raises(TypeError) as info:
            call()
        assert "@custom_root(F), and not @custom_root" in notes(info)
        assert "solver" in notes(info)
    with pytest.raises(TypeError, match="a callable; found NoneType"):
        idf.custom_fixed_point(None)
    with pytest.raises(TypeError, match="give adjoint by keyword"):
        idf.custom_root(lambda x, a: x - a, idf.Implicit())
    with pytest.raises(TypeError, match="needs no decorator"):
        idf.custom_root(lambda x, a: x - a)(idf.solvers.GradientDescent(lambda x, a: x))


def test_other_names_are_fine():
    solver = idf.custom_root(lambda x, theta_f, theta_g: x - theta_f - theta_g)(lambda init, a, b: a + b)
    assert float(jax.grad(solver, argnums=2)(None, 1.0, 2.0)) == 1.0


def test_no_init():
    with pytest.raises(TypeError, match="starting point"):
        idf.custom_root(lambda x, a: x - a)(lambda init, a: a)(a=1.0)


def test_a_forgotten_init():
    solver = idf.custom_root(lambda x, a, b: x - a * b)(lambda init, a, b: a * b)
    for call in (lambda: solver(1.0, 2.0), lambda: solver(1.0, b=2.0), lambda: jax.grad(solver)(1.0, 2.0)):
        with pytest.raises(TypeError) as info:
            call()
        assert "its starting point first" in notes(info)


NEEDS_VALUES = {
    "asarray": lambda init, a: np.asarray(a),
    "float": lambda init, a: np.ones(()) * float(a),
    "item": lambda init, a: a.item(),
    "int": lambda init, a: np.ones(()) * int(a),
    "if": lambda init, a: a if a > 0 else -a,
    "range": lambda init, a: a * len(range(jnp.asarray(a, int))),
}


@pytest.mark.parametrize("case", NEEDS_VALUES)
@pytest.mark.parametrize("transform", [jax.jit, lambda f: jax.vmap(lambda _, a: f(None, a), in_axes=(None, 0))])
def test_a_solver_that_needs_values_under_jit(case, transform):
    solver = idf.custom_root(lambda x, a: x - a)(NEEDS_VALUES[case])
    with pytest.raises(jax.errors.JAXTypeError) as info:
        transform(solver)(None, jnp.ones(1) if transform is not jax.jit else 1.0)
    assert "host_solver" in notes(info)


def test_a_list_and_an_object_array():
    solver = idf.custom_root(lambda x, a: jnp.asarray(x) - a)(lambda init, a: [1.0, 1.0])
    with pytest.raises(TypeError) as info:
        solver(None, jnp.ones(2))
    assert "returned a list of length 2" in notes(info)
    assert "jax.numpy.asarray" in notes(info)
    solver = idf.custom_root(lambda x, a: x - a)(lambda init, a: np.ones(2))
    with pytest.raises(TypeError) as info:
        solver(None, np.array([1.0, 1.0], dtype=object))
    assert "given an array of dtype object" in notes(info)


SOLUTIONS = {
    "nothing": (None, ["found None", "return statement"]),
    "a SciPy result": (scipy.optimize.OptimizeResult(x=np.ones(2), success=True), ["OptimizeResult", "return its .x"]),
    "an object array": (np.array([1.0, 1.0], dtype=object), ["ndarray of dtype object", "numpy.asarray(x, float)"]),
    "a string": ("converged", ["x must be an array, found str"]),
    "a matrix": (np.ones((2, 1)).view(np.matrix), ["numpy.matrix of shape (2, 1)", "numpy.asarray(x)"]),
}


@pytest.mark.parametrize("case", SOLUTIONS)
def test_a_solution_that_is_no_array(case):
    x, words = SOLUTIONS[case]
    F = lambda x, t: x - t
    for call in (
        lambda: idf.custom_root(F)(lambda init, t: x)(None, jnp.ones(2)),
        lambda: idf.implicit_root(F, x, jnp.ones(2)),
        lambda: idf.root_vjp(F, x, (jnp.ones(2),), jnp.ones(2)),
        lambda: jax.jit(lambda t: idf.implicit_root(F, x, t))(jnp.ones(2)),
    ):
        with pytest.raises(TypeError) as info:
            call()
        assert all(word in notes(info) for word in words)


def test_arguments_in_a_tuple_or_without_one():
    F, x = lambda x, t: x - t, jnp.ones(2)
    with pytest.raises(TypeError) as info:
        idf.implicit_root(F, x, (jnp.ones(2),))
    assert "implicit_root(F, x, *args)" in notes(info)
    with pytest.raises(TypeError, match=r"args must be a tuple .* found float: write \(value,\)"):
        idf.root_vjp(F, x, 2.0, x)
    with pytest.raises(TypeError, match=r"args must be a tuple"):
        idf.root_jvp(F, x, x, (x,))
    with pytest.raises(TypeError, match=r"tangents must be a tuple"):
        idf.root_jvp(F, x, (x,), x)


def test_tangents_and_cotangents_like_what_they_belong_to():
    F = lambda x, p: {"u": x["u"] ** 2 - p["a"] * p["n"], "v": x["v"] - p["b"]}
    x, p = {"u": jnp.array(2.0), "v": jnp.ones(2)}, {"a": 2.0, "n": 2, "b": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"tangents must have the structure of args.*'b'.* with None for zero"):
        idf.root_jvp(F, x, (p,), ({"a": 1.0},))
    with pytest.raises(TypeError, match=r"tangents\[0\]\['b'\] must be of shape \(2,\), found \(\)"):
        idf.root_jvp(F, x, (p,), ({"a": 1.0, "n": None, "b": 1.0},))
    with pytest.raises(TypeError, match=r"tangents\[0\]\['n'\] must be None"):
        idf.root_jvp(F, x, (p,), ({"a": 1.0, "n": 1, "b": None},))
    with pytest.raises(TypeError, match=r"cotangent must have the structure of x"):
        idf.root_vjp(F, x, (p,), jnp.array(1.0))
    with pytest.raises(TypeError, match=r"cotangent\['v'\] must be of shape \(2,\)"):
        idf.root_vjp(F, x, (p,), {"u": 1.0, "v": jnp.ones(3)})


def test_none_is_a_tangent_and_a_cotangent_of_zero():
    F = lambda x, p: {"u": x["u"] ** 2 - p["a"] * p["n"], "v": x["v"] - p["b"]}
    x, p = {"u": jnp.array(2.0), "v": jnp.ones(2)}, {"a": 2.0, "n": 2, "b": jnp.ones(2)}
    for tangent, du, dv in (
        ({"a": 1.0, "n": None, "b": None}, 0.5, [0, 0]),
        ({"a": 1, "n": None, "b": np.ones(2)}, 0.5, [1, 1]),
        ({"a": None, "n": None, "b": np.ones(2)}, 0, [1, 1]),
        (None, 0, [0, 0]),
    ):
        got = idf.root_jvp(F, x, (p,), (tangent,))
        np.testing.assert_allclose([got["u"], *got["v"]], [du, *dv])
    (got,) = idf.root_vjp(F, x, (p,), {"u": 1.0, "v": None})
    np.testing.assert_allclose([got["a"], *got["b"]], [0.5, 0, 0])
    assert got["n"] is None


BRANCHES = {
    "if": lambda x, t: x - t if t.sum() > 0 else x + t,
    "while": lambda x, t: next(x - t for _ in iter(lambda: bool(x[0] < 0), True)),
    "float": lambda x, t: x - t * float(x[0]),
    "range": lambda x, t: x - t * len(range(x.astype(int)[0])),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_F_that_branches_on_values(case):
    with pytest.raises(jax.errors.JAXTypeError) as info:
        idf.implicit_root(BRANCHES[case], jnp.ones(2), jnp.ones(2))
    assert "jax.numpy.where or jax.lax.cond" in notes(info)


ADJOINTS = {
    "Neumann on a root": (
        lambda: idf.implicit_root(lambda x, t: x - t, 1.0, 1.0, adjoint=idf.Neumann(3)),
        "fixed-point",
    ),
    "OneStep on a root": (
        lambda: idf.implicit_root(lambda x, t: x - t, 1.0, 1.0, adjoint=idf.OneStep()),
        "fixed-point",
    ),
    "Unrolled without a solver": (
        lambda: idf.implicit_root(lambda x, t: x - t, 1.0, 1.0, adjoint=idf.Unrolled()),
        "decorators",
    ),
    "something else": (
        lambda: idf.implicit_root(lambda x, t: x - t, 1.0, 1.0, adjoint="implicit"),
        "must be Implicit",
    ),
    "a class": (lambda: idf.Implicit(linear_solver=lx.LU), "instance"),
    "a string": (lambda: idf.Implicit(linear_solver="cg"), "lineax"),
    "on_failure": (lambda: idf.Implicit(on_failure="throw"), "on_failure"),
    "polish": (lambda: idf.Implicit(polish=-1), "Newton steps"),
    "rtol": (lambda: idf.Implicit(rtol=-1.0), "rtol"),
    "terms": (lambda: idf.Neumann(0), "terms"),
    "too few tangents": (lambda: idf.root_jvp(lambda x, a, b: x - a, 1.0, (1.0, 2.0), (1.0,)), "tangents"),
}


@pytest.mark.parametrize("case", ADJOINTS)
def test_settings_that_make_no_sense(case):
    call, words = ADJOINTS[case]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_a_solver_that_fails_says_so_itself():
    def broken(init, a):
        raise RuntimeError("did not converge")

    with pytest.raises(RuntimeError, match="did not converge"):
        jax.grad(idf.custom_root(lambda x, a: x - a)(broken), argnums=1)(None, 1.0)


def test_a_fixed_point_map_is_no_root_condition_and_the_other_way_round():
    f = lambda x, t: jnp.sum((x - t) ** 2)
    T, F = idf.optimality.gradient_descent(f, 0.1), idf.optimality.stationary(f)
    with pytest.raises(TypeError, match="fixed-point map"):
        idf.implicit_root(T, jnp.ones(2), 1.0)
    with pytest.raises(TypeError, match="fixed-point map"):
        idf.custom_root(T)(lambda init, t: init)(jnp.ones(2), 1.0)
    with pytest.raises(TypeError, match="root condition"):
        idf.implicit_fixed_point(F, jnp.ones(2), 1.0)
