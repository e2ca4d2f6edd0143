r"""
Many devices
============

Arrays may be sharded over several devices. Then nothing changes in the code: under ``jit`` each device works on its
own share, and the linear solve exchanges inner products only. This tutorial computes the hyper-gradient of a logistic
regression whose samples lie on eight devices, and reads off the compiled program what each device needs.

JAX can pretend that the host is eight devices, which is what happens here. They share its cores, so time does not
fall, but the memory of each device does.
"""

import os

# Before JAX starts. A number of devices that was asked for already comes last, and holds.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import implicitdiff as idf

ROWS, HELD_OUT, FEATURES = 80_000, 16_000, 10

# %%
# The program
# -----------
# Nothing in it is about devices.


def losses(x, data):
    samples, labels = data
    score = samples @ x
    return jnp.mean(jnp.logaddexp(0.0, score) - labels * score)


def penalised(x, log_weights, training):
    return losses(x, training) + 0.5 * jnp.sum(jnp.exp(log_weights) * x**2)


@jax.jit
def hyper_gradient(log_weights, training, validation):
    solver = idf.solvers.GradientDescent(penalised, tol=1e-5)

    def loss(log_weights):
        x, _ = solver.run(jnp.zeros(FEATURES), log_weights, training)
        return losses(x, validation)

    return jax.value_and_grad(loss)(log_weights)


# %%
# The data
# --------
# Each device makes its own samples: no array of all of them exists anywhere.


def sharding(count):
    mesh = jax.make_mesh((count,), ("samples",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    return NamedSharding(mesh, PartitionSpec("samples"))


def draw(rows, where, seed):
    truth = np.random.default_rng(0).standard_normal(FEATURES)

    def share(index):
        start = index[0].start or 0
        random = np.random.default_rng((seed, start))
        X = random.standard_normal(((index[0].stop or rows) - start, FEATURES)).astype(np.float32)
        return X, (X @ truth + random.logistic(size=len(X)) > 0).astype(np.float32)

    samples = jax.make_array_from_callback((rows, FEATURES), where, lambda index: share(index)[0])
    labels = jax.make_array_from_callback((rows,), where, lambda index: share(index)[1])
    return samples, labels


where = sharding(8)
training, validation = draw(ROWS, where, 1), draw(HELD_OUT, where, 2)
loss, gradient = hyper_gradient(jnp.zeros(FEATURES), training, validation)
print(f"on {len(training[0].sharding.device_set)} devices: loss {loss:.6f}")
print("hyper-gradient", np.array2string(np.asarray(gradient), precision=3))

# %%
# On one device the result is the same to rounding:

alone = hyper_gradient(jnp.zeros(FEATURES), *jax.device_put((training, validation), jax.devices()[0]))
np.testing.assert_allclose(alone[0], loss, rtol=1e-5)
np.testing.assert_allclose(alone[1], gradient, rtol=1e-3, atol=1e-7)
print(f"largest difference of the gradients {np.max(np.abs(np.asarray(alone[1]) - np.asarray(gradient))):.0e}")

# %%
# Memory
# ------
# The compiled program says how much memory a device needs for its arguments and for intermediate results.


def shapes(count):
    where = sharding(count)
    return [
        tuple(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for shape in ((rows, FEATURES), (rows,)))
        for rows in (ROWS, HELD_OUT)
    ]


counts, needed = (1, 2, 4, 8), []
for count in counts:
    memory = hyper_gradient.lower(jnp.zeros(FEATURES), *shapes(count)).compile().memory_analysis()
    needed.append((memory.argument_size_in_bytes / 1e6, memory.temp_size_in_bytes / 1e6))
needed = np.array(needed)
for count, (data, scratch) in zip(counts, needed, strict=True):
    print(f"{count} devices: {data:.2f} MB of data and {scratch:.2f} MB of scratch on each")
assert np.all(needed[-1] <= 1.1 * needed[0] / 8 + 0.1)

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(range(4), needed[:, 0], label="data")
axes.bar(range(4), needed[:, 1], bottom=needed[:, 0], label="scratch")
axes.set_xticks(range(4), counts)
axes.set(xlabel="devices", ylabel="MB on each device")
axes.legend()
plt.show()

# %%
# A whole run of :func:`~implicitdiff.bilevel.minimize` is one such program, too:

inner = idf.solvers.GradientDescent(penalised)


@jax.jit
def tune(log_weights, training, validation):
    found = idf.bilevel.minimize(
        lambda theta, x: losses(x, validation),
        inner,
        log_weights,
        x0=jnp.zeros(FEATURES),
        args=lambda theta: (theta, training),
        max_steps=10,
        tol=1e-4,
    )
    return found.theta, found.loss


tuned, best = tune(jnp.zeros(FEATURES), training, validation)
print(f"tuned: loss {best:.6f}, weights", np.round(np.exp(tuned), 3))
assert best <= loss

# %%
# Several processes, each with samples of its own and with SciPy for problems of its own, are in
# ``examples/multi_process.py``. Measured times and memory are among the :doc:`benchmarks </benchmarks/devices>`.
