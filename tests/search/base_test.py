import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.search import BY_NAME, History, random_sampling, run
from jaxnas.types import SearchStrategy

NUM_CHOICES = (3, 1, 4, 2)
KEY = jax.random.key(0)
STRATEGIES = {name: make(NUM_CHOICES) for name, make in BY_NAME.items()}

# Asks for [0], [1], [2], ... whatever the scores are.
COUNTING = SearchStrategy(
    init=lambda key: jnp.int32(0),
    ask=lambda key, state: state[None],
    tell=lambda state, arch, score: state + 1,
)


def _weighted_sum(archs):
    return archs @ jnp.array([5, 0, -2, 1]) / 8


def _table(archs):
    """The same scores, from a dictionary: nothing that JAX could trace."""
    table = {
        arch: sum(a * b for a, b in zip(arch, (5, 0, -2, 1), strict=True)) / 8
        for arch in np.ndindex(NUM_CHOICES)
    }
    return [table[tuple(arch)] for arch in archs.tolist()]


@pytest.mark.parametrize("jit", [True, False])
def test_history_by_hand(jit):
    scores = jnp.array([1.0, 3.0, jnp.nan, 2.0, 3.0, jnp.inf, -jnp.inf])
    history = run(COUNTING, lambda archs: scores[archs[:, 0]], key=KEY, num_evaluations=7, jit=jit)
    inf = np.inf
    np.testing.assert_array_equal(history.archs, [[0], [1], [2], [3], [4], [5], [6]])
    np.testing.assert_array_equal(history.scores, [1, 3, -inf, 2, 3, -inf, -inf])
    np.testing.assert_array_equal(history.running_best, [1, 3, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(history.best_arch, [1])  # of equals, the first
    np.testing.assert_array_equal(history.ranked_archs[:, 0], [1, 4, 3, 0, 2, 5, 6])
    assert history.best_score == 3
    assert (history.archs.dtype, history.scores.dtype) == (jnp.int32, jnp.float32)


@pytest.mark.parametrize("jit", [True, False])
def test_strategy_is_told_the_arch_and_minus_infinity_for_nan(jit):
    strategy = SearchStrategy(
        init=lambda key: (jnp.int32(0), jnp.float32(0)),
        # Asks for the number told before, and for 9 after a score of -inf.
        ask=lambda key, state: jnp.where(state[1] == -jnp.inf, 9, state[0] + 1)[None],
        tell=lambda state, arch, score: (arch[0], score),
    )
    history = run(
        strategy,
        lambda archs: jnp.where(archs[:, 0] == 3, jnp.nan, 0.0),
        key=KEY,
        num_evaluations=5,
        jit=jit,
    )
    np.testing.assert_array_equal(history.archs[:, 0], [1, 2, 3, 9, 10])


@pytest.mark.parametrize("name", STRATEGIES)
def test_scan_and_loop_give_the_same_history(name):
    scanned = run(STRATEGIES[name], _weighted_sum, key=KEY, num_evaluations=40)
    looped = run(STRATEGIES[name], _table, key=KEY, num_evaluations=40, jit=False)
    chex.assert_trees_all_equal(scanned, looped)
    assert scanned.archs.shape == (40, 4)
    assert (scanned.archs >= 0).all()
    assert (scanned.archs < np.broadcast_to(NUM_CHOICES, (40, 4))).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_longer_search_begins_with_the_shorter(name):
    longer = run(STRATEGIES[name], _weighted_sum, key=KEY, num_evaluations=40)
    shorter = run(STRATEGIES[name], _weighted_sum, key=KEY, num_evaluations=12)
    chex.assert_trees_all_equal(shorter, jax.tree.map(lambda leaf: leaf[:12], longer))


@pytest.mark.parametrize("name", STRATEGIES)
def test_keys_map_to_histories(name):
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(
        lambda key: run(STRATEGIES[name], _weighted_sum, key=key, num_evaluations=40)
    )(keys)
    assert not (mapped.archs[0] == mapped.archs[1]).all()
    for i, key in enumerate(keys):
        alone = run(STRATEGIES[name], _weighted_sum, key=key, num_evaluations=40)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), alone)
        np.testing.assert_array_equal(mapped.best_arch[i], alone.best_arch)
        np.testing.assert_array_equal(mapped.running_best[i], alone.running_best)
        assert mapped.best_score[i] == alone.best_score


@pytest.mark.parametrize("name", STRATEGIES)
def test_compiles_once_for_all_keys_and_bound_arrays(name):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def scored(weights, archs):
        return archs @ weights

    best = [
        run(
            STRATEGIES[name],
            jax.tree_util.Partial(scored, jnp.array(weights, jnp.float32)),
            key=jax.random.key(seed),
            num_evaluations=60,
        ).best_score
        for seed, weights in enumerate([(1, 1, 1, 1), (5, 0, -2, 1)])
    ]
    assert best == [2 + 0 + 3 + 1, 10 + 0 - 0 + 1]


def test_loop_scores_numpy_one_at_a_time():
    seen = []

    def score_fn(archs):
        seen.append((type(archs), archs.dtype, archs.shape))
        return [0.0]

    run(random_sampling(NUM_CHOICES), score_fn, key=KEY, num_evaluations=3, jit=False)
    assert seen == [(np.ndarray, np.int32, (1, 4))] * 3


@pytest.mark.parametrize(
    "score_fn",
    [
        _table,
        lambda archs: np.asarray(archs).sum(-1),
        lambda archs: [float(archs[0, 0])],
        lambda archs: jnp.ones(1) if archs[0, 0] > 1 else jnp.zeros(1),
        lambda archs: jnp.arange(5)[archs[0] > 0][:1],
        lambda archs: {0: jnp.ones(1)}[archs[0, 0]],
        lambda archs: [[3.0, 2.0, 1.0][archs[0, 0]]],
    ],
)
def test_untraceable_score_asks_for_the_loop(score_fn):
    with pytest.raises(ValueError, match=r"score_fn must be traceable by JAX: got \w+.*jit=False"):
        run(random_sampling(NUM_CHOICES), score_fn, key=KEY, num_evaluations=2)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("shape", [(), (2,), (1, 1)])
def test_scores_of_another_shape(shape, jit):
    with pytest.raises(ValueError, match=r"score_fn must return one score .*: got \["):
        run(COUNTING, lambda archs: jnp.zeros(shape), key=KEY, num_evaluations=2, jit=jit)


@pytest.mark.parametrize("num_evaluations", [0, -1])
def test_no_evaluations(num_evaluations):
    with pytest.raises(ValueError, match=f"must be an integer from 1 .*: got {num_evaluations};"):
        run(COUNTING, _weighted_sum, key=KEY, num_evaluations=num_evaluations)


def test_history_of_nothing_but_failures_is_its_first():
    history = History(jnp.array([[4], [5]]), jnp.array([-jnp.inf, -jnp.inf]))
    assert history.best_arch == 4
    assert history.best_score == -jnp.inf


def _even(arch):
    return arch.sum() % 2 == 0


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_not_kept_is_not_scored(name, jit):
    asked = []

    def score(archs):
        asked.append(np.asarray(archs[0]))
        return _table(archs)

    history = run(
        STRATEGIES[name],
        _weighted_sum if jit else score,
        key=KEY,
        num_evaluations=20,
        keep=_even,
        jit=jit,
    )
    assert (history.archs.sum(1) % 2 == 0).all()
    assert np.isfinite(history.scores).all()
    assert len(asked) == (0 if jit else 20)
    other = run(STRATEGIES[name], _weighted_sum, key=KEY, num_evaluations=20, keep=_even)
    np.testing.assert_array_equal(history.archs, other.archs)
    free = run(STRATEGIES[name], _weighted_sum, key=KEY, num_evaluations=20)
    assert (free.archs.sum(1) % 2 == 1).any()


def test_a_rule_that_keeps_all_changes_nothing_and_one_that_keeps_none_ends():
    random = STRATEGIES["random"]
    free = run(random, _weighted_sum, key=KEY, num_evaluations=5)
    all_kept = run(random, _weighted_sum, key=KEY, num_evaluations=5, keep=lambda arch: arch[0] < 9)
    chex.assert_trees_all_equal(free, all_kept)
    none = run(random, _weighted_sum, key=KEY, num_evaluations=2, keep=lambda arch: arch[0] > 9)
    assert (none.scores == -jnp.inf).all()


def test_a_strategy_that_draws_nothing_goes_on():
    history = run(
        COUNTING,
        lambda archs: archs[:, 0],
        key=KEY,
        num_evaluations=3,
        keep=lambda arch: arch[0] % 3 == 2,
    )
    np.testing.assert_array_equal(history.archs[:, 0], [2, 5, 8])
