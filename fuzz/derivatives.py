"""Every mode and order of a derivative of one program, beside what it must be."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .evaluate import evaluated
from .programs import P, Program

MODES = {"fwd": jax.jacfwd, "rev": jax.jacrev}
# With code that has one mode only. A custom_vjp has a first derivative in both, by transposition, and a second one of
# reverse over reverse mode; where it has no other, an error is right as well.
FORWARD = ("jvp", "jacfwd", "fwd-fwd")
REVERSE = ("jvp", "vjp", "jacfwd", "jacrev", "rev-rev")
# Beyond this the program itself is ill-conditioned, and an error says nothing.
LARGEST = 300.0
TOLERANCE = {"float64": 1e-8, "float32": 3e-3}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A derivative that is not what it must be."""

    check: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.what}"


# How the derivatives of a program are computed: compiled as one, each operation by itself as it comes (where the
# library compiles its rule), or traced as one and run operation by operation, which is by far the quickest.
WAYS = {"compiled": jax.jit, "eager": lambda f: f, "traced": evaluated}


def loss_of(s: Callable) -> Callable:
    """A nonlinear function of s(theta)."""

    def loss(t: jax.Array) -> jax.Array:
        x = s(t)
        return jnp.sum(jnp.cos(jnp.arange(x.size, dtype=x.dtype)) * jnp.sin(x))

    return loss


def checks(s: Callable, w: jax.Array, v: jax.Array, third: bool) -> dict[str, Callable]:
    """Derivatives of s at theta, and of a nonlinear function of it, by name."""

    loss = loss_of(s)
    found = {
        "value": s,
        "jvp": lambda t: jax.jvp(s, (t,), (v,))[1],
        "vjp": lambda t: (lambda x, pull: pull(w[: x.size])[0])(*jax.vjp(s, t)),
        "jacfwd": jax.jacfwd(s),
        "jacrev": jax.jacrev(s),
    }
    for outer in MODES:
        for inner in MODES:
            found[f"{outer}-{inner}"] = MODES[outer](MODES[inner](loss))
    if third:
        found["third"] = lambda t: jax.jvp(jax.jacfwd(jax.jacrev(loss)), (t,), (v,))[1]
        found["third, reverse"] = lambda t: jax.jacrev(lambda t: jax.jvp(jax.grad(loss), (t,), (v,))[1])(t)
    return found


def reference(program: Program, third: bool) -> dict[str, np.ndarray] | None:
    """The right answers, or None where the program is too ill-conditioned for a comparison."""
    v, w = vectors("float64")

    def run(t):
        s = program.expected
        H = jax.jacfwd(jax.jacfwd(loss_of(s)))

        J = jax.jacfwd(s)(t)
        found = {"value": s(t), "jvp": J @ v, "vjp": w[: len(J)] @ J, "jacfwd": J, "jacrev": J}
        found |= {f"{outer}-{inner}": H(t) for outer in MODES for inner in MODES}
        if third:
            found["third"] = found["third, reverse"] = jax.jvp(H, (t,), (v,))[1]
        return found, program.jacobian(t)

    found, A = evaluated(run)(jnp.asarray(program.point))
    found = {name: np.asarray(value) for name, value in found.items()}
    sound = np.all(np.isfinite(A)) and np.linalg.cond(A) <= (10 if program.kind == "minimum" else 100)
    if not sound or not all(np.all(np.abs(value) <= LARGEST) for value in found.values()):
        return None
    return found


def vectors(dtype: str) -> tuple[jax.Array, jax.Array]:
    """A tangent of theta and a cotangent of x."""
    return jnp.asarray([0.4, -0.7, 1.1], dtype), jnp.asarray([0.3, 1.2, -0.8, 0.5], dtype)


def compare(name: str, found: np.ndarray, expected: np.ndarray, dtype: str) -> Finding | None:
    """What is wrong with a derivative."""
    if not np.all(np.isfinite(found)):
        return Finding(name, "NaN where the problem is well-conditioned")
    if found.dtype != dtype:
        return Finding(name, f"dtype {found.dtype}")
    order = 1 if name in ("value", "jvp", "vjp", "jacfwd", "jacrev") else 2
    error = np.max(np.abs(found - expected), initial=0)
    if error > TOLERANCE[dtype] * order * (1 + np.max(np.abs(expected))):
        return Finding(name, f"off by {error:.2g}, should be {np.array2string(expected, precision=6)}, is {found}")
    return None


def examine(program: Program, dtype: str, way: str, names: set[str], third: bool) -> tuple[list[Finding], int] | None:
    """Compare derivatives of a program with what they must be.

    Args:
        program: the program.
        dtype: of theta and x.
        way: one of `WAYS`.
        names: the second derivatives that are compared; first ones always are.
        third: whether third derivatives are compared as well.

    Returns:
        The findings, and the number of derivatives compared; None where the program is ill-conditioned.
    """
    expected = reference(program, third)
    if expected is None:
        return None
    v, w = vectors(dtype)
    wanted = checks(program.wrapped, w, v, third)
    wanted = {name: f for name, f in wanted.items() if name in names or "-" not in name}
    errors = {}

    def run(theta):
        found = {}
        for name, derivative in wanted.items():
            try:
                found[name] = derivative(theta)
            except Exception as error:
                errors[name] = error
        return found

    values = WAYS[way](run)(jnp.asarray(program.point, dtype))
    findings = []
    for name, error in errors.items():
        if ("forward" in program.modes and name not in FORWARD) or ("reverse" in program.modes and name not in REVERSE):
            continue
        findings.append(Finding(name, f"raised {type(error).__name__}: {str(error)[:300]}"))
    for name, value in values.items():
        finding = compare(name, np.asarray(value), expected[name], dtype)
        if finding is not None:
            findings.append(finding)
    return findings, len(values)


def differences(program: Program) -> float:
    """How far the reference is from central differences of g: its relative error."""
    theta, step = program.point, 1e-6
    s = evaluated(program.expected)
    J = np.stack([(s(theta + step * e) - s(theta - step * e)) / (2 * step) for e in np.eye(P)], axis=1)
    exact = evaluated(jax.jacfwd(program.expected))(theta)
    return float(np.max(np.abs(J - exact)) / (1 + np.max(np.abs(exact))))
