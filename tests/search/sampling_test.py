import math
from collections import Counter

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.search import random_sampling, run, sample, sample_distinct
from jaxnas.search.sampling import open_decisions

spaces = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(deadline=None, max_examples=15)
@given(num_choices=spaces, num=st.integers(0, 20), seed=st.integers(0, 2**31 - 1))
def test_samples_are_in_range(num_choices, num, seed):
    archs = np.asarray(sample(jax.random.key(seed), num_choices, num))
    assert archs.shape == (num, len(num_choices))
    assert archs.dtype == np.int32
    assert (archs >= 0).all()
    assert (archs < num_choices).all()


@settings(deadline=None, max_examples=25)
@given(num_choices=spaces, share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_distinct_samples_are_distinct_and_in_range(num_choices, share, seed):
    num = round(share * math.prod(num_choices))
    archs = np.asarray(sample_distinct(jax.random.key(seed), num_choices, num))
    assert archs.shape == (num, len(num_choices))
    assert archs.dtype == np.int32
    assert len(np.unique(archs, axis=0)) == num
    assert (archs >= 0).all()
    assert (archs < num_choices).all()


def test_whole_space_in_a_random_order():
    archs = np.asarray(sample_distinct(jax.random.key(0), [3, 1, 4, 2], 24)).tolist()
    assert sorted(map(tuple, archs)) == list(np.ndindex(3, 1, 4, 2))
    assert archs != sorted(archs)
    assert archs != np.asarray(sample_distinct(jax.random.key(1), [3, 1, 4, 2], 24)).tolist()


@pytest.mark.parametrize("num_choices", [(10,) * 20, (2,) * 70, (2**31 - 1, 2**31 - 1, 100)])
def test_spaces_too_large_to_enumerate(num_choices):
    archs = np.asarray(sample_distinct(jax.random.key(0), num_choices, 1000))
    assert len(np.unique(archs, axis=0)) == 1000
    # 1,000 uniform values: the mean of value / (n - 1) is 0.5 with standard error < .016.
    means = (archs / (np.array(num_choices) - 1)).mean(axis=0)
    np.testing.assert_allclose(means, 0.5, atol=0.07)


def test_repeated_draws_are_topped_up():
    # 1,000 of 4,096 with a repeat in about every ninth draw.
    archs = np.asarray(sample_distinct(jax.random.key(0), [8] * 4, 1000))
    assert len(np.unique(archs, axis=0)) == 1000


# 600 pairs of 12 = 4 x 3 different ordered pairs and of 72 = 9 x 8: a permutation, and draws.
@pytest.mark.parametrize(("num_choices", "num_pairs"), [((2, 2), 12), ((3, 3), 72)])
def test_distinct_pairs_are_uniform(num_choices, num_pairs):
    keys = jax.random.split(jax.random.key(0), 600)
    pairs = [np.asarray(sample_distinct(key, num_choices, 2)).tobytes() for key in keys]
    counts = list(Counter(pairs).values())
    assert len(counts) == num_pairs
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_samples_are_uniform_and_independent():
    archs = np.asarray(sample(jax.random.key(0), [3, 1, 4], 3600))
    counts = list(Counter(map(tuple, archs)).values())
    assert len(counts) == 12
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_random_search_is_uniform_over_its_evaluations():
    history = run(
        random_sampling([3, 4]),
        lambda archs: archs[:, 0],
        key=jax.random.key(0),
        num_evaluations=2400,
    )
    counts = list(Counter(map(tuple, np.asarray(history.archs))).values())
    assert len(counts) == 12
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_open_decisions():
    assert open_decisions([1, 2, 1, 5]).tolist() == [1, 3]


@pytest.mark.parametrize(
    "num_choices", [[], [3, 0], [-1], [2.0, 3.0], [[2, 2]], ["3"], [2, 2**31], [2**63], [2**70]]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda choices: sample(jax.random.key(0), choices, 1),
        lambda choices: sample_distinct(jax.random.key(0), choices, 1),
        random_sampling,
        open_decisions,
    ],
)
def test_bad_num_choices(call, num_choices):
    with pytest.raises(ValueError, match="non-empty list of positive integers: got "):
        call(num_choices)


@pytest.mark.parametrize("num", [13, -1])
def test_more_than_the_space(num):
    with pytest.raises(
        ValueError, match=f"num must be an integer from 0 to 12: got {num}; the space has"
    ):
        sample_distinct(jax.random.key(0), [3, 4], num)


def test_negative_number_of_samples():
    with pytest.raises(ValueError, match=r"num must be an integer from 0 .*: got -1"):
        sample(jax.random.key(0), [3, 4], -1)


def test_the_largest_number_of_choices_is_drawn_whole():
    drawn = np.asarray(sample(jax.random.key(0), [2**31 - 1], 1000)).ravel()
    assert drawn.min() >= 0
    assert 0.45 < (drawn > 2**30).mean() < 0.55
