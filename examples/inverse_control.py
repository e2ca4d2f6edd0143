"""Inverse optimal control: what does a controller care about, judging by what it does?

A car parks by model predictive control: at every state it solves a quadratic program for the accelerations to come,
bounded from both sides, and applies the first one. From noisy demonstrations alone the weights of its cost are learned,
by gradient descent through the quadratic program.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import implicitdiff as idf

matplotlib.use("Agg")  # the figure goes to a file
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

STEP, HORIZON, BOUND = 0.25, 12, 1.0
F, B = np.array([[1.0, STEP], [0.0, 1.0]]), np.array([STEP**2 / 2, STEP])

# z_t = F^t z_0 + sum over s < t of F^(t - s - 1) B u_s, for t = 1, ..., HORIZON, all below each other.
POWERS = [np.linalg.matrix_power(F, t) for t in range(HORIZON + 1)]
FREE = np.vstack(POWERS[1:])
FORCED = np.vstack(
    [
        np.stack([POWERS[t - s - 1] @ B if s < t else np.zeros(2) for s in range(HORIZON)], 1)
        for t in range(1, HORIZON + 1)
    ]
)
BOX, LIMITS = np.vstack([np.eye(HORIZON), -np.eye(HORIZON)]), np.full(2 * HORIZON, BOUND)
NAMES = "position", "speed", "final position", "final speed"
TRUE = np.array([1.0, 0.2, 8.0, 3.0])  # relative to the weight of the acceleration, which is 1


def plan(log_weights, start):
    """The accelerations over the horizon: minimise sum_t w'z_t^2 + u_t^2, |u_t| <= 1, other w at the end."""
    weights = jnp.exp(log_weights)
    W = jnp.concatenate([jnp.tile(weights[:2], HORIZON - 1), weights[2:]])
    P = FORCED.T @ (W[:, None] * FORCED) + jnp.eye(HORIZON)
    q = FORCED.T @ (W * (FREE @ start))
    return idf.convex.solve_qp(P, q, G=BOX, h=LIMITS, raise_on_failure=False).x


plans = jax.jit(jax.vmap(plan, (None, 0)))


def drive(log_weights, start, steps=30):
    """Positions and accelerations under the controller, from this state."""
    state, states, inputs = np.asarray(start), [start], []
    for _ in range(steps):
        inputs.append(float(plans(log_weights, state[None])[0, 0]))
        state = F @ state + B * inputs[-1]
        states.append(state)
    return np.array(states)[:, 0], np.array(inputs)


def learn(starts, shown, steps):
    """Weights whose plans are closest to those shown, the way there, and the error of the first gradient."""

    @jax.jit
    def loss(log_weights):
        return jnp.mean((plans(log_weights, starts) - shown) ** 2)

    loss_and_gradient = jax.jit(jax.value_and_grad(loss))
    log_weights, optimizer = jnp.zeros(4), optax.adam(0.1)
    h = 1e-4
    differences = jnp.array([(loss(log_weights + e) - loss(log_weights - e)) / (2 * h) for e in h * jnp.eye(4)])
    error = jnp.linalg.norm(loss_and_gradient(log_weights)[1] - differences) / jnp.linalg.norm(differences)
    state, path = optimizer.init(log_weights), []
    for _ in range(steps):
        value, gradient = loss_and_gradient(log_weights)
        path.append((float(value), np.exp(log_weights)))
        updates, state = optimizer.update(gradient, state)
        log_weights = optax.apply_updates(log_weights, updates)
    return log_weights, path, error


def draw(path, out, learned, start):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    weights = np.array([weights for _, weights in path])
    for k, (name, color) in enumerate(zip(NAMES, ["tab:blue", "tab:orange", "tab:green", "tab:red"], strict=True)):
        left.semilogy(weights[:, k], color=color, label=name)
        left.axhline(TRUE[k], color=color, ls="--", lw=1)
    left.set(xlabel="gradient step", ylabel="weight in the cost", title="learned weights, and the true ones (dashed)")
    left.set_ylim(top=30)  # room for the legend
    left.legend(fontsize=9, ncols=2, loc="upper right")
    left.grid(alpha=0.3)
    cases = [
        ("first guess", np.zeros(4), "tab:gray", "-"),
        ("demonstrator", np.log(TRUE), "black", "-"),
        ("learned", learned, "tab:orange", "--"),
    ]
    for name, log_weights, color, style in cases:
        position, _ = drive(log_weights, start)
        right.plot(STEP * np.arange(len(position)), position, color=color, ls=style, lw=2, label=name)
    right.axhline(0, color="black", lw=0.5)
    right.set(xlabel="time (s)", ylabel="position (m)", title="parking from a state not among the demonstrations")
    right.legend(fontsize=9)
    right.grid(alpha=0.3)
    figure.savefig(out, dpi=100)


def main(quick=False, seed=0, out=Path("results/inverse_control")):
    demonstrations, steps = (12, 40) if quick else (40, 300)
    random = np.random.default_rng(seed)
    starts = random.uniform([-4, -2], [4, 2], (demonstrations, 2))
    exact = np.asarray(plans(np.log(TRUE), starts))
    shown = exact + 0.02 * random.standard_normal(exact.shape)
    at_bound = np.mean(np.abs(exact) > BOUND - 1e-6)
    print(f"{demonstrations} demonstrated plans of {HORIZON} accelerations, {at_bound:.0%} of them at the bound")

    learned, path, error = learn(starts, shown, steps)
    print(f"gradient through {demonstrations} quadratic programs: {error:.0e} from central differences\n")
    assert error < 1e-4

    print("weight             true   learned")
    for name, true, found in zip(NAMES, TRUE, np.exp(learned), strict=True):
        print(f"{name:15}  {true:6.3f}   {found:7.3f}")
    print(f"\nmean squared error of the plans: {path[0][0]:.5f} -> {path[-1][0]:.5f} (noise {0.02**2:.5f})")
    out.mkdir(parents=True, exist_ok=True)
    draw(path, out / "inverse_control.png", learned, np.array([5.0, 1.0]))
    print(f"figure: {out / 'inverse_control.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=Path("results/inverse_control"), help="folder of the figure")
    main(**vars(parser.parse_args()))
