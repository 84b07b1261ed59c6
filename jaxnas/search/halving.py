"""Successive halving: cheap scores thin a pool out, dearer ones decide among what is left."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.search.base import Result
from jaxnas.search.candidates import validate_candidates
from jaxnas.types import ScoreFn


class Rung(NamedTuple):
    """One round: score what is left, keep the best.

    Attributes:
        score_fn: Called once, with the architectures that reached the rung `int32[n, D]`, best
            first, for their scores `[n]`, larger is better; `-inf` ranks last.
        keep: How many go on: a count (`int`), or a share of those that reached the rung (`float`,
            above 0 and at most 1.0; rounded, but one at least).
    """

    score_fn: ScoreFn
    keep: int | float = 1.0


class RungResult(NamedTuple):
    """What a rung saw and kept.

    Attributes:
        scored: `int64[n]`, indices into the candidates, in the order in which they were scored.
        scores: `float64[n]`, the scores of `scored`.
        kept: `int64[k]`, indices into the candidates, best first.
    """

    scored: NDArray[np.int64]
    scores: NDArray[np.float64]
    kept: NDArray[np.int64]


def successive_halving(candidates: ArrayLike, rungs: Sequence[Rung]) -> Result[RungResult]:
    """Return the ranking by a ladder of scores, each of which sees only what the one below kept.

    Of equal scores the one comes first that stood better in the rung before, or in the candidates.
    The steps are one a rung. Below what the last rung scored, the ranking has what the rung before
    dropped, in its order, and so on.

    Source: Jamieson and Talwalkar, AISTATS 2016, arXiv 1502.07943, Successive Halving. Differs from
    the paper: what a rung raises is the fidelity of a training-free score (its images, say) instead
    of the iterations of a training run, and each rung names the share that it keeps instead of a
    half under equal budgets.

    Args:
        candidates: `int32[A, D]`, each once.
        rungs: From cheap to dear; the last one decides.

    Raises:
        ValueError: If there are no candidates or no rungs, a candidate is there twice, a `keep`
            does not fit what reaches its rung, or the scores of a rung have another shape, hold
            `nan` or `inf`, or none that is finite.

    Examples:
        >>> from jaxnas import search
        >>> cheap = search.Rung(lambda archs: archs[:, 0], 2)
        >>> full = search.Rung(lambda archs: -archs[:, 0], 1)
        >>> search.successive_halving([[0], [1], [2], [3]], [cheap, full]).ranking.tolist()
        [2, 3, 1, 0]
    """
    archs = validate_candidates(candidates)
    rungs = check.items("rungs", rungs)
    counts = _counts(rungs, len(archs))
    left = np.arange(len(archs), dtype=np.int64)
    results: list[RungResult] = []
    dropped: list[NDArray[np.int64]] = []
    for number, (rung, count) in enumerate(zip(rungs, counts, strict=True), 1):
        scores = _checked_scores(rung.score_fn(archs[left]), archs[left].shape, number)
        order = left[np.argsort(-scores, kind="stable")]
        results.append(RungResult(left, scores, order[:count]))
        left = order[:count]
        dropped.append(order[count:])
    ranking = np.concatenate([left, *reversed(dropped)])
    return Result(archs[ranking[0]], tuple(results), ranking)


def _counts(rungs: Sequence[Rung], num_candidates: int) -> list[int]:
    """Return how many each rung keeps: known, and checked, before anything is scored."""
    if not rungs:
        raise ValueError("rungs must hold at least one Rung: got none; the last one decides.")
    counts, left = [], num_candidates
    for number, rung in enumerate(rungs, 1):
        check.instance("rungs", rung, Rung, "a list of Rung")
        check.instance("score_fn", rung.score_fn, Callable, "a function of architectures")
        left = _count(rung.keep, left, number)
        counts.append(left)
    return counts


def _count(keep: int | float, left: int, number: int) -> int:
    given = check.array("keep", keep)
    kind = "several" if given.ndim else given.dtype.kind  # a bool has a kind of its own
    if kind in "iu" and 1 <= keep <= left:
        return int(keep)
    if kind == "f" and 0 < keep <= 1:
        return max(1, round(keep * left))
    raise ValueError(
        f"keep must be a count from 1 to the {left} that reach rung {number}, or a share above 0.0 "
        f"and at most 1.0: got {keep!r}; keep what the next rung can afford."
    )


def _checked_scores(scored: ArrayLike, shape: tuple[int, ...], number: int) -> NDArray[np.float64]:
    scores = np.asarray(check.array("What score_fn gives", scored), np.float64)
    if scores.shape != shape[:1]:
        raise ValueError(
            f"Rung {number} must give one score an architecture: got shape {list(scores.shape)} "
            f"for archs of shape {list(shape)}."
        )
    unordered = ~(scores < np.inf)
    if unordered.any():
        raise ValueError(
            f"Rung {number} must not give nan or inf: got {scores[unordered][0]} for "
            f"{unordered.sum()} of {len(scores)}; use -inf for what cannot be scored."
        )
    if np.isneginf(scores).all():
        raise ValueError(
            f"Rung {number} must give a finite score to one architecture at least: got -inf for "
            f"all {len(scores)}; sample more, or keep more in the rung before."
        )
    return scores
