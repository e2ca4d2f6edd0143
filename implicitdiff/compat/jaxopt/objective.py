"""Objectives of linear models under JAXopt's names.

What differs: `columnwise_lipschitz_const` is that of the objective, which is a mean over the examples, where JAXopt's
is that of a sum: its block coordinate descent takes steps that are as many times too short as there are examples.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import loss


@jax.tree_util.register_pytree_node_class
class LinearOperator:
    """A matrix A under the interface of JAXopt's composite objectives."""

    def __init__(self, A: Any):
        """Take A."""
        self.A = jnp.asarray(A)

    def shape(self) -> tuple[int, ...]:
        """That of A."""
        return self.A.shape

    def matvec(self, x: Array) -> Array:
        """A x."""
        return self.A @ x

    def rmatvec(self, x: Array) -> Array:
        """A' x."""
        return self.A.T @ x

    def matvec_element(self, x: Array, idx: Any) -> Array:
        """Entry or row idx of A x."""
        return self.A[idx] @ x

    def rmatvec_element(self, x: Array, idx: Any) -> Array:
        """Entry or row idx of A' x."""
        return self.A[:, idx] @ x

    def update_matvec(self, Ax: Array, delta: Any, idx: Any) -> Array:
        """A x after x[idx] += delta."""
        return Ax + jnp.multiply.outer(self.A[:, idx], delta)

    def update_rmatvec(self, ATx: Array, delta: Any, idx: Any) -> Array:
        """A' x after x[idx] += delta."""
        return ATx + jnp.multiply.outer(self.A[idx], delta)

    def column_l2_norms(self, squared: bool = False) -> Array:
        """The Euclidean norms of the columns, or their squares."""
        squares = jnp.sum(self.A**2, axis=0)
        return squares if squared else jnp.sqrt(squares)

    def tree_flatten(self) -> tuple[tuple, None]:
        """For JAX."""
        return (self.A,), None

    @classmethod
    def tree_unflatten(cls, aux_data: None, children: tuple) -> "LinearOperator":
        """For JAX; the leaf may be anything."""
        del aux_data
        self = object.__new__(cls)
        (self.A,) = children
        return self


class CompositeLinearFunction:
    """subfun(A params, *args) + <params, b>: subclass it, as `BlockCoordinateDescent` needs one.

    A subclass defines `subfun(predictions, *args)`, `make_linop(*args)`, which returns a `LinearOperator`, and
    `columnwise_lipschitz_const(*args)`, the Lipschitz constants of the gradient in each row of params.
    """

    def b(self, *args: Any, **kwargs: Any) -> Any:
        """The linear term, None for none."""
        del args, kwargs

    def subfun(self, predictions: Array, *args: Any, **kwargs: Any) -> Array:
        """The function of the predictions."""
        raise NotImplementedError(f"{type(self).__name__} must define subfun(predictions, *args).")

    def make_linop(self, *args: Any, **kwargs: Any) -> LinearOperator:
        """A."""
        raise NotImplementedError(f"{type(self).__name__} must define make_linop(*args).")

    def columnwise_lipschitz_const(self, *args: Any, **kwargs: Any) -> Array:
        """A constant for each row of params."""
        raise NotImplementedError(f"{type(self).__name__} must define columnwise_lipschitz_const(*args).")

    def __call__(self, params: Array, *args: Any, **kwargs: Any) -> Array:
        """The value at params."""
        value = self.subfun(self.make_linop(*args, **kwargs).matvec(params), *args, **kwargs)
        b = self.b(*args, **kwargs)
        return value if b is None else value + jnp.vdot(params, b)


class _Mean(CompositeLinearFunction):
    """The mean over the examples of a loss with a Lipschitz gradient; data = (X, y)."""

    smoothness = 1.0

    def losses(self, predictions: Array, y: Array) -> Array:
        """The loss of each example."""
        raise NotImplementedError

    def subfun(self, predictions: Array, data: tuple) -> Array:
        """The mean of the losses."""
        return jnp.mean(self.losses(predictions, data[1]))

    def make_linop(self, data: tuple) -> LinearOperator:
        """X."""
        return LinearOperator(data[0])

    def columnwise_lipschitz_const(self, data: tuple) -> Array:
        """The squared norms of the columns, times the smoothness of the loss, over the number of terms."""
        terms = jnp.size(data[1]) if jnp.issubdtype(jnp.asarray(data[1]).dtype, jnp.inexact) else jnp.shape(data[0])[0]
        return self.smoothness * self.make_linop(data).column_l2_norms(squared=True) / terms

    def __call__(self, params: Array, data: tuple) -> Array:
        """The value at params."""
        return super().__call__(params, data)


class LeastSquares(_Mean):
    """Half of the mean squared error."""

    def losses(self, predictions: Array, y: Array) -> Array:
        """Half of the squared errors."""
        return 0.5 * (predictions - y) ** 2

    def columnwise_lipschitz_const(self, data: tuple) -> Array:
        """The squared norms of the columns over the number of targets."""
        return self.make_linop(data).column_l2_norms(squared=True) / jnp.size(data[1])


class MulticlassLogreg(_Mean):
    """Multinomial logistic regression without an intercept; y holds integer labels."""

    smoothness = 0.5

    def losses(self, predictions: Array, y: Array) -> Array:
        """`loss.multiclass_logistic_loss`."""
        return jax.vmap(loss.multiclass_logistic_loss)(y, predictions)


class BinaryLogreg(_Mean):
    """Logistic regression without an intercept; y holds 0 and 1."""

    smoothness = 0.25

    def losses(self, predictions: Array, y: Array) -> Array:
        """`loss.binary_logistic_loss`."""
        return jax.vmap(loss.binary_logistic_loss)(y, predictions)


class MulticlassLinearSvmDual(CompositeLinearFunction):
    """The dual of the linear support vector machine of several classes; data = (X, Y), Y one-hot.

    1/(2 l2reg) |X'(Y - beta)|^2 + <beta, Y - 1>, to be minimised over rows of beta in the simplex.
    """

    def subfun(self, Xbeta: Array, l2reg: Any, data: tuple) -> Array:
        """The quadratic term."""
        X, Y = data
        return 0.5 / l2reg * jnp.sum((X.T @ Y - Xbeta) ** 2)

    def make_linop(self, l2reg: Any, data: tuple) -> LinearOperator:
        """X'."""
        del l2reg
        return LinearOperator(jnp.asarray(data[0]).T)

    def columnwise_lipschitz_const(self, l2reg: Any, data: tuple) -> Array:
        """The squared norms of the examples over l2reg, where JAXopt forgets l2reg."""
        return self.make_linop(l2reg, data).column_l2_norms(squared=True) / l2reg

    def b(self, l2reg: Any, data: tuple) -> Array:
        """Y - 1."""
        del l2reg
        return data[1] - 1

    def __call__(self, beta: Array, l2reg: Any, data: tuple) -> Array:
        """The value at beta."""
        return super().__call__(beta, l2reg, data)


least_squares = LeastSquares()
multiclass_logreg = MulticlassLogreg()
binary_logreg = BinaryLogreg()
multiclass_linear_svm_dual = MulticlassLinearSvmDual()


def ridge_regression(params: Array, l2reg: Any, data: tuple) -> Array:
    """Half of the mean squared error, and l2reg / 2 times the squared norm."""
    return least_squares(params, data) + 0.5 * l2reg * jnp.sum(params**2)


def multiclass_logreg_with_intercept(params: tuple, data: tuple) -> Array:
    """Multinomial logistic regression, params = (W, b)."""
    W, b = params
    return jnp.mean(multiclass_logreg.losses(jnp.asarray(data[0]) @ W + b, data[1]))


def l2_multiclass_logreg(W: Array, l2reg: Any, data: tuple) -> Array:
    """Multinomial logistic regression with a ridge."""
    return multiclass_logreg(W, data) + 0.5 * l2reg * jnp.sum(W**2)


def l2_multiclass_logreg_with_intercept(params: tuple, l2reg: Any, data: tuple) -> Array:
    """Multinomial logistic regression with a ridge on W, params = (W, b)."""
    return multiclass_logreg_with_intercept(params, data) + 0.5 * l2reg * jnp.sum(params[0] ** 2)
