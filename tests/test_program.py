"""Two traces of one computation are equal programs, and two computations never are."""

import jax
import jax.numpy as jnp
import numpy as np

import implicitdiff as idf
from implicitdiff._program import FirstOrder, trace


def program(F, x=None, *args, **kwargs):
    return trace(F, jnp.ones(3) if x is None else x, args, kwargs)[0]


def same(F, G, *args, x=None):
    a, b = program(F, x, *args), program(G, x, *args)
    assert a != b or hash(a) == hash(b)
    return a == b


def make(constant, power=3):
    return lambda x, t: jnp.sin(x) ** power * t + jnp.cumsum(x) @ jnp.ones((3, 3)) + constant


def test_the_same_computation_is_the_same_program():
    assert same(make(1.0), make(1.0), 2.0)
    assert same(make(np.ones(3)), make(2 * np.ones(3)), 2.0), "arrays that F closes over are arguments"
    scan = lambda c: lambda x: jax.lax.scan(lambda s, _: (s * c + x, None), x, None, length=4)[0]
    assert same(scan(0.5), scan(0.5))
    solve = lambda: lambda x, A: jnp.linalg.solve(A, x)
    assert same(solve(), solve(), jnp.eye(3))


def test_another_computation_is_another_program():
    assert not same(make(1.0), make(2.0), 2.0), "a Python number is part of the program"
    assert not same(make(1.0), make(1.0, power=5), 2.0)
    assert not same(lambda x: x + 0.0, lambda x: x + -0.0)
    assert not same(lambda x, a, b: x + a - b, lambda x, a, b: x + b - a, 1.0, 2.0)
    scan = lambda c: lambda x: jax.lax.scan(lambda s, _: (s * c + x, None), x, None, length=4)[0]
    assert not same(scan(0.5), scan(0.25)), "numbers inside of a loop"
    assert not same(lambda x: jnp.where(x > 0, x, 1.0), lambda x: jnp.where(x > 0, 1.0, x))
    F = lambda x: x
    assert program(F, jnp.ones(3)) != program(F, jnp.ones(4))
    assert program(F, jnp.ones(3)) != program(F, jnp.ones(3, jnp.float32))
    assert program(F, {"a": jnp.ones(3)}) != program(F, {"b": jnp.ones(3)})


def test_rules_written_in_python_are_never_taken_for_equal():
    """Two custom rules may look alike and differ in what their functions close over."""

    def make(scale):
        @jax.custom_jvp
        def f(x):
            return x

        f.defjvp(lambda p, t: (p[0], scale * t[0]))
        return lambda x: f(x)

    assert not same(make(1.0), make(2.0))

    def make_vjp(scale):
        @jax.custom_vjp
        def f(x):
            return x

        f.defvjp(lambda x: (x, None), lambda _, g: (scale * g,))
        return lambda x: f(x)

    assert not same(make_vjp(1.0), make_vjp(2.0))


def test_implicit_functions_inside_are_compared_by_what_they_solve():
    assert same(lambda x: nested(x) + x, lambda x: nested(x) + x)
    assert not same(lambda x: nested(x) + x, lambda x: nested(x, 4) + x)


def test_first_derivatives_of_custom_rules_are_the_same_where_their_traces_are():
    def first(f):
        x = jnp.ones(3)
        program, theta = trace(lambda x: f(x) + x, x, (), {})
        return FirstOrder(program, [x], theta, [])

    for f in (jax.nn.relu, jax.nn.softmax, jax.nn.silu):
        assert first(f) == first(f)
    assert first(jax.nn.relu) != first(jax.nn.silu)


def nested(x, power=3):
    return idf.implicit_root(lambda y, x: y**power + y - x, x, x)


def test_evaluation_with_other_constants():
    F = make(np.ones(3))
    x, t = jnp.arange(3.0), 2.0
    prog, theta = trace(F, x, (t,), {})
    np.testing.assert_allclose(prog([x], theta)[0], F(x, t))
    _, other = trace(make(5 * np.ones(3)), x, (3.0,), {})
    np.testing.assert_allclose(prog([x], other)[0], make(5 * np.ones(3))(x, 3.0))
