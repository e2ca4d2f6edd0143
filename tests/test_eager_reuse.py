"""Eager calls in a loop: compiled once, and no memory left behind."""

import gc
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf


def F(x, theta, A):
    return A @ x + 0.1 * x**3 - theta


rng = np.random.default_rng(0)


def problem(n):
    return rng.standard_normal(n), np.eye(n) + 0.3 * rng.standard_normal((n, n)) / np.sqrt(n)


class Compilations:
    """Counts what XLA compiles."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


@pytest.fixture(scope="module")
def compilations():
    seen = Compilations()
    jax.block_until_ready(jax.jit(lambda x: 2 * x)(1.0))
    assert seen.count > 0, "JAX announces its compilations by another event"
    return seen


def decorated(condition=F, adjoint=None):
    @idf.custom_root(condition, adjoint=adjoint)
    def solver(init, theta, A):
        return np.asarray(theta) * 0.5

    return lambda theta, A: jnp.sum(solver(None, theta, A) ** 2)


def function_form(theta, A):
    return jnp.sum(idf.implicit_root(lambda x: F(x, theta, A), 0.5 * jax.lax.stop_gradient(theta)) ** 2)


def decorated_anew(theta, A):
    return decorated(lambda x, theta, A: F(x, theta, A))(theta, A)


@jax.custom_jvp
def cubed(x):
    return x**3


cubed.defjvp(lambda primals, tangents: (primals[0] ** 3, 3 * primals[0] ** 2 * tangents[0]))


def with_a_rule(x, theta, A):
    """The derivative rule is a Python function that JAX calls anew each time."""
    return A @ x + 0.1 * cubed(x) - theta


LOSSES = {
    "custom rule": (decorated(with_a_rule), 5),
    "sparse": (decorated(adjoint=idf.Implicit(linear_solver=idf.sparse.LU(np.ones((5, 5))))), 5),
    "decorated": (decorated(), 5),
    "decorated, Krylov": (decorated(adjoint=idf.Implicit(linear_solver=idf.krylov.GMRES())), 20),
    "decorated, large": (decorated(), 450),
    "closure made anew": (function_form, 5),
    "decorated anew": (decorated_anew, 5),
    "Neumann": (
        lambda theta, A: jnp.sum(
            idf.implicit_fixed_point(
                lambda x, t: 0.5 * x + t, 2 * jax.lax.stop_gradient(theta), theta, adjoint=idf.Neumann(5)
            )
        ),
        5,
    ),
}


# Second derivatives go through a custom rule itself, a Python function that may have changed: two compilations a call.
CASES = [
    (name, mode)
    for name in LOSSES
    for mode in ("value", "grad", "jvp", "hessian")
    if (name, mode) != ("custom rule", "hessian")
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_nothing_is_compiled_twice(name, mode, compilations):
    loss, n = LOSSES[name]
    if mode == "hessian" and n > 20:
        n = 8
    f = {
        "value": loss,
        "grad": jax.grad(loss),
        "jvp": lambda theta, A: jax.jvp(lambda t: loss(t, A), (theta,), (theta,)),
        "hessian": jax.hessian(loss),
    }[mode]
    theta, A = problem(n)
    theta, A = jnp.asarray(theta), jnp.asarray(A)
    others = [theta + 1, theta * 2]
    for _ in range(2):
        jax.block_until_ready(f(theta, A))
    before = compilations.count
    for other in others:
        jax.block_until_ready(f(other, A))
    assert compilations.count == before


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_calls(compilations):
    loss = LOSSES["decorated"][0]
    closure = jax.grad(LOSSES["closure made anew"][0])
    gradient = jax.grad(loss)
    theta, A = map(jnp.asarray, problem(5))

    def calls(count):
        for _ in range(count):
            loss(theta, A)
            gradient(theta, A)
            closure(theta, A)
        gc.collect()
        executables = len(jax.devices()[0].client.live_executables())
        return tracemalloc.get_traced_memory()[0], executables, len(jax.live_arrays())

    tracemalloc.start()
    try:
        calls(100)
        first, *alive = calls(1)
        before = compilations.count
        last, *still_alive = calls(1000)
    finally:
        tracemalloc.stop()
    assert last - first < 100_000, "more than 100 bytes are kept of each call"
    assert still_alive == alive
    assert compilations.count == before


def test_a_python_float_is_no_new_program(compilations):
    solver = idf.custom_root(lambda x, t, scale: x - scale * t)(lambda init, t, scale: scale * np.asarray(t))
    gradient = jax.grad(lambda t, scale: solver(None, t, scale))
    assert gradient(1.0, 0.5) == 0.5
    before = compilations.count
    assert [float(gradient(1.0, k / 7)) for k in range(5)] == [k / 7 for k in range(5)]
    assert compilations.count == before
