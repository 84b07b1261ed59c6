"""How well a score orders accuracies: rank correlations, their uncertainty, and top-k figures.

Only the order of the scores matters here. A score of `-inf` (nothing to score) is legal and ties
with its like at the bottom; `nan` is refused, because it has no place in an order. A correlation
that is not defined (fewer than 3 architectures, or a constant side) is `nan`, without a warning.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike

from jaxnas import check

Statistic = Callable[[ArrayLike, ArrayLike], float]
"""`statistic(scores, accuracies)`: one number from two arrays `[A]`."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def spearman(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Return Spearman's rank correlation, in [-1, 1], with mid-ranks for ties.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.

    Returns:
        The correlation; `nan` for fewer than 3 architectures or a constant side.

    Raises:
        ValueError: the arrays differ in length, or hold values without an order.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.spearman([0.1, 0.5, 0.3, float("-inf")], [60.0, 94.0, 93.0, 10.0])
        1.0
    """
    return _spearman(*_pair(scores, accuracies))


def kendall(scores: ArrayLike, accuracies: ArrayLike) -> float:
    """Return Kendall's tau-b, in [-1, 1]: concordant less discordant pairs, corrected for ties.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.

    Returns:
        The correlation; `nan` for fewer than 3 architectures or a constant side.

    Raises:
        ValueError: the arrays differ in length, or hold values without an order.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.kendall([1, 2, 3, 4], [60.0, 94.0, 93.0, 95.0])
        0.6667
    """
    predicted, true = _pair(scores, accuracies)
    if _undefined(predicted, true):
        return float("nan")
    return float(scipy.stats.kendalltau(predicted, true, variant="b").statistic)


def partial_spearman(scores: ArrayLike, accuracies: ArrayLike, given: ArrayLike) -> float:
    """Return the rank correlation that is left once other quantities are accounted for.

    The ranks of scores and of accuracies are each regressed on the ranks of `given` (least squares
    with an intercept); the result is the correlation of the residuals. With
    `given = log(#parameters)`, scores that follow the number of parameters but for noise come out
    near 0; an exact count has no residuals, which gives `nan`.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.
        given: `[A]` or `[A, G]`, quantities to account for.

    Returns:
        The correlation in [-1, 1]; `nan` for fewer than `3 + G` architectures, or where the ranks
        of `given` determine those of one side.

    Raises:
        ValueError: the arrays differ in length, or hold values without an order.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.partial_spearman([1, 2, 3, 4, 5], [3, 1, 4, 2, 5], given=[2, 1, 4, 3, 5])
        -0.8412
    """
    predicted, true = _pair(scores, accuracies)
    matrix = np.asarray(check.array("given", given), np.float64)
    if matrix.ndim not in (1, 2) or len(matrix) != len(predicted):
        raise ValueError(
            f"given must be [A] or [A, G] with one row for each of the {len(predicted)} scores: "
            f"got shape {matrix.shape}; pass one value per architecture."
        )
    _ordered("given", matrix.ravel())
    columns = np.atleast_2d(matrix.T).T
    if len(predicted) < 3 + columns.shape[1]:
        return float("nan")
    ranks = scipy.stats.rankdata(np.column_stack([predicted, true, columns]), axis=0)
    ranks -= ranks.mean(axis=0, keepdims=True)
    sides, others = ranks[:, :2], ranks[:, 2:]
    residuals = sides - others @ np.linalg.lstsq(others, sides, rcond=None)[0]
    norms = np.linalg.norm(residuals, axis=0)
    # What is left of a side that `given` determines is rounding: it has no direction.
    if (norms <= 1e-9 * len(predicted) ** 1.5).any():
        return float("nan")
    return float(residuals[:, 0] @ residuals[:, 1] / norms.prod())


def bootstrap_interval(
    statistic: Statistic,
    scores: ArrayLike,
    accuracies: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic over architectures.

    Architectures that are the same function share their score, and are no independent evidence: of
    1,000 random cells of NAS-Bench-201 639 are. Where groups are given they are drawn anew as a
    whole; without, an interval can be less than half as wide as it should be.

    Source: Efron (1979); percentile method. `spearman` costs a few passes over the architectures
    per resample; any other statistic is called once per resample.

    Args:
        statistic: `statistic(scores, accuracies) -> float`, such as `spearman` or `kendall`.
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.
        groups: `[A]` or `[A, D]`, equal for architectures that are drawn together, such as their
            `SearchSpace.representative`; None if each is drawn by itself.
        num_resamples: how many times the groups are drawn anew, with replacement.
        confidence: the share of resampled values inside the interval, in (0, 1).
        seed: of the resampling.

    Returns:
        The interval; resamples without a defined value are left out, and both ends are `nan` where
        none is left.

    Raises:
        ValueError: for bad arrays, `num_resamples` below 1 or `confidence` outside (0, 1).

    Examples:
        >>> from jaxnas import correlation
        >>> low, high = correlation.bootstrap_interval(
        ...     correlation.spearman, range(50), [n ^ 5 for n in range(50)], num_resamples=100
        ... )
        >>> 0.9 < low < high <= 1
        True
    """
    predicted, true = _pair(scores, accuracies)
    check.instance("statistic", statistic, Callable, "a function of scores and accuracies")
    check.integer("num_resamples", num_resamples, 1, advice="; try 1000.")
    check.integer("seed", seed)
    if not 0.0 < check.real("confidence", confidence) < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1: got {confidence}; try 0.95.")
    group = _groups(groups, len(predicted))
    if len(predicted) == 0:
        return Interval(float("nan"), float("nan"))

    def of_drawn(weights: np.ndarray) -> float:
        drawn = np.repeat(np.arange(len(weights)), weights)
        return statistic(predicted[drawn], true[drawn])

    of_resample = _resampled_spearman(predicted, true) if statistic is spearman else of_drawn
    generator, count = np.random.default_rng(seed), group.max() + 1
    draws = (generator.integers(count, size=count) for _ in range(num_resamples))
    values = np.array([of_resample(np.bincount(drawn, minlength=count)[group]) for drawn in draws])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def top_k_recall(scores: ArrayLike, accuracies: ArrayLike, k: int) -> float:
    """Return the share of the `k` most accurate architectures among the `k` best scored.

    Ties are broken by index: the first counts as the better one.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.
        k: in [1, A].

    Raises:
        ValueError: for bad arrays, or `k` out of range.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.top_k_recall([1, 2, 3, 4], [60.0, 94.0, 93.0, 95.0], k=2)
        0.5
    """
    predicted, true = _pair(scores, accuracies)
    return len(np.intersect1d(_best(predicted, k), _best(true, k))) / k


def ties(scores: ArrayLike) -> int:
    """Return how many architectures share their score with another one.

    Args:
        scores: `[A]`; `-inf` is legal.

    Raises:
        ValueError: `scores` is not a vector, or holds `nan`.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.ties([0.5, 0.5, 0.7])
        2
    """
    counts = np.unique(_ordered("scores", scores), return_counts=True)[1]
    return int(counts[counts > 1].sum())


def seed_agreement(scores_by_seed: ArrayLike) -> float:
    """Return the mean Spearman correlation over the pairs of seeds of one score.

    No score agrees with accuracy better than it agrees with itself, so this is what a correlation
    with accuracy is to be held against.

    Args:
        scores_by_seed: `[S, A]`, the scores of the same architectures under each seed.

    Returns:
        The mean, in [-1, 1]; `nan` for fewer than 3 architectures or where a seed's scores are
        constant.

    Raises:
        ValueError: not a matrix, fewer than 2 seeds, or `nan` among the scores.

    Examples:
        >>> from jaxnas import correlation
        >>> correlation.seed_agreement([[1, 2, 3], [1, 3, 2]])
        0.5
    """
    by_seed = np.asarray(check.array("scores_by_seed", scores_by_seed), np.float64)
    if by_seed.ndim != 2 or len(by_seed) < 2:
        raise ValueError(
            "scores_by_seed must be [S, A] with at least 2 seeds: "
            f"got shape {by_seed.shape}; score the same architectures under another seed."
        )
    rows = [_ordered("scores_by_seed", row) for row in by_seed]
    pairs = itertools.combinations(rows, 2)
    return float(np.mean([_spearman(one, other) for one, other in pairs]))


def _spearman(left: np.ndarray, right: np.ndarray) -> float:
    if _undefined(left, right):
        return float("nan")
    return float(scipy.stats.spearmanr(left, right).statistic)


def _ordered(name: str, values: ArrayLike) -> np.ndarray:
    """Return `values` as `float64[A]` that can be put in order."""
    vector = np.asarray(check.array(name, values), np.float64)
    if vector.ndim != 1:
        raise ValueError(
            f"{name} must be a vector: got shape {vector.shape}; pass one value per architecture."
        )
    if np.isnan(vector).any():
        raise ValueError(
            f"{name} must not hold nan: got {np.isnan(vector).sum()} of {len(vector)}; leave those "
            "architectures out and report how many they were."
        )
    return vector


def _pair(scores: ArrayLike, accuracies: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    ordered = _ordered("scores", scores), _ordered("accuracies", accuracies)
    if len(ordered[0]) != len(ordered[1]):
        raise ValueError(
            "scores and accuracies must be of the same architectures: "
            f"got {len(ordered[0])} scores and {len(ordered[1])} accuracies; align them first."
        )
    if np.isinf(ordered[1]).any():
        raise ValueError(
            f"accuracies must be finite: got {np.isinf(ordered[1]).sum()} infinite; leave those "
            "architectures out."
        )
    return ordered


def _groups(groups: ArrayLike | None, count: int) -> np.ndarray:
    """Return the number of the group of each architecture, `int[A]`."""
    if groups is None:
        return np.arange(count)
    labels = check.array("groups", groups, "biufSTU")
    if labels.ndim not in (1, 2) or len(labels) != count:
        raise ValueError(
            f"groups must be [A] or [A, D] with one row for each of the {count} scores: got shape "
            f"{labels.shape}; pass the representative of each architecture."
        )
    return np.unique(labels, axis=0, return_inverse=True)[1].ravel()


def _undefined(left: np.ndarray, right: np.ndarray) -> bool:
    return len(left) < 3 or bool((left == left[0]).all() or (right == right[0]).all())


def _best(values: np.ndarray, k: int) -> np.ndarray:
    check.integer("k", k, 1, len(values), "; score more architectures or change k.")
    return np.argsort(-values, kind="stable")[:k]


def _resampled_spearman(
    scores: np.ndarray, accuracies: np.ndarray
) -> Callable[[np.ndarray], float]:
    """Return `value(weights)`: Spearman's correlation, given how often each one counts, `int[A]`.

    A resample is a set of weights, so sorting once is enough.
    """
    places = [np.unique(side, return_inverse=True)[1] for side in (scores, accuracies)]

    def value(counts: np.ndarray) -> float:
        weights = counts.astype(np.float64)
        if weights.sum() < 3:
            return float("nan")
        mean_rank = (weights.sum() + 1) / 2
        left, right = (_weighted_ranks(place, weights) - mean_rank for place in places)
        variances = weights @ left**2, weights @ right**2
        if min(variances) == 0.0:
            return float("nan")
        return float(weights @ (left * right) / np.sqrt(variances[0] * variances[1]))

    return value


def _weighted_ranks(group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mid-ranks `[A]` of weighted values.

    Equal values of total weight `w` that hold the places `(c, c + w]` have rank `c + (w + 1) / 2`.

    Args:
        group: `int[A]`, the place of each value among the distinct values.
        weights: `[A]`, how often each architecture was drawn.
    """
    sizes = np.bincount(group, weights=weights)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]
