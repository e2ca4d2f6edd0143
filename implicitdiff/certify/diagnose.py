"""A report on a solution and its derivative: what is known about them, what is wrong, and how to fix it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import tree_util as jtu
from jaxtyping import PyTree

from .._adjoint import Adjoint
from .._dense import cholesky, lu
from .._failure import OK
from .._implicit import Implicit
from .._linear import examine, method_of
from .._linearised import Linearised, compiled
from .._program import name_of
from .._space import RealSpace
from ..krylov import Krylov
from . import _spectrum as spectrum
from ._finite_differences import Comparison, compare
from ._kinks import at_once, nearest_kink, scale_of, vanishes
from .bound import smallest
from .estimate import estimated

# A derivative with a larger relative error is not "fine". Estimates are trusted to a factor of 3.
ACCEPTED_ERROR = 1e-2
MARGIN = 3.0

VERDICTS = {
    "fine": ("The derivative is that of the solution.", "Nothing."),
    "not finite": (
        "x, the arguments, F or its Jacobian contain NaN or inf.",
        "Check the solver's result, the arguments, and any sqrt, log, norm or division at 0 in F.",
    ),
    "stopped early": (
        "x is near a solution, but not near enough for its derivative: the solver stopped early.",
        "Give the solver a smaller tolerance or more iterations, or the derivative a Newton step: Implicit(polish=1).",
    ),
    "wrong F": (
        "F is not satisfied at x, and its solution is elsewhere: F does not belong to this solver, or the solver did "
        "not converge at all.",
        "Compare F with what the solver solves: signs, factors, order of the arguments. Check the solver's status.",
    ),
    "wrong derivative": (
        "F is satisfied at x, but the solver's results do not change as F says: F does not belong to this solver.",
        "Compare F with what the solver solves: the order of the arguments, terms that vanish at this x. Or the "
        "results of the solver may be too rough for finite differences.",
    ),
    "singular": (
        "The Jacobian of F in x is singular: the solution is not unique.",
        "Regularise (a ridge), fix the gauge, or drop redundant equations or constraints. If any derivative of the set "
        "of solutions will do, use Implicit(well_posed=False).",
    ),
    "ill-conditioned": (
        "The Jacobian of F in x is so ill-conditioned that rounding errors show in the derivative.",
        "Use float64, scale the unknowns, add a ridge, or give a preconditioner.",
    ),
    "linear solve": (
        "The linear solve did not converge.",
        "Use another linear_solver, a preconditioner, more steps, or a looser rtol.",
    ),
    "kink": (
        "F is not differentiable at x, or so close to x that the solution may lie on the other side: a constraint is "
        "only just active, or a coefficient is at its threshold (no strict complementarity).",
        "The derivative is one of several. Solve more precisely, change theta, or smooth the problem.",
    ),
}


DEFINITENESS = (None, "positive", "negative", "indefinite")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; `print` shows it as a table.

    Attributes:
        verdict: a key of `VERDICTS`: "fine", "not finite", "stopped early", "wrong F", "wrong derivative", "singular",
            "ill-conditioned", "linear solve" or "kink".
        explanation: the verdict in words.
        mend: how to fix it.
        condition: the name of F.
        unknowns: shapes and dtypes of x.
        parameters: shapes and dtypes of args.
        size: the number n of unknowns.
        residual: ||F(x, *args)||.
        norm: ||x||.
        distance: estimate of ||x - x*||.
        residual_after_step: ||F|| after the Newton step that estimates the distance.
        symmetric: whether A = dF/dx is symmetric.
        definite: "positive", "negative" or "indefinite" where A is symmetric and small enough to be formed, else None.
        largest: the largest singular value of A.
        smallest: the smallest singular value of A.
        linear_solver: the method by which the derivative is computed.
        linear_steps: the number of products with A; None for a factorisation.
        linear_residual: ||b - A u|| / ||b||.
        error: estimate of the relative error of the derivative, by `error_estimate`.
        kink: distance to the nearest kink in the maximum norm, or how strictly complementary x is; inf if none.
        comparison: comparison with finite differences of the solver, if that was given.
    """

    verdict: str
    condition: str
    unknowns: str
    parameters: str
    size: int
    residual: float
    norm: float
    distance: float
    residual_after_step: float
    symmetric: bool
    definite: str | None
    largest: float
    smallest: float
    linear_solver: str
    linear_steps: int | None
    linear_residual: float
    error: float
    kink: float
    comparison: Comparison | None

    @property
    def condition_number(self) -> float:
        """The largest singular value of A over the smallest."""
        return self.largest / self.smallest if self.smallest > 0 else math.inf

    @property
    def explanation(self) -> str:
        """The verdict in words."""
        return VERDICTS[self.verdict][0]

    @property
    def mend(self) -> str:
        """How to fix it."""
        return VERDICTS[self.verdict][1]

    def __str__(self) -> str:
        """The report as a table."""
        steps = "" if self.linear_steps is None else f", {self.linear_steps} products"
        shape = "symmetric" if self.symmetric else "not symmetric"
        if self.definite is not None:
            shape += ", indefinite" if self.definite == "indefinite" else f", {self.definite} definite"
        rows = [
            ("conditions", self.condition),
            ("unknowns x", self.unknowns),
            ("parameters", self.parameters),
            ("residual |F(x)|", f"{self.residual:.2e}, after one Newton step {self.residual_after_step:.2e}"),
            ("distance |x - x*|", f"about {self.distance:.2e}, with |x| = {self.norm:.2e}"),
            ("A = dF/dx", f"{self.size} x {self.size}, {shape}"),
            ("singular values", f"{self.smallest:.2e} to {self.largest:.2e}, condition {self.condition_number:.1e}"),
            ("linear solve", f"{self.linear_solver}{steps}, relative residual {self.linear_residual:.1e}"),
            ("nearest kink", "none near" if math.isinf(self.kink) else f"{self.kink:.1e} away"),
            ("derivative's error", f"about {self.error:.1e} relative"),
        ]
        if self.comparison is not None:
            rows.append(("finite differences", str(self.comparison)))
        rows += [("verdict", self.verdict), ("", self.explanation), ("what to do", self.mend)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def diagnose(
    F: Callable[..., PyTree],
    x: PyTree,
    *args: Any,
    solver: Callable[..., PyTree] | None = None,
    adjoint: Adjoint | None = None,
) -> Diagnosis:
    """Examine a solution and its derivative, and say in words what, if anything, is wrong with them.

    It has to be called eagerly. It takes some solves with A = dF/dx and, up to n = 600, the singular values of A;
    beyond, Lanczos estimates of the extreme ones.

    Args:
        F: the conditions; see `error_estimate`.
        x: what the solver returned for args.
        *args: what F depends on.
        solver: called as `solver(*args)`, returns x. Its finite differences are compared with the derivative. It should
            start from the same point each time and solve to a tolerance well below 1e-5.
        adjoint: the `Implicit` that the derivative is computed with.

    Returns:
        A `Diagnosis`.

    Raises:
        TypeError: F, x and args do not match.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> F = lambda x, a: x**2 - a
        >>> idf.certify.diagnose(F, jnp.sqrt(2.0), 2.0).verdict, idf.certify.diagnose(F, jnp.array(1.5), 2.0).verdict
        ('fine', 'stopped early')
    """
    adjoint = Implicit() if adjoint is None else adjoint
    if isinstance(adjoint, Implicit):
        adjoint = dataclasses.replace(adjoint, on_failure="ignore")
    method: list[str] = []

    def measure(x: PyTree, args: tuple) -> dict[str, Any]:
        here = Linearised.of(F, x, args, adjoint)
        if here.unknowns.size == 0:
            raise TypeError("diagnose: x has no entries.")
        measured, name = _measured(here)
        method.append(name)
        margin = getattr(F, "margin", None)
        return measured | dict(kink=nearest_kink(here) if margin is None else margin(x, *args))

    found = {name: value.item() for name, value in jax.device_get(compiled(measure, x, args)).items()}
    comparison = None if solver is None else compare(Linearised.of(F, x, args, adjoint), solver)
    diagnosis = Diagnosis(
        verdict="",
        condition=name_of(F),
        unknowns=_shapes(x),
        parameters=_shapes(args),
        size=_size(x),
        residual=found["residual"],
        norm=found["norm"],
        distance=found["distance"],
        residual_after_step=found["after"],
        symmetric=found["symmetric"],
        definite=DEFINITENESS[int(found["definite"])] if found["symmetric"] else None,
        largest=found["largest"],
        smallest=found["smallest"],
        linear_solver=method[-1],
        linear_steps=None if found["steps"] < 0 else found["steps"],
        linear_residual=found["linear_residual"],
        error=found["error"],
        kink=found["kink"],
        comparison=comparison,
    )
    return dataclasses.replace(diagnosis, verdict=_verdict(diagnosis, found))


def _measured(here: Linearised) -> tuple[dict, str]:
    n, dtype = here.unknowns.size, here.unknowns.dtype
    x = here.position()
    first, second = spectrum.noise(5, (2, n), dtype)
    norm, eps = jnp.linalg.norm, jnp.finfo(dtype).eps
    Az = here.A(first)
    symmetric = norm(Az - here.A_transposed(first)) <= 1e3 * eps * norm(Az)
    step = here.solve(here.value())
    estimate = estimated(here, None, None, samples=8, step=step)
    product, options = here.adjoint.system(here.program, here.x, here.theta)
    method, right = method_of(n, options), here.like_x(second)
    linear = examine(product, right, options)
    left = jax.tree.map(lambda b, c: b - c, right, product(linear.x))
    definite = jnp.int32(0)
    if n > spectrum.FORMED_SIZE:
        sizes = spectrum.largest(here.A, here.A_transposed, n, n, dtype), smallest(here)
    else:
        A = spectrum.matrix(here.A, n, dtype)
        all_sizes = jnp.linalg.svd(A, compute_uv=False)
        sizes = all_sizes[0], all_sizes[-1]
        values = jnp.linalg.eigvalsh((A + A.T) / 2)
        definite = jnp.where(values[0] > 0, 1, jnp.where(values[-1] < 0, 2, 3))
    return dict(
        residual=estimate.residual,
        norm=norm(x),
        scale=scale_of(x),
        vanishes=vanishes(here),
        eps=eps,
        distance=estimate.distance,
        error=jnp.where(estimate.norm > 0, estimate.error / estimate.norm, (estimate.error > 0) * 1.0),
        after=norm(here.at(x - step).value()),
        symmetric=symmetric,
        definite=definite,
        largest=sizes[0],
        smallest=sizes[1],
        steps=linear.steps if isinstance(method, Krylov) else jnp.int32(-1),
        converged=linear.status == OK,
        linear_residual=norm(here.unknowns.vector(jax.tree.leaves(left))) / norm(second),
    ), {lu: "LU", cholesky: "Cholesky"}.get(method) or name_of(method)


def _verdict(found: Diagnosis, measured: dict[str, Any]) -> str:
    """The verdict. The most basic fault comes first, because it makes the measurements after it doubtful."""
    eps = measured["eps"]
    numbers = (found.residual, found.norm, found.largest)
    if not all(map(math.isfinite, numbers)):
        return "not finite"
    entry_distance = found.distance if math.isfinite(found.distance) else math.inf
    nearby = at_once(eps) * measured["scale"]
    at_kink = found.kink <= max(nearby, MARGIN * entry_distance)
    singular = not found.condition_number * eps < ACCEPTED_ERROR / 4
    far = not found.distance <= 0.1 * found.norm
    if singular:
        if found.kink <= nearby:
            return "kink"
        # Because of rounding, the smallest singular value of a singular matrix is about n eps.
        return "singular" if found.condition_number * eps > 1 / (10 * found.size) else "ill-conditioned"
    if far and found.residual > 0 and found.norm > 0:
        # The one entry of a 1 x 1 matrix has nothing beside it that it could be small to.
        return "singular" if measured["vanishes"] else "wrong F"
    inaccurate = not found.error * MARGIN <= ACCEPTED_ERROR
    if inaccurate and at_kink and found.distance <= 1e-6 * found.norm:
        return "kink"
    if not measured["converged"]:  # the estimated error counts what the linear solve leaves, so this comes before it
        return "ill-conditioned" if found.condition_number * eps > 1e-5 else "linear solve"
    if inaccurate:
        return "stopped early"
    if at_kink:
        return "kink"
    if found.comparison is not None and not found.comparison.agrees(ACCEPTED_ERROR):
        return "wrong derivative"
    return "fine"


def _size(x: PyTree) -> int:
    return RealSpace(jax.tree.map(jnp.asarray, x)).size


def _shapes(tree: PyTree) -> str:
    leaves = jtu.tree_leaves(tree)
    parts = []
    for leaf in leaves[:6]:
        array = jnp.asarray(leaf) if isinstance(leaf, float | int | complex) or hasattr(leaf, "dtype") else None
        parts.append(type(leaf).__name__ if array is None else f"{array.dtype}{list(array.shape)}")
    return ", ".join(parts) + (f" and {len(leaves) - 6} more" if len(leaves) > 6 else "") if leaves else "none"
