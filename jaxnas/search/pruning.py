"""Search by pruning: start with all operations on each edge, and cut the worst, round by round.

Source: Chen, Gong and Wang, "Neural Architecture Search on ImageNet in Four GPU Hours" (TE-NAS),
ICLR 2021, arXiv 2102.11535, algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.search.base import Result

SuperScoreFn = Callable[[NDArray[np.bool_]], Sequence[float]]
"""`score_fn(alive)`: the scores of the super-network of the operations `bool[D, O]`, `S` of them;
larger is better."""

Reserve = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
"""`reserve(alive)`: which of the operations `bool[D, O]` are spared the evaluation in a round."""


class PruningRound(NamedTuple):
    """One round.

    Attributes:
        alive: `bool[D, O]`, before it.
        scores: `float64[D, O, S]`, of the super-network without each operation; nan where that was
            not evaluated.
        pruned: `int64[D]`, the operation that each decision lost, -1 where it was decided.
    """

    alive: NDArray[np.bool_]
    scores: NDArray[np.float64]
    pruned: NDArray[np.int64]

    @property
    def evaluations(self) -> int:
        """How many super-networks were scored."""
        return int((~np.isnan(self.scores).all(-1)).sum())


def prune(
    alive: ArrayLike, score_fn: SuperScoreFn, *, reserve: Reserve | None = None
) -> Result[PruningRound]:
    """Return the architecture that is left when each decision has one operation.

    In each round every operation that is not reserved, of each decision that has more than one, is
    taken away for a look at what is left. For each score all these are ranked together; each
    decision loses the operation whose absence has the best sum of ranks, of equals the first. The
    scores of TE-NAS are two: the (negative) condition number of the NTK, and the number of linear
    regions.

    Differs from the source: where several have one score they share the mean of their ranks, and a
    score that is not finite ranks last.

    Args:
        alive: `bool[D, O]`, the operations to begin with.
        score_fn: see `SuperScoreFn`; it remembers what a search that is killed must not repeat.
        reserve: see `Reserve`; None evaluates every operation.

    Raises:
        ValueError: a decision without an operation, scores of changing number, or a rule that
            reserves all operations of a decision, or some that are not alive.
    """
    mask = np.array(check.array("alive", alive))
    if mask.ndim != 2 or mask.dtype != bool or not mask.size or not mask.any(1).all():
        raise ValueError(
            "alive must be bool[D, O] with an operation for each decision: got "
            f"{mask.dtype}{list(mask.shape)}."
        )
    check.instance("score_fn", score_fn, Callable, "a function of a mask")
    check.instance("reserve", reserve, Callable | None, "a function of a mask, or None")
    rounds = []
    while (mask.sum(1) > 1).any():
        finished = _round(mask, score_fn, reserve)
        rounds.append(finished)
        mask = mask.copy()
        lost = np.flatnonzero(finished.pruned >= 0)
        mask[lost, finished.pruned[lost]] = False
    return Result(mask.argmax(1).astype(np.int32), tuple(rounds), np.empty(0, np.int64))


def _round(
    alive: NDArray[np.bool_], score_fn: SuperScoreFn, reserve: Reserve | None
) -> PruningRound:
    undecided = alive.sum(1) > 1
    reserved = np.zeros_like(alive) if reserve is None else np.asarray(reserve(alive.copy()))
    looked = alive & ~reserved & undecided[:, None]
    fits = reserved.shape == alive.shape and not (reserved & ~alive).any()
    if not fits or not looked[undecided].any(1).all():
        raise ValueError(
            "reserve must leave an operation to evaluate for each decision that is open, and name "
            f"only those that are alive: got {np.argwhere(reserved).tolist()} reserved of "
            f"{np.argwhere(alive).tolist()}."
        )
    places = np.argwhere(looked)
    rows = []
    for decision, operation in places:
        without = alive.copy()
        without[decision, operation] = False
        rows.append(np.asarray(score_fn(without), np.float64).reshape(-1))
        if not rows[-1].size or len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"score_fn must give as many scores each time, one at least: got {len(rows[-1])} "
                f"after {len(rows[0])}."
            )
    found = np.array(rows)
    scores = np.full((*alive.shape, found.shape[1]), np.nan)
    scores[tuple(places.T)] = np.where(np.isfinite(found), found, -np.inf)
    ranks = scipy.stats.rankdata(scores[tuple(places.T)], axis=0).sum(1)
    total = np.full(alive.shape, -np.inf)
    total[tuple(places.T)] = ranks
    return PruningRound(alive, scores, np.where(undecided, total.argmax(1), -1))
