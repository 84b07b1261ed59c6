"""HNAS' hybrid search: a few trainings tune the two constants of a training-free score.

Source: Shu, Dai, Wu and Low, "Unifying and Boosting Gradient-Based Training-Free Neural
Architecture Search", NeurIPS 2022, arXiv 2201.09785, and its released code. The score, here any
`objective(tau, log_mu)`, is `-(kappa / M + mu |M^2 - tau^2|)` there.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas.search.bayesian import Acquisition, suggest
from jaxnas.search.candidates import validate_candidates
from jaxnas.types import Array, ScoreFn

Objective = Callable[[float, float], ArrayLike]
"""`objective(tau, log_mu)`: scores `[A]` of all candidates, larger is better; `-inf` excludes."""

# What a training or a table may fail with; anything else is a bug, and is not caught.
_FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError, OSError)


class Evaluation(NamedTuple):
    """One step of a hybrid search.

    Attributes:
        tau: The target that was tried.
        log_mu: The base-10 logarithm of its weight.
        candidate: Index of the candidate that was best under them.
        feedback: What it was worth; `-inf` where that failed.
        failure: Why it failed, or "".
    """

    tau: float
    log_mu: float
    candidate: int
    feedback: float
    failure: str = ""


class HybridOptions(NamedTuple):
    """How a hybrid search chooses; the released code has `log_mu=(-4, 0)` and `growth=2000`.

    Attributes:
        tau: The range of `tau`.
        log_mu: The range of `log_mu`.
        acquisition: `ei`, expected improvement, or `ucb`, mean + 2.576 standard deviations.
        num_probes: How many steps come before the Gaussian process: `tau` evenly over its range,
            `log_mu` in the middle of its own. None: a quarter of all, from 1 to 10.
        growth: How many candidates, uniform with replacement, join the pool before each step. None:
            all candidates are in the pool from the beginning.
    """

    tau: tuple[float, float] = (0.0, 1.0)
    log_mu: tuple[float, float] = (-4.0, 2.0)
    acquisition: Acquisition = "ei"
    num_probes: int | None = None
    growth: int | None = None


class HybridResult(NamedTuple):
    """What a hybrid search did and chose.

    Attributes:
        evaluations: All steps in their order, those of the history included.
        winner: Index into the candidates: the first with the best feedback.
        arch: `int32[D]`, the winner.
    """

    evaluations: tuple[Evaluation, ...]
    winner: int
    arch: NDArray[np.int32]


def hybrid(
    candidates: ArrayLike,
    objective: Objective,
    feedback: ScoreFn,
    *,
    key: Array,
    num_evaluations: int = 20,
    options: HybridOptions | None = None,
    history: Sequence[Evaluation] = (),
) -> HybridResult:
    """Return the candidate with the best feedback of those that some `tau` and `mu` put first.

    Each step takes `(tau, log_mu)`, by a fixed probe or by Bayesian optimisation (a Gaussian
    process with a Matern 5/2 kernel, package `bayesian-optimization`), and asks for the feedback of
    the candidate with the best `objective` that had none yet; of equals the first. Feedback that is
    not finite, or fails, is told to the process as the worst so far and never wins.

    Step `t` depends on the key, `t` and the steps before it alone. So a search that was stopped
    goes on by its `history` as if it never had been; `hybrid_steps` gives the steps to keep.

    Args:
        candidates: `int32[A, D]`, each once.
        objective: The scores of all candidates under `(tau, log_mu)`; cheap and deterministic.
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
    new = hybrid_steps(
        candidates,
        objective,
        feedback,
        key=key,
        num_evaluations=num_evaluations,
        options=options,
        history=history,
    )
    told = (*(Evaluation(*step) for step in history), *new)
    best = max(told, key=lambda step: step.feedback)
    if best.failure:
        raise ValueError(
            f"feedback must succeed once at least: got {len(told)} failures, the first of them "
            f"{told[0].failure!r}; try it on one candidate."
        )
    return HybridResult(told, best.candidate, np.asarray(candidates, np.int32)[best.candidate])


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
    chosen = _checked_options(HybridOptions() if options is None else options)
    if not 1 <= num_evaluations <= len(archs):
        raise ValueError(
            "num_evaluations must be from 1 to the number of candidates: got "
            f"{num_evaluations} with {len(archs)}; sample more or ask for fewer."
        )
    told = [Evaluation(*step) for step in history]
    if len(told) > num_evaluations:
        raise ValueError(
            f"history must not be longer than num_evaluations: got {len(told)} steps for "
            f"{num_evaluations}; ask for more."
        )
    return _steps(archs, objective, feedback, key, _probes(chosen, num_evaluations), chosen, told)


def _steps(
    archs: NDArray[np.int32],
    objective: Objective,
    feedback: ScoreFn,
    key: Array,
    plan: list[tuple[float, float] | None],
    options: HybridOptions,
    history: list[Evaluation],
) -> Iterator[Evaluation]:
    """Yield the steps after the history; `plan` has one entry a step, None where none is fixed."""
    told: list[Evaluation] = []
    left = np.ones(len(archs), bool)
    pool = np.full(len(archs), options.growth is None)
    for step, fixed in enumerate(plan):
        suggest_key, growth_key = jax.random.split(jax.random.fold_in(key, step))
        if options.growth is not None:
            pool[jax.random.randint(growth_key, (options.growth,), 0, len(archs))] = True
        replayed = history[step] if step < len(history) else None
        point = fixed or replayed or _suggest(told, options, int(jax.random.bits(suggest_key)))
        tau, log_mu = point[:2]
        candidate = _first(_checked_scores(objective(tau, log_mu), len(archs)), left, pool)
        if replayed and replayed[:3] != (tau, log_mu, candidate):
            raise ValueError(
                f"history must be of the same search: got {tuple(replayed[:3])} as tau, log_mu and "
                f"candidate of step {step}, where this one has {(tau, log_mu, candidate)}; give "
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
            told.append(Evaluation(tau, log_mu, candidate, *_ask(feedback, archs[candidate])))
            yield told[-1]


def _probes(options: HybridOptions, num_evaluations: int) -> list[tuple[float, float] | None]:
    count = options.num_probes
    if count is None:
        count = max(1, min(num_evaluations // 4, 10))
    middle = sum(options.log_mu) / 2
    probes = [(float(tau), middle) for tau in np.linspace(*options.tau, count)]
    return [*probes, *[None] * num_evaluations][:num_evaluations]


def _suggest(told: list[Evaluation], options: HybridOptions, seed: int) -> tuple[float, float]:
    worst = min((step.feedback for step in told if not step.failure), default=0.0)
    tau, log_mu = suggest(
        [(step.tau, step.log_mu) for step in told],
        [worst if step.failure else step.feedback for step in told],
        {"tau": options.tau, "log_mu": options.log_mu},
        acquisition=options.acquisition,
        seed=seed,
    )
    return tau, log_mu


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


def _checked_options(options: HybridOptions) -> HybridOptions:
    for name, (low, high) in (("tau", options.tau), ("log_mu", options.log_mu)):
        if not -np.inf < low < high < np.inf:
            raise ValueError(
                f"{name} must be a range of two finite numbers, the smaller first: got "
                f"({low}, {high})."
            )
    if options.acquisition not in ("ei", "ucb"):
        raise ValueError(f"Unknown acquisition {options.acquisition!r}: use ei or ucb.")
    for name, count in (("num_probes", options.num_probes), ("growth", options.growth)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be positive, or None: got {count}.")
    return options
