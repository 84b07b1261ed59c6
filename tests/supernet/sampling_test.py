import itertools

import jax
import numpy as np
import pytest

from jaxnas.supernet import sampling

KEY = jax.random.key(0)


def _many(paths, steps, start=0):
    """`[steps, P, L]`."""
    sample = jax.jit(paths)
    return np.stack([sample(KEY, step) for step in range(start, start + steps)])


def test_strictly_fair_steps_take_every_candidate_once():
    drawn = _many(sampling.strict_fair([3, 3, 3, 3]), 40)
    assert drawn.shape == (40, 3, 4)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.arange(3)[None, :, None] + 0 * drawn)


def test_permutations_are_random_and_independent():
    drawn = _many(sampling.strict_fair([3, 3]), 600)
    seen = [tuple(step.T.ravel()) for step in drawn]
    # 6 x 6 pairs of permutations, each expected 16.7 times.
    pairs = list(itertools.product(itertools.permutations(range(3)), repeat=2))
    found = [seen.count(first + second) for first, second in pairs]
    assert sum(found) == 600
    assert np.square(np.array(found) - 600 / 36).sum() / (600 / 36) < 66.6  # chi², p = .001


def test_unequal_layers_are_fair_over_time():
    drawn = _many(sampling.strict_fair([2, 3, 2]), 10)
    for stop in range(1, 11):
        found = sampling.counts(drawn[:stop], [2, 3, 2])
        np.testing.assert_array_equal(found[1], stop)
        for layer in (0, 2):
            assert found[layer, :2].sum() == 3 * stop
            assert abs(found[layer, 0] - found[layer, 1]) <= 1
            assert found[layer, 2] == 0


@pytest.mark.parametrize(
    "paths",
    [
        sampling.strict_fair([2, 3]),
        sampling.uniform([2, 3], 2),
        sampling.within_budget(
            np.ones((2, 3)), [2, 3], sampling.Budget(1, 3, 1), paths=2, attempts=4
        ),
    ],
)
def test_a_step_is_known_by_its_number_alone(paths):
    sample = jax.jit(paths)
    whole = np.stack([sample(KEY, step) for step in range(6)])
    np.testing.assert_array_equal(whole[4:], [sample(KEY, step) for step in (4, 5)])
    assert (whole[:-1] != whole[1:]).any()
    assert (whole != [sample(jax.random.key(1), step) for step in range(6)]).any()


def test_uniform_counts_deviate_as_binomials_do():
    drawn = _many(sampling.uniform([6] * 50, 4), 500)
    found = sampling.counts(drawn, [6] * 50)
    relative = found.std() / found.mean()
    np.testing.assert_allclose(relative, (5 / 2000) ** 0.5, rtol=0.15)


def test_paths_within_a_budget_fill_its_bins_evenly():
    costs = np.array([[1.0, 2, 3, 4]] * 8)
    budget = sampling.Budget(16, 24, 4)
    paths = sampling.within_budget(costs, [4] * 8, budget, fixed=0.5, paths=4)
    drawn = _many(paths, 200).reshape(-1, 8)
    cost = costs[np.arange(8), drawn].sum(axis=1) + 0.5
    assert ((cost >= 16) & (cost < 24)).all()
    share = np.bincount(((cost - 16) // 2).astype(int), minlength=4) / len(cost)
    np.testing.assert_allclose(share, 0.25, atol=0.06)


def test_a_bin_that_no_path_reaches_gives_the_closest():
    costs = np.array([[0.0, 10.0], [0.0, 0.0]])
    paths = sampling.within_budget(costs, [2, 2], sampling.Budget(5, 8, 1), attempts=64)
    np.testing.assert_array_equal(_many(paths, 5)[:, 0, 0], 1)  # 10 is closer to 6.5 than 0


def test_layers_with_fewer_choices_never_get_a_missing_one():
    costs = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    paths = sampling.within_budget(costs, [2, 3], sampling.Budget(1.5, 3, 1), paths=8)
    assert _many(paths, 20)[..., 0].max() == 1


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: sampling.strict_fair([]), "one a layer: got"),
        (lambda: sampling.strict_fair([2, 0]), r"at least 1, one a layer: got \[2, 0\]"),
        (lambda: sampling.uniform([2.5]), "integers"),
        (lambda: sampling.uniform([2], 0), "got paths=0"),
        (
            lambda: sampling.within_budget(np.ones((2, 2)), [3, 3]),
            r"costs must be \[2, 3\].*got shape \[2, 2\]",
        ),
        (
            lambda: sampling.within_budget(np.ones((2, 2)), [2, 2]),
            r"between 2.9e\+08 and 3.6e\+08: the space has costs from 2 to 2",
        ),
        (
            lambda: sampling.within_budget(np.ones((2, 2)), [2, 2], sampling.Budget(3, 1, 1)),
            "A budget has a bin and rises",
        ),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()
