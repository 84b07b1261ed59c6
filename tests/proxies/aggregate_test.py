import numpy as np
import pytest
import scipy.stats

from jaxnas import Proxy, proxies
from jaxnas.proxies import aggregate

METRIC = np.array([1.0, 2.0, 4.0])
CONDITION = np.array([6.0, 2.0, 8.0])


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return np.exp(rng.normal(3, 1, 200)), np.exp(rng.normal(4, 1.5, 200))


def order(scores):
    return np.argsort(-scores, kind="stable").tolist()


def test_hybrid_score_by_hand():
    # m = 1/3, 2/3, 1; k = 2/3, 1/3, 1. k / m = 2, 1/2, 1; |m^2 - 1/4| = 5/36, 7/36, 3/4; mu = 2.
    scores = aggregate.hybrid_score(METRIC, CONDITION, tau=0.5, mu=2.0)
    np.testing.assert_allclose(scores, [-41 / 18, -8 / 9, -5 / 2], rtol=1e-12)


def test_ties_share_their_rank():
    scores = aggregate.hybrid_score([5.0, 5.0, 7.0, 0.0], [2.0, 2.0, 2.0, 2.0], tau=0.0, mu=0.0)
    np.testing.assert_allclose(scores, [-4 / 3, -4 / 3, -2 / 3, -np.inf], rtol=1e-12)


def test_the_score_of_ranks_has_no_units(pool):
    metric, condition = pool
    scores = aggregate.hybrid_score(metric, condition, tau=0.3, mu=1.5)
    scaled = aggregate.hybrid_score(metric**3, 7 * condition, tau=0.3, mu=1.5)
    np.testing.assert_array_equal(scaled, scores)


def test_published_score_by_hand():
    # |M^2 - (.5 * 6)^2| = 8, 5, 7, a tenth of it; kappa / M = 6, 1, 2.
    scores = aggregate.published_hybrid_score(METRIC, CONDITION, tau=0.5, mu=0.1, scale=6.0)
    np.testing.assert_allclose(scores, [-6.8, -1.5, -2.7], rtol=1e-5)
    dead = aggregate.published_hybrid_score([1e-6], [4.0], tau=0.0, mu=0.0)
    np.testing.assert_allclose(dead, [-2e6], rtol=1e-9)  # 4 / (1e-6 + 1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_special_cases(pool, published):
    metric, condition = pool
    ranked = [scipy.stats.rankdata(each) / len(each) for each in pool]
    m, k = (metric / metric.max(), condition) if published else ranked

    def score(tau, mu):
        if published:
            scale = metric.max()
            return aggregate.published_hybrid_score(metric, condition, tau=tau, mu=mu, scale=scale)
        return aggregate.hybrid_score(metric, condition, tau=tau, mu=mu)

    assert order(score(0.7, 0.0)) == order(m / k)
    assert order(score(1.0, 1e9)) == order(score(1.7, 1e9)) == order(metric)
    assert order(score(0.0, 1e9)) == order(-metric)
    assert order(score(0.5, 1e9))[0] == np.abs(m**2 - 0.25).argmin()


@pytest.mark.parametrize(
    ("metric", "condition"),
    [
        (np.nan, 1.0),
        (-np.inf, 1.0),
        (np.inf, 1.0),
        (0.0, 1.0),
        (-5.0, 1.0),
        (9.0, np.inf),
        (9.0, np.nan),
        (9.0, -1.0),
        (9.0, 0.0),
    ],
)
def test_what_cannot_be_scored_is_last_and_changes_nothing(metric, condition):
    with_it = np.append(METRIC, metric), np.append(CONDITION, condition)
    for score in (
        lambda *pool: aggregate.hybrid_score(*pool, tau=0.5, mu=0.1),
        lambda *pool: aggregate.published_hybrid_score(*pool, tau=0.5, mu=0.1),
        lambda *pool: -aggregate.realizable_bound(*pool),
        lambda *pool: -aggregate.non_realizable_bound(*pool, learning_rate=0.1, num_steps=3),
    ):
        scores = score(*with_it)
        assert scores[3] == -np.inf
        np.testing.assert_array_equal(scores[:3], score(METRIC, CONDITION))
        np.testing.assert_array_equal(score([metric], [condition]), [-np.inf])


def test_bounds_by_hand():
    np.testing.assert_array_equal(aggregate.realizable_bound(METRIC, CONDITION), [6, 1, 2])
    # M^2 / kappa = 1/6, 2, 2; (1 - .3 / 6)^4 = .95^4, (1 - .6)^4 = .4^4; halved, plus 2 kappa / M.
    bound = aggregate.non_realizable_bound(
        METRIC, CONDITION, learning_rate=0.3, num_steps=2, constant=2.0
    )
    expected = [0.95**4 / 2 + 12, 0.4**4 / 2 + 2, 0.4**4 / 2 + 4]
    np.testing.assert_allclose(bound, expected, rtol=1e-12)


def test_the_non_realizable_bound_grows_without_limit_and_without_a_warning():
    bound = aggregate.non_realizable_bound([1e5], [1.0], learning_rate=1.0, num_steps=1000)
    np.testing.assert_array_equal(bound, [np.inf])


def test_the_non_realizable_bound_holds_for_gradient_descent():
    rng = np.random.default_rng(3)
    jacobian = rng.normal(size=(6, 40))
    kernel = jacobian @ jacobian.T
    eigenvalues = np.linalg.eigvalsh(kernel)
    residual, rate, steps = rng.uniform(-1, 1, 6), 0.9 / eigenvalues[-1], 25
    trained = np.linalg.matrix_power(np.eye(6) - rate * kernel, steps) @ residual
    bound = aggregate.non_realizable_bound(
        [np.sqrt(np.trace(kernel) / 6)],
        [eigenvalues[-1] / eigenvalues[0]],
        learning_rate=rate,
        num_steps=steps,
        constant=0.0,
    )
    assert (trained @ trained) / 12 <= bound[0] < 0.5


def test_ranks_by_hand():
    # Ranks of the first score: 2.5, 1, 2.5, 4; of the second: 1.5, 3, 4, 1.5.
    scores = [[0.5, 0.1, 0.5, 7.0], [-np.inf, 2.0, 3.0, np.nan]]
    np.testing.assert_array_equal(aggregate.mean_rank(scores), [2.0, 2.0, 3.25, 2.75])
    expected = np.log([2.5 * 1.5 / 16, 3 / 16, 2.5 * 4 / 16, 4 * 1.5 / 16])
    np.testing.assert_allclose(aggregate.log_rank(scores), expected, rtol=1e-12)


def test_ranks_agree_with_scipy_and_ignore_scales():
    scores = np.random.default_rng(1).integers(0, 30, (4, 100)).astype(float)
    ranks = [scipy.stats.rankdata(row) for row in scores]
    np.testing.assert_allclose(aggregate.mean_rank(scores), np.mean(ranks, axis=0))
    logs = np.sum([np.log(rank / 100) for rank in ranks], axis=0)
    np.testing.assert_allclose(aggregate.log_rank(scores), logs)
    np.testing.assert_array_equal(aggregate.log_rank(np.exp(scores)), aggregate.log_rank(scores))


def test_regularized_swap_by_hand():
    swap, sizes = [4.0, 2.0, -np.inf], [10.0, 14.0, 12.0]
    found = aggregate.regularized_swap([swap, sizes], mu=12, sigma=8)
    np.testing.assert_allclose(found, [4 * np.exp(-0.5), 2 * np.exp(-0.5), -np.inf])
    # By itself it aims at 14, the variance is 8 / 3.
    found = aggregate.regularized_swap([swap, sizes])
    np.testing.assert_allclose(found, [4 * np.exp(-6), 2, -np.inf])
    np.testing.assert_array_equal(aggregate.regularized_swap([[3.0], [7.0]]), [3])


def test_te_nas_by_hand():
    condition, regions = "ntk_condition_sum_exact_weights", "linear_regions"
    scores = {condition: np.array([-9.0, -3, -np.inf]), regions: np.array([5.0, 5, 1])}
    np.testing.assert_array_equal(aggregate.RECIPES["te_nas"](scores), [2.25, 2.75, 1])


def test_draws_are_ranked_one_by_one():
    scores = np.random.default_rng(2).normal(size=(3, 2, 7))
    for rank in (aggregate.mean_rank, aggregate.log_rank):
        np.testing.assert_array_equal(rank(scores), [rank(score) for score in scores])


@pytest.mark.parametrize("recipe", aggregate.RECIPES)
def test_an_aggregate_expands_to_what_is_measured_once(recipe):
    parts = aggregate.RECIPES[recipe].parts
    chosen = proxies.expand([parts[1], recipe, "l2_norm", "mgm@head"])
    assert chosen.names == (parts[1], recipe, "l2_norm", "mgm@head")
    needed = [proxy.name for proxy in chosen.proxies]
    assert sorted(needed) == sorted([*parts, "l2_norm", "mgm@head"])
    rng = np.random.default_rng(0)
    measured = {name: rng.normal(size=(2, 9)) for name in needed}
    scores = chosen.scores(measured)
    assert tuple(scores) == chosen.names
    np.testing.assert_array_equal(scores["l2_norm"], measured["l2_norm"])
    by_hand = aggregate.RECIPES[recipe].combine(np.array([measured[part][1] for part in parts]))
    np.testing.assert_array_equal(scores[recipe][1], by_hand)


def test_the_status_of_an_aggregate_is_that_of_its_parts():
    chosen = proxies.expand(["pair", "params"])
    first, second = aggregate.RECIPES["pair"].parts
    status = chosen.status(
        {
            first: np.array(["ok", "disconnected", "ok"], object),
            second: np.array(["ok", "nothing to score", "not finite"], object),
            "params": np.array(["ok"] * 3, object),
        }
    )
    assert status["pair"].tolist() == ["ok", "disconnected", "not finite"]
    assert status["params"].tolist() == ["ok"] * 3


def test_a_proxy_of_ones_own_expands_to_itself():
    found = proxies.BY_NAME["mgm"]._replace(name="layer_balance")
    assert proxies.expand([found]).proxies == (found,)
    # It stands for the part that it is named as.
    assert found in proxies.expand([found, "pair"]).proxies


def test_best_of_every_score_has_log_rank_zero_and_one_bad_rank_hurts():
    assert aggregate.log_rank([[1, 2, 3], [5, 6, 7]])[2] == 0
    # Ranks (3, 1) and (2, 2) have one mean, but log 3 < log 4.
    one_sided, even = aggregate.log_rank([[3, 2, 1], [1, 2, 3]])[:2]
    assert one_sided < even


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: aggregate.hybrid_score([1, 2], [1], tau=0, mu=0), r"shapes \[2\] and \[1\]"),
        (lambda: aggregate.realizable_bound([[1.0]], [[1.0]]), "vectors"),
        (
            lambda: aggregate.hybrid_score([1], [1], tau=-0.1, mu=0),
            "tau must be a number from 0 .*: got -0.1",
        ),
        (
            lambda: aggregate.hybrid_score([1], [1], tau=0, mu=np.nan),
            "mu must be a number from 0 .*: got nan",
        ),
        (
            lambda: aggregate.published_hybrid_score([1], [1], tau=0, mu=0, scale=np.inf),
            "scale must",
        ),
        (
            lambda: aggregate.non_realizable_bound([1], [1], learning_rate=-1, num_steps=1),
            "learning_rate must",
        ),
        (lambda: aggregate.mean_rank([1.0, 2.0]), r"got shape \[2\]"),
        (lambda: aggregate.log_rank(np.zeros((0, 3))), r"got shape \[0, 3\]"),
        (lambda: aggregate.regularized_swap([[1.0]]), r"got shape \[1, 1\]"),
        (lambda: aggregate.regularized_swap([[1.0], [1.0]], sigma=0), "sigma must be positive"),
        (lambda: proxies.expand([]), "at least one score"),
        (lambda: proxies.expand(["pair", "pair"]), "each once"),
        (lambda: proxies.expand("nothing"), "of a pool also .*panel"),
        (lambda: proxies.resolve("pair"), "ranks the networks of a pool.* jaxnas.rank"),
        (lambda: proxies.expand(Proxy("pair", len, len)), "each once|ranks the networks"),
    ],
)
def test_bad_inputs_get_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
