"""How well some scores order the accuracies of the same architectures, as a table."""

from collections.abc import Mapping

import pandas as pd
from numpy.typing import ArrayLike

from jaxnas import correlation


def correlation_table(
    scores: Mapping[str, ArrayLike],
    accuracies: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    given: Mapping[str, ArrayLike] | None = None,
) -> pd.DataFrame:
    """Return Spearman's correlation of each score with the accuracies, a row for each.

    `figures.correlation_bars` draws the table.

    Args:
        scores: `[A]` by name, larger is predicted to be better; `-inf` is legal.
        accuracies: `[A]`, finite, larger is better.
        groups: equal for architectures that are one function; see `correlation.bootstrap_interval`.
        given: quantities `[A]` by name, for the partial correlations.

    Returns:
        Columns `score`, `spearman`, `low` and `high` (95 % bootstrap interval), and `| NAME`, the
        correlation given that quantity, for each of them.

    Raises:
        ValueError: arrays that differ in length, or hold values without an order.

    Examples:
        >>> from jaxnas.runs import correlation_table
        >>> table = correlation_table({"flops": [1, 2, 3, 5, 4]}, [70, 80, 75, 94, 93])
        >>> table["spearman"].tolist()
        [0.8]
    """
    rows = []
    for name, values in scores.items():
        low, high = correlation.bootstrap_interval(
            correlation.spearman, values, accuracies, groups=groups
        )
        row = {
            "score": name,
            "spearman": correlation.spearman(values, accuracies),
            "low": low,
            "high": high,
        }
        for quantity, known in (given or {}).items():
            row[f"| {quantity}"] = correlation.partial_spearman(values, accuracies, known)
        rows.append(row)
    return pd.DataFrame(rows)
