import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxnas import wiring
from jaxnas.connectivity import bound, dag, inputs

SEQUENTIAL, PARALLEL, MIXED = (wiring.from_code(c) for c in ("2_02_002", "1_01_222", "2_21_112"))
COSINES = (-1, -0.5, 0, 0.3, 0.5, 0.7, 0.9, 0.99)


def test_the_map_at_known_points():
    # h(1) = 1, h(-1) = 0, h(0) = 1 / pi; h'(1) = 1, h'(-1) = 0, h'(0) = 1 / 2
    np.testing.assert_allclose(bound.arc_cosine([1, -1, 0]), [1, 0, 1 / np.pi], atol=1e-6)
    np.testing.assert_allclose(bound.arc_cosine_derivative([1, -1, 0]), [1, 0, 0.5], atol=1e-6)
    slope = jax.vmap(jax.grad(bound.arc_cosine))(jnp.linspace(-0.9, 0.9, 7))
    np.testing.assert_allclose(
        slope, bound.arc_cosine_derivative(jnp.linspace(-0.9, 0.9, 7)), atol=1e-5
    )


@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.6])
def test_the_map_is_that_of_drawn_neurons(cosine):
    # 400,000 neurons: the error of a mean of relu(u) relu(v) is 1 / 400 at most.
    draws = np.random.default_rng(0).normal(size=(2, 400_000))
    first, second = draws[0], cosine * draws[0] + np.sqrt(1 - cosine**2) * draws[1]
    both = np.maximum(first, 0) * np.maximum(second, 0)
    np.testing.assert_allclose(bound.arc_cosine(cosine), 2 * both.mean(), atol=0.01)
    active = (first > 0) & (second > 0)
    np.testing.assert_allclose(bound.arc_cosine_derivative(cosine), 2 * active.mean(), atol=0.01)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (SEQUENTIAL, [0.5063, 0.4717, 0.3952, 0.3242, 0.2619, 0.1823, 0.0751, 0.0091]),
        (PARALLEL, [3.0, 2.6730, 2.0451, 1.5518, 1.1730, 0.7497, 0.2714, 0.0291]),
        (MIXED, [3.6366, 3.6416, 2.6942, 2.0222, 1.5232, 0.9738, 0.3550, 0.0385]),
    ],
)
def test_the_bound_of_the_worked_examples(result, expected):
    found = jax.vmap(lambda c: bound.published_bound(result, c))(jnp.array(COSINES))
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_the_published_order_holds_for_every_cosine():
    with jax.enable_x64(True):
        grid = jnp.linspace(-1, 0.9999, 4001)
        one, two, three = (
            jax.vmap(lambda c, each=each: bound.published_bound(each, c))(grid)
            for each in (SEQUENTIAL, PARALLEL, MIXED)
        )
        assert (one < two).all()
        assert (two < three).all()


def test_the_smallest_is_at_the_largest_cosine(digits_gram):
    gram = digits_gram(16)
    with jax.enable_x64(True):
        pairs = gram[np.triu_indices(16, 1)]
        assert inputs.largest_cosine(gram) == float(pairs.max())
        np.testing.assert_allclose(
            bound.published_bound(MIXED, pairs), bound.published_bound(MIXED, pairs.max())
        )


def test_the_published_rule_by_hand():
    # MIXED: K0 + f(K0) + f(2 f(K0)) = K0 + f + 2 f^2, with 4 on the diagonal.
    gram = jnp.array([[1, 0.5], [0.5, 1]])
    zeroth, first, second = (float(v) for v in bound.arc_cosine_powers(0.5, 2))
    off = zeroth + first + 2 * second
    kernel = bound.published_kernel(MIXED, gram)
    np.testing.assert_allclose(kernel, [[4, off], [off, 4]], rtol=1e-6)
    np.testing.assert_allclose(bound.smallest_minor(kernel), 4 - off, rtol=1e-5)


def test_it_is_no_upper_bound():
    """Paths of depth 0 and 1 meet before a ReLU, which is convex: for two inputs it must hold."""
    edges, cosine = wiring.from_code("2_12_002"), -0.9
    gram = jnp.array([[1, cosine], [cosine, 1]])
    smallest = float(bound.smallest_minor(bound.published_kernel(edges, gram)))
    published = float(bound.published_bound(edges, cosine))
    assert smallest == pytest.approx(1.625, abs=1e-3)
    assert published == pytest.approx(1.494, abs=1e-3)


def test_no_path_bounds_nothing():
    assert bound.published_bound(np.zeros(6, int), 0.5) == 0
    assert not bound.published_kernel(np.zeros(6, int), jnp.eye(2)).any()


def test_the_smallest_minor_bounds_the_smallest_eigenvalue():
    factor = np.random.default_rng(0).normal(size=(5, 5))
    gram = factor @ factor.T
    pairs = [
        np.linalg.eigvalsh(gram[np.ix_([i, j], [i, j])])[0] for i in range(5) for j in range(i)
    ]
    np.testing.assert_allclose(bound.smallest_minor(jnp.asarray(gram)), min(pairs), rtol=1e-3)
    assert np.linalg.eigvalsh(gram)[0] < min(pairs)


@pytest.mark.parametrize(
    ("count", "cosine", "overall"),
    [
        (16, 0.893, 0.74),
        pytest.param(64, 0.906, 0.44, marks=pytest.mark.slow),
        pytest.param(128, 0.944, 0.35, marks=pytest.mark.slow),
    ],
)
def test_the_sign_is_wrong_at_a_fixed_number_of_paths(
    digits_gram, live_wirings, count, cosine, overall
):
    gram = digits_gram(count)
    largest = inputs.largest_cosine(gram)
    assert largest == pytest.approx(cosine, abs=5e-4)
    found = dag.statistics(live_wirings)
    with jax.enable_x64(True):
        bounds = np.asarray(jax.vmap(lambda one: bound.published_bound(one, largest))(live_wirings))
        kernels = jax.jit(
            lambda many: jax.lax.map(
                lambda one: bound.published_kernel(one, jnp.asarray(gram)), many
            )
        )(live_wirings)
        smallest = np.linalg.eigvalsh(np.asarray(kernels))[:, 0]
    deep = found.linear_edges > 0
    assert spearmanr(bounds[deep], smallest[deep])[0] == pytest.approx(overall, abs=0.01)
    assert (bounds >= smallest - 1e-9)[deep].all()  # loose enough to hold on data
    for paths in (1, 2, 3, 4):
        same = deep & (found.paths == paths)
        assert spearmanr(bounds[same], smallest[same])[0] < -0.9


def test_the_theorem_by_hand():
    # size = N P = 20, H = 3: 0.5 / 400 x 8 = 0.01 as printed, / 8 = 0.00015625 by its source.
    found = bound.convergence_theorem(0.5, samples=10, paths=2, nodes=4, published=True)
    assert found.learning_rate == pytest.approx(0.01)
    assert found.factor == pytest.approx(1 - 0.01 * 0.5 / 2)
    assert found.width == pytest.approx(40**4)  # beside 20 * 3 / 0.01 and 1600 log(3000) 8
    corrected = bound.convergence_theorem(0.5, samples=10, paths=2, nodes=4)
    assert corrected.learning_rate == pytest.approx(0.00015625)
    assert bound.convergence_theorem(
        0.5, samples=10, paths=2, nodes=4, learning_rate=0.4
    ).factor == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("eigenvalue", "changed", "words"),
    [
        (0.0, {}, "positive smallest eigenvalue: got 0.0"),
        (float("nan"), {}, "got nan"),
        (1.0, {"samples": 1}, "samples must be .*: got 1"),
        (1.0, {"paths": 0}, "paths must be a number from 1 .*: got 0"),
        (1.0, {"failure": 1.0}, "failure must be .*: got 1.0"),
    ],
)
def test_bad_input(eigenvalue, changed, words):
    with pytest.raises(ValueError, match=words) as caught:
        bound.convergence_theorem(eigenvalue, **({"samples": 2, "paths": 1, "nodes": 4} | changed))
    assert "\n" not in str(caught.value)
