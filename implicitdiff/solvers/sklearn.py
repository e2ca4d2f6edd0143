"""The fit of a scikit-learn estimator as a differentiable solver."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import prox
from .._adjoint import Adjoint
from .._decorators import stop
from .._host import host_solver
from .._root import as_root, attach
from ..optimality._condition import Condition
from ..optimality.stationary import gradient
from . import _kernel_svc
from ._kernel_svc import KernelModel


class LinearModel(NamedTuple):
    """Coefficients (p,) and intercept () of a fit, or (k, p) and (k,) for k outputs or classes; None: no intercept."""

    coef: Any
    intercept: Any


@dataclasses.dataclass(frozen=True)
class SklearnSolver:
    """A scikit-learn estimator whose fit is differentiable; see `sklearn_solver`.

    Attributes:
        estimator: the estimator, never changed: each fit is one of a clone.
        adjoint: how the derivative is computed.
    """

    estimator: Any
    adjoint: Adjoint | None = None

    def run(
        self, X: Float[Array, "n p"], y: Array, parameters: dict[str, Any] | None = None
    ) -> tuple[LinearModel | KernelModel, dict[str, Array]]:
        """Fit to (X, y).

        Args:
            X: samples.
            y: targets, or integer labels of classes 0, 1, ...
            parameters: numbers that replace those of the estimator (`alpha`, `l1_ratio`, `C`, `gamma`, `coef0`), and
                `sample_weight`.

        Returns:
            (model, state): a `LinearModel`, of SVC a `KernelModel`, differentiable in X, in real y and in the
            parameters, and a dictionary with scikit-learn's number of iterations (0 where it has none).
        """
        model, state, F, args = self.solved(X, y, parameters)
        return attach(F, model, args, {}, self.adjoint), state

    def solved(
        self, X: Float[Array, "n p"], y: Array, parameters: dict[str, Any] | None = None
    ) -> tuple[LinearModel | KernelModel, dict[str, Array], Callable, tuple]:
        """(model, state, F, args) with F(model, *args) = 0; nothing is attached to the model."""
        parameters = self._given(parameters)
        kind, settings = _KINDS[type(self.estimator).__name__], self.estimator.get_params()
        classes = self._classes(y) if kind.labels else 0  # of y as it is: under jit jnp.asarray would trace it
        X, y = jnp.asarray(X), jnp.asarray(y)
        width = y.shape[1:] if not kind.labels else ((classes,) if classes > 2 else ())
        shape: Any
        if "kernel" in settings:
            shape = KernelModel(jax.ShapeDtypeStruct(X.shape[:1], X.dtype), jax.ShapeDtypeStruct((), X.dtype))
        else:
            intercept = jax.ShapeDtypeStruct(width, X.dtype) if self.estimator.fit_intercept else None
            shape = LinearModel(jax.ShapeDtypeStruct((*width, X.shape[1]), X.dtype), intercept)
        fit = host_solver(self._fit, (shape, jax.ShapeDtypeStruct((), jnp.int32)))
        model, iterations = fit(*stop((X, y, parameters)))
        F = as_root(kind.condition(self._parameter, settings))
        return stop(model), {"iteration": iterations}, F, (X, y, parameters)

    def decision_function(
        self,
        model: LinearModel | KernelModel,
        X_new: Float[Array, "m p"],
        X: Float[Array, "n p"] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> Float[Array, "m ..."]:
        """The fit at new samples: X_new coef + intercept, or sum_i dual_coef_i k(x_i, x) + intercept.

        It is a JAX function of all its arguments: with `gamma` among them, of the kernel's dependence on it as well.

        Args:
            model: what `run` returned.
            X_new: new samples.
            X: the samples that `run` got; an SVC needs them.
            parameters: the parameters that `run` got; an SVC needs them.

        Returns:
            One value a sample, or one for each sample and output or class.

        Raises:
            TypeError: X is missing for an SVC.

        Example:
            >>> import numpy as np, implicitdiff as idf
            >>> from sklearn.svm import SVC
            >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
            >>> solver = idf.solvers.sklearn_solver(SVC(kernel="linear", C=10.0, tol=1e-10))
            >>> model, state = solver.run(X, y)
            >>> print(solver.decision_function(model, [[1.75], [2.5]], X).round(3))
            [0.5 2. ]
        """
        parameters, X_new = self._given(parameters), jnp.asarray(X_new)
        if not isinstance(model, KernelModel):
            return _predict(model, X_new)
        if X is None:
            raise TypeError("decision_function: a model with a kernel needs the samples X that it was fitted to.")
        X = jnp.asarray(X)
        k = _kernel_svc.kernel(lambda name: self._parameter(parameters, name), self.estimator.get_params(), X)
        return k(X_new, X) @ model.dual_coef + model.intercept

    def _given(self, parameters: dict[str, Any] | None) -> dict[str, Array]:
        known = [*_KINDS[type(self.estimator).__name__].parameters, "sample_weight"]
        known += _kernel_svc.KERNELS[self.estimator.kernel] if hasattr(self.estimator, "kernel") else ()
        unknown = set(parameters or {}) - set(known)
        if unknown:
            raise ValueError(
                f"sklearn_solver: {sorted(unknown)} cannot be parameters of {type(self.estimator).__name__}, expected "
                f"some of {known}; set others on the estimator."
            )
        return {name: jnp.asarray(value, jnp.result_type(float)) for name, value in (parameters or {}).items()}

    def _parameter(self, given: dict, name: str) -> Any:
        return given[name] if name in given else self.estimator.get_params().get(name)

    def _classes(self, y: Array) -> int:
        if isinstance(y, jax.core.Tracer):
            raise TypeError("sklearn_solver: labels must be known under jit and vmap: close over y.")
        found = np.unique(np.asarray(y))
        if not np.array_equal(found, np.arange(found.size)):
            raise ValueError(f"sklearn_solver: labels must be 0, 1, ..., each at least once, found {found}.")
        name = type(self.estimator).__name__
        if found.size > 2 and name in ("LinearSVC", "SVC"):
            raise ValueError(f"sklearn_solver: {name} is for two classes here, found {found.size}.")
        return int(found.size)

    def _fit(self, X: np.ndarray, y: np.ndarray, parameters: dict) -> tuple[LinearModel | KernelModel, int]:
        from sklearn.base import clone

        weights = parameters.get("sample_weight")
        numbers = {name: float(value) for name, value in parameters.items() if name != "sample_weight"}
        model = clone(self.estimator).set_params(**numbers)
        model.fit(X, y, **({} if weights is None else {"sample_weight": np.asarray(weights)}))
        iterations = int(np.max(getattr(model, "n_iter_", 0) or 0))
        if hasattr(model, "support_"):
            dual_coef = np.zeros(X.shape[0])
            dual_coef[model.support_] = model.dual_coef_[0]
            return KernelModel(dual_coef, model.intercept_[0]), iterations
        coef = model.coef_
        intercept = np.asarray(model.intercept_, coef.dtype) if self.estimator.fit_intercept else None
        if _KINDS[type(self.estimator).__name__].labels and coef.shape[0] == 1:  # two classes have one row
            coef, intercept = coef[0], None if intercept is None else intercept[0]
        return LinearModel(coef, intercept), iterations


def sklearn_solver(estimator: Any, adjoint: Adjoint | None = None) -> SklearnSolver:
    """The fit of a scikit-learn model: Ridge, Lasso, ElasticNet, LogisticRegression, LinearSVC or SVC.

    What scikit-learn minimises, w the coefficients, b the intercept, s_i the sample weights (1 by default):

    - Ridge: sum_i s_i |y_i - x_i'w - b|^2 + alpha |w|^2
    - Lasso: 1/(2 sum s) sum_i s_i (y_i - x_i'w - b)^2 + alpha |w|_1
    - ElasticNet: the same, alpha l1_ratio |w|_1 + alpha (1 - l1_ratio)/2 |w|^2 instead
    - LogisticRegression: C sum_i s_i loss(y_i, x_i'w + b) + 1/2 |w|^2, two classes or multinomial
    - LinearSVC: C sum_i s_i max(0, 1 - y_i (x_i'w + b))^2 + 1/2 |w|^2 + 1/2 b^2 / intercept_scaling^2, two classes
    - SVC: C sum_i s_i max(0, 1 - y_i (g(x_i) + b)) + 1/2 |g|^2, g in the space of a linear, rbf or poly kernel, two
      classes. What is differentiated is its dual: which samples are free (strictly between the bounds of their
      coefficients) is taken from the fit, and does not change with small changes of the parameters, except at kinks.
      The derivative is NaN where the free samples do not determine the fit, or where there is none: the intercept is
      not unique then. libsvm rounds the kernel to single precision, and with it the fit: some six digits are right.

    The derivative is as good as the fit: give the estimator a small tol, and a max_iter to match.

    Args:
        estimator: one of these, with an l2 penalty where it is a classifier.
        adjoint: how the derivative is computed.

    Returns:
        A solver: `run(X, y, parameters)`.

    Raises:
        TypeError: another estimator.
        ValueError: a setting whose condition is not here (another penalty or loss, class weights, `positive=True`).

    Example:
        >>> import jax, numpy as np, implicitdiff as idf
        >>> from sklearn.linear_model import Ridge
        >>> X, y = np.eye(3), np.array([1.0, 2.0, 3.0])
        >>> solver = idf.solvers.sklearn_solver(Ridge(fit_intercept=False))
        >>> print(jax.jacobian(lambda alpha: solver.run(X, y, {"alpha": alpha})[0].coef)(1.0))
        [-0.25 -0.5  -0.75]
    """
    name = type(estimator).__name__
    if name not in _KINDS:
        raise TypeError(f"sklearn_solver knows {', '.join(_KINDS)}; found {name}.")
    settings = estimator.get_params()
    allowed = {
        "positive": (False,), "class_weight": (None,), "penalty": ("l2", "deprecated"), "loss": ("squared_hinge",),
        "multi_class": ("ovr", "auto", "deprecated"), "l1_ratio": None, "kernel": tuple(_kernel_svc.KERNELS),
    }  # fmt: skip
    for setting, values in allowed.items():
        if values is not None and setting in settings and settings[setting] not in values:
            raise ValueError(f"sklearn_solver: {name} with {setting}={settings[setting]!r} is not supported.")
    if name == "LogisticRegression":
        # liblinear penalises the intercept, and fits more than two classes one against the rest.
        for setting, refused in (("solver", "liblinear"), ("multi_class", "ovr")):
            if settings.get(setting) == refused:
                raise ValueError(f"sklearn_solver: LogisticRegression with {setting}={refused!r} is not supported.")
        if settings.get("l1_ratio"):
            raise ValueError("sklearn_solver: LogisticRegression with an l1 penalty is not supported.")
    return SklearnSolver(estimator, adjoint)


class _Kind(NamedTuple):
    labels: bool
    parameters: tuple[str, ...]
    condition: Callable[[Callable, dict], Condition]


def _predict(model: LinearModel, X: Array) -> Array:
    prediction = X @ model.coef.T
    return prediction if model.intercept is None else prediction + model.intercept


def _weights(given: dict, X: Array) -> Array:
    return given.get("sample_weight", jnp.ones(X.shape[0], X.dtype))


def _smooth(objective: Callable) -> Condition:
    return Condition(
        lambda model, X, y, given: gradient(objective, model, X, y, given), "sklearn", symmetric=True, is_root=True
    )


def _ridge(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given):
        error = _predict(model, X) - y
        weights = _weights(given, X).reshape(-1, *[1] * (y.ndim - 1))
        return 0.5 * jnp.sum(weights * error**2) + 0.5 * parameter(given, "alpha") * jnp.sum(model.coef**2)

    return _smooth(objective)


def _elastic_net(parameter: Callable, settings: dict, lasso: bool = False) -> Condition:
    def inner(model, X, y, given):
        def loss(model):
            weights = _weights(given, X)
            return 0.5 * jnp.sum(weights * (_predict(model, X) - y) ** 2) / jnp.sum(weights)

        step = _stepsize(X)
        return jax.tree.map(lambda a, g: a - step * g, model, gradient(loss, model))

    def outer(model, X, y, given):
        alpha, share = parameter(given, "alpha"), 1.0 if lasso else parameter(given, "l1_ratio")
        coef = prox.elastic_net(model.coef, (alpha * share, alpha * (1 - share)), _stepsize(X))
        return LinearModel(coef, model.intercept)

    def T(model, X, y, given):
        return outer(inner(model, X, y, given), X, y, given)

    return Condition(T, "sklearn", parts=(inner, outer))


def _stepsize(X: Array) -> Array:
    # At most 1 / L. It cancels in the derivative, and so does what it depends on.
    return jax.lax.stop_gradient(X.shape[0] / jnp.sum(X**2))


def _logistic(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given):
        score = _predict(model, X)
        if score.ndim == 1:
            losses = jax.nn.softplus(jnp.where(y == 1, -score, score))
        else:
            losses = jax.nn.logsumexp(score, axis=-1) - jnp.take_along_axis(score, y[:, None], axis=-1)[:, 0]
        penalty = 0.5 * jnp.sum(model.coef**2)
        if score.ndim > 1 and model.intercept is not None:
            # A constant added to all intercepts changes nothing; scikit-learn starts from zero and keeps their mean.
            penalty = penalty + 0.5 * jnp.mean(model.intercept) ** 2
        return parameter(given, "C") * jnp.sum(_weights(given, X) * losses) + penalty

    return _smooth(objective)


def _linear_svc(parameter: Callable, settings: dict) -> Condition:
    def objective(model, X, y, given):
        margin = 1 - jnp.where(y == 1, 1.0, -1.0) * _predict(model, X)
        losses = jnp.where(margin > 0, margin, 0.0) ** 2
        penalty = 0.5 * jnp.sum(model.coef**2)
        if model.intercept is not None:
            penalty = penalty + 0.5 * model.intercept**2 / settings["intercept_scaling"] ** 2
        return parameter(given, "C") * jnp.sum(_weights(given, X) * losses) + penalty

    return _smooth(objective)


_KINDS = {
    "Ridge": _Kind(False, ("alpha",), _ridge),
    "Lasso": _Kind(False, ("alpha",), lambda parameter, settings: _elastic_net(parameter, settings, lasso=True)),
    "ElasticNet": _Kind(False, ("alpha", "l1_ratio"), _elastic_net),
    "LogisticRegression": _Kind(True, ("C",), _logistic),
    "LinearSVC": _Kind(True, ("C",), _linear_svc),
    "SVC": _Kind(True, ("C",), _kernel_svc.svc),
}
