"""Which constants each step of a hybrid search tries."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxnas import check
from jaxnas.search.bayesian import Acquisition, suggest

Point = tuple[float, ...]


class Evaluation(NamedTuple):
    """One step of a hybrid search.

    Attributes:
        point: The constants that were tried: `(tau, log_mu)`, or what the bounds name.
        candidate: Index of the candidate that was best under them.
        feedback: What it was worth; `-inf` where that failed.
        failure: Why it failed, or "".
    """

    point: Point
    candidate: int
    feedback: float
    failure: str = ""


class HybridOptions(NamedTuple):
    """How a hybrid search chooses; HNAS' code has `log_mu` in (-4, 0) and a growth of 2000.

    Attributes:
        bounds: The names and ranges of the constants; those of `hybrid_score` by default.
        acquisition: `ei`, expected improvement, or `ucb`, mean + 2.576 standard deviations.
        probes: The points before those of the Gaussian process, or how many: evenly over the range
            of the first constant, the others in the middle of theirs. None: a quarter of all steps,
            from 1 to 10.
        exploited: How many of the last steps take the point with the best feedback so far again,
            and so go down its ranking.
        growth: How many candidates, uniform with replacement, join the pool before each step. None:
            all candidates are in the pool from the beginning.
    """

    bounds: Mapping[str, tuple[float, float]] = MappingProxyType(
        {"tau": (0.0, 1.0), "log_mu": (-4.0, 2.0)}
    )
    acquisition: Acquisition = "ei"
    probes: int | tuple[Point, ...] | None = None
    exploited: int = 0
    growth: int | None = None


Choose = Callable[[list["Evaluation"], "Evaluation | None", int], Point]
"""`choose(told, replayed, seed)`: the point of a step."""


def plan_steps(options: HybridOptions, num_evaluations: int) -> list[Choose]:
    """Return how each step chooses its point."""
    probes = options.probes
    if probes is None:
        probes = max(1, min(num_evaluations // 4, 10))
    if not isinstance(probes, tuple):
        first, *others = options.bounds.values()
        middle = [sum(other) / 2 for other in others]
        probes = tuple((float(one), *middle) for one in np.linspace(*first, probes))
    fixed: list[Choose] = [functools.partial(_fixed, tuple(probe)) for probe in probes]
    exploited = min(options.exploited, num_evaluations - 1)
    free = num_evaluations - exploited
    suggested: list[Choose] = [functools.partial(_suggest, options)] * free
    return [*[*fixed, *suggested][:free], *[_best] * exploited]


def _fixed(point: Point, told: list[Evaluation], replayed: Evaluation | None, seed: int) -> Point:
    return point


def _best(told: list[Evaluation], replayed: Evaluation | None, seed: int) -> Point:
    """Return the point of the best feedback so far, the first of equals."""
    return max(told, key=lambda step: step.feedback).point


def _suggest(
    options: HybridOptions, told: list[Evaluation], replayed: Evaluation | None, seed: int
) -> Point:
    if replayed:
        return replayed.point
    worst = min((step.feedback for step in told if not step.failure), default=0.0)
    return suggest(
        [step.point for step in told],
        [worst if step.failure else step.feedback for step in told],
        options.bounds,
        acquisition=options.acquisition,
        seed=seed,
    )


def checked_options(options: HybridOptions) -> HybridOptions:
    """Return the options; raises `ValueError` for one that is out of range."""
    check.instance("options", options, HybridOptions, "HybridOptions")
    check.instance("bounds", options.bounds, Mapping, "ranges by the names of constants")
    if not options.bounds:
        raise ValueError("bounds must name one constant at least: got none.")
    for name, limits in options.bounds.items():
        low, high = (check.real(name, limit) for limit in check.items(name, limits))
        if not -np.inf < low < high < np.inf:
            raise ValueError(
                f"{name} must be a range of two finite numbers, the smaller first: got "
                f"({low}, {high})."
            )
    check.choice("acquisition", options.acquisition, ("ei", "ucb"))
    if not isinstance(options.probes, tuple | None):
        check.integer("probes", options.probes, 1)
    if options.growth is not None:
        check.integer("growth", options.growth, 1)
    if isinstance(options.probes, tuple):
        for point in options.probes:
            if len(check.items("A probe", point)) != len(options.bounds):
                raise ValueError(
                    f"A probe has a value for each of {', '.join(options.bounds)}: got {point}."
                )
    check.integer("exploited", options.exploited)
    return options
