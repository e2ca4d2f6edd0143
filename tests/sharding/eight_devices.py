"""Run by test_devices.py in a process of its own, whose JAX has eight devices: prints one line of JSON for each check."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import faulthandler
import json
import re
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)
N = 16_384  # above the size up to which a matrix may be formed
MESH = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
SPLIT = NamedSharding(MESH, PartitionSpec("i"))
RANDOM = np.random.default_rng(0)
A = RANDOM.standard_normal(N) / np.sqrt(N)
THETA, X0 = RANDOM.uniform(1, 2, N), np.zeros(N)
ROWS, VROWS = RANDOM.standard_normal((2, 800, 4))
Y, VY = (R @ np.arange(4.0) + RANDOM.standard_normal(800) for R in (ROWS, VROWS))


def energy(x, theta):
    """Strongly convex; its Hessian is a diagonal and a matrix of rank one."""
    return 0.5 * jnp.sum(theta * (x - 1) ** 2) + 0.25 * jnp.sum(x**4) + 0.5 * (A @ x) ** 2


def through(condition, adjoint=None):
    def gradient(theta, x):
        return jax.grad(lambda t: jnp.sum(idf.implicit_root(condition, x, t, adjoint=adjoint) ** 2))(theta)

    return gradient


def solved(theta, x):
    return jax.grad(lambda t: jnp.sum(idf.solvers.GradientDescent(energy, maxiter=60).run(x, t)[0] ** 2))(theta)


def lasso(theta, x):
    fit = lambda x, _: 0.5 * jnp.sum((x - A * 100) ** 2) + 0.5 * (A @ x) ** 2
    solver = idf.solvers.ProximalGradient(fit, idf.prox.lasso, maxiter=60)
    return jax.grad(lambda t: jnp.sum(solver.run(x, None, 0.3 * t)[0] ** 2))(theta)


def pytree(theta, x):
    def F(x, theta):
        a, b = x["a"], x["b"]
        return {"a": theta * a + a**3 - 1 + 0.1 * (A @ a), "b": 2 * b - theta[: b.size].reshape(b.shape)}

    x = {"a": x, "b": jnp.zeros((N // 16, 8))}
    roots = lambda t: idf.implicit_root(F, x, t)
    return jax.grad(lambda t: sum(jnp.sum(leaf**2 + leaf) for leaf in jax.tree.leaves(roots(t))))(theta)


def gathered(compiled):
    """The sizes of the arrays that a compiled program gathers from all devices."""
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", compiled.as_text())
    return [int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes]


def matrix_free(program):
    """x stays in shards: no array of its size is gathered, the gradient is sharded and that of one device."""

    def check():
        sharded = [jax.device_put(part, SPLIT) for part in (THETA, X0 + 0.3)]
        compiled = jax.jit(program).lower(*sharded).compile()
        sizes = gathered(compiled)
        found = compiled(*sharded)
        expected = jax.jit(program)(jnp.asarray(THETA), jnp.asarray(X0 + 0.3))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert np.all(np.isfinite(expected))
        assert max(sizes, default=0) < N // 8, sizes
        whole = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(MESH, PartitionSpec())).lower(sharded[0])
        assert N in gathered(whole.compile())  # such a program would be noticed
        assert found.sharding.is_equivalent_to(SPLIT, 1), found.sharding

    return check


def small_systems_may_be_formed():
    sharded = [jax.device_put(part[:64], SPLIT) for part in (THETA, X0 + 0.3)]
    f = lambda x, theta: 0.5 * jnp.sum(theta * (x - 1) ** 2) + 0.25 * jnp.sum(x**4) + 0.5 * (A[:64] @ x) ** 2
    program = jax.jit(through(idf.optimality.stationary(f)))
    np.testing.assert_allclose(program(*sharded), program(*map(np.asarray, sharded)), rtol=1e-10)


def explicit_mesh():
    """What jax.make_mesh makes by default in newer versions: shardings are part of the types."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(part, NamedSharding(mesh, PartitionSpec("i"))) for part in (THETA, X0 + 0.3)]
        f = lambda x, theta: 0.5 * jnp.sum(theta * (x - 1) ** 2) + 0.25 * jnp.sum(x**4)
        programs = [
            jax.jit(through(condition))
            for condition in (
                idf.optimality.stationary(f, positive_definite=True),
                idf.optimality.stationary(f),
                jax.grad(f),
            )
        ]
        found = [program(*sharded) for program in programs]
    for program, gradient in zip(programs, found, strict=True):
        np.testing.assert_allclose(gradient, program(jnp.asarray(THETA), jnp.asarray(X0 + 0.3)), rtol=1e-9)


def losses(x, rows, y):
    return 0.5 * jnp.mean((rows @ x - y) ** 2)


def ridge(x, t, data):
    return losses(x, *data) + 0.5 * jnp.sum(t * x**2)


def on_devices(*data):
    return tuple(jax.device_put(part, SPLIT) for part in data)


def hyper_gradient(t, data, validation):
    solver = idf.solvers.GradientDescent(ridge, tol=1e-12)
    return jax.value_and_grad(lambda t: losses(solver.run(jnp.zeros(4), t, data)[0], *validation))(t)


def data_in_shards():
    value, gradient = jax.jit(hyper_gradient)(0.1 * jnp.ones(4), on_devices(ROWS, Y), on_devices(VROWS, VY))
    expected, slope = jax.jit(hyper_gradient)(0.1 * jnp.ones(4), (ROWS, Y), (VROWS, VY))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9)


def memory_falls():
    needed = {}
    for count in (1, 8):
        mesh = jax.make_mesh((count,), ("i",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        where = NamedSharding(mesh, PartitionSpec("i"))
        sets = [tuple(jax.ShapeDtypeStruct(shape, float, sharding=where) for shape in ((80_000, 4), (80_000,)))] * 2
        analysis = jax.jit(hyper_gradient).lower(jnp.ones(4), *sets).compile().memory_analysis()
        needed[count] = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    assert needed[8] < needed[1] / 8 * 1.1 + 1e5, needed


def whole_run_of_minimize():
    """Both ways: called eagerly with sharded data closed over, and under jit with them as arguments."""

    def run(data, validation):
        return idf.bilevel.minimize(
            lambda t, x: losses(x, *validation),
            idf.solvers.GradientDescent(lambda x, t: ridge(x, t, data)),
            jnp.ones(4),
            x0=jnp.zeros(4),
            log=True,
            max_steps=15,
        )

    alone = run((jnp.asarray(ROWS), jnp.asarray(Y)), (jnp.asarray(VROWS), jnp.asarray(VY)))
    sets = on_devices(ROWS, Y), on_devices(VROWS, VY)
    eager = run(*sets)
    theta, loss = jax.jit(lambda t, *sets: (lambda r: (r.theta, r.loss))(tune(t, *sets)))(jnp.ones(4), *sets)
    np.testing.assert_allclose(eager.loss, alone.loss, rtol=1e-10)
    np.testing.assert_allclose(eager.theta, alone.theta, rtol=1e-6)
    np.testing.assert_allclose(loss, alone.loss, rtol=1e-10)
    np.testing.assert_allclose(theta, alone.theta, rtol=1e-6)


def tune(t, data, validation):
    inner = idf.solvers.GradientDescent(lambda x, t: ridge(x, t, data))
    return idf.bilevel.minimize(lambda t, x: losses(x, *validation), inner, t, x0=jnp.zeros(4), log=True, max_steps=15)


def each(function, batch):
    parts = dict(mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i"))
    return jax.jit(jax.shard_map(jax.vmap(jax.value_and_grad(function)), **parts))(batch)


def problems_on_each_device():
    """shard_map: a problem for each element, solved where it lies; x must vary, or its gradients would be summed."""
    batch = np.linspace(0.5, 2.0, 16)
    M = np.array([[2.0, 0.5], [0.5, 1.0]])
    f = lambda x, t: 0.5 * x @ M @ x - t * jnp.sum(x)
    solver = idf.solvers.GradientDescent(f, maxiter=500, tol=1e-12)
    start = lambda t: (
        lax.pcast(jnp.zeros(2), "i", to="varying") if hasattr(lax, "pcast") else lax.pvary(jnp.zeros(2), "i")
    )
    values, slopes = each(lambda t: jnp.sum(solver.run(start(t), t)[0]), batch)
    slope = np.linalg.solve(M, np.ones(2)).sum()
    np.testing.assert_allclose(values, slope * batch, rtol=1e-9)
    np.testing.assert_allclose(slopes, slope, rtol=1e-9)
    large = lambda t: jnp.sum(idf.implicit_root(lambda x, t: x**3 + x - t, jnp.full(500, 1.0) * t, t**3 + t))
    np.testing.assert_allclose(each(large, batch)[1], 500.0, rtol=1e-9)  # BiCGStab; x = t
    with pytest.raises(TypeError, match="pcast"):
        each(lambda t: jnp.sum(solver.run(jnp.zeros(2), t)[0]), batch)


def host_solvers_on_each_device():
    calls = []

    def cube_root(t):
        calls.append(float(t))
        return np.asarray(np.cbrt(t))

    root = idf.custom_root(lambda x, t: x**3 - t, has_init=False)(
        idf.host_solver(cube_root, jax.ShapeDtypeStruct((), float))
    )
    batch = np.linspace(0.5, 2.0, 16)
    values, slopes = each(root, batch)
    np.testing.assert_allclose(values, np.cbrt(batch), rtol=1e-12)
    np.testing.assert_allclose(slopes, np.cbrt(batch) / batch / 3, rtol=1e-9)
    assert sorted(calls) == list(batch)  # once each, on its own device


def lanes_on_the_devices():
    """A halo exchange: all devices hold one system, and the iterations of a Krylov method stay in step."""
    ring = [(i, (i + 1) % 8) for i in range(8)]
    T = lambda x, c: c / 2 + 0.4 * jnp.tanh(0.3 * lax.ppermute(x, "i", ring)) + 0.1 * x
    c = jnp.linspace(1.0, 5.0, 8)
    together = jax.vmap(T, axis_name="i")
    x = lax.fori_loop(0, 300, lambda _, x: together(x, c), c)
    A = np.eye(8) - jax.jacfwd(together, 0)(x, c)
    expected = np.linalg.solve(A, jax.jacfwd(together, 1)(x, c))
    for solver in (None, idf.krylov.GMRES()):
        adjoint = idf.Implicit(linear_solver=solver)
        lane = lambda x, c: idf.implicit_fixed_point(T, x[0], c[0], adjoint=adjoint)[None]
        parts = dict(mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i"))
        for options in ({}, {"check_vma": False}):
            function = jax.jit(jax.jacrev(lambda c: jax.shard_map(lane, **parts, **options)(x, c)))
            np.testing.assert_allclose(function(c), expected, rtol=1e-10, atol=1e-13)


CHECKS = {
    "conjugate gradients": matrix_free(through(idf.optimality.stationary(energy, positive_definite=True))),
    "MINRES": matrix_free(through(idf.optimality.stationary(energy))),
    "BiCGStab": matrix_free(through(lambda x, theta: jax.grad(energy)(x, theta))),
    "GMRES": matrix_free(
        through(lambda x, theta: jax.grad(energy)(x, theta), idf.Implicit(linear_solver=idf.krylov.GMRES()))
    ),
    "solver and gradient": matrix_free(solved),
    "lasso": matrix_free(lasso),
    "pytree": matrix_free(pytree),
    "small systems": small_systems_may_be_formed,
    "explicit mesh": explicit_mesh,
    "data in shards": data_in_shards,
    "memory": memory_falls,
    "minimize": whole_run_of_minimize,
    "shard_map": problems_on_each_device,
    "host solvers": host_solvers_on_each_device,
    "lanes": lanes_on_the_devices,
}


def main():
    faulthandler.dump_traceback_later(300, exit=True, file=sys.stderr)  # what hangs shall say where
    for name, check in CHECKS.items():
        try:
            check()
        except BaseException:
            print(json.dumps([name, traceback.format_exc()[-3000:]]), flush=True)
        else:
            print(json.dumps([name, None]), flush=True)


if __name__ == "__main__":
    main()
