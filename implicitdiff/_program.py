"""The user's conditions F as a pure function of arrays, with everything else it reads made explicit.

Autodiff of F must see every array that F depends on: its arguments, and the arrays that it closes over.
`trace` runs F once on abstract values and returns a `Program`, which is F with every array as an argument
and every other argument (strings, functions, integers, None, ...) fixed. Two traces of the same computation
give equal programs, also when F is a new lambda each time or reads another array of the same shape; this is
what lets the derivative be compiled once and used again, without ever using a stale F.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util as jtu
from jax.extend import core as jex
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ._jaxpr_key import NoKeyError, jaxpr_key
from ._precision import full_precision

# Python floats are arrays, as everywhere in JAX; integers and booleans steer shapes and branches: they are fixed.
_ARRAYS = (jax.Array, np.ndarray, np.generic, float, complex)
CONCRETE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)

# Up to this size a product that cannot be transposed is made of its rows.
ROWS = 1000

Linear = Callable[[Sequence[Array]], list[Array]]


class Derivatives:
    """What programs have in common: the products with their Jacobians."""

    def products(self, x: Sequence[Array], theta: Sequence[Array]) -> tuple[Linear, ...]:
        """Either the product v -> dF/dx v, or those with symmetric W and M where dF/dx = I - M W."""
        raise NotImplementedError

    def product(self, x: Sequence[Array], theta: Sequence[Array]) -> Linear:
        """The product v -> dF/dx v."""
        return self.product_of(self.products(x, theta))

    @staticmethod
    def product_of(maps: Sequence[Linear]) -> Linear:
        """The product with dF/dx, made of `products`."""
        if len(maps) == 1:
            return maps[0]
        W, M = maps
        return lambda v: [a - b for a, b in zip(v, M(W(v)), strict=True)]


class Program(Derivatives):
    """F(x, theta) on flat lists of arrays; equal and hashable by what it computes."""

    def __init__(self, jaxpr: jex.Jaxpr, x_tree: Any, derivatives: bool = True):
        """Wrap `jaxpr`, whose inputs are theta (constants first, arguments last) and then the leaves of x.

        With `derivatives` False the program is only evaluated: those that are equal may have other derivative rules.
        """
        self.jaxpr = jaxpr
        self.constants = len(jaxpr.constvars)
        self.has_custom_vjp = contains(jaxpr, "custom_vjp_call")
        self.has_while = contains(jaxpr, "while")
        self._identify(key_or_none([jaxpr], derivatives), x_tree)

    def _identify(self, key: Hashable | None, x_tree: Any) -> None:
        self.x_tree = x_tree
        self._key = key
        self._hash = id(self) if key is None else hash(key)

    @property
    def reusable(self) -> bool:
        """Whether another trace of the same F gives an equal program, with derivatives of every order."""
        return self._key is not None

    def __call__(self, x: Sequence[Array], theta: Sequence[Array]) -> list[Array]:
        """Evaluate F: a list with one array of the shape of each array of x."""
        closed = jex.ClosedJaxpr(self.jaxpr, list(theta[: self.constants]))
        return jex.jaxpr_as_fun(closed)(*theta[self.constants :], *x)

    def products(self, x: Sequence[Array], theta: Sequence[Array]) -> tuple[Linear, ...]:
        """The product v -> dF/dx v."""
        push = self._pushforward(lambda *x: self(x, theta), *x)[1]
        return (lambda v: push(*v),)

    def along(
        self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array]]:
        """F(x, theta), and dF/dtheta theta_dot, where None is no motion."""
        moving = [i for i, dot in enumerate(theta_dot) if dot is not None]

        def f(*values):
            return self(x, placed(theta, moving, values))

        value, push = self._pushforward(f, *[theta[i] for i in moving])
        return value, push(*[theta_dot[i] for i in moving])

    def _pushforward(self, f: Callable, *primals: Array) -> tuple[list[Array], Callable]:
        if not self.has_custom_vjp:
            value, linear = jax.linearize(f, *primals)
            return value, by_columns(linear, primals) if self.has_while else linear
        # Code with a custom_vjp has no forward rule, but the transpose of its reverse rule is one.
        value, pull = jax.vjp(f, *primals)

        def push(*tangents):
            return jax.linear_transpose(pull, value)(tangents)[0]

        try:
            jax.eval_shape(push, *primals)
        except NotImplementedError:
            # The reverse rule of a solver is another solve, and has no transpose: its rows are computed instead.
            size = sum(leaf.size for leaf in value)
            if size > ROWS or any(map(jnp.iscomplexobj, [*value, *primals])):
                raise
            unravel = ravel_pytree(value)[1]
            rows = jax.vmap(lambda e: pull(unravel(e)))(jnp.eye(size, dtype=jnp.result_type(*value)))

            def push(*tangents):
                moved = [jnp.tensordot(row, t, t.ndim) for row, t in zip(rows, tangents, strict=True)]
                return unravel(jnp.sum(jnp.stack(moved), axis=0))

        return value, push

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            type(other) is type(self)
            and self._key is not None
            and self._hash == other._hash
            and self.x_tree == other.x_tree
            and self._key == other._key
        )


class Composition(Program):
    """F(x, theta) = x - outer(inner(x, theta), theta), both parts with symmetric Jacobians."""

    def __init__(self, inner: Program, outer: Program):
        """Put two programs together; theta holds the constants of inner, those of outer, and the arguments."""
        self.inner = inner
        self.outer = outer
        self.constants = inner.constants + outer.constants
        self.has_custom_vjp = inner.has_custom_vjp or outer.has_custom_vjp
        self.has_while = inner.has_while or outer.has_while
        self._identify((inner, outer) if inner.reusable and outer.reusable else None, inner.x_tree)

    def thetas(self, theta: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Theta of inner and theta of outer."""
        arguments, own = list(theta[self.constants :]), self.inner.constants
        return [*theta[:own], *arguments], [*theta[own : self.constants], *arguments]

    def __call__(self, x: Sequence[Array], theta: Sequence[Array]) -> list[Array]:
        """Evaluate F."""
        of_inner, of_outer = self.thetas(theta)
        return [a - b for a, b in zip(x, self.outer(self.inner(x, of_inner), of_outer), strict=True)]

    def products(self, x: Sequence[Array], theta: Sequence[Array]) -> tuple[Linear, ...]:
        """The products with the Jacobians W of inner and M of outer."""
        of_inner, of_outer = self.thetas(theta)
        return *self.inner.products(x, of_inner), *self.outer.products(self.inner(x, of_inner), of_outer)


class FirstOrder(Derivatives):
    """The products of a program, traced: all that a first derivative needs.

    Custom rules are traced with them. What is left of such rules belongs to higher derivatives, so that two of these
    are equal where the rest is. Theta holds the arrays that the rules read as well.
    """

    def __init__(self, program: Program, x: Sequence[Array], theta: Sequence[Array], moving: Sequence[int]):
        """Trace `program` for motions of `moving`, indices into theta."""
        self.x_tree, self.moving, self.thetas = program.x_tree, tuple(moving), len(theta)
        x, theta, count = list(x), list(theta), len(program.products(x, theta))

        def along(x, theta, dots):
            return program.along(x, theta, placed([None] * len(theta), moving, dots))

        traced = [
            jax.make_jaxpr(lambda x, theta, v, i=i: program.products(x, theta)[i](v))(x, theta, x) for i in range(count)
        ]
        traced.append(jax.make_jaxpr(along)(x, theta, [theta[i] for i in moving]))
        self.jaxprs = [closed.jaxpr for closed in traced]
        self.constants = [as_operand(constant) for closed in traced for constant in closed.consts]
        self._key = key_or_none(self.jaxprs, derivatives=False), self.moving, self.x_tree
        self._hash = hash(self._key)

    @property
    def reusable(self) -> bool:
        """Whether another trace of the same products gives equal ones."""
        return self._key[0] is not None

    def products(self, x: Sequence[Array], theta: Sequence[Array]) -> tuple[Linear, ...]:
        """The product v -> dF/dx v, or those with W and M."""
        zeros = [jnp.zeros_like(leaf) for leaf in x]

        def linear(i: int) -> Linear:
            run = self._run(i, x, theta)
            push = jax.linearize(lambda *v: run(*v), *zeros)[1]  # computes what does not depend on v
            return lambda v: push(*v)

        return tuple(linear(i) for i in range(len(self.jaxprs) - 1))

    def along(
        self, x: Sequence[Array], theta: Sequence[Array], theta_dot: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array]]:
        """F(x, theta), and dF/dtheta theta_dot."""
        found = self._run(-1, x, theta)(*[theta_dot[i] for i in self.moving])
        return found[: len(x)], found[len(x) :]

    def _run(self, i: int, x: Sequence[Array], theta: Sequence[Array]) -> Callable:
        counts = [len(jaxpr.constvars) for jaxpr in self.jaxprs]
        i %= len(counts)
        start = self.thetas + sum(counts[:i])
        closed = jex.ClosedJaxpr(self.jaxprs[i], list(theta[start : start + counts[i]]))
        return lambda *v: jex.jaxpr_as_fun(closed)(*x, *theta[: self.thetas], *v)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return type(other) is FirstOrder and self._hash == other._hash and self._key == other._key


def by_columns(push: Callable, primals: Sequence[Array]) -> Callable:
    """A linear map that JAX cannot transpose, as that of a while_loop, by its matrix, if it is small and real."""
    try:
        jax.eval_shape(lambda *v: jax.linear_transpose(push, *v)(push(*v)), *primals)
        return push
    except (NotImplementedError, ValueError):
        vector, unravel = ravel_pytree(list(primals))
        if vector.size > ROWS or any(map(jnp.iscomplexobj, primals)):
            return push
        columns = jax.vmap(lambda e: push(*unravel(e)))(jnp.eye(vector.size, dtype=vector.dtype))
        return lambda *v: [jnp.tensordot(ravel_pytree(list(v))[0], c, 1).astype(c.dtype) for c in columns]


def key_or_none(jaxprs: Sequence[jex.Jaxpr], derivatives: bool) -> Hashable | None:
    """The key of jaxprs, or None where they have none."""
    try:
        return tuple(jaxpr_key(jaxpr, derivatives) for jaxpr in jaxprs)
    except NoKeyError:
        return None


def as_operand(constant: Any) -> Array:
    """A constant of a trace as an array, whose value stays known under `jit`."""
    if isinstance(constant, jax.core.Tracer):
        return constant
    with jax.ensure_compile_time_eval():
        return jnp.asarray(constant)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of the inputs of a `scan` are the same in all steps, and how many are carried."""
    if "ft_in" in params:  # newer versions of JAX
        consts, carried, _ = (len(list(part)) for part in params["ft_in"].unpack())
        return consts, carried
    return params["num_consts"], params["num_carry"]


def placed(values: Sequence, places: Sequence[int], others: Sequence) -> list:
    """`values` with others at these places."""
    result = list(values)
    for i, value in zip(places, others, strict=True):
        result[i] = value
    return result


@full_precision
def trace(F: Callable[..., PyTree], x: PyTree, args: tuple, kwargs: dict) -> tuple[Program, list[Array]]:
    """Trace F at (x, *args, **kwargs); return the program and the arrays theta that it is to be called with.

    Args:
        F: conditions; returns a pytree with the structure and shapes of x.
        x: pytree of inexact arrays.
        args: positional arguments of F after x.
        kwargs: keyword arguments of F.

    Raises:
        TypeError: F cannot be called with these arguments, cannot be traced, or its output does not match x.
    """
    try:
        return _trace(F, x, args, kwargs, _ARRAYS)
    except CONCRETE_NEEDED:
        # F branches on a Python float: give it the number itself, as an eager call would.
        return _trace(F, x, args, kwargs, _ARRAYS[:-2])


def _trace(F, x, args, kwargs, array_types):
    x_leaves, x_tree = jtu.tree_flatten(x)
    leaves, tree = jtu.tree_flatten((args, kwargs))
    arrays_at = [is_array(leaf, array_types) for leaf in leaves]
    arrays = [as_operand(leaf) for leaf, yes in zip(leaves, arrays_at, strict=True) if yes]
    fixed = [None if yes else leaf for leaf, yes in zip(leaves, arrays_at, strict=True)]

    def traced(f):
        # A new function object at each call, so that JAX cannot answer with an older trace of f: f may read
        # variables that have been rebound since.
        def flat(arrays, x_leaves):
            supply = iter(arrays)
            merged = [next(supply) if yes else leaf for leaf, yes in zip(fixed, arrays_at, strict=True)]
            f_args, f_kwargs = jtu.tree_unflatten(tree, merged)
            try:
                value = f(jtu.tree_unflatten(x_tree, x_leaves), *f_args, **f_kwargs)
            except jax.errors.TracerArrayConversionError as error:
                error.add_note(
                    f"{name_of(F)} must be written in JAX so that it can be differentiated: it handed a traced array "
                    "to NumPy. Only the solver may use NumPy; use jax.numpy in the conditions."
                )
                raise
            except (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError) as error:
                error.add_note(
                    f"{name_of(F)} asks for the value of a traced array, as if and while do: branch on values with "
                    "jax.numpy.where or jax.lax.cond. Integers and booleans of Python are not traced."
                )
                raise
            except TypeError as error:
                if len(f_args) == 1 and isinstance(f_args[0], tuple):
                    error.add_note(
                        "The one argument after x is a tuple. If its entries are the arguments, give them one by one: "
                        "implicit_root(F, x, *args)."
                    )
                error.add_note(
                    f"This was raised while calling {name_of(F)}(x, *args, **kwargs) with {len(f_args)} positional "
                    f"argument(s) after x and the keywords {sorted(f_kwargs)}: it is called with the arguments that "
                    "the solver got after init."
                )
                raise
            return check_output(F, x_tree, x_leaves, value)

        closed = jax.make_jaxpr(flat)(arrays, x_leaves)
        return Program(closed.jaxpr, x_tree), list(map(as_operand, closed.consts))

    parts = getattr(F, "parts", None)
    if parts is None:
        program, constants = traced(F)
        return program, constants + arrays
    (inner, of_inner), (outer, of_outer) = map(traced, parts)
    return Composition(inner, outer), of_inner + of_outer + arrays


def check_output(F: Callable, x_tree: Any, x_leaves: Sequence[Array], value: PyTree) -> list[Array]:
    """Return the leaves of F's output in the dtypes of x; raise TypeError where they do not match x."""
    leaves, tree = jtu.tree_flatten(value)
    if tree != x_tree:
        raise TypeError(
            f"{name_of(F)} must return a pytree with the structure of x, one equation for each unknown: "
            f"expected {x_tree}, found {tree}."
        )
    paths = [jtu.keystr(path) for path, _ in jtu.tree_flatten_with_path(value)[0]]
    result = []
    for path, unknown, leaf in zip(paths, x_leaves, leaves, strict=True):
        where = f"leaf x{path}" if path else "x"
        if jnp.shape(leaf) != jnp.shape(unknown):
            raise TypeError(
                f"{name_of(F)} must return one equation for each unknown, but for {where} of shape "
                f"{jnp.shape(unknown)} it returned shape {jnp.shape(leaf)}."
            )
        dtype, wanted = jnp.result_type(leaf), jnp.result_type(unknown)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name_of(F)} is not differentiable: for {where} of dtype {wanted} it returned {dtype}; "
                "return floating-point residuals."
            )
        if jnp.iscomplexobj(leaf) and not jnp.issubdtype(wanted, jnp.complexfloating):
            raise TypeError(
                f"{name_of(F)} returned {dtype} for {where} of dtype {wanted}: real unknowns need as many real "
                "equations. Make x complex, or return real and imaginary parts as separate unknowns."
            )
        result.append(jnp.asarray(leaf, wanted))
    return result


def name_of(function: Callable) -> str:
    """A readable name for a callable, for error messages."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def is_array(leaf: Any, types: tuple = _ARRAYS) -> bool:
    """Whether a leaf of the arguments counts as an array."""
    if not isinstance(leaf, types):
        return False
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV" and leaf.dtype.names is None
    return True


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf of the arguments is differentiated."""
    try:
        return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))
    except (TypeError, ValueError):
        return False


def contains(jaxpr: jex.Jaxpr, primitive: str) -> bool:
    return any(
        primitive in eqn.primitive.name or any(contains(inner, primitive) for inner in jex.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )
