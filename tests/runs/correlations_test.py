"""The table of rank correlations beside the functions that it calls."""

import numpy as np
import pytest

from jaxnas import correlation
from jaxnas.runs import correlation_table


def test_a_row_for_each_score():
    rng = np.random.default_rng(0)
    size, accuracies = rng.random(40), rng.random(40)
    scores = {"good": accuracies + 0.1 * rng.random(40), "size": size}
    groups = np.arange(40) // 2
    table = correlation_table(scores, accuracies, groups=groups, given={"size": np.log(size)})
    assert list(table.columns) == ["score", "spearman", "low", "high", "| size"]
    assert list(table["score"]) == ["good", "size"]
    good = table.iloc[0]
    assert good["spearman"] == correlation.spearman(scores["good"], accuracies)
    assert good["| size"] == correlation.partial_spearman(scores["good"], accuracies, size)
    interval = correlation.bootstrap_interval(
        correlation.spearman, scores["good"], accuracies, groups=groups
    )
    assert (good["low"], good["high"]) == interval
    assert np.isnan(table["| size"][1])  # an exact count says nothing beyond itself
    assert list(correlation_table(scores, accuracies).columns) == list(table.columns)[:-1]


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="got 2 scores and 3 accuracies"):
        correlation_table({"a": [1, 2]}, [1, 2, 3])
