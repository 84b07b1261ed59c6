"""Searches over architectures that know nothing but a score: `search.run(strategy, score_fn)`."""

from collections.abc import Callable, Mapping

from jaxnas.search.base import History, Result, run
from jaxnas.search.constrained import EvolutionOptions, constrained_evolution
from jaxnas.search.evolution import regularized_evolution
from jaxnas.search.halving import Rung, RungResult, successive_halving
from jaxnas.search.hill_climbing import local_search
from jaxnas.search.hybrid_search import (
    Evaluation,
    HybridOptions,
    Objective,
    hybrid,
    hybrid_steps,
)
from jaxnas.search.knapsack_search import knapsack, pareto_front
from jaxnas.search.pruning import PruningRound, Reserve, SuperScoreFn, prune
from jaxnas.search.sampling import random_sampling, sample, sample_distinct
from jaxnas.search.two_step_search import Controls, controls, two_step
from jaxnas.types import SearchStrategy

BY_NAME: Mapping[str, Callable[..., SearchStrategy]] = {
    "random": random_sampling,
    "regularized_evolution": regularized_evolution,
    "local_search": local_search,
}
"""Every strategy, as a factory that needs only `num_choices`."""

__all__ = [
    "BY_NAME",
    "Controls",
    "Evaluation",
    "EvolutionOptions",
    "History",
    "HybridOptions",
    "Objective",
    "PruningRound",
    "Reserve",
    "Result",
    "Rung",
    "RungResult",
    "SuperScoreFn",
    "constrained_evolution",
    "controls",
    "hybrid",
    "hybrid_steps",
    "knapsack",
    "local_search",
    "pareto_front",
    "prune",
    "random_sampling",
    "regularized_evolution",
    "run",
    "sample",
    "sample_distinct",
    "successive_halving",
    "two_step",
]
