"""Regularized evolution: a population in which the oldest dies, not the worst."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnas import check
from jaxnas.search.sampling import checked_choices, open_decisions, sample
from jaxnas.types import Array, SearchStrategy


class Population(NamedTuple):
    """The last `P` evaluations, as a ring.

    Attributes:
        archs: `int32[P, D]`.
        scores: `float32[P]`.
        num_told: `int32[]`, evaluations so far; member `num_told % P` is the oldest.
    """

    archs: Array
    scores: Array
    num_told: Array


def regularized_evolution(
    num_choices: Sequence[int], population_size: int = 10, tournament_size: int = 3
) -> SearchStrategy:
    """Return ageing evolution by tournaments and mutations of one decision.

    The first `population_size` architectures are uniform; each later one is a mutant of the best of
    `tournament_size` members drawn with replacement, and takes the place of the oldest member.

    Source: Real, Aggarwal, Huang and Le, AAAI 2019, arXiv 1802.01548, Algorithm 1 (there 100
    members and tournaments of 25 for 20,000 evaluations; the defaults are for about a hundred).
    Differs from the paper: a mutation is a uniform other value of a uniform decision, never the
    identity.

    Raises:
        ValueError: If a size is not positive, or `num_choices` leaves nothing to mutate.
    """
    check.integer("population_size", population_size, 1)
    check.integer("tournament_size", tournament_size, 1)
    open_decisions(num_choices)

    def init(key: Array) -> Population:
        del key
        archs = jnp.zeros((population_size, len(num_choices)), jnp.int32)
        return Population(archs, jnp.full(population_size, -jnp.inf, jnp.float32), jnp.int32(0))

    def ask(key: Array, state: Population) -> Array:
        founder_key, tournament_key, mutation_key = jax.random.split(key, 3)
        members = jax.random.randint(tournament_key, (tournament_size,), 0, population_size)
        parent = state.archs[members[jnp.argmax(state.scores[members])]]
        return jnp.where(
            state.num_told < population_size,
            sample(founder_key, num_choices, 1)[0],
            mutate(mutation_key, num_choices, parent),
        )

    def tell(state: Population, arch: Array, score: Array) -> Population:
        oldest = state.num_told % population_size
        return Population(
            state.archs.at[oldest].set(arch),
            state.scores.at[oldest].set(score),
            state.num_told + 1,
        )

    return SearchStrategy(init, ask, tell)


def mutate(key: Array, num_choices: Sequence[int], arch: Array) -> Array:
    """Return `arch` `int32[D]` with exactly one decision changed, to a uniform other value.

    Raises:
        ValueError: If no decision has more than one choice.
    """
    choices = jnp.asarray(checked_choices(num_choices))
    decision_key, value_key = jax.random.split(key)
    decision = jax.random.choice(decision_key, jnp.asarray(open_decisions(num_choices)))
    shift = jax.random.randint(value_key, (), 1, choices[decision], jnp.int32)
    # Less by one round, so that nothing leaves int32.
    return arch.at[decision].set((arch[decision] - (choices[decision] - shift)) % choices[decision])
