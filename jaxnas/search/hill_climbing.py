"""Local search: climb from a random architecture to better neighbors, then start again."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.search.sampling import checked_choices, open_decisions, sample
from jaxnas.types import Array, SearchStrategy

_MOST_NEIGHBORS = 2**24


class Climb(NamedTuple):
    """Where a climb stands.

    Attributes:
        key: The key of all the orders in which neighbors are visited.
        arch: `int32[D]`, the best of this climb.
        score: `float32[]`, its score.
        step: `int32[]`, how many architectures this search has stood on; each gets its own order.
        visited: `int32[]`, how many of its neighbors have been told; -1 asks for a new start.
    """

    key: Array
    arch: Array
    score: Array
    step: Array
    visited: Array


def local_search(num_choices: Sequence[int]) -> SearchStrategy:
    """Return hill climbing through the neighbors that differ in one decision.

    The neighbors are visited in random order; the first better one becomes the place to stand, and
    when none is better the climb starts again at a uniform architecture.

    Source: White, Nolen and Savani, UAI 2021, arXiv 2005.02960. Differs from the
    paper's simplest form: moves to the first better neighbor instead of the best of all. Nothing
    is remembered but the place, so an architecture can be asked for again.

    Raises:
        ValueError: If no decision has more than one choice.
    """
    choices = checked_choices(num_choices)
    num_neighbors = int((choices.astype(np.int64) - 1).sum())
    if num_neighbors > _MOST_NEIGHBORS:
        raise ValueError(
            f"Local search visits every neighbor, at most {_MOST_NEIGHBORS}: got num_choices of "
            f"{num_neighbors}; use another search."
        )
    # Neighbor j adds shifts[j] to decision decisions[j], modulo its number of choices.
    open_ = open_decisions(num_choices)
    decisions = jnp.asarray(np.repeat(open_, choices[open_] - 1))
    shifts = jnp.asarray(np.concatenate([np.arange(1, n, dtype=np.int32) for n in choices]))
    sizes = jnp.asarray(choices)[decisions]

    def init(key: Array) -> Climb:
        return Climb(
            key=key,
            arch=jnp.zeros(len(choices), jnp.int32),
            score=jnp.float32(-jnp.inf),
            step=jnp.int32(0),
            visited=jnp.int32(-1),
        )

    def ask(key: Array, state: Climb) -> Array:
        order = jax.random.permutation(jax.random.fold_in(state.key, state.step), len(decisions))
        neighbor = order[state.visited]
        decision = decisions[neighbor]
        value = (state.arch[decision] + shifts[neighbor]) % sizes[neighbor]
        start = sample(key, num_choices, 1)[0]
        return jnp.where(state.visited < 0, start, state.arch.at[decision].set(value))

    def tell(state: Climb, arch: Array, score: Array) -> Climb:
        moves = (state.visited < 0) | (score > state.score)
        visited = jnp.where(moves, 0, state.visited + 1)
        return Climb(
            key=state.key,
            arch=jnp.where(moves, arch, state.arch),
            score=jnp.where(moves, score, state.score),
            step=state.step + moves,
            visited=jnp.where(visited == len(decisions), -1, visited),
        )

    return SearchStrategy(init, ask, tell)
