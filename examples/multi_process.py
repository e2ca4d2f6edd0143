"""Several processes, each with its share of the samples and of the problems, as on several machines.

Run without arguments it starts two processes on this machine, which find each other over the loopback interface; on
machines of your own, start one process on each with their addresses in `jax.distributed.initialize`. Each process keeps
the samples it read: a hyper-gradient and a whole run of bilevel.minimize are one program over all of them. Then a batch
of problems is solved by SciPy, which is called in each process on its own problems only.
"""

import argparse
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)
SAMPLES, FEATURES, PROBLEMS = 2000, 5, 16


def losses(x, data):
    """Mean squares of a linear model."""
    return 0.5 * jnp.mean((data[0] @ x - data[1]) ** 2)


def penalised(x, log_weight, training):
    return losses(x, training) + 0.5 * jnp.exp(log_weight) * jnp.sum(x**2)


def hyper_gradient(log_weight, training, validation):
    solver = idf.solvers.GradientDescent(penalised, tol=1e-10)
    loss = lambda t: losses(solver.run(jnp.zeros(FEATURES), t, training)[0], validation)  # noqa: E731
    return jax.value_and_grad(loss)(log_weight)


def tune(log_weight, training, validation):
    inner = idf.solvers.GradientDescent(penalised)
    found = idf.bilevel.minimize(
        lambda t, x: losses(x, validation), inner, log_weight, x0=jnp.zeros(FEATURES), args=lambda t: (t, training)
    )
    return found.theta, found.loss


def cubic(x, a):
    """Has one root for each a > 0."""
    return x**3 + a * x - 1.0


calls = []


def brentq(a):
    calls.append(a)
    return np.asarray(scipy.optimize.brentq(cubic, 0.0, 1.0, args=(float(a),), xtol=1e-14))


root = idf.custom_root(cubic, has_init=False)(idf.host_solver(brentq, jax.ShapeDtypeStruct((), float)))


def worker(port, count, number):
    """What each process does; the results are the same in all."""
    jax.distributed.initialize(f"127.0.0.1:{port}", count, number)
    mesh = jax.make_mesh((jax.device_count(),), ("i",), axis_types=(AxisType.Auto,))
    where = NamedSharding(mesh, PartitionSpec("i"))

    # Every process draws all samples, to keep this short, and keeps its own.
    random = np.random.default_rng(0)
    X, Z = random.standard_normal((2, SAMPLES, FEATURES))
    y, w = (A @ np.arange(FEATURES) + 3 * random.standard_normal(SAMPLES) for A in (X, Z))
    share = lambda part: jax.make_array_from_process_local_data(where, np.split(part, count)[number])  # noqa: E731
    training, validation = (share(X), share(y)), (share(Z), share(w))
    value, gradient = jax.jit(hyper_gradient)(0.0, training, validation)
    log_weight, best = jax.jit(tune)(0.0, training, validation)

    a = np.linspace(0.5, 4.0, PROBLEMS)
    ours = jax.shard_map(
        jax.vmap(jax.value_and_grad(root)), mesh=mesh, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i")
    )
    roots, slopes = multihost_utils.process_allgather(jax.jit(ours)(share(a)), tiled=True)

    # The same on one device, from all samples at once.
    H, c = X.T @ X / SAMPLES, X.T @ y / SAMPLES
    x = np.linalg.solve(H + np.eye(FEATURES), c)
    dx = -np.linalg.solve(H + np.eye(FEATURES), x)
    np.testing.assert_allclose(value, 0.5 * np.mean((Z @ x - w) ** 2), rtol=1e-10)
    np.testing.assert_allclose(gradient, (Z @ x - w) @ (Z @ dx) / SAMPLES, rtol=1e-6)
    alone = tune(jnp.zeros(()), (jnp.asarray(X), jnp.asarray(y)), (jnp.asarray(Z), jnp.asarray(w)))
    np.testing.assert_allclose((log_weight, best), alone, rtol=1e-6)
    np.testing.assert_allclose(cubic(roots, a), 0, atol=1e-12)
    np.testing.assert_allclose(slopes, -roots / (3 * roots**2 + a), rtol=1e-10)
    assert len(calls) == PROBLEMS // count
    if number == 0:
        print(
            f"{count} processes with {SAMPLES // count} samples each: loss {value:.8f}, hyper-gradient {gradient:.8f}"
        )
        print(f"tuned together: weight {np.exp(log_weight):.6f}, loss {best:.8f}, as on one device")
        print(f"{PROBLEMS} roots by SciPy, {len(calls)} calls in each process; derivatives as in closed form")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the same")
    parser.add_argument("--worker", type=int, nargs=2, metavar=("PORT", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], options.processes, options.worker[1])
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--processes", str(options.processes), "--worker", port]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    workers = [subprocess.Popen([*command, str(number)], env=environment) for number in range(options.processes)]
    failed = [number for number, process in enumerate(workers) if process.wait() != 0]
    if failed:
        sys.exit(f"failed: processes {failed}")


if __name__ == "__main__":
    main()
