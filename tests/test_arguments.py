"""What may stand among the arguments of a solver, and what comes back beside the solution."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicitdiff as idf


def condition(x, scale, shift, **options):
    """x = scale * shift, with whatever else is passed along."""
    return x - scale * shift


def make(F=condition, **settings):
    @idf.custom_root(F, **settings)
    def solver(init, scale, shift, **options):
        assert not isinstance(scale, jax.core.Tracer)
        return np.asarray(scale) * np.asarray(shift)

    return solver


SHIFT = jnp.array([1.0, 2.0])


def test_several_arguments():
    gradients = jax.grad(lambda *args: jnp.sum(make()(None, *args)), argnums=(0, 1))(3.0, SHIFT)
    np.testing.assert_allclose(gradients[0], 3.0)
    np.testing.assert_allclose(gradients[1], [3.0, 3.0])


def test_keyword_arguments_are_differentiated():
    solver = make()
    gradient = jax.grad(lambda s: jnp.sum(solver(None, scale=s, shift=SHIFT)))(3.0)
    np.testing.assert_allclose(gradient, 3.0)
    gradient = jax.grad(lambda s: jnp.sum(solver(init=None, shift=SHIFT, scale=s)))(3.0)
    np.testing.assert_allclose(gradient, 3.0)


def test_keyword_only_arguments():
    def F(x, a, *, b):
        return x - a * b

    @idf.custom_root(F)
    def solver(init, a, *, b):
        return a * b

    np.testing.assert_allclose(jax.grad(lambda b: solver(None, 2.0, b=b))(5.0), 2.0)


def ridge(x, a, lam=0.1):
    """The root is a / (1 + lam), and its derivative in a 1 / (1 + lam)."""
    return x * (1 + lam) - a


def ridge_by_keyword(x, a, *, lam=0.1):
    return ridge(x, a, lam)


def solve_ridge(init, a, lam=0.5):
    return np.asarray(a) / (1 + np.asarray(lam))


def solve_ridge_by_keyword(init, a, *, lam=0.5):
    return solve_ridge(init, a, lam)


def forwarded(x, *args, **kwargs):
    return ridge(x, *args, **kwargs)


def solve_with_settings(init, a, lam=0.5, tol=1e-3, *, maxiter=10):
    return solve_ridge(init, a, lam)


TENTH, HALF = np.float64(0.1), np.array(0.5)
CONDITIONS = {
    "by place": ridge,
    "keyword-only": ridge_by_keyword,
    "forwarded": forwarded,
    "partial": functools.partial(ridge, lam=0.3),
    "compiled": jax.jit(ridge),
    "without a default": lambda x, a, lam: ridge(x, a, lam),
    "an array as default": lambda x, a, lam=TENTH: ridge(x, a, lam),
    "another name": lambda x, a, l2: ridge(x, a, l2),
}
SOLVERS = {
    "by place": solve_ridge,
    "keyword-only": solve_ridge_by_keyword,
    "partial": functools.partial(solve_ridge, lam=0.5),
    "partial of partial": functools.partial(functools.partial(solve_ridge_by_keyword, lam=0.7), lam=0.5),
    "an array as default": lambda init, a, lam=HALF: solve_ridge(init, a, lam),
    "settings that F does not take": solve_with_settings,
    "a callable object": type("Solver", (), {"__call__": lambda self, init, a, lam=0.5: solve_ridge(init, a, lam)})(),
    "a compiled function": jax.jit(lambda init, a, lam=0.5: a / (1 + lam)),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("F", CONDITIONS)
def test_F_gets_the_defaults_of_the_solver(F, solver):
    """The derivative is that of what was solved, whichever side takes lam how."""
    keyword = "keyword" in solver or "partial" in solver
    if F == "another name" and keyword:
        pytest.skip("a keyword needs its name")
    if F == "forwarded" and "settings" in solver:
        pytest.skip("it is forwarded to a function that does not take the settings")
    for make in (idf.custom_root(CONDITIONS[F]), idf.custom_fixed_point(fixed_point_of(CONDITIONS[F]))):
        decorated = make(SOLVERS[solver])
        np.testing.assert_allclose(jax.grad(decorated, argnums=1)(None, 2.0), 1 / 1.5)
        np.testing.assert_allclose(jax.grad(lambda a: decorated(None, a, lam=1.0))(2.0), 0.5)
        np.testing.assert_allclose(jax.grad(lambda lam: decorated(None, a=2.0, lam=lam))(1.0), -0.5)
        if not keyword:
            np.testing.assert_allclose(jax.grad(decorated, argnums=2)(None, 2.0, 1.0), -0.5)


def fixed_point_of(F):
    """x - F(x, ...) / 2, with the signature of F."""
    return functools.wraps(F)(lambda x, *args, **kwargs: x - 0.5 * F(x, *args, **kwargs))


def test_a_setting_that_F_does_not_take():
    """Left alone it is no argument of F; given, the solution may depend on it."""
    for F in (ridge, lambda x, a, lam=None: ridge(x, a, 0.5 if lam is None else lam)):
        decorated = idf.custom_root(F)(solve_with_settings)
        np.testing.assert_allclose(jax.grad(decorated, argnums=1)(None, 2.0), 1 / 1.5)
        with pytest.raises(TypeError, match=r"was given \['tol', 'maxiter'\], which the condition"):
            decorated(None, 2.0, tol=1e-6, maxiter=20)
    bound = idf.custom_root(ridge)(functools.partial(solve_with_settings, tol=1e-6, maxiter=20))
    np.testing.assert_allclose(jax.grad(bound, argnums=1)(None, 2.0), 1 / 1.5)
    # None is no argument at all: the tolerance is none, either.
    T = idf.optimality.projected_gradient(lambda x, t: 0.5 * (x - t) ** 2, lambda v, _: v, 0.5)
    decorated = idf.custom_fixed_point(T)(lambda init, t, tol=1e-3: np.asarray(t))
    np.testing.assert_allclose(jax.grad(decorated, argnums=1)(None, 2.0), 1.0)


def test_keyword_only_arguments_of_a_condition_in_two_parts():
    """Its parts take arguments by place."""
    T = idf.optimality.proximal_gradient(lambda x, t: 0.5 * (x - t) ** 2, lambda v, t, s: v / (1 + s * t), 0.5)

    @idf.custom_fixed_point(T)
    def solver(init, *, theta_f, theta_g=1.0):
        return np.asarray(theta_f) / (1 + np.asarray(theta_g))

    np.testing.assert_allclose(jax.grad(lambda t: solver(None, theta_f=t))(2.0), 0.5)
    np.testing.assert_allclose(jax.grad(lambda t: solver(None, theta_f=2.0, theta_g=t))(1.0), -0.5)


def test_a_starting_point_with_a_default():
    decorated = idf.custom_root(ridge)(lambda init=None, a=1.0, lam=0.5: solve_ridge(init, a, lam))
    np.testing.assert_allclose(jax.grad(lambda a: decorated(a=a))(2.0), 1 / 1.5)
    np.testing.assert_allclose(decorated(), 1 / 1.5)


def test_solvers_of_unknown_or_variable_arguments():
    def star(*args, **kwargs):
        return solve_ridge(*args, **kwargs)

    def star_and_default(*args, lam=0.5):
        return solve_ridge(*args, lam)

    for F in (ridge, ridge_by_keyword, forwarded):
        np.testing.assert_allclose(jax.grad(idf.custom_root(F)(star_and_default), argnums=1)(None, 2.0), 1 / 1.5)
    unknown = type("Unknown", (), {"__signature__": "none", "__call__": lambda self, *args: solve_ridge(*args)})()
    with pytest.raises((TypeError, ValueError)):  # Python 3.13 raises the latter
        inspect.signature(unknown)
    for solver in (star, unknown, lambda init, *args, **kwargs: solve_ridge(init, *args, **kwargs)):
        for F in (ridge, ridge_by_keyword, forwarded, unknown_signature(ridge)):
            decorated = idf.custom_root(F)(solver)
            if F is not ridge_by_keyword:
                np.testing.assert_allclose(jax.grad(decorated, argnums=1)(None, 2.0, 1.0), 0.5)
            if solver is not unknown:
                np.testing.assert_allclose(jax.grad(lambda lam: decorated(None, 2.0, lam=lam))(1.0), -0.5)
    with pytest.raises(TypeError, match="starting point"):
        idf.custom_root(ridge)(star)(a=1.0)


def unknown_signature(function):
    """A callable that `inspect` cannot look into."""
    call = lambda self, *args, **kwargs: function(*args, **kwargs)
    return type("Unknown", (), {"__signature__": "none", "__call__": call})()


EXTRAS = {
    "string": "newton",
    "function": jnp.sin,
    "none": None,
    "integer": 3,
    "boolean": True,
    "integer array": np.arange(3),
    "boolean array": np.array([True, False]),
    "key": jax.random.key(0),
    "old key": jax.random.PRNGKey(0),
    "python float": 0.5,
    "numpy scalar": np.float32(0.5),
    "numpy strings": np.array(["a", "b"]),
    "empty": np.zeros((0,)),
    "nested": {"a": [1, None, "x"], "b": (jnp.ones(2), jnp.sin)},
    "object": object(),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_anything_may_be_an_argument(extra):
    seen = []

    def F(x, scale, extra, shift):
        seen.append(extra)
        return x - scale * shift

    @idf.custom_root(F)
    def solver(init, scale, extra, shift):
        return jax.lax.stop_gradient(scale * shift)

    def loss(scale):
        return jnp.sum(solver(None, scale, EXTRAS[extra], SHIFT))

    np.testing.assert_allclose(jax.grad(loss)(3.0), 3.0)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(3.0), 3.0)
    np.testing.assert_allclose(jax.jvp(loss, (3.0,), (1.0,))[1], 3.0)
    if extra in ("string", "function", "none", "integer", "boolean", "object"):
        assert all(value is EXTRAS[extra] for value in seen)


def test_traced_integers_and_keys():
    """Labels, indices and keys that are themselves traced, as arguments and closed over."""

    def loss(theta, label, key, noise):
        def F(x, theta, label):
            return x - theta * label - jnp.where(jax.random.uniform(key) < 2, theta[0], 0) * noise[label]

        @idf.custom_root(F)
        def solver(init, theta, label):
            return jax.lax.stop_gradient(theta * label + theta[0] * noise[label])

        return jnp.sum(solver(None, theta, label))

    args = (SHIFT, jnp.array(2), jax.random.key(1), jnp.arange(5.0))
    for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(jax.jit(f))):
        np.testing.assert_allclose(transform(loss)(*args), [2 + 2 * 2, 2])
    labels = jnp.array([0, 1, 2])
    batched = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, None, None)))(SHIFT, labels, *args[2:])
    np.testing.assert_allclose(batched, [[3 * k, k] for k in range(3)])


def test_a_float_that_F_branches_on():
    def F(x, scale, weight):
        return x - scale * (2.0 if weight > 1 else 1.0)

    solver = idf.custom_root(F)(lambda init, scale, weight: scale * (2.0 if weight > 1 else 1.0))
    assert float(jax.grad(lambda s: solver(None, s, 3.0))(1.0)) == 2.0
    assert float(jax.grad(lambda s: solver(None, s, 0.5))(1.0)) == 1.0


def test_pytrees_of_unknowns_and_parameters():
    def F(x, theta):
        return {"a": x["a"] - theta[0] * x["b"][0], "b": (x["b"][0] - theta[1]["c"] ** 2,)}

    def solve(init, theta):
        b = theta[1]["c"] ** 2
        return jax.lax.stop_gradient({"a": theta[0] * b, "b": (b,)})

    theta = [jnp.array(2.0), {"c": jnp.array([1.0, 3.0])}]
    jac = jax.jit(jax.jacrev(idf.custom_root(F)(solve), argnums=1))(None, theta)
    np.testing.assert_allclose(jac["a"][0], [1.0, 9.0])
    np.testing.assert_allclose(jac["a"][1]["c"], np.diag([4.0, 12.0]))
    np.testing.assert_allclose(jac["b"][0][1]["c"], np.diag([2.0, 6.0]))


def test_the_derivative_in_init_is_zero():
    np.testing.assert_array_equal(jax.grad(lambda init: jnp.sum(make()(init, 3.0, SHIFT)))(jnp.ones(2)), 0)


def test_without_init():
    @idf.custom_root(condition, has_init=False)
    def solver(scale, shift):
        return scale * shift

    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(solver(s, SHIFT)))(3.0), 3.0)
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(solver(shift=SHIFT, scale=s)))(3.0), 3.0)


def solve_any(scale, shift):
    return np.asarray(scale) * np.asarray(shift)


def test_methods():
    class Model:
        factor = 2.0

        @idf.custom_root(condition)
        def solve(self, init, scale, shift):
            assert self.factor == 2.0
            return np.asarray(scale) * np.asarray(shift)

        @idf.custom_fixed_point(lambda x, scale: 0.5 * x + scale, has_init=False)
        def fixed(self, scale):
            return self.factor * np.asarray(scale)

        @staticmethod
        @idf.custom_root(condition)
        def static(init, scale, shift):
            return np.asarray(scale) * np.asarray(shift)

        @classmethod
        @idf.custom_root(condition)
        def of_class(cls, init, scale, shift):
            assert cls.factor == 2.0
            return np.asarray(scale) * np.asarray(shift)

        @idf.custom_root(condition)
        @staticmethod
        def inside(init, scale, shift):
            return np.asarray(scale) * np.asarray(shift)

        @idf.custom_root(condition)
        @classmethod
        def inside_of_class(cls, init, scale, shift):
            return cls.inside.solver(init, scale, shift)

        partial = idf.custom_root(condition)(functools.partial(lambda init, scale, shift: solve_any(scale, shift)))
        keyword = idf.custom_root(condition)(
            functools.partial(lambda init, scale, shift: solve_any(scale, shift), shift=SHIFT)
        )

    model = Model()
    solvers = [
        model.of_class,
        Model.of_class,
        model.inside,
        Model.inside,
        model.inside_of_class,
        Model.inside_of_class,
        model.partial,
        Model.partial,
        model.keyword,
        Model.static,
    ]
    for solver in solvers:
        np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(solver(None, s, shift=SHIFT)))(3.0), 3.0)
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(Model.solve(model, None, s, SHIFT)))(3.0), 3.0)
    assert list(inspect.signature(model.solve).parameters) == ["init", "scale", "shift"]
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(model.solve(None, s, SHIFT)))(3.0), 3.0)
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(model.static(None, s, SHIFT)))(3.0), 3.0)
    np.testing.assert_allclose(jax.grad(model.fixed)(3.0), 2.0)
    assert model.solve.__name__ == "solve"


AUX = {
    "float": np.ones(3),
    "integer": np.arange(3),
    "boolean": np.array(True),
    "string": "converged",
    "key": jax.random.key(0),
    "pytree": {"iterations": 7, "loss": jnp.ones(2), "none": None},
}


@pytest.mark.parametrize("aux", AUX)
def test_aux_of_any_dtype(aux):
    @idf.custom_root(condition, has_aux=True)
    def solver(init, scale, shift):
        return np.asarray(scale) * np.asarray(shift), AUX[aux]

    _, got = solver(None, 3.0, SHIFT)
    assert jax.tree.structure(got) == jax.tree.structure(AUX[aux])
    gradient, got = jax.grad(lambda s: (lambda x, a: (jnp.sum(x), a))(*solver(None, s, SHIFT)), has_aux=True)(3.0)
    np.testing.assert_allclose(gradient, 3.0)


def test_the_derivative_of_aux_is_zero():
    @idf.custom_root(condition, has_aux=True)
    def solver(init, scale, shift):
        return jax.lax.stop_gradient(scale * shift), scale**2

    for transform in (lambda f: f, jax.jit):
        gradient = transform(jax.grad(lambda s: solver(None, s, SHIFT)[1] + jnp.sum(solver(None, s, SHIFT)[0])))(3.0)
        np.testing.assert_allclose(gradient, 3.0)
    assert "derivative is zero" in idf.custom_root.__doc__


def test_no_unknowns_and_no_parameters():
    empty = idf.implicit_root(lambda x, a: x * a, jnp.zeros(0), 1.0)
    assert empty.shape == (0,)
    gradient = jax.grad(lambda a: jnp.sum(idf.implicit_root(lambda x, a: x * a, jnp.zeros(0), a)))(1.0)
    assert gradient == 0
    np.testing.assert_allclose(idf.implicit_root(lambda x: x - 1, np.ones(2)), 1)
    both = {"none": jnp.zeros(0), "one": jnp.array(2.0)}
    F = lambda x, a: {"none": x["none"], "one": x["one"] ** 2 - a}
    assert jax.grad(lambda a: idf.implicit_root(F, both, a)["one"])(4.0) == 0.25


@pytest.mark.parametrize("size", [2, 210])
def test_an_equation_without_the_parameter(size):
    """Only one of two equations depends on theta."""

    def F(x, theta):
        return {"a": x["a"] - 2 * x["b"], "b": x["b"] ** 2 - theta}

    def root(theta):
        x = jnp.sqrt(jax.lax.stop_gradient(theta))
        return idf.implicit_root(F, {"a": 2 * x, "b": x}, theta)["a"]

    theta = jnp.linspace(1.0, 4.0, size)
    expected = np.diag(1 / np.sqrt(theta))
    for transform in (jax.jacrev, jax.jacfwd, lambda f: jax.jit(jax.jacrev(f))):
        np.testing.assert_allclose(transform(root)(theta), expected, rtol=1e-12, atol=1e-14)
    if size == 2:
        curvature = jax.jit(jax.hessian(lambda t: jnp.sum(root(t))))(theta)
        np.testing.assert_allclose(curvature, np.diag(-0.5 * theta**-1.5), rtol=1e-11, atol=1e-12)
