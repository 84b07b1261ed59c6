"""Rank correlations against hand-computed values, scipy.stats and second derivations."""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxnas import correlation

NINF = -math.inf


@pytest.fixture
def scored():
    """Scores with ties, some of them `-inf`, and accuracies that they partly order."""
    generator = np.random.default_rng(3)
    accuracies = np.round(generator.normal(90.0, 2.0, 200), 1)
    scores = np.round(accuracies + generator.normal(0.0, 3.0, 200))
    scores[generator.integers(200, size=15)] = NINF
    return scores, accuracies


def test_spearman_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: squared differences 4, so 1 - 6 * 4 / (4 * 15) = 0.6.
    assert correlation.spearman([1.0, 10.0, 100.0, 1000.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(
        0.6
    )


def test_kendall_by_hand():
    # Of 6 pairs 4 are concordant and 2 discordant: (4 - 2) / 6.
    assert correlation.kendall([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(1 / 3)


def test_minus_infinity_ties_at_the_bottom():
    accuracies = [10.0, 11.0, 50.0, 60.0, 55.0]
    for statistic in (correlation.spearman, correlation.kendall):
        assert statistic([NINF, NINF, 1.0, 3.0, 2.0], accuracies) == pytest.approx(
            statistic([-9.0, -9.0, 1.0, 3.0, 2.0], accuracies)
        )
    # tau-b: 9 concordant pairs of 10, one tied in the scores: 9 / sqrt(9 * 10).
    assert correlation.kendall([NINF, NINF, 1.0, 3.0, 2.0], accuracies) == pytest.approx(
        9 / math.sqrt(90)
    )


def test_correlations_equal_scipy(scored):
    finite = np.where(np.isneginf(scored[0]), -1e9, scored[0])
    assert correlation.spearman(*scored) == pytest.approx(
        scipy.stats.spearmanr(finite, scored[1]).statistic, abs=1e-12
    )
    assert correlation.kendall(*scored) == pytest.approx(
        scipy.stats.kendalltau(finite, scored[1]).statistic, abs=1e-12
    )


def test_jax_arrays_are_accepted():
    assert correlation.spearman(jnp.arange(4.0), jnp.arange(4.0) ** 2) == pytest.approx(1.0)


@pytest.mark.parametrize("statistic", [correlation.spearman, correlation.kendall])
@pytest.mark.parametrize(
    ("scores", "accuracies"),
    [
        ([], []),
        ([1.0, 2.0], [1.0, 2.0]),
        ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]),
        ([NINF, NINF, NINF], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]),
    ],
)
def test_undefined_correlations_are_nan(statistic, scores, accuracies):
    assert math.isnan(statistic(scores, accuracies))
    interval = correlation.bootstrap_interval(statistic, scores, accuracies, num_resamples=5)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize("statistic", [correlation.spearman, correlation.kendall])
@pytest.mark.parametrize(
    ("scores", "accuracies", "message"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0], "got 3 scores and 2 accuracies"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "scores must not hold nan: got 1 of 3"),
        ([1.0, 2.0, 3.0], [1.0, math.nan, math.nan], "accuracies must not hold nan: got 2 of 3"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf], "accuracies must be finite: got 1 infinite"),
        ([[1.0, 2.0, 3.0]], [1.0, 2.0, 3.0], r"scores must be a vector: got shape \(1, 3\)"),
        (1.0, 2.0, r"scores must be a vector: got shape \(\)"),
    ],
)
def test_bad_arrays(statistic, scores, accuracies, message):
    with pytest.raises(ValueError, match=message):
        statistic(scores, accuracies)


def test_partial_spearman_is_the_first_order_formula(scored):
    scores, accuracies = scored
    given = np.round(accuracies + np.random.default_rng(0).normal(0.0, 2.0, 200))
    xy = correlation.spearman(scores, accuracies)
    xz = correlation.spearman(scores, given)
    yz = correlation.spearman(accuracies, given)
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert correlation.partial_spearman(scores, accuracies, given) == pytest.approx(expected)
    # Only ranks matter, and a column given twice says nothing new.
    assert correlation.partial_spearman(
        scores, accuracies, np.column_stack([np.exp(given / 50), given])
    ) == pytest.approx(expected)


def test_partial_spearman_given_two_is_the_recursion(scored):
    scores, accuracies = scored
    noise = np.random.default_rng(1).normal(0.0, 2.0, (2, 200))
    first, second = accuracies + noise[0], accuracies - noise[1]
    xy, xw, yw = (
        correlation.partial_spearman(*pair, first)
        for pair in ((scores, accuracies), (scores, second), (accuracies, second))
    )
    assert correlation.partial_spearman(
        scores, accuracies, np.column_stack([first, second])
    ) == pytest.approx((xy - xw * yw) / math.sqrt((1 - xw**2) * (1 - yw**2)))


def test_partial_spearman_without_conditions_is_spearman(scored):
    assert correlation.partial_spearman(*scored, np.zeros((200, 0))) == pytest.approx(
        correlation.spearman(*scored)
    )
    assert correlation.partial_spearman(*scored, np.ones(200)) == pytest.approx(
        correlation.spearman(*scored)
    )


def test_partial_spearman_is_undefined_where_nothing_is_left(scored):
    scores, accuracies = scored
    assert math.isnan(correlation.partial_spearman(scores, accuracies, 2.0 * scores + 1.0))
    assert math.isnan(
        correlation.partial_spearman([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [1.0, 3.0, 2.0])
    )
    assert math.isnan(correlation.partial_spearman(np.ones(5), np.arange(5.0), np.arange(5.0) ** 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0], r"one row for each of the 3 scores: got shape \(2,\)"),
        (np.zeros((3, 1, 1)), r"got shape \(3, 1, 1\)"),
        (0.0, r"got shape \(\)"),
        ([1.0, math.nan, 2.0], "given must not hold nan"),
    ],
)
def test_bad_given(given, message):
    with pytest.raises(ValueError, match=message):
        correlation.partial_spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], given)


def test_bootstrap_of_spearman_equals_ranking_every_resample_anew(scored):
    quick = correlation.bootstrap_interval(correlation.spearman, *scored, num_resamples=60, seed=4)
    plain = correlation.bootstrap_interval(
        lambda scores, accuracies: correlation.spearman(scores, accuracies),
        *scored,
        num_resamples=60,
        seed=4,
    )
    assert quick == pytest.approx(plain, abs=1e-12)
    assert quick.low < correlation.spearman(*scored) < quick.high


@pytest.mark.parametrize("statistic", [correlation.spearman, correlation.kendall])
def test_groups_are_drawn_as_a_whole(statistic, scored):
    # Each function four times says no more than once: two columns tell one from the other.
    functions = np.random.default_rng(0).integers(5, size=(40, 2)) * 7
    functions[:, 1] = np.arange(40)
    once = [side[:40] for side in scored]
    alone = correlation.bootstrap_interval(statistic, *once, num_resamples=200)
    copies = [np.tile(side, 4) for side in once]
    grouped = correlation.bootstrap_interval(
        statistic, *copies, groups=np.tile(functions, (4, 1)), num_resamples=200
    )
    naive = correlation.bootstrap_interval(statistic, *copies, num_resamples=200)
    assert np.ptp(grouped) == pytest.approx(np.ptp(alone), rel=0.25)
    assert np.ptp(naive) < 0.65 * np.ptp(grouped)


def test_groups_of_different_sizes_equal_ranking_anew(scored):
    groups = np.random.default_rng(1).integers(30, size=200)
    quick, plain = (
        correlation.bootstrap_interval(statistic, *scored, groups=groups, num_resamples=60)
        for statistic in (correlation.spearman, lambda *sides: correlation.spearman(*sides))
    )
    assert quick == pytest.approx(plain, abs=1e-12)


def test_bootstrap_agrees_with_scipy(scored):
    seed = "rng" if scipy.__version__ >= "1.15" else "random_state"
    oracle = scipy.stats.bootstrap(
        scored,
        lambda x, y: scipy.stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=400,
        method="percentile",
        **{seed: np.random.default_rng(0)},
    ).confidence_interval
    assert correlation.bootstrap_interval(correlation.spearman, *scored) == pytest.approx(
        (oracle.low, oracle.high), abs=0.03
    )


def test_bootstrap_narrows_with_confidence_and_repeats_with_its_seed(scored):
    interval = partial(
        correlation.bootstrap_interval, correlation.kendall, *scored, num_resamples=50
    )
    wide, narrow = interval(confidence=0.95), interval(confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert interval(seed=0) == wide
    assert interval(seed=1) != wide


def test_bootstrap_leaves_undefined_resamples_out():
    # A resample of three that draws a single architecture thrice is constant.
    interval = correlation.bootstrap_interval(
        correlation.spearman, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], num_resamples=200
    )
    assert interval == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_resamples": 0}, "num_resamples must be an integer from 1 .*: got 0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1: got 1.0"),
        ({"confidence": 0.0}, "confidence must lie between 0 and 1"),
        ({"groups": [0, 1]}, r"one row for each of the 3 scores: got shape \(2,\)"),
        ({"groups": 0}, r"got shape \(\)"),
    ],
)
def test_bad_bootstrap(options, message):
    with pytest.raises(ValueError, match=message):
        correlation.bootstrap_interval(
            correlation.spearman, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], **options
        )


def test_top_k_by_hand():
    accuracies = [90.0, 94.0, 93.0, 92.0, 10.0]
    scores = [5.0, 1.0, 4.0, 2.0, NINF]
    # Best 2 scored: 0 and 2; truly best 2: 1 and 2.
    assert correlation.top_k_recall(scores, accuracies, 2) == 0.5
    assert correlation.top_k_recall(scores, accuracies, 5) == 1.0


def test_top_k_breaks_ties_by_index():
    accuracies = [1.0, 2.0, 3.0, 3.0]
    # The first of the two best accuracies, index 2, counts as the one best.
    assert correlation.top_k_recall([0.0, 0.0, 1.0, 0.0], accuracies, 1) == 1.0
    assert correlation.top_k_recall([0.0, 0.0, 0.0, 1.0], accuracies, 1) == 0.0


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k must be an integer from 1 to 3: got {k}; score more"):
        correlation.top_k_recall([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], k)


def test_ties_by_hand():
    assert correlation.ties([1.0, 2.0, 1.0, NINF, NINF, NINF, 3.0]) == 5
    assert correlation.ties([1.0, 2.0]) == 0
    assert correlation.ties([]) == 0
    with pytest.raises(ValueError, match="scores must not hold nan"):
        correlation.ties([1.0, math.nan])


def test_seed_agreement_by_hand():
    # Spearman of the pairs: 1 (seeds 0, 1), 0.6 (0, 2) and 0.6 (1, 2).
    by_seed = [[1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 9.0], [2.0, 1.0, 4.0, 3.0]]
    assert correlation.seed_agreement(by_seed) == pytest.approx(2.2 / 3)
    assert math.isnan(correlation.seed_agreement([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]))
    assert math.isnan(correlation.seed_agreement([[1.0, 2.0], [1.0, 2.0]]))


@pytest.mark.parametrize(
    ("by_seed", "message"),
    [
        ([[1.0, 2.0, 3.0]], r"at least 2 seeds: got shape \(1, 3\)"),
        ([1.0, 2.0, 3.0], r"got shape \(3,\)"),
        ([[1.0, 2.0, 3.0], [1.0, math.nan, 2.0]], "must not hold nan"),
    ],
)
def test_bad_seeds(by_seed, message):
    with pytest.raises(ValueError, match=message):
        correlation.seed_agreement(by_seed)
