"""The conditions of Karush, Kuhn and Tucker."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Scalar

from .._program import name_of
from ._condition import Condition
from .stationary import gradient


def kkt(
    f: Callable[..., Scalar],
    eq: Callable[..., PyTree] | None = None,
    ineq: Callable[..., PyTree] | None = None,
    complementarity: Literal["product", "natural"] = "product",
) -> Condition:
    """The conditions of min_z f(z, theta_f) subject to eq(z, theta_eq) = 0 and ineq(z, theta_ineq) <= 0.

    The unknown is x = (z, nu, lam), with a multiplier for each equation and each inequality:

        grad_z f + [d eq/dz]' nu + [d ineq/dz]' lam = 0,    eq = 0,    and complementarity

    of lam >= 0 and ineq <= 0, in one of two forms:

    - "product": lam * ineq = 0, as in the paper.
    - "natural": min(lam, -ineq) = 0, taken as ineq = 0 where lam > -ineq (the active constraints) and lam = 0
      elsewhere, with the multipliers of inactive constraints left out of the first equation. The Jacobian is then
      symmetric, and regular also where a constraint just becomes inactive.

    Both have the same solutions, and the same derivatives under strict complementarity (exactly one of lam_i and
    ineq_i is zero), linear independence of the active constraints and the second-order condition. Where lam_i and
    ineq_i are both zero, the solution has a kink: "product" is singular and gives NaN, "natural" treats the constraint
    as inactive.

    Args:
        f: `f(z, theta_f)` to a real scalar, twice differentiable.
        eq: `eq(z, theta_eq)`, a pytree of equations, or None.
        ineq: `ineq(z, theta_ineq)`, a pytree of inequalities, or None.
        complementarity: the form of the last condition.

    Returns:
        A root condition F((z, nu, lam), theta_f, theta_eq, theta_ineq); nu is a pytree like eq's output, lam like
        ineq's. If a kind of constraint is absent, its multipliers and its theta are None.

    Raises:
        ValueError: complementarity is neither of the two.
        TypeError: in a call with multipliers without constraints, or constraints without multipliers.

    Source: Blondel et al., NeurIPS 2022, equation 6; Karush 1939, Kuhn and Tucker 1951.

    Example:
        >>> import jax, jax.numpy as jnp, implicitdiff as idf
        >>> F = idf.optimality.kkt(lambda z, c: jnp.sum((z - c) ** 2), ineq=lambda z, b: z - b)
        >>> x = (jnp.array([1.0, 2.0]), None, jnp.array([4.0, 0.0]))  # c = (3, 2), b = (1, 5)
        >>> dz = idf.root_jvp(F, x, (jnp.array([3.0, 2.0]), None, jnp.array([1.0, 5.0])), (None, None, jnp.ones(2)))[0]
        >>> print(dz)
        [1. 0.]
    """
    if complementarity not in ("product", "natural"):
        raise ValueError(f'complementarity must be "product" or "natural", found {complementarity!r}.')

    def F(
        x: tuple[PyTree, PyTree, PyTree], theta_f: Any = None, theta_eq: Any = None, theta_ineq: Any = None
    ) -> tuple[PyTree, PyTree, PyTree]:
        z, nu, lam = x
        check_multipliers("eq", eq, "nu", nu)
        check_multipliers("ineq", ineq, "lam", lam)
        equations = None if eq is None else eq(z, theta_eq)
        inequalities = None if ineq is None else ineq(z, theta_ineq)
        weights, last = lam, None
        if ineq is not None:
            active = jax.tree.map(lambda m, g: m > -g, lam, inequalities)
            if complementarity == "product":
                last = jax.tree.map(lambda m, g: m * g, lam, inequalities)
            else:
                weights = jax.tree.map(lambda a, m: jnp.where(a, m, 0), active, lam)
                last = jax.tree.map(jnp.where, active, inequalities, lam)

        def lagrangian(z: PyTree) -> Array:
            value = f(z, theta_f)
            if eq is not None:
                value = value + inner(nu, eq(z, theta_eq))
            if ineq is not None:
                value = value + inner(weights, ineq(z, theta_ineq))
            return value

        conditions = gradient(lagrangian, z), equations, last
        container: Any = type(x)
        return container._make(conditions) if hasattr(x, "_make") else conditions  # x may be a named tuple

    symmetric = True if ineq is None or complementarity == "natural" else None

    def margin(x: tuple, theta_f: Any = None, theta_eq: Any = None, theta_ineq: Any = None) -> Array:
        del theta_f, theta_eq
        return complementarity_margin(x[2], None if ineq is None else ineq(x[0], theta_ineq))

    return Condition(F, f"kkt({name_of(f)})", symmetric=symmetric, is_root=True, margin=margin)


def quadratic_program(complementarity: Literal["product", "natural"] = "product") -> Condition:
    """The KKT conditions of min_z 1/2 z'Qz + c'z subject to E z = d and M z <= h.

    Args:
        complementarity: see `kkt`.

    Returns:
        A root condition F((z, nu, lam), (Q, c), (E, d), (M, h)); if there are no equations or no inequalities, their
        multipliers and their pair are None.

    Source: Blondel et al., NeurIPS 2022, appendix A; Amos and Kolter, "OptNet", 2017.

    Example:
        >>> import jax.numpy as jnp, implicitdiff as idf
        >>> F = idf.optimality.quadratic_program()
        >>> Q, c, E, d = jnp.eye(2), jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1)
        >>> x = (jnp.array([0.5, 0.5]), jnp.array([-0.5]), None)
        >>> print(idf.root_jvp(F, x, ((Q, c), (E, d), None), (None, (0 * E, jnp.ones(1)), None))[0])
        [0.5 0.5]
    """

    def F(x: tuple, theta_f: Any, theta_eq: Any = None, theta_ineq: Any = None) -> tuple:
        affine = lambda z, theta: theta[0] @ z - theta[1]  # noqa: E731
        condition = kkt(
            lambda z, theta: 0.5 * z @ (theta[0] @ z) + theta[1] @ z,
            None if theta_eq is None else affine,
            None if theta_ineq is None else affine,
            complementarity,
        )
        return condition(x, theta_f, theta_eq, theta_ineq)

    def margin(x: tuple, theta_f: Any, theta_eq: Any = None, theta_ineq: Any = None) -> Array:
        del theta_f, theta_eq
        return complementarity_margin(x[2], None if theta_ineq is None else theta_ineq[0] @ x[0] - theta_ineq[1])

    symmetric = True if complementarity == "natural" else None
    return Condition(F, "quadratic_program", symmetric=symmetric, is_root=True, margin=margin)


def complementarity_margin(multipliers: PyTree, values: PyTree) -> Array:
    """How strictly complementary a point is: the minimum over the constraints of max(|lam_i|, |g_i|)."""
    pairs = zip(jax.tree.leaves(multipliers), jax.tree.leaves(values), strict=True)
    least = [jnp.min(jnp.maximum(jnp.abs(m), jnp.abs(g)), initial=jnp.inf) for m, g in pairs]
    return jnp.min(jnp.stack([jnp.asarray(jnp.inf), *least]))


def inner(a: PyTree, b: PyTree) -> Array:
    """The inner product of two pytrees of arrays."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jax.tree.reduce(jnp.add, products)


def check_multipliers(name: str, constraint: Callable | None, multiplier_name: str, multipliers: PyTree) -> None:
    """Raise TypeError unless constraints and multipliers are both given or both absent."""
    if (constraint is None) != (multipliers is None):
        raise TypeError(
            f"kkt was built with {name}={'None' if constraint is None else name_of(constraint)}, but the unknown "
            f"(z, nu, lam) has {multiplier_name}={'None' if multipliers is None else 'an array'}: multipliers "
            "belong to constraints; give both or neither."
        )
