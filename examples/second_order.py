"""Newton's method on hyper-parameters: the Hessian of a validation loss through a solver.

Logistic regression on the breast cancer data has ten means, ten standard errors and ten worst values for features,
and one regularisation weight for each of the three groups. SciPy finds the coefficients; `jax.hessian` gives the second
derivatives of the validation loss in the three weights, by differentiating the derivative rule again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from sklearn.datasets import load_breast_cancer

import implicitdiff as idf

jax.config.update("jax_enable_x64", True)

GROUP = np.repeat(np.arange(3), 10)


def logistic(w, X, y):
    return jnp.mean(jnp.logaddexp(0.0, -y * (X @ w)))


def objective(w, log_weights, X, y):
    return logistic(w, X, y) + 0.5 * jnp.sum(jnp.exp(log_weights)[GROUP] * w**2)


gradient, hessian = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))


@idf.custom_root(idf.optimality.stationary(objective, positive_definite=True))
def fit(init, log_weights, X, y):
    problem = {"jac": gradient, "hess": hessian, "method": "trust-exact", "options": {"gtol": 1e-11}}
    return scipy.optimize.minimize(objective, init, (log_weights, X, y), **problem).x


def main():
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = jnp.array((X - X.mean(0)) / X.std(0))[order], jnp.array(2.0 * y - 1)[order]
    init = np.zeros(30)

    def validation(log_weights):
        return logistic(fit(init, log_weights, X[:300], y[:300]), X[300:], y[300:])

    log_weights = jnp.full(3, -5.0)
    second = jax.hessian(validation)(log_weights)
    h = 1e-4
    differences = [
        (jax.grad(validation)(log_weights + h * e) - jax.grad(validation)(log_weights - h * e)) / (2 * h)
        for e in np.eye(3)
    ]
    error = np.max(np.abs(second - np.array(differences))) / np.max(np.abs(second))
    print(f"Hessian: relative difference {error:.0e} from central differences of the gradient")
    assert error < 1e-5

    print("step   validation loss   gradient norm")
    for step in range(6):
        value, slope = jax.value_and_grad(validation)(log_weights)
        print(f"{step:4d}   {value:15.10f}   {jnp.linalg.norm(slope):13.1e}")
        log_weights -= jnp.linalg.solve(jax.hessian(validation)(log_weights), slope)
    print("log weights of mean, standard error, worst value:", np.round(log_weights, 3))
    assert jnp.linalg.norm(slope) < 1e-10


if __name__ == "__main__":
    main()
