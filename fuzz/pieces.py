"""What random programs are made of: smooth maps of vectors of four entries, some hundred, each around one operation.

A piece is a function of v, the same in float32 and float64. Where the operation is one whose derivative may go wrong (a
loop, a custom rule, a nested solution), a second function computes the same by other means, and derivatives are those
of the latter. Arguments are brought into the domain of an operation by tanh or 1 + v^2, and no operation is near a kink
but by chance.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from . import nested

M = 4


@dataclasses.dataclass(frozen=True)
class Piece:
    """A map of vectors.

    Attributes:
        name: what it is called in reports.
        f: the map itself.
        reference: the same map by other means.
        modes: "both", or the one mode, "reverse" or "forward", that its code has.
    """

    name: str
    f: Callable
    reference: Callable
    modes: str = "both"


def bounded(v):
    return 0.5 * jnp.tanh(v)


def turned(v):
    return jnp.roll(v, 1)


def square(v):
    """A matrix of two rows, near the identity."""
    return jnp.eye(2, dtype=v.dtype) + 0.3 * jnp.tanh(v).reshape(2, 2)


def symmetric(v):
    """A symmetric matrix with two different, positive eigenvalues."""
    return jnp.diag(jnp.array([1, 2], v.dtype)) + 0.2 * (square(v) + square(v).T)


def spread(s, v):
    """A vector from a scalar."""
    return s * jnp.cos(v)


def constant(v, *values):
    return jnp.asarray(np.array(values), v.dtype)


ELEMENTWISE = {
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": lambda v: jnp.tan(bounded(v)),
    "tanh": jnp.tanh,
    "exp": lambda v: jnp.exp(bounded(v)),
    "exp2": lambda v: jnp.exp2(bounded(v)),
    "log": lambda v: jnp.log(1 + v**2),
    "log1p": lambda v: jnp.log1p(jnp.exp(bounded(v))),
    "expm1": lambda v: jnp.expm1(bounded(v)),
    "sqrt": lambda v: jnp.sqrt(1 + v**2),
    "rsqrt": lambda v: lax.rsqrt(1 + v**2),
    "cbrt": lambda v: jnp.cbrt(2 + bounded(v)),
    "logistic": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "erf": special.erf,
    "erfc": special.erfc,
    "erf_inv": lambda v: special.erfinv(bounded(v)),
    "lgamma": lambda v: special.gammaln(2 + bounded(v)),
    "digamma": lambda v: special.digamma(2 + bounded(v)),
    "sinh": lambda v: jnp.sinh(bounded(v)),
    "cosh": lambda v: jnp.cosh(bounded(v)),
    "asinh": jnp.arcsinh,
    "acosh": lambda v: jnp.arccosh(2 + bounded(v)),
    "atan": jnp.arctan,
    "atan2": lambda v: jnp.arctan2(v, 2 + jnp.cos(turned(v))),
    "asin": lambda v: jnp.arcsin(bounded(v)),
    "acos": lambda v: jnp.arccos(bounded(v)),
    "atanh": lambda v: jnp.arctanh(bounded(v)),
    "pow": lambda v: (1 + v**2) ** (0.5 + bounded(turned(v))),
    "integer_pow": lambda v: bounded(v) ** 3,
    "square": lambda v: jnp.square(bounded(v)),
    "div": lambda v: v / (2 + turned(v) ** 2),
    "mul": lambda v: bounded(v) * turned(v),
    "abs": lambda v: jnp.abs(v - 0.1234),
    "sign": lambda v: jnp.sign(v) * jnp.sin(v),
    "max": lambda v: jnp.maximum(v, 0.5 * turned(v)),
    "min": lambda v: jnp.minimum(v, 0.5 * turned(v)),
    "clamp": lambda v: jnp.clip(v, -0.71, 0.73) + 0.3 * v,
    "select": lambda v: jnp.where(v > 0.0371, jnp.sin(v), 0.5 * v),
    "floor": lambda v: jnp.floor(3 * v + 0.123) * jnp.sin(v),
    "rem": lambda v: jnp.remainder(v + 0.0123, 0.7),
    "logaddexp": lambda v: jnp.logaddexp(v, turned(v)),
    "hypot": lambda v: jnp.hypot(v, 1 + turned(v) ** 2),
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
    "bessel": lambda v: special.i0e(1 + bounded(v)),
    "complex exp": lambda v: jnp.real(jnp.exp(1j * v)),
    "complex abs": lambda v: jnp.abs(lax.complex(v, 1 + turned(v) ** 2)),
    "stop_gradient": lambda v: bounded(v) + 0.1 * lax.stop_gradient(jnp.sin(v)),
}

REDUCTIONS = {
    "sum": lambda v: spread(0.3 * jnp.sum(v), v),
    "prod": lambda v: spread(jnp.prod(1 + bounded(v)), v),
    "reduce_max": lambda v: spread(jnp.max(v), v),
    "reduce_min": lambda v: spread(jnp.min(v), v),
    "logsumexp": lambda v: spread(special.logsumexp(v), v),
    "softmax": jax.nn.softmax,
    "variance": lambda v: spread(jnp.var(v), v),
    "norm": lambda v: v / (1 + jnp.linalg.norm(v)),
    "argmax": lambda v: spread(v[jnp.argmax(v)], turned(v)),
    "cumsum": lambda v: 0.5 * jnp.cumsum(v),
    "cumsum reversed": lambda v: 0.5 * lax.cumsum(v, reverse=True),
    "cumprod": lambda v: jnp.cumprod(1 + bounded(v)),
    "cumlogsumexp": lax.cumlogsumexp,
    "cummax": lambda v: lax.cummax(v) + 0.3 * v,
    "associative_scan": lambda v: lax.associative_scan(jnp.multiply, 1 + bounded(v)),
    "reduce_window": lambda v: lax.reduce_window(jnp.sin(v), np.zeros((), v.dtype), lax.add, (2,), (1,), "SAME"),
}

STRUCTURE = {
    "rev": lambda v: jnp.sin(v[::-1]),
    "pad": lambda v: jnp.sin(lax.pad(v[1:3], jnp.zeros((), v.dtype), [(1, 0, 1)])) + 0.4 * v,
    "concatenate": lambda v: jnp.concatenate([jnp.cos(v[2:]), v[:2]]),
    "transpose": lambda v: jnp.sin(v).reshape(2, 2).T.reshape(-1),
    "dynamic_slice": lambda v: lax.dynamic_slice(jnp.concatenate([v, jnp.sin(v)]), (jnp.argmax(v),), (M,)),
    "dynamic_update_slice": lambda v: lax.dynamic_update_slice(v, jnp.sin(v[:2]), (jnp.argmin(v[:3]),)),
    "gather": lambda v: jnp.sin(v)[jnp.array([2, 0, 2, 1])] + 0.3 * v,
    "scatter add": lambda v: (0.5 * v).at[jnp.array([0, 3, 0])].add(jnp.sin(v[:3])),
    "scatter set": lambda v: v.at[jnp.array([1, 2])].set(jnp.cos(v[2:])),
    "scatter mul": lambda v: v.at[jnp.array([1, 3])].mul(1 + bounded(v[:2]), unique_indices=True),
    "scatter max": lambda v: v.at[1].max(0.9 * v[0]),
    "sort": lambda v: jnp.sort(jnp.sin(v)) + 0.3 * v,
    "argsort": lambda v: jnp.cos(v)[jnp.argsort(v)] + 0.3 * v,
    "top_k": lambda v: jnp.concatenate([lax.top_k(v, 2)[0], jnp.sin(v[:2])]),
    "one_hot": lambda v: jax.nn.one_hot(jnp.array([1, 0, 3, 2]), M, dtype=v.dtype) @ jnp.sin(v),
    "take_along_axis": lambda v: jnp.take_along_axis(jnp.sin(v), jnp.argsort(-v), 0) + 0.3 * v,
    "interp": lambda v: jnp.interp(bounded(v), constant(v, -1, -0.2, 0.3, 1), jnp.sin(turned(v))),
    "random": lambda v: bounded(v) * jax.random.normal(jax.random.key(3), (M,), v.dtype),
    "broadcast": lambda v: jnp.mean(jnp.broadcast_to(v, (3, M)) * jnp.sin(v[:3, None]), axis=0),
}

LINEAR_ALGEBRA = {
    "matmul": lambda v: (square(v) @ square(turned(v))).reshape(-1),
    "einsum": lambda v: 0.3 * jnp.einsum("ij,kj,k->ij", square(v), square(turned(v)), v[:2]).reshape(-1),
    "outer": lambda v: jnp.outer(v, bounded(v)).sum(0),
    "solve": lambda v: jnp.linalg.solve(square(v), v.reshape(2, 2)).reshape(-1),
    "inverse": lambda v: jnp.linalg.inv(square(v)).reshape(-1),
    "cholesky": lambda v: jnp.linalg.cholesky(symmetric(v)).reshape(-1) + 0.3 * v,
    "triangular_solve": lambda v: lax.linalg.triangular_solve(
        square(v), v.reshape(2, 2), left_side=True, lower=True
    ).reshape(-1),
    "qr": lambda v: jnp.abs(jnp.linalg.qr(square(v))[1]).reshape(-1) + 0.3 * v,
    "eigh": lambda v: jnp.concatenate([jnp.linalg.eigvalsh(symmetric(v)), jnp.sin(v[:2])]),
    "eigenvectors": lambda v: (jnp.linalg.eigh(symmetric(v))[1] ** 2).reshape(-1) + 0.3 * v,
    "svd": lambda v: jnp.concatenate([jnp.linalg.svd(symmetric(v), compute_uv=False), jnp.sin(v[:2])]),
    "slogdet": lambda v: spread(jnp.linalg.slogdet(square(v))[1], v),
    "det": lambda v: spread(jnp.linalg.det(square(v)), v),
    "expm": lambda v: 0.3 * jax.scipy.linalg.expm(square(v)).reshape(-1),
    "matrix_power": lambda v: jnp.linalg.matrix_power(0.6 * square(v), 3).reshape(-1),
    "kron": lambda v: 0.5 * jnp.kron(square(v), square(turned(v)))[0],
    "convolve": lambda v: jnp.convolve(jnp.sin(v), constant(v, 0.5, -0.4, 0.3), mode="same"),
    "conv": lambda v: lax.conv_general_dilated(
        jnp.sin(v)[None, None], jnp.stack([v[:3], v[1:]])[:, None], (1,), "SAME"
    ).mean((0, 1)),
    "fft": lambda v: 0.5 * jnp.real(jnp.fft.fft(v) * constant(v, 1.0, 0.5, -0.3, 0.2)),
    "rfft": lambda v: jnp.fft.irfft(jnp.fft.rfft(jnp.sin(v)) * constant(v, 1.0, 0.5, 0.7), M),
    "dct": lambda v: 0.3 * jax.scipy.fft.dct(v),
}


def stepped(v):
    """Three steps of a map, unrolled."""
    for i in range(3):
        v = v + 0.2 * jnp.sin(v + 0.3 * i)
    return v


def halved(v):
    """Steps that stop where the vector has become short."""
    for _ in range(20):
        v = jnp.where(jnp.sum(v**2) > 0.5, 0.7 * jnp.sin(v), v)
    return v


def _step(i, v):
    return v + 0.2 * jnp.sin(v + 0.3 * i)


def _branch(v):
    return lax.cond(v[0] > 0.0371, jnp.sin, lambda v: 0.5 * jnp.cos(v), v)


def _closed_over(v):
    w = jnp.cos(v)
    return jax.jit(lambda u: u * w)(v)


LOOPS = {
    "scan": (lambda v: lax.scan(lambda v, i: (_step(i, v), None), v, jnp.arange(3))[0], stepped),
    "scan of outputs": (
        lambda v: lax.scan(lambda s, a: (s + 0.2 * jnp.sin(a), s * a), jnp.ones((), v.dtype), v)[1],
        lambda v: v * (1 + jnp.concatenate([jnp.zeros(1, v.dtype), jnp.cumsum(0.2 * jnp.sin(v))[:-1]])),
    ),
    "fori_loop": (lambda v: lax.fori_loop(0, 3, _step, v), stepped),
    "map": (lambda v: lax.map(lambda a: jnp.sin(a) * v[1], v), lambda v: jnp.sin(v) * v[1]),
    "vmap": (lambda v: jax.vmap(lambda a: jnp.sum(jnp.sin(a * v)))(v), lambda v: jnp.sin(jnp.outer(v, v)).sum(1)),
    "cond": (_branch, lambda v: jnp.where(v[0] > 0.0371, jnp.sin(v), 0.5 * jnp.cos(v))),
    "switch": (
        lambda v: lax.switch(jnp.argmax(v[:3]), [jnp.sin, jnp.cos, jnp.tanh], v),
        lambda v: jnp.stack([jnp.sin(v), jnp.cos(v), jnp.tanh(v)])[jnp.argmax(v[:3])],
    ),
    "jit": (jax.jit(stepped), stepped),
    "jit that closes over": (_closed_over, lambda v: v * jnp.cos(v)),
    "checkpoint": (jax.checkpoint(stepped), stepped),
    "checkpoint of scan": (
        jax.checkpoint(lambda v: lax.scan(lambda v, i: (_step(i, v), None), v, jnp.arange(3))[0]),
        stepped,
    ),
    "grad": (jax.grad(lambda v: jnp.sum(jnp.log(jnp.cosh(v)))), jnp.tanh),
    "jvp": (lambda v: jax.jvp(jnp.sin, (v,), (turned(v),))[1], lambda v: jnp.cos(v) * turned(v)),
    "optimization_barrier": (lambda v: lax.optimization_barrier(jnp.sin(v)), jnp.sin),
}


@jax.custom_jvp
def _softplus(v):
    return jnp.log1p(jnp.exp(v))


_softplus.defjvps(lambda t, out, v: t / (1 + jnp.exp(-v)))


@jax.custom_vjp
def _arcsinh(v):
    return jnp.arcsinh(v)


_arcsinh.defvjp(lambda v: (jnp.arcsinh(v), v), lambda v, w: (w / jnp.sqrt(1 + v**2),))


def _linear_solve(v):
    A = square(v)
    return jnp.concatenate(
        [
            lax.custom_linear_solve(
                lambda u: A @ u,
                v[:2],
                lambda _, b: jnp.linalg.solve(A, b),
                transpose_solve=lambda _, b: jnp.linalg.solve(A.T, b),
            ),
            jnp.sin(v[2:]),
        ]
    )


RULES = {
    "custom_jvp": (_softplus, jax.nn.softplus),
    "custom_linear_solve": (
        _linear_solve,
        lambda v: jnp.concatenate([jnp.linalg.inv(square(v)) @ v[:2], jnp.sin(v[2:])]),
    ),
    "callback": (
        lambda v: bounded(v) + 0.1 * nested.on_host(np.cos, lax.stop_gradient(v)),
        lambda v: bounded(v) + 0.1 * lax.stop_gradient(jnp.cos(v)),
    ),
}

PIECES = [Piece(n, f, f) for table in (ELEMENTWISE, REDUCTIONS, STRUCTURE, LINEAR_ALGEBRA) for n, f in table.items()]
PIECES += [Piece(n, *pair) for table in (LOOPS, RULES, nested.PIECES) for n, pair in table.items()]
PIECES += [
    Piece("custom_vjp", _arcsinh, jnp.arcsinh, "reverse"),
    Piece(
        "while_loop",
        lambda v: lax.while_loop(lambda v: jnp.sum(v**2) > 0.5, lambda v: 0.7 * jnp.sin(v), v),
        halved,
        "forward",
    ),
]
