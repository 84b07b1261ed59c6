import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.search import controls, two_step

INF = np.inf


def _first(archs):
    return archs[:, 0]


def test_by_hand():
    candidates = [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5]]
    # Coarse order: 3 (.9), then 0 and 2 (.5, a tie, by index), then 1, and 4 without a score.
    coarse = [0.5, 0.1, 0.5, 0.9, -INF]
    asked = []

    def fine_fn(archs):
        asked.append(archs.tolist())
        return [1.0, 7.0, 2.0]

    result = two_step(candidates, coarse, fine_fn, k=3)
    assert asked == [[[3, 5], [0, 5], [2, 5]]]
    assert result.steps[0].kept.tolist() == [3, 0, 2]
    assert result.steps[1].scores.tolist() == [1, 7, 2]
    assert result.winner == 0
    assert result.arch.tolist() == [0, 5]


def test_ties_of_the_fine_score_go_to_the_better_coarse_one():
    result = two_step([[0], [1], [2]], [1, 3, 2], lambda archs: np.ones(2), k=2)
    assert result.winner == 1


def test_same_architecture_is_kept_once_with_its_best_score():
    candidates = [[1, 1], [2, 2], [1, 1], [3, 3]]
    result = two_step(candidates, [0.3, 0.2, 0.9, 0.1], _first, k=3)
    assert result.steps[0].kept.tolist() == [2, 1, 3]


def test_different_architectures_with_one_score_are_all_kept():
    result = two_step([[0], [1], [2]], [0.0, 0.0, 0.0], _first, k=3)
    assert result.steps[0].kept.tolist() == [0, 1, 2]
    assert result.winner == 2


def test_unscored_candidates_are_kept_only_when_nothing_else_is_left():
    result = two_step([[9], [1], [8], [2]], [-INF, 0.1, -INF, -5.0], _first, k=3)
    assert result.steps[0].kept.tolist() == [1, 3, 0]


def test_failed_fine_scores_lose():
    result = two_step([[0], [1], [2]], [3, 2, 1], lambda archs: [jnp.nan, -1.0, -INF], k=3)
    assert result.steps[1].scores.tolist() == [-INF, -1, -INF]
    assert result.winner == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 3)), min_size=1, max_size=30),
    st.integers(1, 10),
)
def test_against_sorted_pairs(pool, k):
    archs = [[arch] for arch, _ in pool]
    coarse = [score for _, score in pool]
    k = min(k, len(set(map(tuple, archs))))
    result = two_step(archs, coarse, lambda kept: -kept[:, 0], k)
    kept = []
    for i in sorted(range(len(pool)), key=lambda i: (-coarse[i], i)):
        if archs[i] not in [archs[j] for j in kept] and len(kept) < k:
            kept.append(i)
    assert result.steps[0].kept.tolist() == kept
    assert result.arch.tolist() == min(archs[i] for i in kept)


def test_controls():
    candidates = np.arange(300)[:, None]
    num_params = (candidates[:, 0] * 7) % 300
    result = controls(jax.random.key(0), candidates, num_params, _first, k=40)
    assert result.params.steps[0].kept.tolist() == np.argsort(-num_params)[:40].tolist()
    assert result.params.winner == result.params.steps[0].kept.max()
    assert len(set(result.random.steps[0].kept.tolist())) == 40
    # 40 uniform indices below 300: mean 149.5, standard error 13.
    assert abs(result.random.steps[0].kept.mean() - 149.5) < 40
    other = controls(jax.random.key(1), candidates, num_params, _first, k=40)
    assert other.random.steps[0].kept.tolist() != result.random.steps[0].kept.tolist()
    assert other.params.steps[0].kept.tolist() == result.params.steps[0].kept.tolist()


def test_random_control_is_uniform():
    counts = np.zeros(10)
    for key in jax.random.split(jax.random.key(0), 200):
        counts[
            controls(key, np.arange(10)[:, None], np.arange(10), _first, 3).random.steps[0].kept
        ] += 1
    # 200 draws of 3 in 10: 60 each, standard deviation sqrt(200 * .3 * .7) = 6.5.
    assert (abs(counts - 60) < 26).all()


POOL = [[0], [1], [2], [0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: two_step(POOL, [1, 2, 3, 4], _first, 4),
            "k must be an integer from 1 to 3: got 4; ",
        ),
        (
            lambda: two_step(POOL, [1, 2, 3, 4], _first, 0),
            "k must be an integer from 1 to 3: got 0; ",
        ),
        (lambda: two_step([], [], _first, 1), r"candidates must be .*shape \[0\]"),
        (lambda: two_step(np.zeros((0, 6), int), [], _first, 1), r"candidates .*shape \[0, 6\]"),
        (lambda: two_step([[0.5]], [1], _first, 1), "candidates must be .*: got float64"),
        (lambda: two_step(POOL, [1, 2, 3], _first, 1), r"coarse_scores .*shape \[3\] for 4"),
        (lambda: two_step(POOL, [1, 2, np.nan, 4], _first, 1), "nan for candidate 2; use -inf"),
        (lambda: two_step(POOL, [1, 2, 3, 4], lambda a: a, 2), r"Rung 2 must .*shape \[2, 1\] for"),
        (
            lambda: two_step(POOL, [1, 2, 3, 4], lambda a: [np.nan, -INF], 2),
            "Rung 2 must give a finite score .* -inf for all 2",
        ),
        (lambda: controls(jax.random.key(0), [], [], _first, 1), "candidates must be"),
        (lambda: controls(jax.random.key(0), POOL, [1], _first, 1), "coarse_scores"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
