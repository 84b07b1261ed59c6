import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.benchmarks import nasbench201
from jaxnas.benchmarks.notation import NUM_CHOICES
from jaxnas.search import Rung, sample_distinct, successive_halving

INF = np.inf


def _by(table):
    """Return a score that looks the first decision up."""
    return lambda archs: np.asarray(table, float)[archs[:, 0]]


def _names(num):
    return np.arange(num)[:, None]


def test_by_hand():
    asked = []

    def asking(table):
        def score_fn(archs):
            asked.append(archs[:, 0].tolist())
            return _by(table)(archs)

        return score_fn

    candidates = [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5], [5, 5]]
    # Rung 1: 3 (9), then 0 and 2 (5, a tie, by index), then 5 (4); it drops 1 (2) and 4 (-inf).
    # Rung 2: 5 (8), 0 (7), and it drops 3 and 2 (1, a tie, 3 was before 2).
    # Rung 3: 0 (6), 5 (3), the final order of what was kept.
    rungs = [
        Rung(asking([5, 2, 5, 9, -INF, 4]), 4),
        Rung(asking([7, 0, 1, 1, 0, 8]), 0.5),
        Rung(asking([6, 0, 0, 0, 0, 3])),
    ]
    result = successive_halving(candidates, rungs)
    assert asked == [[0, 1, 2, 3, 4, 5], [3, 0, 2, 5], [5, 0]]
    assert [rung.scored.tolist() for rung in result.steps] == asked
    assert [rung.kept.tolist() for rung in result.steps] == [[3, 0, 2, 5], [5, 0], [0, 5]]
    assert [rung.scores.tolist() for rung in result.steps] == [
        [5, 2, 5, 9, -INF, 4],
        [1, 7, 1, 8],
        [3, 6],
    ]
    assert result.ranking.tolist() == [0, 5, 3, 2, 1, 4]
    assert result.winner == 0
    assert result.arch.tolist() == [0, 5]
    assert result.arch.dtype == np.int32


def test_what_the_last_rung_keeps_does_not_change_the_ranking():
    scores = _by([1, 3, 2, 0])
    all_kept, one_kept = (
        successive_halving(_names(4), [Rung(scores, 3), Rung(scores, keep)]) for keep in (1.0, 1)
    )
    assert one_kept.steps[-1].kept.tolist() == [1]
    assert one_kept.ranking.tolist() == all_kept.ranking.tolist() == [1, 2, 0, 3]


def test_unscored_candidates_go_on_only_when_nothing_else_is_left():
    result = successive_halving(
        _names(4), [Rung(_by([-INF, 1, -INF, -5]), 3), Rung(_by([0, -1, 0, -2]))]
    )
    assert result.steps[0].kept.tolist() == [1, 3, 0]
    assert result.ranking.tolist() == [0, 1, 3, 2]


# Shares are rounded to the nearest: .15 * 12 = 1.8, .1 * 12 = 1.2, .07 * 100 = 7.000000000000001.
@pytest.mark.parametrize(
    ("keep", "num", "kept"),
    [
        (0.15, 12, 2),
        (0.1, 12, 1),
        (0.07, 100, 7),
        (1e-9, 12, 1),
        (1.0, 12, 12),
        (1, 12, 1),
        (12, 12, 12),
        (np.int64(3), 12, 3),
        (np.float32(0.5), 12, 6),
    ],
)
def test_keep(keep, num, kept):
    result = successive_halving(_names(num), [Rung(_by(range(num)), keep)])
    assert result.steps[0].kept.tolist() == list(range(num))[: -kept - 1 : -1]


def test_a_rung_that_agrees_with_the_last_one_changes_nothing():
    """A race by 12-epoch accuracy finds what looking at all of it finds."""
    benchmark = nasbench201()
    archs = sample_distinct(jax.random.key(0), NUM_CHOICES, 100)
    score_fn = benchmark.lookup("cifar10/valid_12ep")
    result = successive_halving(archs, [Rung(score_fn, 0.2), Rung(score_fn)])
    assert result.winner == int(jnp.argmax(score_fn(archs)))
    assert result.arch.tolist() == archs[result.winner].tolist()
    assert [len(rung.scored) for rung in result.steps] == [100, 20]


pools = st.integers(1, 30).flatmap(
    lambda num: st.tuples(
        st.lists(
            st.lists(st.one_of(st.integers(-4, 4), st.just(-INF)), min_size=num, max_size=num),
            min_size=1,
            max_size=3,
        ).filter(lambda tables: all(max(table) > -INF for table in tables)),
        st.floats(0.05, 1.0),
    )
)


@settings(deadline=None)
@given(pools)
def test_against_a_loop_over_sorted_pairs(pool):
    tables, keep = pool
    left = list(range(len(tables[0])))
    below: list[int] = []
    for table in tables:
        if max(table[i] for i in left) == -INF:
            return  # refused, see test_bad_input
        left = sorted(left, key=lambda i, table=table: -table[i])  # stable
        num_kept = max(1, round(keep * len(left)))
        left, below = left[:num_kept], left[num_kept:] + below
    rungs = [Rung(_by(table), keep) for table in tables]
    result = successive_halving(_names(len(tables[0])), rungs)
    assert result.ranking.tolist() == left + below
    assert result.steps[-1].kept.tolist() == left


@settings(deadline=None)
@given(pools)
def test_a_single_rung_sorts(pool):
    (table, *_), keep = pool
    result = successive_halving(_names(len(table)), [Rung(_by(table), keep)])
    order = np.argsort(-np.array(table), kind="stable")
    assert result.ranking.tolist() == order.tolist()


@settings(deadline=None)
@given(pools)
def test_rungs_that_keep_all_leave_it_to_the_last(pool):
    tables, _ = pool
    result = successive_halving(_names(len(tables[0])), [Rung(_by(table)) for table in tables])
    last = successive_halving(_names(len(tables[0])), [Rung(_by(tables[-1]))])
    scores = np.array(tables[-1])  # equals may stand in another order
    assert scores[result.ranking].tolist() == scores[last.ranking].tolist()
    assert all(sorted(rung.scored) == sorted(last.ranking) for rung in result.steps)


@settings(deadline=None)
@given(st.data(), st.integers(1, 30), st.floats(0.05, 1.0))
def test_the_order_of_candidates_does_not_matter(data, num, keep):
    """Where no scores are equal: each candidate ends in the same place."""
    cheap, dear, order = (data.draw(st.permutations(range(num))) for _ in range(3))
    rungs = [Rung(_by(cheap), keep), Rung(_by(dear), keep)]
    result = successive_halving(_names(num), rungs)
    moved = successive_halving(_names(num)[order], rungs)
    assert np.array(order)[moved.ranking].tolist() == result.ranking.tolist()
    assert moved.arch.tolist() == result.arch.tolist()


POOL = [[0], [1], [2], [3]]
GOOD = Rung(_by([1, 2, 3, 4]), 2)


@pytest.mark.parametrize(
    ("candidates", "rungs", "message"),
    [
        ([], [GOOD], r"candidates must be .*shape \[0\]"),
        ([[0.5]], [GOOD], "candidates must be .*: got float64"),
        ([[0], [1], [0]], [GOOD], "each architecture once: got 3 with 2 different; use"),
        (POOL, [], "at least one Rung: got none"),
        (POOL, [GOOD._replace(keep=0)], "1 to the 4 that reach rung 1, .*: got 0; "),
        (POOL, [GOOD, GOOD._replace(keep=3)], "1 to the 2 that reach rung 2, .*: got 3; "),
        (POOL, [GOOD._replace(keep=1.5)], r"at most 1\.0: got 1\.5; "),
        (POOL, [GOOD._replace(keep=0.0)], r"above 0\.0 .*: got 0\.0; "),
        (POOL, [GOOD._replace(keep=np.nan)], "got nan; "),
        (POOL, [GOOD._replace(keep=True)], "got True; "),
        (POOL, [Rung(lambda archs: archs)], r"got shape \[4, 1\] for archs of shape \[4, 1\]"),
        (
            POOL,
            [GOOD, Rung(_by([1, 2, 3, np.nan]))],
            "Rung 2 must not .*: got nan for 1 of 2; use -inf",
        ),
        (POOL, [Rung(_by([1, INF, INF, 1]))], "Rung 1 must not .*: got inf for 2 of 4; use -inf"),
        (POOL, [GOOD, Rung(_by([1, 2, -INF, -INF]))], "Rung 2 must .*: got -inf for all 2; "),
    ],
)
def test_bad_input(candidates, rungs, message):
    with pytest.raises(ValueError, match=message):
        successive_halving(candidates, rungs)


def test_a_wrong_keep_is_found_before_anything_is_scored():
    asked = []
    rungs = [Rung(asked.append, 2), Rung(asked.append, 3)]
    with pytest.raises(ValueError, match="reach rung 2"):
        successive_halving(POOL, rungs)
    assert not asked
