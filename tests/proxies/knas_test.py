import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import gram, proxies
from jaxnas.kernels.empirical import TensorGrams
from jaxnas.proxies import knas

SIGNED = [knas.offdiagonal, knas.split_half]
AGGREGATED = [knas.mgm, knas.gradient_values, knas.unified_kernel, *SIGNED]
OF_GRAMS = [
    name
    for name, proxy in proxies.BY_NAME.items()
    if proxy.measure is knas.gradient_values().measure
]
OF_SQUARES = [name for name in proxies.BY_NAME if name.startswith("mgm")]


def _grams(*tensors, weights=None):
    """`TensorGrams` of tensors given by one row a gradient."""
    rows = [np.asarray(tensor, np.float64) for tensor in tensors]
    return TensorGrams(
        gram=np.stack([each @ each.T for each in rows]),
        coordinate_sum=np.stack([each.sum(1) for each in rows]),
        size=np.array([each.shape[1] for each in rows], np.float64),
        is_weight=np.array([True] * len(rows) if weights is None else weights),
    )


# Two examples. Gram matrices [[9, 0], [0, 16]], [[14, 11], [11, 14]], and nothing.
FIRST = [[3, 0], [0, 4]]
SECOND = [[1, 2, 3], [3, 1, 2]]
DEAD = [[0, 0], [0, 0]]
GOLDEN = _grams(FIRST, SECOND, DEAD)

GOLDENS = {
    # Diagonals: 25 / 2 and 28 / 2.
    knas.gradient_values(): 12.5 + 14,
    knas.gradient_values(aggregate="mean"): (12.5 + 14) / 2,
    knas.gradient_values(aggregate="log_sum"): np.log(12.5 * 14),
    # The rest: 0 and 11; with two examples that is also what the two halves give.
    knas.offdiagonal(): 11,
    knas.offdiagonal(aggregate="mean"): 5.5,
    knas.split_half(): 11,
    knas.split_half(aggregate="mean"): 5.5,
    # Cosines 0 and 11/14: R = (1 + cos) / 2.
    knas.gradient_correlation(): (1 / 2 + 25 / 28) / 2,
    # The whole: [[23, 11], [11, 30]].
    knas.gradient_correlation(per_tensor=False): (1 + 11 / 690**0.5) / 2,
    # Less their own means: (1.5, -1.5), (-2, 2): cos -1; (-1, 0, 1), (1, -1, 0): cos -1/2.
    knas.gradient_correlation(similarity="pearson"): (0 + 1 / 4) / 2,
    # Mean norms (3 + 4) / 2 and sqrt 14: squared, times R.
    knas.unified_kernel(): 12.25 / 2 + 14 * 25 / 28,
    knas.unified_kernel(aggregate="mean"): (12.25 / 2 + 12.5) / 2,
    knas.unified_kernel(aggregate="log_sum"): np.log(12.25 / 2 * 12.5),
    # Correlations: eigenvalues 1, 1 and 1 -+ 11/14, as shares 1/2, 1/2 and 3/28, 25/28.
    knas.gradient_diversity(): np.log(2) - 3 / 28 * np.log(3 / 28) - 25 / 28 * np.log(25 / 28),
    knas.gradient_diversity(aggregate="mean"): (
        np.log(2) / 2 - 3 / 56 * np.log(3 / 28) - 25 / 56 * np.log(25 / 28)
    ),
}


@pytest.mark.parametrize(
    ("proxy", "expected"), GOLDENS.items(), ids=[proxy.name for proxy in GOLDENS]
)
def test_by_hand(proxy, expected):
    with jax.enable_x64(True):
        np.testing.assert_allclose(proxy.reduce(GOLDEN), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("sum", 25), ("mean", 12.5), ("log_sum", np.log(9 * 16))]
)
def test_mgm_by_hand(aggregate, expected):
    with jax.enable_x64(True):
        squares = jnp.array([9.0, 16, 0])
        found = knas.mgm(aggregate=aggregate).reduce(squares)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_three_examples_by_hand():
    # Vectors (2, 0), (1, 2), (0, 1) have the Gram matrix [[4, 2, 0], [2, 5, 2], [0, 2, 1]].
    three = _grams([[2, 0], [1, 2], [0, 1]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(knas.gradient_values().reduce(three), 10 / 3, rtol=1e-12)
        np.testing.assert_allclose(knas.offdiagonal().reduce(three), 8 / 6, rtol=1e-12)
        np.testing.assert_allclose(knas.split_half().reduce(three), 2, rtol=1e-12)


def test_pearson_of_the_whole_gradient_by_hand():
    # [[23, 11], [11, 30]], sums (9, 10) of five coordinates: less [[81, 90], [90, 100]] / 5 it is
    # [[6.8, -7], [-7, 10]].
    proxy = knas.gradient_correlation(similarity="pearson", per_tensor=False)
    with jax.enable_x64(True):
        found = proxy.reduce(_grams(FIRST, SECOND))
        np.testing.assert_allclose(found, (1 - 7 / 68**0.5) / 2, rtol=1e-12)


def test_pearson_of_the_whole_gradient_leaves_dead_tensors_out():
    proxy = knas.gradient_correlation(similarity="pearson", per_tensor=False)
    with jax.enable_x64(True):
        alive = proxy.reduce(_grams(FIRST, SECOND))
        np.testing.assert_allclose(proxy.reduce(GOLDEN), alive, rtol=1e-12)


def test_pearson_of_one_coordinate_is_nothing():
    # Products as a network gives them, rounded to float32: 0.49 - 0.7^2 leaves something.
    proxy = knas.gradient_correlation(similarity="pearson")
    grams = _grams(SECOND, [[0.1], [0.7]])
    grams = grams._replace(gram=grams.gram.astype(np.float32).astype(np.float64))
    with jax.enable_x64(True):
        np.testing.assert_allclose(proxy.reduce(grams), (1 / 4 + 0) / 2, rtol=1e-12)


def test_balance_by_hand():
    # Norms sqrt(16 + 9) = 5 and sqrt(9 + 216) = 15: shares 1/4 and 3/4.
    tensors = _grams([[4, 0], [0, 3]], [[3, 0], [0, 216**0.5]], DEAD)
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    with jax.enable_x64(True):
        np.testing.assert_allclose(knas.layer_balance().reduce(tensors), expected, rtol=1e-12)


def test_diversity_and_balance_read_weights_only():
    both = _grams(FIRST, SECOND, weights=[True, False])
    with jax.enable_x64(True):
        np.testing.assert_allclose(knas.gradient_diversity().reduce(both), np.log(2), rtol=1e-12)
        np.testing.assert_allclose(knas.layer_balance().reduce(both), 0, atol=1e-12)


def test_evenness_is_balance_without_the_number_of_layers():
    # As above: of two layers that get a gradient the shares are 1/4 and 3/4.
    uneven = _grams([[4, 0], [0, 3]], [[3, 0], [0, 216**0.5]], DEAD)
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) - np.log(2)
    with jax.enable_x64(True):
        np.testing.assert_allclose(knas.layer_evenness().reduce(uneven), expected, rtol=1e-12)
        for number in (1, 3, 5):
            same = _grams(*[FIRST] * number)
            np.testing.assert_allclose(knas.layer_evenness().reduce(same), 0, atol=1e-12)


def test_even_layers_are_balanced():
    # The effective number of layers is their number.
    with jax.enable_x64(True):
        found = knas.layer_balance().reduce(_grams(*[FIRST] * 5))
        np.testing.assert_allclose(jnp.exp(found), 5, rtol=1e-12)


@pytest.mark.parametrize("name", OF_GRAMS)
def test_no_gradient_is_nothing_to_score(name):
    assert proxies.BY_NAME[name].reduce(_grams(DEAD, DEAD)) == -jnp.inf


@pytest.mark.parametrize("name", [*OF_SQUARES, "grad_norm"])
def test_no_squared_gradient_is_nothing_to_score(name):
    assert proxies.BY_NAME[name].reduce(jnp.zeros(3)) == -jnp.inf


def test_gradients_of_rounding_are_none():
    # Zero by structure, such as a bias in front of a normalization: 1e-9 of the others' norm.
    rounding = np.array(FIRST) * 1e-9
    with jax.enable_x64(True):
        found = knas.gradient_values(aggregate="mean").reduce(_grams(FIRST, rounding))
        np.testing.assert_allclose(found, 12.5, rtol=1e-12)
        small = knas.gradient_values(aggregate="mean").reduce(_grams(FIRST, np.array(FIRST) * 1e-5))
        np.testing.assert_allclose(small, 12.5 / 2, rtol=1e-8)


def _with_nan(where):
    spoilt = np.array(GOLDEN.gram)
    spoilt[where] = np.nan
    return GOLDEN._replace(gram=spoilt)


@pytest.mark.parametrize("where", [np.s_[:], np.s_[1]], ids=["all", "one tensor"])
@pytest.mark.parametrize("name", OF_GRAMS)
def test_nan_says_that_the_network_is_not_finite(name, where):
    assert jnp.isnan(proxies.BY_NAME[name].reduce(_with_nan(where)))


@pytest.mark.parametrize("squares", [[np.nan] * 3, [4, np.nan, 0]], ids=["all", "one tensor"])
@pytest.mark.parametrize("name", [*OF_SQUARES, "grad_norm"])
def test_nan_squares_say_that_the_network_is_not_finite(name, squares):
    assert jnp.isnan(proxies.BY_NAME[name].reduce(jnp.array(squares)))


@pytest.mark.parametrize("name", [*OF_SQUARES, "grad_norm"])
def test_an_overflow_is_not_the_absence_of_a_gradient(name):
    assert proxies.BY_NAME[name].reduce(jnp.array([4.0, jnp.inf])) == jnp.inf


@pytest.mark.parametrize("name", OF_GRAMS)
def test_an_overflow_of_one_tensor_is_not_finite(name):
    spoilt = np.array(GOLDEN.gram)
    spoilt[0] = np.inf
    found = proxies.BY_NAME[name].reduce(GOLDEN._replace(gram=spoilt))
    assert found == jnp.inf or jnp.isnan(found)


@pytest.mark.parametrize("name", OF_GRAMS)
def test_scale_laws(name):
    # Gradients times 3: quadratic scores times 9; correlations, and shares, as they were.
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=(4, size)) for size in (3, 5, 2)]
    quadratic = ["gradient_values", "offdiagonal", "split_half", "unified_kernel"]
    reduce = proxies.BY_NAME[name].reduce
    with jax.enable_x64(True):
        once, thrice = reduce(_grams(*tensors)), reduce(_grams(*[3 * tensor for tensor in tensors]))
        np.testing.assert_allclose(thrice, once * (9 if name in quadratic else 1), rtol=1e-10)


@pytest.mark.parametrize("name", OF_GRAMS)
def test_tensors_can_come_in_any_order(name):
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=(4, size)) for size in (3, 5, 2)]
    reduce = proxies.BY_NAME[name].reduce
    with jax.enable_x64(True):
        found, turned = reduce(_grams(*tensors)), reduce(_grams(*tensors[::-1]))
        np.testing.assert_allclose(turned, found, rtol=1e-12)


def test_the_scale_law_of_mgm():
    squares = jnp.array([2.0, 5, 1])
    found = {name: proxies.BY_NAME[name].reduce for name in OF_SQUARES}
    np.testing.assert_allclose(found["mgm"](9 * squares), 9 * found["mgm"](squares), rtol=1e-6)
    np.testing.assert_allclose(found["mgm_mean"](9 * squares), 9 * found["mgm_mean"](squares))
    more = found["mgm_log_sum"](9 * squares) - found["mgm_log_sum"](squares)
    np.testing.assert_allclose(more, 3 * np.log(9), rtol=1e-6)


def _network(params, inputs):
    return jnp.tanh(inputs @ params["first"]) @ params["second"]


def test_mgm_by_one_backward_pass_is_the_mean_of_the_gram_matrix(draw_batch):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        batch = draw_batch(0, (5, 6), 3)
        params = {
            "first": jnp.asarray(rng.normal(size=(6, 4))),
            "second": jnp.asarray(rng.normal(size=(4, 3))),
        }
        grams = knas.gradient_values().measure(_network, params, batch, None)
        means = jax.vmap(gram.mean)(grams.gram)
        np.testing.assert_allclose(knas.mgm()(_network, params, batch), means.sum(), rtol=1e-12)
        logs = knas.mgm(aggregate="log_sum")(_network, params, batch)
        np.testing.assert_allclose(logs, jnp.log(means).sum(), rtol=1e-12)

        parts = knas.decomposition(grams)
        np.testing.assert_allclose(parts.mgm, means.sum(), rtol=1e-12)
        np.testing.assert_allclose(
            parts.values / 5 + (1 - 1 / 5) * parts.offdiagonal, parts.mgm, rtol=1e-12
        )
        np.testing.assert_allclose(parts.values, knas.gradient_values().reduce(grams), rtol=1e-12)
        np.testing.assert_allclose(parts.offdiagonal, knas.offdiagonal().reduce(grams), rtol=1e-12)


def test_decomposition_by_hand():
    # The whole is [[23, 11], [11, 30]]: 75 / 4 = (53 / 2) / 2 + (1 - 1/2) 11.
    with jax.enable_x64(True):
        parts = knas.decomposition(GOLDEN)
        np.testing.assert_allclose(parts, [75 / 4, 53 / 2, 11, 53 / 75], rtol=1e-12)


@pytest.mark.parametrize("factory", SIGNED)
def test_signed_scores_have_no_logarithm(factory):
    with pytest.raises(ValueError, match=r"^\w+ can be negative and has no logarithm: use .*\.$"):
        factory(aggregate="log_sum")


@pytest.mark.parametrize("factory", [*AGGREGATED, knas.gradient_diversity])
def test_an_unknown_aggregate_is_refused(factory):
    with pytest.raises(ValueError, match=r"^Unknown aggregate 'max': use sum, mean or log_sum\.$"):
        factory(aggregate="max")


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match=r"^Unknown similarity 'dot': use cosine or pearson\.$"):
        knas.gradient_correlation(similarity="dot")


@pytest.mark.parametrize("factory", AGGREGATED)
def test_names_say_what_is_computed(factory):
    assert factory().name == factory.__name__
    assert factory(aggregate="mean").name == f"{factory.__name__}_mean"
