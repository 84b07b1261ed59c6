"""What a score is worth: where a network is expected to stand among its family.

A score orders networks, and does not say how well. A few of them, spread over its order and
trained, do: their accuracies tell how strongly the two orders depend on each other.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from jaxnas import check

# Of the dependence theta, from perfect disagreement (nearly) to perfect agreement.
_THETAS = np.sinh(np.linspace(-1, 1, 200) * np.arcsinh(30))


class Percentiles(NamedTuple):
    """Where networks are expected to stand in a pool, in percent; 100 is the most accurate.

    Attributes:
        expected: `float64[A]`, the median.
        low: `float64[A]`, the lower end of the interval.
        high: `float64[A]`, its upper end.
    """

    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def spread(scores: ArrayLike, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return which networks to train: one of each of `count` equal parts of the order of a score.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        count: from 4 to A.
        seed: of the choice within each part.

    Returns:
        Positions `int64[count]`, the worst part first.

    Raises:
        ValueError: scores without an order, or a count out of its range.
    """
    order = np.argsort(_ordered(scores), kind="stable")
    check.integer("count", count, 4, len(order))
    rng = np.random.default_rng(check.integer("seed", seed, 0))
    return np.array([rng.choice(part) for part in np.array_split(order, count)], np.int64)


def percentiles(
    scores: ArrayLike,
    trained: ArrayLike,
    accuracies: ArrayLike,
    *,
    level: float = 0.9,
    draws: int = 400,
    seed: int = 0,
) -> Percentiles:
    """Return where each network of a pool is expected to stand, given the accuracies of a few.

    Ranks of scores and accuracies are taken for a draw of Frank's copula, whose one parameter has a
    posterior under the few that are trained (uniform prior in `arcsinh(theta)`). Unlike that of
    normal variables, its dependence is not stronger at the ends, as that of scores is not. The
    trained networks must be spread over the order, see `spread`: their accuracies are ranked among
    themselves, and keep that order in each draw. Others of equal scores stand alike.

    Source: Frank, "On the simultaneous associativity of F(x, y) and x + y - F(x, y)", Aequationes
    Mathematicae 19, 1979; Nelsen, "An Introduction to Copulas", 2006, family 4.2.5. How often the
    intervals hold on a benchmark is in docs/results/search.md.

    Args:
        scores: `[A]`, larger is predicted to be better; `-inf` is legal.
        trained: positions `int[M]` of networks that were trained, 4 or more.
        accuracies: `[M]`, theirs, or anything of which more is better.
        level: share of the networks that are within their intervals.
        draws: of the ranks of all networks; the interval is known to about `1 / sqrt(draws)`.
        seed: of the draws.

    Raises:
        ValueError: arrays that do not fit together, positions out of range or twice the same.

    Examples:
        >>> import numpy as np
        >>> from jaxnas import calibration
        >>> scores = np.arange(100.0)
        >>> few = calibration.spread(scores, 10)
        >>> found = calibration.percentiles(scores, few, accuracies=scores[few] ** 2)
        >>> bool(found.low[90] > 60), bool(found.high[10] < 40)
        (True, True)
    """
    ordered = _ordered(scores)
    rows, known = np.asarray(check.array("trained", trained)), check.array("accuracies", accuracies)
    count = len(ordered)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) < 4 or len(set(rows)) < len(rows):
        raise ValueError(
            f"trained must be 4 or more different positions: got {rows.dtype}{list(rows.shape)}."
        )
    if rows.min() < 0 or rows.max() >= count or np.shape(known) != rows.shape:
        raise ValueError(
            f"trained and accuracies must be of networks of the pool of {count}: got positions "
            f"{rows.min()} to {rows.max()}, and accuracies {list(np.shape(known))}."
        )
    check.real("level", level, 0, 1)
    rng = np.random.default_rng(check.integer("seed", seed, 0))

    # Ranks from 0 to 1, of the scores in the pool and of the accuracies among themselves.
    u = (scipy.stats.rankdata(ordered) - 0.5) / count
    v = (scipy.stats.rankdata(_ordered(known)) - 0.5) / len(rows)

    # The posterior of the dependence, from the density of the copula.
    density = _log_density(u[rows][:, None], v[:, None], _THETAS).sum(0)
    posterior = np.exp(density - density.max())
    theta = rng.choice(_THETAS, check.integer("draws", draws, 1), p=posterior / posterior.sum())

    # Draws of all ranks, given those of the scores: the inverse of the conditional distribution.
    q = rng.random((len(theta), count))
    e = np.exp(-theta[:, None] * u)
    drawn = -np.log1p(q * np.expm1(-theta)[:, None] / (q + (1 - q) * e)) / theta[:, None]

    # The order of those that are trained is known.
    drawn[:, rows[np.argsort(known)]] = np.sort(drawn[:, rows], axis=1)
    percent = 100 * (scipy.stats.rankdata(drawn, axis=1) - 0.5) / count
    low, expected, high = np.quantile(percent, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    return Percentiles(expected, low, high)


def advantage(
    scores: ArrayLike,
    control: ArrayLike,
    accuracies: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> float:
    """Return how probable it is that a score orders networks better than a control does.

    Near 1, use the score. Near 1/2, these trainings do not tell the two apart, and a control that
    costs nothing, such as #params, is as good a choice. Near 0, the control is better.

    Spearman's correlations with the accuracies are compared in bootstrap draws of the networks; a
    draw in which they are equal counts half. Some ten trainings tell large differences only.

    Args:
        scores: `[M]` of the networks that were trained, larger is predicted to be better.
        control: `[M]`, the same networks' #params, say.
        accuracies: `[M]`, or anything of which more is better.
        draws: of the bootstrap.
        seed: of these draws.

    Raises:
        ValueError: arrays of different lengths, or fewer than 4 networks.

    Examples:
        >>> from jaxnas import calibration
        >>> accuracies = [60, 70, 80, 90, 91, 92]
        >>> calibration.advantage([1, 2, 3, 4, 5, 6], [6, 1, 3, 2, 5, 4], accuracies) > 0.9
        True
    """
    values = [_ordered(each) for each in (scores, control, accuracies)]
    if len({len(each) for each in values}) > 1 or len(values[0]) < 4:
        raise ValueError(
            "scores, control and accuracies must be of the same 4 or more networks: got "
            f"{', '.join(str(len(each)) for each in values)}."
        )
    rng = np.random.default_rng(check.integer("seed", seed, 0))
    rows = rng.integers(len(values[0]), size=(check.integer("draws", draws, 1), len(values[0])))
    ours, others, truth = (_unit_ranks(each[rows]) for each in values)
    gains = np.sum((ours - others) * truth, axis=1)
    return float(np.mean(np.where(np.isclose(gains, 0), 0.5, gains > 0)))


def _unit_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks within each row as vectors of mean 0 and length 1, or 0 if all are equal."""
    ranks = scipy.stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    return ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-9)


def _log_density(u: NDArray, v: NDArray, theta: NDArray) -> NDArray[np.float64]:
    """Return the logarithm of the density of Frank's copula."""
    a = -np.expm1(-theta)
    b = a - np.expm1(-theta * u) * np.expm1(-theta * v)
    return np.asarray(np.log(theta * a) - theta * (u + v) - 2 * np.log(np.abs(b)), np.float64)


def _ordered(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(check.array("scores", values), np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError(
            f"Scores and accuracies are arrays [A] without nan: got shape {list(array.shape)}."
        )
    return array
