"""The fit of a scikit-learn estimator as a differentiable solver."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._adjoint import Adjoint
from .._compiled import compiled_call
from .._decorators import stop
from .._fixed_point import as_root
from .._host import host_solver
from .._root import attach
from ..optimality._condition import Condition
from . import _kernel_svc, _linear_models
from ._kernel_svc import KernelModel
from ._linear_models import Coordinates, LinearModel, in_coordinates, predict
from ._state import Result, State, floating, solved_to
from ._unconverged import OnUnconverged, check_policy, settle

# The largest relative residual of a linear model that counts as a fit where scikit-learn did not warn; its defaults
# leave up to 6e-3.
SOLVED = 1e-2


@dataclasses.dataclass(frozen=True)
class SklearnSolver:
    """A scikit-learn estimator whose fit is differentiable; see `sklearn_solver`.

    Attributes:
        estimator: the estimator, never changed: each fit is one of a clone.
        adjoint: how the derivative is computed.
        on_unconverged: what happens where scikit-learn did not converge; see `sklearn_solver`.
    """

    estimator: Any
    adjoint: Adjoint | None = None
    on_unconverged: OnUnconverged = "warn"

    def run(self, X: Float[Array, "n p"], y: Array, parameters: dict[str, Any] | None = None) -> Result:
        """Fit to (X, y), in float64 whatever the dtype of X.

        Args:
            X: samples.
            y: targets, or integer labels of classes 0, 1, ...; of shape (n,), (n, 1), or (n, k) for k targets.
            parameters: numbers that replace those of the estimator (`alpha`, `l1_ratio`, `C`, `gamma`, `coef0`), and
                `sample_weight`.

        Returns:
            (model, state): a `LinearModel`, of SVC a `KernelModel`, differentiable in X, in real y and in the
            parameters; and `state.iteration`, scikit-learn's number of iterations (0 where it has none), `state.error`,
            the norm of the condition's residual relative to that of a model of zeros, and `state.converged`, whether
            scikit-learn did not warn or the error is small all the same.

        Raises:
            ValueError: labels that are not 0, 1, ...; parameters that the estimator does not have.
            RuntimeError: the fit did not converge, with `on_unconverged="raise"`.
        """
        found, state, at, F, args = self._fitted(X, y, parameters)
        found = attach(F, found, args, {}, self.adjoint)
        return Result(found if at is None else at.leave(found), state)

    def solved(
        self, X: Float[Array, "n p"], y: Array, parameters: dict[str, Any] | None = None
    ) -> tuple[LinearModel | KernelModel, State, Callable, tuple]:
        """(model, state, F, args) with F(model, *args) = 0; nothing is attached to the model."""
        found, state, at, F, args = self._fitted(X, y, parameters)
        if at is None:
            return found, state, F, args
        entered = lambda model, X, y, given: F(cast(Any, self._coordinates(X)).enter(model), X, y, given)  # noqa: E731
        return at.leave(found), state, entered, args

    def _coordinates(self, X: Array) -> Coordinates | None:
        name = type(self.estimator).__name__
        # The penalty of LinearSVC on its intercept is not one on the value of the model at the mean.
        centred = name not in ("SVC", "LinearSVC") and self.estimator.fit_intercept
        return None if name == "SVC" else Coordinates.of(X, centred)

    def _fitted(self, X: Array, y: Array, parameters: dict[str, Any] | None):
        """The fit in standardised coordinates, its state, the coordinates, F in them, and the arguments of F."""
        parameters = self._given(parameters)
        kind, settings = _KINDS[type(self.estimator).__name__], self.estimator.get_params()
        if np.ndim(y) == 2 and np.shape(y)[1] == 1:
            y = y.reshape(-1) if isinstance(y, jax.Array) else cast(Any, np.reshape(y, -1))
        classes = self._classes(y) if kind.labels else 0  # of y as it is: under jit jnp.asarray would trace it
        X = floating(X)
        y = jnp.asarray(y) if kind.labels else jnp.asarray(y, X.dtype)
        width = y.shape[1:] if not kind.labels else ((classes,) if classes > 2 else ())
        at = self._coordinates(X)
        shape: Any
        if at is None:
            shape = KernelModel(jax.ShapeDtypeStruct(X.shape[:1], X.dtype), jax.ShapeDtypeStruct((), X.dtype))
        else:
            intercept = jax.ShapeDtypeStruct(width, X.dtype) if self.estimator.fit_intercept else None
            shape = LinearModel(jax.ShapeDtypeStruct((*width, X.shape[1]), X.dtype), intercept)
        scalars = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
        fit = host_solver(self._fit, (shape, *scalars))
        model, iterations, silent = stop(fit(*stop((X, y, parameters)), at))
        inside = kind.condition(self._parameter, settings)
        F = as_root(inside if at is None else in_coordinates(inside, self._coordinates))

        def relative_residual(model, *args):
            size = lambda model: jnp.linalg.norm(ravel_pytree(F(model, *args))[0])  # noqa: E731
            here = size(model)
            return jnp.where(here == 0, 0.0, here / jnp.maximum(size(jax.tree.map(jnp.zeros_like, model)), here))

        args = (X, y, parameters)
        error = stop(compiled_call(relative_residual, model, *stop(args)))
        # No warning of scikit-learn's is no proof: on features of size 1e8 it stops at once. The conditions of a kernel
        # model are those of its support vectors, whose residual at zero is no measure.
        trusted = silent if at is None else silent & (error <= SOLVED)
        state = State(iterations, error, trusted | (error <= solved_to(X.dtype)))
        remedy = "Give the estimator a larger max_iter, and scale the features."
        name = f"scikit-learn's {type(self.estimator).__name__}"
        return settle(model, state, self.on_unconverged, name, remedy), state, at, F, args

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
            return predict(model, X_new)
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

    def _fit(self, X: np.ndarray, y: np.ndarray, parameters: dict, at: Coordinates | None):
        from sklearn.base import clone
        from sklearn.exceptions import ConvergenceWarning

        weights = parameters.get("sample_weight")
        weights = None if weights is None else np.asarray(weights, np.float64)
        numbers = {name: float(value) for name, value in parameters.items() if name != "sample_weight"}
        X = np.asarray(X, np.float64)
        if at is not None:
            # The same fit with another intercept, and scikit-learn keeps its digits, too.
            X = X - np.asarray(at.mean, np.float64)
        model, kept = clone(self.estimator).set_params(**numbers), np.arange(X.shape[0])
        if at is None:
            if model.gamma == "scale":  # of all samples, as scikit-learn takes it
                model.set_params(gamma=1 / (X.shape[1] * X.var()) if X.var() else 1.0)
            if weights is not None:
                # scikit-learn drops samples without weight, and counts the support vectors among the others.
                kept = np.flatnonzero(weights > 0)
        given = {} if weights is None else {"sample_weight": weights[kept]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X[kept], y[kept], **given)
        for warning in caught:
            if not issubclass(warning.category, ConvergenceWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        silent = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        iterations = int(np.max(getattr(model, "n_iter_", 0) or 0))
        if at is None:
            dual_coef = np.zeros(X.shape[0])
            dual_coef[kept[model.support_]] = model.dual_coef_[0]
            return KernelModel(dual_coef, model.intercept_[0]), iterations, silent
        coef = model.coef_
        intercept = np.asarray(model.intercept_, coef.dtype) if self.estimator.fit_intercept else None
        if _KINDS[type(self.estimator).__name__].labels and coef.shape[0] == 1:  # two classes have one row
            coef, intercept = coef[0], None if intercept is None else intercept[0]
        return LinearModel(coef * np.asarray(at.scale, np.float64), intercept), iterations, silent


def sklearn_solver(
    estimator: Any, adjoint: Adjoint | None = None, on_unconverged: OnUnconverged = "warn"
) -> SklearnSolver:
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
        on_unconverged: what happens where scikit-learn says that it did not converge, and the condition of a solution
            is not met: "warn", "nan", "raise" (also under jit) or "ignore"; scikit-learn's own warning is not shown.

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
    check_policy(on_unconverged)
    return SklearnSolver(estimator, adjoint, on_unconverged)


class _Kind(NamedTuple):
    labels: bool
    parameters: tuple[str, ...]
    condition: Callable[[Callable, dict], Condition]


_KINDS = {
    "Ridge": _Kind(False, ("alpha",), _linear_models.ridge),
    "Lasso": _Kind(
        False, ("alpha",), lambda parameter, settings: _linear_models.elastic_net(parameter, settings, lasso=True)
    ),
    "ElasticNet": _Kind(False, ("alpha", "l1_ratio"), _linear_models.elastic_net),
    "LogisticRegression": _Kind(True, ("C",), _linear_models.logistic),
    "LinearSVC": _Kind(True, ("C",), _linear_models.linear_svc),
    "SVC": _Kind(True, ("C",), _kernel_svc.svc),
}
