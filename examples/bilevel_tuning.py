r"""
Bilevel tuning and data cleaning
================================

Somebody mislabelled 40 % of the training images. A small clean set is at hand. Can we find out which labels are
wrong?

Give each training image a weight, and choose the weights such that the model trained with them is best on the clean
images. That is a bilevel problem with one hyper-parameter per image:

.. math::

   \min_\theta \; \ell_{\text{clean}}\bigl(x^\star(\theta)\bigr)
   \quad\text{with}\quad
   x^\star(\theta) = \operatorname*{argmin}_x \frac{1}{m} \sum_i \sigma(\theta_i)\, \ell_i(x) + \frac{\mu}{2} \|x\|^2 .

A grid search over 400 weights is hopeless; the gradient costs one linear solve.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

random = np.random.default_rng(0)
digits = load_digits()
order = random.permutation(len(digits.target))
X, y = digits.data[order] / 16, digits.target[order]
(X_train, X_clean, X_test), (y_train, y_clean, y_test) = (np.split(part, [400, 600]) for part in (X, y))

wrong = random.random(400) < 0.4
labels = np.where(wrong, (y_train + random.integers(1, 10, 400)) % 10, y_train)


def losses(x, X, y):
    return optax.softmax_cross_entropy_with_integer_labels(X @ x, y)


# %%
# The inner problem, and one gradient
# -----------------------------------


def training(x, theta):
    return jnp.mean(jax.nn.sigmoid(theta) * losses(x, X_train, labels)) + 0.5e-3 * jnp.sum(x**2)


def clean(theta, x):
    del theta  # the outer loss may depend on it as well
    return jnp.mean(losses(x, X_clean, y_clean))


inner = idf.solvers.LBFGS(training, tol=1e-8)
gradient = jax.jit(jax.grad(lambda theta: clean(theta, inner.run(jnp.zeros((64, 10)), theta)[0])))(jnp.zeros(400))
print(f"mean derivative in the weight of wrong labels {gradient[wrong].mean():+.1e}, of right ones", end=" ")
print(f"{gradient[~wrong].mean():+.1e}")

# %%
# The first gradient separates them already: to lower the loss on clean images, most wrong labels should weigh less.
#
# All of it in one call
# ---------------------
# :func:`~implicitdiff.bilevel.minimize` solves the inner problem only as precisely as each step needs.

found = idf.bilevel.minimize(clean, inner, jnp.zeros(400), x0=jnp.zeros((64, 10)), tol=1e-5, max_steps=40)
print(found.message)
found.history.plot()
plt.show()

# %%
# Which images were mislabelled?

weights = jax.nn.sigmoid(found.theta)
print(f"area under the ROC curve of 'small weight means wrong': {roc_auc_score(wrong, -weights):.3f}")
figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
bins = np.linspace(0, 1, 26)
axes.hist([weights[~wrong], weights[wrong]], bins, label=["right label", "wrong label"], color=["tab:blue", "tab:red"])
axes.set(xlabel="learned weight of an image", ylabel="number of images")
axes.legend()
plt.show()

# %%
# And is the model better? The honest rivals are the model trained on all labels, and the one trained on the clean
# images alone.


def accuracy(x):
    return float(np.mean(np.argmax(X_test @ x, 1) == y_test))


alone = idf.solvers.LBFGS(lambda x: jnp.mean(losses(x, X_clean, y_clean)) + 0.5e-3 * jnp.sum(x**2))
print(f"test accuracy with learned weights {accuracy(found.x):.3f}, all labels ", end="")
print(f"{accuracy(inner.run(jnp.zeros((64, 10)), jnp.full(400, 10.0))[0]):.3f}, clean images alone ", end="")
print(f"{accuracy(alone.run(jnp.zeros((64, 10)))[0]):.3f}")

# %%
# The same experiment on MNIST, with its verdicts, is among the :doc:`results </results/hyper_cleaning>`. For data
# that do not fit into memory see :func:`~implicitdiff.bilevel.minimize_stochastic`.
