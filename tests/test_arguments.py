"""What may stand among the arguments of a solver, and what comes back beside the solution."""

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

    model = Model()
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
