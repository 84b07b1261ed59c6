import numpy as np
import pytest
import scipy.stats

from jaxnas import calibration


def _pool(noise, seed=0, count=300):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    return scores, scores + noise * rng.normal(size=count)


@pytest.mark.parametrize("noise", [0.3, 1.0, 30.0])
@pytest.mark.parametrize("trained", [6, 20])
def test_nine_of_ten_networks_are_within_their_intervals(noise, trained):
    held = []
    for seed in range(20):
        scores, accuracies = _pool(noise, seed)
        few = calibration.spread(scores, trained, seed=seed)
        found = calibration.percentiles(scores, few, accuracies[few], seed=seed)
        truth = 100 * scipy.stats.rankdata(accuracies) / len(accuracies)
        assert (found.low <= found.expected).all()
        assert (found.expected <= found.high).all()
        held.append((found.low <= truth) & (truth <= found.high))
    assert 0.82 < np.mean(held) < 0.98


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_of_those_that_are_trained_more_is_known(noise):
    held, widths = [], []
    for seed in range(20):
        scores, accuracies = _pool(noise, seed)
        few = calibration.spread(scores, 12, seed=seed)
        found = calibration.percentiles(scores, few, accuracies[few], seed=seed)
        truth = 100 * scipy.stats.rankdata(accuracies) / len(accuracies)
        held.append(((found.low <= truth) & (truth <= found.high))[few])
        widths.append([(found.high - found.low)[few].mean(), (found.high - found.low).mean()])
        best = few[np.argsort(accuracies[few])]
        assert (np.diff(found.expected[best]) > 0).all()
    assert 0.82 < np.mean(held) < 0.99
    of_few, of_all = np.mean(widths, 0)
    assert of_few < of_all / 1.2


def test_a_score_that_says_nothing_leaves_everybody_in_the_middle():
    scores, accuracies = _pool(1e6)
    few = calibration.spread(scores, 40)
    found = calibration.percentiles(scores, few, accuracies[few])
    others = np.setdiff1d(np.arange(len(scores)), few)
    assert np.abs(found.expected - 50)[others].max() < 25
    assert (found.high - found.low)[others].min() > 60


def test_a_score_that_orders_backwards_is_turned_round():
    scores, accuracies = _pool(0.1)
    few = calibration.spread(scores, 20)
    found = calibration.percentiles(scores, few, -accuracies[few])
    assert scipy.stats.spearmanr(found.expected, -accuracies).statistic > 0.95


def test_same_seed_same_result_and_more_trainings_narrower_intervals():
    scores, accuracies = _pool(0.2)
    widths = []
    for count in (4, 40):
        few = calibration.spread(scores, count)
        found = calibration.percentiles(scores, few, accuracies[few])
        again = calibration.percentiles(scores, few, accuracies[few])
        np.testing.assert_array_equal(found.expected, again.expected)
        widths.append((found.high - found.low).mean())
    assert widths[1] < widths[0] / 1.5


def test_one_of_each_part_is_chosen():
    scores = np.array([3.0, -np.inf, 1, 0, 2, 4, 6, 5])
    parts = np.argsort(scores).reshape(4, 2).tolist()
    for seed in range(5):
        chosen = calibration.spread(scores, 4, seed=seed)
        assert all(one in part for one, part in zip(chosen, parts, strict=True))


@pytest.mark.parametrize(
    ("trained", "accuracies", "message"),
    [
        ([0, 1, 2], [1, 2, 3], "4 or more different positions"),
        ([0, 1, 2, 2], [1, 2, 3, 4], "4 or more different positions"),
        ([0, 1, 2, 10], [1, 2, 3, 4], "of the pool of 10"),
        ([0, 1, 2, 3], [1, 2, 3], "of the pool of 10"),
        ([0, 1, 2, 3], [1, 2, 3, np.nan], "without nan"),
        ([0.0, 1, 2, 3], [1, 2, 3, 4], "4 or more different positions"),
    ],
)
def test_what_does_not_fit_is_refused(trained, accuracies, message):
    with pytest.raises(ValueError, match=message):
        calibration.percentiles(np.arange(10.0), trained, accuracies)


def test_scores_without_an_order_are_refused():
    with pytest.raises(ValueError, match="without nan"):
        calibration.spread([1.0, np.nan, 2, 3], 4)
    with pytest.raises(ValueError, match="count"):
        calibration.spread(np.arange(5.0), 3)


@pytest.mark.parametrize("noise", [0.3, 1.0, 30.0])
def test_the_advantage_is_as_probable_as_it_says(noise):
    """Of two scores with the same noise, one is better as often as it is worse."""
    found = []
    for seed in range(40):
        accuracies, *errors = np.random.default_rng(seed).normal(size=(3, 12))
        scores, control = (accuracies + noise * error for error in errors)
        found.append(calibration.advantage(scores, control, accuracies, draws=200, seed=seed))
    assert 0.35 < np.mean(found) < 0.65


def test_the_advantage_tells_a_good_score_from_chance():
    scores, accuracies = _pool(0.2, count=12)
    chance = np.random.default_rng(1).random(12)
    assert calibration.advantage(scores, chance, accuracies) > 0.95
    assert calibration.advantage(chance, scores, accuracies) < 0.05
    assert calibration.advantage(scores, scores, accuracies) == 0.5
    assert calibration.advantage(np.ones(12), np.zeros(12), accuracies) == 0.5


def test_the_advantage_needs_the_same_networks():
    with pytest.raises(ValueError, match="the same 4 or more networks: got 4, 5, 4"):
        calibration.advantage([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4])
