"""The exact optimum of a score that is a sum over decisions, under a cap on a sum of costs."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxnas import check


def knapsack(
    scores: ArrayLike, costs: ArrayLike, cap: float, *, fixed: float = 0.0
) -> NDArray[np.int32]:
    """Return the architecture `int32[L]` with the largest sum of scores that costs at most `cap`.

    Decision by decision, of the sums so far only the Pareto front is kept: what costs more and
    scores no more can be no part of the optimum. Costs need not be integers. The oracle of
    `search.constrained_evolution`.

    Args:
        scores: `[L, K]`, of each candidate of each layer; NaN or -inf where there is none.
        costs: `[L, K]`.
        cap: of the sum of the costs.
        fixed: cost of what is not searched.

    Raises:
        ValueError: tables of different shapes, or a cap below the cheapest architecture.

    Examples:
        >>> from jaxnas import search
        >>> search.knapsack([[1.0, 3.0], [1.0, 2.0]], [[1, 5], [1, 2]], cap=6).tolist()
        [1, 0]
    """
    check.real("cap", cap), check.real("fixed", fixed)
    table, prices = (
        np.asarray(check.array(name, one), float)
        for name, one in (("scores", scores), ("costs", costs))
    )
    if table.ndim != 2 or not table.size or table.shape != prices.shape:
        raise ValueError(
            "scores and costs are two tables [L, K], L and K positive: got shapes "
            f"{list(table.shape)} and {list(prices.shape)}."
        )
    exists = ~np.isnan(table) & (table > -np.inf)
    if not exists.any(1).all():
        raise ValueError(f"Each layer needs a candidate: got scores {table.tolist()}.")
    if not np.isfinite(table[exists]).all() or not np.isfinite(prices[exists]).all():
        raise ValueError("Scores and costs of candidates are finite: got an infinity or NaN.")
    cheapest = np.where(exists, prices, np.inf).min(1)
    if not fixed + cheapest.sum() <= cap:
        raise ValueError(
            f"No architecture costs {cap:g} or less: the cheapest costs "
            f"{fixed + cheapest.sum():g}; raise the cap."
        )
    spent, gained = np.array([fixed]), np.zeros(1)
    traces = []  # of each layer: where each kept sum came from, and its candidate
    for layer, (row, price) in enumerate(zip(table, prices, strict=True)):
        offered = np.flatnonzero(exists[layer])
        cost = (spent[:, None] + price[offered]).ravel()
        score = (gained[:, None] + row[offered]).ravel()
        # Rounding of the last digits must not refuse what the check above allowed.
        left = cap - cheapest[layer + 1 :].sum() + 1e-12 * abs(cap)
        within = np.flatnonzero(cost <= left)
        kept = within[pareto_front(cost[within], score[within])]
        spent, gained = cost[kept], score[kept]
        traces.append((kept // len(offered), offered[kept % len(offered)]))
    arch = np.empty(len(table), np.int32)
    at = int(gained.argmax())
    for layer in reversed(range(len(table))):
        before, candidate = traces[layer]
        arch[layer] = candidate[at]
        at = before[at]
    return arch


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> NDArray[np.int64]:
    """Return the places of what nothing beats, by rising cost; of equals, the first.

    Nothing else costs no more and scores more.

    Args:
        costs: `[N]`, smaller is better.
        scores: `[N]`, larger is better.

    Raises:
        ValueError: arrays of different shapes.

    Examples:
        >>> from jaxnas import search
        >>> search.pareto_front(costs=[3, 1, 2], scores=[0.9, 0.5, 0.4]).tolist()
        [1, 0]
    """
    price, value = (
        np.asarray(check.array(name, each), float)
        for name, each in (("costs", costs), ("scores", scores))
    )
    if price.ndim != 1 or price.shape != value.shape:
        raise ValueError(
            f"costs and scores are of shape [N]: got {list(price.shape)} and {list(value.shape)}."
        )
    order = np.lexsort((-value, price))
    best = np.maximum.accumulate(value[order])
    rises = np.concatenate([[True], best[1:] > best[:-1]])[: len(order)]
    return order[rises]
