"""Random programs F(x, theta) = 0 whose solution x = g(theta) is known, because F is made from g.

With a random map h that has a nonsingular Jacobian in x, and a random matrix M, four kinds of conditions have it:

    h(x, theta) - h(g(theta), theta)                    an equation
    M(x, theta) (x - g(theta))                          a linear one
    x - a (h(x, theta) - h(g(theta), theta))            a fixed point
    grad_x |h(x, theta) - h(g(theta), theta)|^2 / 2     a minimum

So the derivatives of every order are those of g, which JAX gives without this library. g and h are chains of pieces.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax

import implicitdiff as idf
from implicitdiff import krylov

from .nested import on_host
from .pieces import PIECES, M, Piece
from .wrappers import WRAPPERS

P = 3  # entries of theta
KINDS = ("equation", "linear", "fixed point", "minimum")
STYLES = ("function", "closure", "half closure", "decorator", "decorator, host", "keyword, aux")

THETAS = {
    "vector": lambda t: t,
    "scalars": lambda t: (t[0], t[1], t[2]),
    "dict": lambda t: {"a": t[0], "b": t[1:]},
    "nested": lambda t: [{"w": t[None, :2]}, (t[2],)],
    "among others": lambda t: {"steps": 3, "method": "newton", "t": t, "none": None, "key": jax.random.key(0)},
}
UNKNOWNS = {
    "vector": lambda v: v,
    "matrix": lambda v: v.reshape(2, 2),
    "dict": lambda v: {"a": v[:3], "b": v[3]},
    "nested": lambda v: [(v[:1], v[None, 1:3]), {"c": v[3]}],
    "complex": lambda v: lax.complex(v[:2], v[2:]),
    "complex and real": lambda v: {"a": v[:2], "b": lax.complex(v[2], v[3])},
}


def flat(tree: Any) -> jax.Array:
    """All floating-point entries as one real vector, the imaginary parts of a leaf after its real ones."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    parts = [[leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf] for leaf in leaves]
    return jnp.concatenate([part for pair in parts for part in pair])


def is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def dense(matvec: Callable, b: jax.Array) -> jax.Array:
    """A linear solver as a user would write it."""
    return jnp.linalg.solve(jax.vmap(matvec, out_axes=1)(jnp.eye(b.size, dtype=b.dtype)), b)


ADJOINTS = {
    "default": None,
    "GMRES": idf.Implicit(linear_solver=krylov.GMRES()),
    "BiCGStab": idf.Implicit(linear_solver=krylov.BiCGStab()),
    "lineax LU": idf.Implicit(linear_solver=lx.LU()),
    "polish": idf.Implicit(polish=1),
    "ill posed": idf.Implicit(well_posed=False),
    "callable": idf.Implicit(linear_solver=dense),
    "CG": idf.Implicit(linear_solver=krylov.CG()),
    "MINRES": idf.Implicit(linear_solver=krylov.MINRES()),
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """Pieces after one another, each mixed with its own argument."""

    pieces: tuple[Piece, ...]
    orders: tuple[np.ndarray, ...]

    def __call__(self, v: jax.Array, reference: bool = False) -> jax.Array:
        """The map, or the same from the references of its pieces."""
        for piece, order in zip(self.pieces, self.orders, strict=True):
            v = 0.6 * (piece.reference if reference else piece.f)(v) + 0.4 * v[order]
        return v


@dataclasses.dataclass(frozen=True)
class Program:
    """A condition with a known solution, and how the library is asked for its derivative."""

    g: Chain
    h: Chain
    arrays: dict[str, np.ndarray]
    kind: str
    style: str
    theta_form: str
    x_form: str
    adjoint: str
    wrapper: str
    point: np.ndarray

    def __str__(self) -> str:
        names = [" > ".join(piece.name for piece in chain.pieces) for chain in (self.g, self.h)]
        words = [self.kind, self.style, f"theta {self.theta_form}", f"x {self.x_form}", self.adjoint, self.wrapper]
        return f"g = {names[0]}; h = {names[1]}; {', '.join(words)}"

    @property
    def modes(self) -> set[str]:
        """The modes that not all of the code has, if any."""
        return {piece.modes for chain in (self.g, self.h) for piece in chain.pieces} - {"both"}

    def known(self, theta: jax.Array, reference: bool = True) -> jax.Array:
        """g(theta) as a vector."""
        return self.g(theta @ self.array("lift", theta) + self.array("shift", theta), reference)

    def array(self, name: str, like: jax.Array) -> jax.Array:
        return jnp.asarray(self.arrays[name], like.dtype)

    def h_of(self, x: jax.Array, theta: jax.Array, reference: bool) -> jax.Array:
        moved = self.h(x + theta @ self.array("into h", x), reference)
        return self.array("main", x) @ x + 0.3 * moved

    def residual(self, x: jax.Array, theta: jax.Array, reference: bool = False) -> jax.Array:
        """The conditions on vectors."""
        solution = self.known(theta, reference)
        if self.kind == "linear":
            matrix = jnp.tanh(jnp.outer(self.h(x + theta @ self.array("into h", x), reference), jnp.cos(x)))
            return (self.array("main", x) + 0.3 * matrix) @ (x - solution)
        return self.h_of(x, theta, reference) - self.h_of(solution, theta, reference)

    def conditions(self) -> Callable:
        """F(x, theta), or T of a fixed point, on pytrees."""
        as_x = UNKNOWNS[self.x_form]
        if self.kind == "minimum":

            def objective(x, t):
                return 0.5 * jnp.sum(self.residual(flat(x), flat(t)) ** 2)

            return idf.optimality.stationary(objective, positive_definite=self.adjoint != "MINRES")
        if self.kind == "fixed point":
            return lambda x, t: as_x(flat(x) - 0.2 * self.residual(flat(x), flat(t)))
        return lambda x, t: as_x(self.residual(flat(x), flat(t)))

    def solution(self, theta: jax.Array) -> jax.Array:
        """What is tested: theta -> x by the library, both as vectors."""
        as_x, as_theta = UNKNOWNS[self.x_form], THETAS[self.theta_form]
        fixed_point = self.kind == "fixed point"
        attach = partial(idf.implicit_fixed_point if fixed_point else idf.implicit_root, adjoint=self.chosen)
        decorate = partial(idf.custom_fixed_point if fixed_point else idf.custom_root, adjoint=self.chosen)
        F = self.conditions()

        def solver(init, t):
            known = self.known(lax.stop_gradient(flat(t)))
            if self.style == "decorator, host":
                return as_x(on_host(np.array, known))
            start = (0, jnp.zeros_like(known))
            return as_x(lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, known), start)[1])

        x, tree = as_x(self.known(lax.stop_gradient(theta))), as_theta(theta)
        if self.style == "closure":
            return flat(attach(lambda x: F(x, tree), x))
        if self.style == "half closure":
            return flat(attach(lambda x, t: F(x, as_theta(jnp.concatenate([theta[:1], t]))), x, theta[1:]))
        if self.style == "keyword, aux":
            decorated = decorate(lambda x, *, t: F(x, t), has_aux=True)(lambda init, *, t: (solver(init, t), {"n": 3}))
            return flat(decorated(None, t=tree)[0])
        if self.style == "function":
            return flat(attach(F, x, tree))
        return flat(decorate(F)(solver)(None, tree))

    @property
    def chosen(self) -> idf.Adjoint | None:
        """The adjoint, with what F alone would say of a minimum, which a closure around it does not."""
        adjoint = ADJOINTS[self.adjoint]
        if self.kind != "minimum":
            return adjoint
        known = dict(symmetric=True, positive_definite=self.adjoint != "MINRES")
        return dataclasses.replace(adjoint or idf.Implicit(), **known)

    def wrapped(self, theta: jax.Array) -> jax.Array:
        """The solution inside of a transformation."""
        return WRAPPERS[self.wrapper][0](self.solution)(theta)

    def expected(self, theta: jax.Array) -> jax.Array:
        """What it must be."""
        return WRAPPERS[self.wrapper][1](self.known)(theta)

    def jacobian(self, theta: jax.Array) -> jax.Array:
        """The Jacobian of the conditions in x at the solution."""
        return jax.jacfwd(lambda x: self.residual(x, theta, reference=True))(self.known(theta))


def draw(rng: np.random.Generator, pieces: list[Piece] | None = None) -> Program:
    """A random program; of these pieces, if they are given."""
    kind, style = rng.choice(KINDS), rng.choice(STYLES)
    allowed = PIECES if pieces is None else pieces
    if kind == "minimum":  # the gradient of a function needs its reverse mode
        allowed = [piece for piece in allowed if piece.modes == "both"] or allowed
    x_form = rng.choice([form for form in UNKNOWNS if "complex" not in form or kind != "minimum"])
    adjoints = ["default"] * 8 + ["GMRES", "BiCGStab", "lineax LU", "polish", "ill posed"]
    adjoints += ["CG", "MINRES"] * 2 if kind == "minimum" else []
    adjoints += ["callable"] if x_form == "vector" else []

    def chain(most: int) -> Chain:
        count = int(rng.integers(1, most + 1))
        chosen = tuple(allowed[i] for i in rng.integers(len(allowed), size=count))
        return Chain(chosen, tuple(rng.permutation(M) for _ in range(count)))

    return Program(
        g=chain(3),
        h=chain(2),
        arrays={
            "lift": rng.standard_normal((P, M)),
            "shift": 0.3 * rng.standard_normal(M),
            "into h": 0.5 * rng.standard_normal((P, M)),
            "main": 2 * np.eye(M)[rng.permutation(M)] + 0.2 * rng.standard_normal((M, M)),
        },
        kind=str(kind),
        style=str(style),
        theta_form=str(rng.choice(list(THETAS))),
        x_form=str(x_form),
        adjoint=str(rng.choice(adjoints)),
        wrapper=str(rng.choice(list(WRAPPERS))),
        point=0.7 * rng.standard_normal(P),
    )
