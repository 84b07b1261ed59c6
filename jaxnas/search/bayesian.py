"""One step of Bayesian optimization, as a function of what has been told."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Acquisition = Literal["ei", "ucb"]


def suggest(
    points: Sequence[tuple[float, ...]],
    values: Sequence[float],
    bounds: Mapping[str, tuple[float, float]],
    *,
    acquisition: Acquisition = "ei",
    seed: int,
) -> tuple[float, ...]:
    """Return the point of a box where trying is most promising, given values to be maximized.

    A Gaussian process (Matern 5/2, by the package `bayesian-optimization`) is fitted anew to all
    that is told, and every draw is of `seed`: the same arguments give the same point.

    Args:
        points: What was tried, one coordinate for each of the bounds; again and again is fine.
        values: What each gave; finite.
        bounds: The box, by names.
        acquisition: `ei`, expected improvement, or `ucb`, mean + 2.576 standard deviations.
        seed: From 0 to 2^32 - 1.
    """
    told: dict[tuple[float, ...], list[float]] = {}
    for point, value in zip(points, values, strict=True):
        told.setdefault(point, []).append(value)
    # scikit-learn warns of a length scale at its limit, and the acquisition divides by a standard
    # deviation of zero at a known point: no news to a search.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # Here, because scikit-learn takes a second to import.
        import bayes_opt
        from bayes_opt.acquisition import (
            AcquisitionFunction,
            ExpectedImprovement,
            UpperConfidenceBound,
        )

        # Version 2 draws from the acquisition's random state, later ones from the optimizer's.
        function: AcquisitionFunction
        if acquisition == "ei":
            function = ExpectedImprovement(xi=0.0, random_state=seed)
        else:
            function = UpperConfidenceBound(kappa=2.576, random_state=seed)
        optimizer = bayes_opt.BayesianOptimization(
            None, dict(bounds), acquisition_function=function, random_state=seed, verbose=0
        )
        for point, again in told.items():  # a point told twice is printed about: tell the mean
            optimizer.register(dict(zip(bounds, point, strict=True)), float(np.mean(again)))
        best = optimizer.suggest()
    return tuple(float(best[name]) for name in bounds)
