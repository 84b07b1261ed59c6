"""Hybrid search: a few trainings tune the free constants of a training-free score.

Sources: Shu, Dai, Wu and Low, "Unifying and Boosting Gradient-Based Training-Free Neural
Architecture Search" (HNAS), NeurIPS 2022, arXiv 2201.09785, whose score, here any
`objective(tau, log_mu)`, is `-(kappa / M + mu |M^2 - tau^2|)`; and He, Shu, Dai and Low, "Robustify
and Boost Training-Free Neural Architecture Search" (RoBoT), ICLR 2024, arXiv 2403.07591, whose
constants are the weights of several scores, and whose last evaluations exploit the best of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check
from jaxnas.search.base import Result
from jaxnas.search.candidates import validate_candidates
from jaxnas.search.constants import Choose, Evaluation, HybridOptions, checked_options, plan_steps
from jaxnas.types import Array, ScoreFn

Objective = Callable[..., ArrayLike]
"""`objective(*point)`: scores `[A]` of all candidates, larger is better; `-inf` excludes."""

# What a training or a table may fail with; anything else is a bug, and is not caught.
_FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError, OSError)


def hybrid(
    candidates: ArrayLike,
    objective: Objective,
    feedback: ScoreFn,
    *,
    key: Array,
    num_evaluations: int = 20,
    options: HybridOptions | None = None,
    history: Sequence[Evaluation] = (),
) -> Result[Evaluation]:
    """Return the candidate with the best feedback of those that some constants put first.

    The steps of the result are all `Evaluation`s in their order, those of the history included; its
    ranking are the candidates that were evaluated, those of equal feedback in their order.

    Each step takes a point, by a fixed probe or by Bayesian optimization (a Gaussian process with a
    Matern 5/2 kernel, package `bayesian-optimization`), and asks for the feedback of the candidate
    with the best `objective` that had none yet; of equals the first. Feedback that is not finite,
    or fails, is told to the process as the worst so far and never wins.

    Step `t` depends on the key, `t` and the steps before it alone. So a search that was stopped
    goes on by its `history` as if it never had been; `hybrid_steps` gives the steps to keep.

    Args:
        candidates: `int32[A, D]`, each once.
        objective: The scores of all candidates under a point; cheap and deterministic.
        feedback: Called with one architecture `int32[1, D]` for its worth `[1]`, larger is better:
            validation accuracy after a short training, say. A ValueError, RuntimeError,
            ArithmeticError, MemoryError or OSError is recorded as a failure.
        key: A key from `jax.random.key`.
        num_evaluations: How many steps, those of the history included; there are fewer where
            `objective` excludes all that is left.
        options: How to choose; None for the defaults.
        history: The first steps of the same search, which are not evaluated again.

    Raises:
        ValueError: If there are no candidates, one is there twice, they are fewer than
            `num_evaluations`, an option is out of range, the history is of another search, the
            objective or the feedback has another shape, the objective holds `nan` or `inf` or
            excludes every candidate, or every feedback failed.
    """
    history = check.items("history", history)
    new = hybrid_steps(
        candidates,
        objective,
        feedback,
        key=key,
        num_evaluations=num_evaluations,
        options=options,
        history=history,
    )
    told = (*(_restored(step) for step in history), *new)
    best = sorted(told, key=lambda step: -step.feedback)
    if best[0].failure:
        raise ValueError(
            f"feedback must succeed once at least: got {len(told)} failures, the first of them "
            f"{told[0].failure!r}; try it on one candidate."
        )
    ranking = np.array([step.candidate for step in best], np.int64)
    return Result(np.asarray(candidates, np.int32)[ranking[0]], told, ranking)


def hybrid_steps(
    candidates: ArrayLike,
    objective: Objective,
    feedback: ScoreFn,
    *,
    key: Array,
    num_evaluations: int = 20,
    options: HybridOptions | None = None,
    history: Sequence[Evaluation] = (),
) -> Iterator[Evaluation]:
    """Return the steps of `hybrid` that follow the history, each as soon as it is done.

    Args and errors are those of `hybrid`, but that every feedback may fail.
    """
    archs = validate_candidates(candidates)
    chosen = checked_options(HybridOptions() if options is None else options)
    check.instance("objective", objective, Callable, "a function of constants")
    check.instance("feedback", feedback, Callable, "a function of architectures")
    check.key("key", key)
    advice = "; sample more candidates or ask for fewer."
    check.integer("num_evaluations", num_evaluations, 1, len(archs), advice)
    told = [_restored(step) for step in check.items("history", history)]
    if len(told) > num_evaluations:
        raise ValueError(
            f"history must not be longer than num_evaluations: got {len(told)} steps for "
            f"{num_evaluations}; ask for more."
        )
    return _steps(
        archs, objective, feedback, key, plan_steps(chosen, num_evaluations), chosen, told
    )


def _restored(step: Sequence[Any]) -> Evaluation:
    """Return a step, also one that was written to a file and read as lists."""
    fields = check.items("A step of history", step)
    if not 3 <= len(fields) <= 4:
        raise check.refuse("A step of history", "an Evaluation", step)
    return Evaluation(tuple(check.items("Its point", fields[0])), *fields[1:])


def _steps(
    archs: NDArray[np.int32],
    objective: Objective,
    feedback: ScoreFn,
    key: Array,
    plan: list[Choose],
    options: HybridOptions,
    history: list[Evaluation],
) -> Iterator[Evaluation]:
    """Yield the steps after the history; `plan` has one entry a step."""
    told: list[Evaluation] = []
    left = np.ones(len(archs), bool)
    pool = np.full(len(archs), options.growth is None)
    for step, choose in enumerate(plan):
        suggest_key, growth_key = jax.random.split(jax.random.fold_in(key, step))
        if options.growth is not None:
            pool[jax.random.randint(growth_key, (options.growth,), 0, len(archs))] = True
        replayed = history[step] if step < len(history) else None
        # Only a point of the process is taken from the history: it would cost a fit to find again.
        point = choose(told, replayed, int(jax.random.bits(suggest_key)))
        candidate = _first(_checked_scores(objective(*point), len(archs)), left, pool)
        if replayed and replayed[:2] != (point, candidate):
            raise ValueError(
                f"history must be of the same search: got {tuple(replayed[:2])} as point and "
                f"candidate of step {step}, where this one has {(point, candidate)}; give "
                "the same candidates, objective, key, num_evaluations and options, or no history."
            )
        if candidate is None and not step:
            raise ValueError(
                "objective must give one candidate at least a finite score: got -inf for all "
                f"{len(archs)}; check what it is made of, or sample more."
            )
        if candidate is None:
            return
        left[candidate] = False
        if replayed:
            told.append(replayed)
        else:
            told.append(Evaluation(point, candidate, *_ask(feedback, archs[candidate])))
            yield told[-1]


def _first(
    scores: NDArray[np.float64], left: NDArray[np.bool_], pool: NDArray[np.bool_]
) -> int | None:
    """Return the best candidate that is left, of the pool if it has one; None if none is."""
    usable = left & np.isfinite(scores)
    if (usable & pool).any():
        usable &= pool
    return int(np.where(usable, scores, -np.inf).argmax()) if usable.any() else None


def _ask(feedback: ScoreFn, arch: NDArray[np.int32]) -> tuple[float, str]:
    """Return the feedback of an architecture `int32[D]`, and why it failed or ""."""
    try:
        values = np.asarray(feedback(arch[None]), np.float64)
    except _FAILURES as error:
        return -np.inf, f"{type(error).__name__}: {error}"
    if values.shape != (1,):
        raise ValueError(
            "feedback must return one value an architecture, shape [1] for archs of shape [1, D]: "
            f"got {list(values.shape)}."
        )
    value = float(values[0])
    return (value, "") if np.isfinite(value) else (-np.inf, f"feedback was {value}")


def _checked_scores(scored: ArrayLike, num_candidates: int) -> NDArray[np.float64]:
    scores = np.asarray(scored, np.float64)
    if scores.shape != (num_candidates,):
        raise ValueError(
            f"objective must return one score a candidate: got shape {list(scores.shape)} for "
            f"{num_candidates} candidates."
        )
    unordered = ~(scores < np.inf)
    if unordered.any():
        raise ValueError(
            f"objective must not return nan or inf: got {scores[unordered][0]} for "
            f"{unordered.sum()} of {len(scores)}; use -inf for what is excluded."
        )
    return scores
