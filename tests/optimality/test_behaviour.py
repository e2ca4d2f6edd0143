"""What conditions do beyond one derivative: second order, transformations, large systems, failures, wrong use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import ETA, RIDGE, M, N, X, Y, least_squares, ridge

import implicitdiff as idf
from implicitdiff import optimality, projection, prox
from implicitdiff.projection import cones


@pytest.mark.parametrize("name", RIDGE)
def test_second_order(name):
    case = ridge(name)

    def value(attach):
        return lambda t: jnp.sum(attach(t) ** 3)

    x = case.solve(case.theta)
    got = jax.hessian(value(lambda t: case.attach(x, t)))(case.theta)
    np.testing.assert_allclose(got, jax.hessian(value(case.closed_form))(case.theta), rtol=1e-8)


def test_second_order_of_a_proximal_condition():
    T = optimality.proximal_gradient(lambda x, y: jnp.sum(jnp.cosh(X @ x - y)), prox.lasso, 0.01)
    theta = np.append(3.0, 0.3 * Y)
    solved = jax.jit(lambda t: jax.lax.fori_loop(0, 3000, lambda _, x: T(x, t[1:], t[0]), jnp.zeros(N)))
    x = solved(theta)
    assert 0 < np.sum(np.asarray(x) == 0) < N

    def loss(adjoint, t, x):
        return jnp.sum(jnp.sin(idf.implicit_fixed_point(T, x, t[1:], t[0], adjoint=adjoint)))

    direct, iterative = idf.Implicit(), idf.Implicit(linear_solver=idf.krylov.CG())
    gradient = lambda t: jax.grad(lambda t, x: loss(direct, t, x))(t, solved(t))
    d = np.random.default_rng(0).standard_normal(theta.shape)
    h = 1e-5
    expected = (gradient(theta + h * d) - gradient(theta - h * d)) / (2 * h)
    for adjoint in (direct, iterative):
        product = jax.jvp(jax.grad(lambda t, a=adjoint: loss(a, t, x)), [theta], [d])[1]
        np.testing.assert_allclose(product, expected, rtol=1e-6, atol=1e-6 * np.max(np.abs(expected)))


PROXIMAL = {
    "lasso": (prox.lasso, 3.0),
    "elastic net": (prox.elastic_net, (1.0, 4.0)),  # its Jacobian is no projector
    "simplex": (lambda v, t, s: projection.simplex(v, t), 2.0),
    "l2 ball": (lambda v, t, s: projection.l2_ball(v, t), 1.0),
    "group lasso": (lambda v, t, s: prox.group_lasso(v.reshape(-1, 2), t, s).reshape(-1), 4.0),
}


@pytest.mark.parametrize("name", PROXIMAL)
def test_symmetric_krylov_methods_solve_proximal_conditions(name):
    """A = I - M W is not symmetric: CG on A itself would fail."""
    operator, theta_g = PROXIMAL[name]
    T = optimality.proximal_gradient(least_squares, operator, ETA)
    x = jax.jit(lambda: jax.lax.fori_loop(0, 4000, lambda _, x: T(x, Y, theta_g), jnp.zeros(N)))()

    def products(linear_solver):
        adjoint = idf.Implicit(linear_solver=linear_solver, on_failure="raise" if linear_solver is None else "nan")
        solution = lambda y, t: idf.implicit_fixed_point(T, x, y, t, adjoint=adjoint)
        theta = (jnp.asarray(Y), jax.tree.map(jnp.asarray, theta_g))
        pull = jax.vjp(solution, *theta)[1]
        push = jax.jvp(
            solution, theta, jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size) + 1.0).reshape(a.shape), theta)
        )
        return push[1], pull(jnp.sin(jnp.arange(N) + 1.0))

    expected = products(None)
    assert np.linalg.norm(expected[0]) > 1e-2
    for solver in (idf.krylov.CG(), idf.krylov.MINRES()):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), products(solver), expected)


def test_a_large_lasso_without_a_matrix():
    m, n = 200, 20_000
    random = np.random.default_rng(0)
    A = jnp.asarray(random.standard_normal((m, n)) / np.sqrt(m))
    y = A[:, :20] @ jnp.ones(20)
    T = optimality.proximal_gradient(lambda x, y: 0.5 * jnp.sum((A @ x - y) ** 2), prox.lasso, 0.01)
    iterate = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda _, x: T(x, y, 0.3), x))
    x = iterate(jnp.zeros(n))
    S = np.flatnonzero(np.asarray(x))
    assert 5 < S.size < 150
    got = jax.jvp(lambda w: idf.implicit_fixed_point(T, x, y, w), [0.3], [1.0])[1]
    G = np.asarray(A)[:, S]
    np.testing.assert_allclose(got[S], -np.linalg.solve(G.T @ G, np.sign(x[S])), rtol=1e-8)
    assert np.count_nonzero(got) == S.size


def test_float32_and_vmap_under_jit():
    T = optimality.projected_gradient(least_squares, projection.simplex, np.float32(ETA))
    y = jnp.asarray(Y, jnp.float32)
    step = jax.jit(lambda x, s: T(x, y, s))

    def solution(scale):
        x = jax.lax.fori_loop(0, 2000, lambda _, x: step(x, scale), jnp.full(N, scale / N))
        return idf.implicit_fixed_point(T, x, y, scale)

    scales = jnp.array([0.5, 1.0, 2.0], jnp.float32)
    got = jax.jit(jax.vmap(jax.jacfwd(solution)))(scales)
    assert got.dtype == jnp.float32
    h = 1e-2
    expected = np.stack([(solution(s + h) - solution(s - h)) / (2 * h) for s in scales])
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_natural_complementarity_is_regular_where_the_product_is_not():
    # min 1/2 |z - c|^2 subject to z <= b, at c = b: the constraint just touches.
    f, ineq = lambda z, c: 0.5 * jnp.sum((z - c) ** 2), lambda z, b: z - b
    c = b = jnp.ones(1)
    unknown = (jnp.ones(1), None, jnp.zeros(1))
    solution = lambda form: (
        lambda c: idf.implicit_root(optimality.kkt(f, ineq=ineq, complementarity=form), unknown, c, None, b)[0]
    )
    np.testing.assert_allclose(jax.jacobian(solution("natural"))(c), [[1.0]])  # taken as inactive
    assert np.isnan(jax.jacobian(solution("product"))(c)).all()


def test_kkt_knows_its_symmetry():
    f, eq, ineq = (lambda z, t: jnp.sum(z**2)), (lambda z, t: z[:1]), (lambda z, t: z)
    assert optimality.kkt(f, eq).symmetric
    assert optimality.kkt(f, eq, ineq, "natural").symmetric
    assert optimality.kkt(f, eq, ineq).symmetric is None
    assert optimality.quadratic_program("natural").symmetric

    # and it is symmetric, where constraints are active and where they are not
    F = optimality.quadratic_program("natural")
    random = np.random.default_rng(0)
    theta = (
        (X.T @ X, np.ones(N)),
        (random.standard_normal((2, N)), np.ones(2)),
        (random.standard_normal((3, N)), np.ones(3)),
    )
    flat = lambda u: jnp.concatenate(F((u[:N], u[N : N + 2], u[N + 2 :]), *theta))
    J = jax.jacobian(flat)(np.concatenate([np.zeros(N + 2), [1.0, 0.0, 2.0]]))
    np.testing.assert_allclose(J, J.T, atol=1e-12)


def test_one_step_is_exact_for_newton():
    f = lambda x, t: jnp.sum(jnp.cosh(x) - t * x)
    T = optimality.newton_minimum(f, positive_definite=True)
    t = jnp.array([0.5, -1.0])
    x = jnp.arcsinh(t)
    got = jax.jacobian(lambda t: idf.implicit_fixed_point(T, x, t, adjoint=idf.OneStep()))(t)
    np.testing.assert_allclose(got, np.diag(1 / np.sqrt(1 + t**2)), atol=1e-12)


def test_frank_wolfe_moves_with_its_vertices():
    # The nearest point of the segment between two vertices, by the closed form.
    b = jnp.array([0.2, 1.0, 0.3])
    V = jnp.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.2]]).T

    def closed(V, b):
        d = V[:, 0] - V[:, 1]
        return V[:, 1] + d * (d @ (b - V[:, 1])) / (d @ d)

    T = optimality.frank_wolfe(lambda z, b: 0.5 * jnp.sum((z - b) ** 2), 0.3)

    def attached(V, b):
        d = V[:, 0] - V[:, 1]
        s = d @ (b - V[:, 1]) / (d @ d)
        return V @ idf.implicit_fixed_point(T, jnp.stack([s, 1 - s]), b, V)

    got, expected = (jax.jacobian(g, argnums=(0, 1))(V, b) for g in (attached, closed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, expected)


def test_blocks_are_leaves_or_rows():
    f_leaves = lambda x, y: (
        0.5 * jnp.sum((x["a"] - y[:2]) ** 2) + jnp.sum((x["b"] - y[2:]) ** 2) + x["a"][0] * x["b"][1]
    )
    T = optimality.block_proximal_gradient(
        f_leaves, [prox.lasso, prox.from_projection(projection.simplex)], dict(a=0.5, b=0.2)
    )
    y = jnp.array([2.0, 0.3, 0.5, 0.9])
    zero = dict(a=jnp.zeros(2), b=jnp.zeros(2))
    solved = jax.jit(lambda y: jax.lax.fori_loop(0, 500, lambda _, x: T(x, y, [0.5, 1.0]), zero))
    x = solved(y)
    got = jax.jacobian(lambda y: idf.implicit_fixed_point(T, x, y, [0.5, 1.0]))(y)
    h = 1e-6
    for k in range(4):
        ends = solved(y.at[k].add(-h)), solved(y.at[k].add(h))
        jax.tree.map(
            lambda low, high, J: np.testing.assert_allclose(J[:, k], (high - low) / (2 * h), atol=1e-7), *ends, got
        )

    rows = optimality.block_proximal_gradient(
        lambda x, t: 0.5 * jnp.sum((x - t) ** 2), [prox.lasso, prox.ridge], jnp.array([[0.5], [1.0]])
    )
    np.testing.assert_allclose(
        rows(jnp.ones((2, 2)), jnp.full((2, 2), 3.0), [1.0, 2.0]), [[1.5, 1.5], [1.0, 1.0]], rtol=1e-12
    )
    with pytest.raises(ValueError, match="one prox"):
        optimality.block_proximal_gradient(lambda x, t: jnp.sum((x - t) ** 2), [prox.lasso] * 2)(jnp.ones((3, 2)), 0.0)


CONIC = {
    "second order": ([cones.Zero(1), cones.SecondOrder(4)], 0),
    "semidefinite": ([cones.Zero(1), cones.PositiveSemidefinite(3)], 1),
    "exponential": ([cones.NonNegative(1), cones.Exponential(), cones.Exponential()], 2),
    "power": ([cones.NonNegative(1), cones.Power(0.3)], 3),
}


def conic_program(cones_, seed):
    """A program with a solution, not at the apex of a cone: b and q from a point and a multiplier in the interior."""
    random = np.random.default_rng(seed)
    m, n = sum(c.size for c in cones_), 3
    A = random.standard_normal((m, n))
    inner = [dict(Zero=0.0, NonNegative=1.0).get(type(c).__name__) for c in cones_]
    point = {
        "SecondOrder": [2.0, 0.3, 0.2, 0.1],
        "PositiveSemidefinite": [1.0, 0.1, 1.0, 0.2, 0.1, 1.0],
        "Exponential": [0.1, 1.0, 2.0],
        "Power": [1.0, 1.0, 0.2],
    }
    dual = point | {"Exponential": [-1.0, 0.5, 1.5], "Power": [1.0, 1.0, 0.2]}
    s = np.concatenate(
        [np.full(c.size, i) if i is not None else point[type(c).__name__] for c, i in zip(cones_, inner, strict=True)]
    )
    z = np.concatenate(
        [np.full(c.size, 1.0) if i is not None else dual[type(c).__name__] for c, i in zip(cones_, inner, strict=True)]
    )
    return A, A @ np.ones(n) + s, -A.T @ z


def clarabel_solution(cones_, P, q, A, b):
    import clarabel
    from scipy import sparse

    native = {
        "Zero": lambda c: clarabel.ZeroConeT(c.n),
        "NonNegative": lambda c: clarabel.NonnegativeConeT(c.n),
        "SecondOrder": lambda c: clarabel.SecondOrderConeT(c.n),
        "PositiveSemidefinite": lambda c: clarabel.PSDTriangleConeT(c.n),
        "Exponential": lambda c: clarabel.ExponentialConeT(),
        "Power": lambda c: clarabel.PowerConeT(c.alpha),
    }
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    settings.tol_ktratio = 1e-12
    settings.max_iter = 300
    found = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(P)),
        q,
        sparse.csc_matrix(A),
        b,
        [native[type(c).__name__](c) for c in cones_],
        settings,
    ).solve()
    return np.array(found.x), np.array(found.z), np.array(found.s)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("second order", "conic_normal_map"),
        ("power", "conic_residual"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("second order", "conic_residual"),
                ("power", "conic_normal_map"),
                ("semidefinite", "conic_normal_map"),
                ("semidefinite", "conic_residual"),
                ("exponential", "conic_normal_map"),
                ("exponential", "conic_residual"),
            ]
        ),
    ],
)
def test_conic_programs(name, form):
    cones_, seed = CONIC[name]
    A, b, q = conic_program(cones_, seed)
    n = q.size
    quadratic = form == "conic_normal_map"
    P = 0.3 * np.eye(n) if quadratic else np.zeros((n, n))
    F = getattr(optimality, form)(cones_)
    x, z, s = clarabel_solution(cones_, P, q, A, b)

    def attached(q, A, b):
        if quadratic:
            return idf.implicit_root(F, (x, z - s), P, q, A, b, adjoint=idf.Implicit(polish=2))[0]
        return idf.implicit_root(F, (x, z - s, np.ones(())), q, A, b, adjoint=idf.Implicit(polish=2))[0]

    residual = F((x, z - s), P, q, A, b) if quadratic else F((x, z - s, np.ones(())), q, A, b)
    assert max(np.max(np.abs(r)) for r in residual) < 1e-4
    random = np.random.default_rng(1)
    d = [random.standard_normal(a.shape) for a in (q, A, b)]
    h = 5e-3  # Clarabel is precise to 1e-7 on curved cones
    ends = [
        clarabel_solution(cones_, P, *(t + k * h * t_dot for t, t_dot in zip((q, A, b), d, strict=True)))[0]
        for k in (-2, -1, 1, 2)
    ]
    expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    assert np.linalg.norm(expected) > 1e-2
    got = jax.jvp(attached, (q, A, b), tuple(d))[1]
    np.testing.assert_allclose(got, expected, rtol=3e-4, atol=3e-4 * np.max(np.abs(expected)))
    pulled = jax.vjp(attached, q, A, b)[1](jnp.arange(1.0, n + 1))
    dotted = sum(np.sum(np.asarray(g) * t) for g, t in zip(pulled, d, strict=True))
    np.testing.assert_allclose(dotted, np.arange(1.0, n + 1) @ got, rtol=1e-8)


def test_the_embedding_without_its_last_row_would_be_singular():
    cones_ = [cones.NonNegative(M)]
    F = optimality.conic_residual(cones_)
    random = np.random.default_rng(0)
    A, v = random.standard_normal((M, N)), random.standard_normal(M)
    z, s = np.maximum(v, 0), np.maximum(-v, 0)
    x = random.standard_normal(N)
    b, q = A @ x + s, -A.T @ z
    flat = lambda u: jnp.concatenate([jnp.ravel(r) for r in F((u[:N], u[N:-1], u[-1]), q, A, b)])
    u = np.concatenate([x, v, [1.0]])
    np.testing.assert_allclose(flat(u), 0, atol=1e-9)
    J = jax.jacobian(flat)(u)
    assert np.linalg.norm(J @ u) > 0.5  # the direction along which all multiples of a root are roots
    J_paper = J.at[-1, -1].add(-1.0)
    np.testing.assert_allclose(J_paper @ u, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: optimality.kkt(jnp.sum, complementarity="fischer"), ValueError, "complementarity"),
        (lambda: optimality.kkt(lambda z, _: jnp.sum(z**2))((1.0, None, jnp.ones(2))), TypeError, "multipliers"),
        (
            lambda: optimality.conic_normal_map([cones.NonNegative(3)])(
                (jnp.ones(2), jnp.ones(2)), None, jnp.ones(2), jnp.ones((2, 2)), jnp.ones(2)
            ),
            ValueError,
            "length 3",
        ),
        (
            lambda: idf.implicit_fixed_point(
                optimality.projected_gradient(lambda x, _: jnp.sum(x**2), lambda v, _: v[:1]), jnp.ones(2), None
            ),
            TypeError,
            "one equation for each unknown",
        ),
        (
            lambda: idf.implicit_fixed_point(
                optimality.proximal_gradient(lambda x, _: x**2, prox.lasso), jnp.ones(2), None
            ),
            TypeError,
            "scalar",
        ),
    ],
)
def test_wrong_use(build, error, match):
    with pytest.raises(error, match=match):
        build()
