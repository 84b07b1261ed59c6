"""The two-step search of KNAS: a coarse score keeps k candidates, a fine one chooses among them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.search.candidates import validate_candidates
from jaxnas.types import Array, ScoreFn


class TwoStepResult(NamedTuple):
    """What a two-step search kept and chose.

    Attributes:
        kept: `int64[k]`, indices into the candidates, best coarse score first.
        fine_scores: `float64[k]`, their fine scores; `-inf` where `fine_fn` gave `nan`.
        winner: Index into the candidates: the best fine score, of equals the better coarse one.
        arch: `int32[D]`, the winner.
    """

    kept: NDArray[np.int64]
    fine_scores: NDArray[np.float64]
    winner: int
    arch: NDArray[np.int32]


class Controls(NamedTuple):
    """Two-step searches with a coarse step that costs nothing: what a proxy has to beat.

    Attributes:
        random: keeps `k` candidates at random.
        params: keeps the `k` candidates with the most parameters.
    """

    random: TwoStepResult
    params: TwoStepResult


def two_step(
    candidates: ArrayLike, coarse_scores: ArrayLike, fine_fn: ScoreFn, k: int
) -> TwoStepResult:
    """Return the candidate with the best fine score among the `k` with the best coarse scores.

    Equal coarse scores are taken in the order of the candidates, and of candidates that are the
    same architecture only the best is kept.

    Source: Xu et al., KNAS, ICML 2021, arXiv 2111.13293: the coarse score is the mean of the Gram
    matrix of the gradients, the fine score a short training, k is 20 or 40 of 300. Differs from the
    published code, which also merges different architectures with equal scores.

    Args:
        candidates: `int32[A, D]`.
        coarse_scores: `[A]`, larger is better; `-inf` ranks last.
        fine_fn: Called once, with the kept architectures `int32[k, D]`, for their scores `[k]`,
            larger is better; training accuracy on validation data, say.
        k: How many candidates to keep.

    Raises:
        ValueError: If there are no candidates, the shapes do not fit, `k` is not from 1 to the
            number of different candidates, a coarse score is `nan`, or no fine score is finite.

    Examples:
        >>> from jaxnas import search
        >>> accuracy = lambda archs: archs[:, 0]
        >>> search.two_step([[0], [1], [2]], [0.1, 0.9, 0.5], accuracy, k=2).winner
        2
    """
    archs = validate_candidates(candidates, distinct=False)
    check.instance("fine_fn", fine_fn, Callable, "a function of architectures")
    coarse = np.asarray(check.array("coarse_scores", coarse_scores), np.float64)
    if coarse.shape != archs.shape[:1]:
        raise ValueError(
            f"coarse_scores must have one score a candidate: got shape {list(coarse.shape)} for "
            f"{len(archs)} candidates."
        )
    if np.isnan(coarse).any():
        raise ValueError(
            f"coarse_scores must not be nan: got nan for candidate {np.isnan(coarse).argmax()}; "
            "use -inf for what cannot be scored."
        )
    ranked = np.argsort(-coarse, kind="stable")
    first = np.unique(archs[ranked], axis=0, return_index=True)[1]
    check.integer("k", k, 1, len(first), "; sample more different candidates or change k.")
    kept = ranked[np.sort(first)[:k]]
    fine = _fine_scores(fine_fn, archs[kept])
    winner = int(kept[fine.argmax()])
    return TwoStepResult(kept, fine, winner, archs[winner])


def controls(
    key: Array, candidates: ArrayLike, num_params: ArrayLike, fine_fn: ScoreFn, k: int
) -> Controls:
    """Return the two-step searches that keep random candidates and the largest ones.

    Args:
        key: Of the random choice.
        candidates: `int32[A, D]`.
        num_params: `[A]`, trainable parameters of each candidate.
        fine_fn: As in `two_step`; called once for each control.
        k: How many candidates to keep.

    Raises:
        ValueError: As `two_step`.
    """
    check.key("key", key)
    order = jax.random.permutation(key, len(validate_candidates(candidates, distinct=False)))
    return Controls(
        random=two_step(candidates, order, fine_fn, k),
        params=two_step(candidates, num_params, fine_fn, k),
    )


def _fine_scores(fine_fn: ScoreFn, archs: NDArray[np.int32]) -> NDArray[np.float64]:
    scores = np.asarray(check.array("What fine_fn gives", fine_fn(archs)), np.float64)
    if scores.shape != archs.shape[:1]:
        raise ValueError(
            f"fine_fn must return one score an architecture: got shape {list(scores.shape)} for "
            f"archs of shape {list(archs.shape)}."
        )
    scores = np.where(np.isnan(scores), -np.inf, scores)
    if not np.isfinite(scores).any():
        raise ValueError(
            "fine_fn must give a finite score to one kept candidate at least: got "
            f"{scores.tolist()}."
        )
    return scores
