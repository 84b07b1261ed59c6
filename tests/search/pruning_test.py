import numpy as np
import pytest

from jaxnas import search

# How good each operation of two decisions is; what is taken away is missed by as much.
WORTH = np.array([[3.0, 1.0, 2.0], [5.0, 0.0, 4.0]])
EVERYTHING = np.ones((2, 3), bool)


def test_the_worst_goes_in_each_round():
    looks = []

    def score(alive):
        looks.append(alive)
        return [WORTH[alive].sum()]

    found = search.prune(EVERYTHING, score)
    np.testing.assert_array_equal(found.arch, [0, 0])
    # Without 1 and 1 the most is left, then without 2 and 2.
    np.testing.assert_array_equal([round.pruned for round in found.steps], [[1, 1], [2, 2]])
    assert len(looks) == 6 + 4
    assert [round.evaluations for round in found.steps] == [6, 4]
    assert all(look.sum() == 5 for look in looks[:6])
    np.testing.assert_array_equal(found.steps[1].alive, [[1, 0, 1], [1, 0, 1]])


def test_ranks_are_summed_over_scores_and_operations_of_all_decisions():
    # Scores of the network without (0, 0), (0, 1), (1, 0), (1, 1), in this order.
    given = {0: (1.0, 40.0), 1: (2.0, 10.0), 2: (9.0, 30.0), 3: (8.0, 20.0)}
    found = search.prune(np.ones((2, 2), bool), lambda alive: given[int(alive.argmin())])
    # Ranks 1 + 4 and 2 + 1; 4 + 3 and 3 + 2: decision 0 loses 0, decision 1 loses 0.
    np.testing.assert_array_equal(found.steps[0].pruned, [0, 0])
    np.testing.assert_array_equal(found.arch, [1, 1])
    np.testing.assert_array_equal(found.steps[0].scores[1, 1], [8.0, 20.0])


def test_what_is_reserved_is_neither_looked_at_nor_pruned():
    def reserve(alive):
        reserved = np.zeros_like(alive)
        reserved[0, 1] = alive[0].sum() == 3  # the worst, in the first round
        return reserved

    found = search.prune(EVERYTHING, lambda alive: [WORTH[alive].sum()], reserve=reserve)
    np.testing.assert_array_equal([each.pruned for each in found.steps], [[2, 1], [1, 2]])
    assert [each.evaluations for each in found.steps] == [5, 4]
    assert np.isnan(found.steps[0].scores[0, 1]).all()


def test_equal_and_missing_scores():
    found = search.prune(EVERYTHING, lambda alive: [0.0])
    np.testing.assert_array_equal(found.arch, [2, 2])  # of equals the first goes
    # What is not finite ranks last, so that nothing is pruned for it.
    found = search.prune(EVERYTHING, lambda alive: [np.nan if alive[0, 0] else 0.0])
    np.testing.assert_array_equal(found.steps[0].pruned, [0, 0])


def test_decisions_that_are_made_stay():
    alive = np.array([[False, True, False], [True, True, True]])
    found = search.prune(alive, lambda leaf: [WORTH[leaf].sum()])
    np.testing.assert_array_equal(found.arch, [1, 0])
    np.testing.assert_array_equal([round.pruned for round in found.steps], [[-1, 1], [-1, 2]])
    assert search.prune(np.eye(3, dtype=bool), lambda leaf: [0.0]).steps == ()


@pytest.mark.parametrize(
    ("alive", "score", "reserve", "sentence"),
    [
        (np.ones((2, 3)), lambda leaf: [0.0], None, r"bool\[D, O\]"),
        (np.zeros((2, 3), bool), lambda leaf: [0.0], None, "an operation for each decision"),
        (EVERYTHING, lambda leaf: [0.0] * (1 + leaf[0, 0]), None, "as many scores each time"),
        (EVERYTHING, lambda leaf: [], None, "one at least"),
        (EVERYTHING, lambda leaf: [0.0], lambda leaf: leaf, "leave an operation to evaluate"),
        (EVERYTHING, lambda leaf: [0.0], lambda leaf: leaf[:1], "leave an operation to evaluate"),
    ],
)
def test_refuses(alive, score, reserve, sentence):
    with pytest.raises(ValueError, match=sentence):
        search.prune(alive, score, reserve=reserve)
