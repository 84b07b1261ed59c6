"""The facts of a NAS-Bench-101 cell: connectedness, isomorphism, cost; and random cells.

An architecture is `int32[26]`: the edges of a graph of seven vertices, then the operations of its
five inner ones; see `benchmarks.nasbench101_notation`. Source: Ying et al., "NAS-Bench-101: Towards
Reproducible Neural Architecture Search", ICML 2019, arXiv 1902.09635.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.benchmarks.nasbench101_channels import kernels, num_params, stages, widths
from jaxnas.benchmarks.nasbench101_notation import (
    EDGES,
    MAX_EDGES,
    NUM_CHOICES,
    OPERATIONS,
    VERTICES,
    Graph,
    canonical,
    from_string,
    graph,
    module_hash,
    one,
    to_string,
)
from jaxnas.types import Array

__all__ = [
    "EDGES",
    "MAX_EDGES",
    "NUM_CHOICES",
    "OPERATIONS",
    "VERTICES",
    "Graph",
    "canonical",
    "from_string",
    "graph",
    "is_connected",
    "is_valid",
    "kernels",
    "module_hash",
    "num_params",
    "one",
    "sample",
    "stages",
    "to_string",
    "widths",
]


def is_connected(arch: ArrayLike) -> ArrayLike:
    """Return whether a path leads from the input to the output; traced of a traced architecture."""
    return _count_live(_decisions(arch)) > 0


def is_valid(arch: ArrayLike) -> ArrayLike:
    """Return whether the benchmark has the cell: connected, by at most nine edges.

    Traced of a traced architecture.
    """
    count = _count_live(_decisions(arch))
    return (count > 0) & (count <= MAX_EDGES)


def sample(key: Array, num: int) -> Array:
    """Return cells that the benchmark has, `int32[num, 26]`, with replacement.

    Uniform over edges and operations, drawn again until valid, as the benchmark's authors sample:
    73 of 100 draws are.
    """
    found = np.zeros((0, len(NUM_CHOICES)), np.int32)
    shape = (2 * num + 16, len(NUM_CHOICES))
    draw = 0
    while len(found) < num:
        own = jax.random.fold_in(key, draw)
        archs = jax.random.randint(own, shape, 0, np.broadcast_to(NUM_CHOICES, shape), jnp.int32)
        found = np.concatenate([found, np.asarray(archs)[_are_valid(archs)]])
        draw += 1
    return jnp.asarray(found[:num])


@jax.jit
def _are_valid(archs: Array) -> Array:
    return jnp.asarray(jax.vmap(is_valid)(archs))


def _decisions(arch: ArrayLike) -> Any:
    if isinstance(arch, jax.core.Tracer):
        return arch
    return np.array(encoding.one(arch, NUM_CHOICES), np.int32)


def _count_live(decisions: Any) -> Any:
    """Return how many edges are on a path from the input to the output."""
    present = decisions[: len(EDGES)] == 1
    nothing = present[0] & False
    fed = [nothing | True, *[nothing] * (VERTICES - 1)]
    useful = fed[::-1]
    for edge, (source, target) in enumerate(EDGES):  # ordered by target
        fed[target] = fed[target] | (present[edge] & fed[source])
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        useful[source] = useful[source] | (present[edge] & useful[target])
    live = [present[edge] & fed[s] & useful[t] for edge, (s, t) in enumerate(EDGES)]
    return sum(live[1:], start=live[0] * 1)
