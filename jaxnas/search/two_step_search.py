"""The two-step search of KNAS: a coarse score keeps k candidates, a fine one chooses among them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.search.base import Result
from jaxnas.search.candidates import validate_candidates
from jaxnas.search.halving import Rung, RungResult, successive_halving
from jaxnas.types import Array, ScoreFn


class Controls(NamedTuple):
    """Two-step searches with a coarse step that costs nothing: what a proxy has to beat.

    Attributes:
        random: keeps `k` candidates at random.
        params: keeps the `k` candidates with the most parameters.
    """

    random: Result[RungResult]
    params: Result[RungResult]


def two_step(
    candidates: ArrayLike, coarse_scores: ArrayLike, fine_fn: ScoreFn, k: int
) -> Result[RungResult]:
    """Return the candidate with the best fine score among the `k` with the best coarse scores.

    It is successive halving in two rungs: `steps[0].kept` are the `k`, best coarse score first, and
    `steps[1].scores` their fine scores, `-inf` where `fine_fn` gave `nan`. Equal coarse scores are
    taken in the order of the candidates. Of candidates that are the same architecture only the best
    is ranked.

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
            number of different candidates, a coarse score is `nan`, or no score of a step is
            finite.

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
    # Of candidates that are the same, the one with the best coarse score.
    order = np.argsort(-coarse, kind="stable")
    different = np.sort(order[np.unique(archs[order], axis=0, return_index=True)[1]])
    check.integer("k", k, 1, len(different), "; sample more different candidates or change k.")

    def fine(archs: NDArray[np.int32]) -> NDArray[np.float64]:
        scores = np.asarray(check.array("What fine_fn gives", fine_fn(archs)), np.float64)
        return np.where(np.isnan(scores), -np.inf, scores)

    found = successive_halving(archs[different], [Rung(lambda _: coarse[different], k), Rung(fine)])
    steps = tuple(
        RungResult(different[step.scored], step.scores, different[step.kept])
        for step in found.steps
    )
    return Result(found.arch, steps, different[found.ranking])


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
