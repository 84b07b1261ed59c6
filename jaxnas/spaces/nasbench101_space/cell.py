"""The facts of a NAS-Bench-101 cell: connectedness, isomorphism, channels; and random cells.

An architecture is `int32[26]`: the edges of a graph of seven vertices, then the operations of its
five inner ones; see `benchmarks.nasbench101_notation`. Source: Ying et al., "NAS-Bench-101: Towards
Reproducible Neural Architecture Search", ICML 2019, arXiv 1902.09635.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.benchmarks.nasbench101_channels import STACKS, name, num_params, widths
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
from jaxnas.types import Array, Cell

__all__ = [
    "EDGES",
    "MAX_EDGES",
    "NUM_CHOICES",
    "OPERATIONS",
    "STACKS",
    "VERTICES",
    "Graph",
    "Layout",
    "canonical",
    "drawn",
    "from_string",
    "graph",
    "is_connected",
    "is_valid",
    "layout",
    "module_hash",
    "name",
    "num_params",
    "one",
    "sample",
    "to_string",
    "widths",
]


class Layout(NamedTuple):
    """The live edges and the channels of a cell: Python's numbers, or traced ones.

    Attributes:
        live: by `(source, target)`, whether an edge is on a path from the input to the output.
        widths: channels of each vertex; 0 of the input, and of vertices that have no effect.
        starts: where the channels of each inner vertex begin in the output, if it leads there.
    """

    live: dict[tuple[int, int], Any]
    widths: list[Any]
    starts: list[Any]


def layout(decisions: Any, channels: int) -> Layout:
    """Return the layout of a cell of so many channels; see `benchmarks.nasbench101_channels`.

    There is no branch in it, so that the decisions may be traced.
    """
    live = _live(decisions)
    inner, output = range(1, VERTICES - 1), VERTICES - 1
    widths, starts = [0] * output + [channels], [0] * VERTICES
    # Those that lead to the output share its channels; the first have one more if there is a rest.
    sharing = sum(live[vertex, output] * 1 for vertex in inner)
    share, rest = divmod(channels, sharing + (sharing == 0))
    start = position = 0
    for vertex in inner:
        starts[vertex] = start
        widths[vertex] = live[vertex, output] * (share + (position < rest))
        start, position = start + widths[vertex], position + live[vertex, output]
    # Any other has as many as the largest that it leads to.
    for vertex in reversed(inner):
        largest = 0
        for target in range(vertex + 1, output):
            width = live[vertex, target] * widths[target]
            largest = largest + (width - largest) * (width > largest)
        widths[vertex] = widths[vertex] + (widths[vertex] == 0) * largest
    return Layout(live, widths, starts)


def is_connected(arch: ArrayLike) -> ArrayLike:
    """Return whether a path leads from the input to the output; traced of a traced architecture."""
    return _count_live(_decisions(arch)) > 0


def drawn(arch: ArrayLike) -> dict[str, Cell]:
    """Return what to draw of a cell: its vertices with edges, named by what they do."""
    decisions = one(arch)
    present = [ends for ends, is_there in zip(EDGES, decisions, strict=False) if is_there]
    used = sorted({0, VERTICES - 1, *(vertex for ends in present for vertex in ends)})
    does = [
        "in",
        *(OPERATIONS[decision].split("-")[0] for decision in decisions[len(EDGES) :]),
        "out",
    ]
    edges = [(used.index(source), used.index(target), "") for source, target in present]
    return {"cell": Cell(edges, [does[vertex] for vertex in used])}


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
        of_draw = jax.random.fold_in(key, draw)
        archs = jax.random.randint(
            of_draw, shape, 0, np.broadcast_to(NUM_CHOICES, shape), jnp.int32
        )
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
    return sum(live * 1 for live in _live(decisions).values())


def _live(decisions: Any) -> dict[tuple[int, int], Any]:
    """Return for each edge whether it is on a path from the input to the output."""
    present = [decisions[edge] == 1 for edge in range(len(EDGES))]
    nothing = present[0] & False
    fed = [nothing | True, *[nothing] * (VERTICES - 1)]
    useful = fed[::-1]
    for edge, (source, target) in enumerate(EDGES):  # ordered by target
        fed[target] = fed[target] | (present[edge] & fed[source])
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        useful[source] = useful[source] | (present[edge] & useful[target])
    return {(s, t): present[edge] & fed[s] & useful[t] for edge, (s, t) in enumerate(EDGES)}
