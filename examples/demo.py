"""Choose 24 hyper-parameters by gradient descent, through a solver that knows nothing of JAX.

A photograph has noise and horizontal stripes. Denoising it minimises an energy that holds one weight for each of 24
filters; SciPy finds the minimum. The weights are learned on one photograph, by the gradient in them of the error
that remains, and tested on another. The rival is the best common weight, found by grid search.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import implicitdiff as idf

matplotlib.use("Agg")  # the figure goes to a file
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

# The two-dimensional cosine basis of 5 x 5 patches, without its constant, which would penalise brightness.
FILTERS = scipy.fft.idctn(np.eye(25).reshape(25, 5, 5), axes=(1, 2), norm="ortho")[1:]


def roughness(x):
    """How strongly each filter responds to the picture x."""
    rows, columns = x.shape[0] - 4, x.shape[1] - 4
    patches = jnp.stack([x[i : i + rows, j : j + columns] for i in range(5) for j in range(5)])
    responses = jnp.tensordot(FILTERS.reshape(24, 25), patches, 1)
    return jnp.sum(jnp.sqrt(responses**2 + 0.02**2), axis=(1, 2))  # a smooth absolute value


def energy(x, log_weights, noisy):
    return 0.5 * jnp.sum((x - noisy) ** 2) + jnp.exp(log_weights) @ roughness(x)


@jax.jit
def energy_and_gradient(x, log_weights, noisy):
    return jax.value_and_grad(lambda x: energy(x.reshape(noisy.shape), log_weights, noisy))(x)


@idf.custom_root(idf.optimality.stationary(energy, positive_definite=True))
def denoise(init, log_weights, noisy):
    options = {"gtol": 1e-7, "ftol": 0, "maxiter": 10_000, "maxfun": 10_000}
    found = scipy.optimize.minimize(
        energy_and_gradient, np.ravel(init), (log_weights, noisy), "L-BFGS-B", jac=True, options=options
    )
    return found.x.reshape(noisy.shape)


def learn(log_weights, x, noisy, clean, steps):
    def error(log_weights, init):
        x = denoise(init, log_weights, noisy)
        return jnp.mean((x - clean) ** 2), x

    optimizer = optax.adam(0.2)
    state = optimizer.init(log_weights)
    for _ in range(steps):
        (value, x), gradient = jax.value_and_grad(error, has_aux=True)(log_weights, x)
        yield log_weights, float(value)
        updates, state = optimizer.update(gradient, state)
        log_weights = optax.apply_updates(log_weights, updates)


def photograph(name, top, left, size, seed):
    """A grey crop at half resolution, and the same with stripes and noise."""
    grey = load_sample_image(name)[:426].mean(-1) / 255
    clean = grey.reshape(213, 2, 320, 2).mean((1, 3))[top : top + size, left : left + size]
    random = np.random.default_rng(seed)
    stripes = 0.1 * random.standard_normal((size, 1))
    return clean, clean + stripes + 0.05 * random.standard_normal((size, size))


def grid_search(log_weights, noisy, clean):
    """The best common weight and its error."""
    errors, x = [], noisy
    for log_weight in tqdm(log_weights, "one common weight", disable=None):
        x = denoise(x, np.full(24, log_weight), noisy)
        errors.append(np.mean((x - clean) ** 2))
    return log_weights[np.argmin(errors)], min(errors)


def check(log_weights, noisy, clean, h=2e-3):
    """Relative difference of the gradient from a central difference of the real solver, along the gradient."""

    def error(log_weights):
        return jnp.mean((denoise(noisy, log_weights, noisy) - clean) ** 2)

    gradient = jax.grad(error)(log_weights)
    length = jnp.linalg.norm(gradient)
    step = h * gradient / length
    return abs((error(log_weights + step) - error(log_weights - step)) / (2 * h) / length - 1)


def decibel(error):
    """Peak signal-to-noise ratio."""
    return -10 * np.log10(error)


def draw(path, pictures, curves, log_weights):
    """Pictures above; the way there and the weights below."""
    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[1, 1.05])
    for axes, (title, picture) in zip(above.subplots(1, 4), pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.axis("off")

    left, right = below.subplots(1, 2, width_ratios=[1.7, 1])
    for (label, errors), color in zip(curves.items(), ["tab:blue", "tab:orange"], strict=True):
        left.plot(decibel(np.array(errors)), color=color, marker=".", label=f"{label} photograph")
        left.axhline(decibel(errors[0]), color=color, ls="--", lw=1, label="best common weight")
    left.set(xlabel="gradient step (one run of SciPy each)", ylabel="PSNR (dB), higher is better")
    left.set_title("learning 24 weights", fontsize=11)
    left.grid(alpha=0.3)
    left.set_ylim(bottom=min(decibel(errors[0]) for errors in curves.values()) - 0.8)  # room for the legend
    left.locator_params("x", integer=True)
    left.legend(loc="lower right", fontsize=9, ncols=2)

    weights = np.append(np.nan, np.exp(log_weights)).reshape(5, 5)  # nan: the constant, which has no weight
    image = right.imshow(weights, norm="log", cmap="viridis")
    right.set(xlabel="horizontal frequency", ylabel="vertical frequency", xticks=range(5), yticks=range(5))
    right.set_title("learned weight of each filter;\nthe first column sees the stripes", fontsize=11)
    right.text(0, 0, "no\nweight", ha="center", va="center", fontsize=8)
    below.colorbar(image, ax=right)
    figure.savefig(path, dpi=100)


def main(quick=False, seed=0, out=Path("results/demo")):
    """Grid search, gradient descent, table, figure."""
    size, steps, values = (24, 3, 4) if quick else (96, 21, 21)
    noisy, clean = {}, {}
    clean["validation"], noisy["validation"] = photograph("china.jpg", 35, 70, size, seed)
    clean["test"], noisy["test"] = photograph("flower.jpg", 40, 90, size + size // 3, seed + 1000)
    print(f"{noisy['validation'].size} pixels to denoise, 24 weights to choose: about a minute", flush=True)

    start = time.perf_counter()
    common, _ = grid_search(np.linspace(-8, -3, values), noisy["validation"], clean["validation"])
    common = np.full(24, common)
    grid_seconds = time.perf_counter() - start

    start = time.perf_counter()
    walk = learn(common, noisy["validation"], noisy["validation"], clean["validation"], steps)
    path = list(tqdm(walk, "24 weights       ", total=steps, disable=None))
    learn_seconds = time.perf_counter() - start
    learned = path[-1][0]

    x, tested = noisy["test"], []
    for log_weights, _ in tqdm(path, "test             ", disable=None):
        x = denoise(x, log_weights, noisy["test"])
        tested.append(np.mean((x - clean["test"]) ** 2))
    curves = {"validation": [error for _, error in path], "test": tested}

    difference = check(common, noisy["validation"], clean["validation"])
    print(f"hyper-gradient checked: relative difference {difference:.0e} from a central difference of SciPy\n")
    print("                     validation          test             inner  seconds")
    print("                     error     PSNR      error     PSNR   solves")
    for name, k, solves, seconds in [
        ("best common weight", 0, values, grid_seconds),
        ("24 learned weights", -1, steps, learn_seconds),
    ]:
        columns = "   ".join(f"{errors[k]:.5f} {decibel(errors[k]):5.2f} dB" for errors in curves.values())
        print(f"{name}   {columns}   {solves:4d}   {seconds:6.1f}")

    out.mkdir(parents=True, exist_ok=True)
    best = denoise(noisy["test"], common, noisy["test"])
    pictures = {
        "test photograph, clean": clean["test"],
        f"with noise, {decibel(np.mean((noisy['test'] - clean['test']) ** 2)):.1f} dB": noisy["test"],
        f"best common weight, {decibel(tested[0]):.1f} dB": best,
        f"24 learned weights, {decibel(tested[-1]):.1f} dB": x,
    }
    draw(out / "demo.png", pictures, curves, learned)
    print(f"\ntest error {1 - tested[-1] / tested[0]:.0%} lower than with the best common weight")
    print(f"figure: {out / 'demo.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--out", type=Path, default=Path("results/demo"), help="folder of the figure")
    with threadpool_limits(1):  # SciPy's vectors are short: BLAS threads would only wait for each other
        main(**vars(parser.parse_args()))
