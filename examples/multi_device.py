"""Ten million samples on eight devices: the hyper-gradient of a logistic regression, and a tuned weight.

The samples lie in shards, and jit does the rest: each device sums over its own, only vectors of the size of the model
travel. The memory that a device needs is read off the compiled program, for 1, 2, 4 and 8 devices. Without accelerators
JAX makes eight devices of the host; they share its cores, so that time does not fall, but memory a device does.
"""

import argparse
import os

# Before JAX starts; a number of devices that was asked for already comes last and holds.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicitdiff as idf

FEATURES = 10


def losses(x, data):
    """Logistic losses of a model x on samples in rows and their labels 0 or 1."""
    samples, labels = data
    score = samples @ x
    return jnp.mean(jnp.logaddexp(0.0, score) - labels * score)


def outer(log_weights, x, validation):
    return losses(x, validation)


def hyper_gradient(log_weights, training, validation):
    """Validation loss of the ridge-penalised model, and its gradient in the logarithms of the weights."""
    solver = idf.solvers.GradientDescent(
        lambda x, t, data: losses(x, data) + 0.5 * jnp.sum(jnp.exp(t) * x**2), tol=1e-5
    )

    def loss(log_weights):
        x, _ = solver.run(jnp.zeros(FEATURES), log_weights, training)
        return outer(log_weights, x, validation)

    return jax.value_and_grad(loss)(log_weights)


def tune(log_weights, training, validation):
    """A whole run of bilevel.minimize as one program."""
    inner = idf.solvers.GradientDescent(lambda x, t, data: losses(x, data) + 0.5 * jnp.sum(jnp.exp(t) * x**2))
    found = idf.bilevel.minimize(
        lambda t, x: outer(t, x, validation), inner, log_weights, x0=jnp.zeros(FEATURES), args=lambda t: (t, training),
        max_steps=10, tol=1e-4,
    )  # fmt: skip
    return found.theta, found.loss


def sharding(devices):
    mesh = jax.make_mesh((len(devices),), ("samples",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("samples"))


def draw(rows, where, seed):
    """Samples made shard by shard: no host array of all."""
    truth = np.random.default_rng(0).standard_normal(FEATURES)

    def samples(rows_of_shard, seed):
        start = rows_of_shard.start or 0
        random = np.random.default_rng((seed, start))
        X = random.standard_normal(((rows_of_shard.stop or rows) - start, FEATURES)).astype(np.float32)
        return X, (X @ truth + random.logistic(size=len(X)) > 0).astype(np.float32)

    shapes = ((rows, FEATURES), (rows,))
    return tuple(
        jax.make_array_from_callback(shape, where, lambda index, k=k: samples(index[0], seed)[k])
        for k, shape in enumerate(shapes)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    options = parser.parse_args()
    rows = 10_000 if options.quick else options.rows
    devices = jax.devices()[: 2 ** int(np.log2(min(8, jax.device_count())))]
    rows -= rows % (8 * len(devices))
    held_out = rows // 8

    run, theta = jax.jit(hyper_gradient), jnp.zeros(FEATURES)
    print(f"{rows:,} samples, {FEATURES} features, float32, and {held_out:,} for validation")
    print("devices  MB of data a device  MB of scratch a device")
    needed = {}
    for count in (1, 2, 4, 8)[: int(np.log2(len(devices))) + 1]:
        where = sharding(devices[:count])
        sets = [
            tuple(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for shape in ((n, FEATURES), (n,)))
            for n in (rows, held_out)
        ]
        memory = run.lower(theta, *sets).compile().memory_analysis()
        needed[count] = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        print(f"{count:7}  {needed[count][0] / 1e6:19.1f}  {needed[count][1] / 1e6:22.1f}")
        assert all(n <= 1.1 * one / count + 1e5 for n, one in zip(needed[count], needed[1], strict=True))

    where = sharding(devices)
    training, validation = draw(rows, where, 1), draw(held_out, where, 2)
    loss, gradient = run(theta, training, validation)
    print(
        f"on {len(devices)} devices: loss {loss:.6f}, hyper-gradient",
        np.array2string(np.asarray(gradient), precision=3),
    )
    tuned, best = jax.jit(tune)(theta, training, validation)
    print(f"tuned by bilevel.minimize: loss {best:.6f}, weights", np.round(np.exp(tuned), 3))
    assert best <= loss
    if options.quick:  # on one device the same to rounding
        one = jax.device_put((training, validation), devices[0])
        alone = run(theta, *one)
        np.testing.assert_allclose(alone[0], loss, rtol=1e-5)
        np.testing.assert_allclose(alone[1], gradient, rtol=1e-3, atol=1e-7)


if __name__ == "__main__":
    main()
