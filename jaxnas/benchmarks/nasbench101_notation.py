"""The notation of a NAS-Bench-101 cell: a graph of up to seven vertices with operations on them.

An architecture is `int32[26]`: for each possible edge, in the order (0,1), (0,2), (1,2), (0,3), and
so on to (5,6) (by target, then by source), whether it is there; then the operation, a position in
`OPERATIONS`, of each of the vertices 1 to 5. Vertex 0 is the input and 6 the output.
What is on no path from 0 to 6 has no effect; at most nine edges may be on one.

As a string, a cell is what the benchmark's authors write: the rows of the adjacency matrix, with
`/` between them, a colon, and the operations of all vertices, such as
`011/001/000:input,conv3x3-bn-relu,output` (a cell of three vertices). Source: Ying et al.,
"NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019, arXiv 1902.09635.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
VERTICES = 7
MAX_EDGES = 9
EDGES = tuple((source, target) for target in range(1, VERTICES) for source in range(target))
"""`(source, target)` of each possible edge."""
Decisions = ArrayLike | Sequence[int]
NUM_CHOICES = (2,) * len(EDGES) + (len(OPERATIONS),) * (VERTICES - 2)

_CELL = re.compile(r"(?P<rows>[01]+(/[01]+)*):input,(?P<operations>([a-z0-9-]+,)*)output")


class Graph(NamedTuple):
    """A cell without what has no effect; vertices keep their numbers.

    Attributes:
        sources: of each vertex, the vertices that lead to it; none of the input, and of vertices
            that have no effect.
        operations: of the vertices 1 to 5, also of those without effect.
    """

    sources: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]

    @property
    def inner(self) -> tuple[int, ...]:
        """The vertices with an operation that has an effect."""
        return tuple(vertex for vertex in range(1, VERTICES - 1) if self.sources[vertex])

    @property
    def to_output(self) -> tuple[int, ...]:
        """The inner vertices that lead to the output."""
        return tuple(vertex for vertex in self.sources[-1] if vertex)

    @property
    def num_edges(self) -> int:
        """How many edges have an effect."""
        return sum(len(sources) for sources in self.sources)


def one(arch: Decisions) -> tuple[int, ...]:
    """Return the decisions of one architecture.

    Raises:
        ValueError: not one architecture of the benchmark.
    """
    decisions = encoding.one(arch, NUM_CHOICES)
    if graph(decisions).num_edges > MAX_EDGES:
        raise ValueError(
            f"A NAS-Bench-101 cell has at most {MAX_EDGES} edges on paths from its input to its "
            f"output: got {graph(decisions).num_edges}; remove some."
        )
    return decisions


@functools.lru_cache(2**16)
def graph(decisions: tuple[int, ...]) -> Graph:
    """Return the graph of checked decisions; without a path to the output it has no edges."""
    present = [edge for edge, there in zip(EDGES, decisions, strict=False) if there]
    fed, useful = {0}, {VERTICES - 1}
    for source, target in present:  # ordered by target
        if source in fed:
            fed.add(target)
    for source, target in reversed(present):
        if target in useful:
            useful.add(source)
    live = [(s, t) for s, t in present if {s, t} <= fed & useful]
    sources = tuple(tuple(s for s, t in live if t == vertex) for vertex in range(VERTICES))
    return Graph(sources, tuple(OPERATIONS[decision] for decision in decisions[len(EDGES) :]))


def canonical(arch: Decisions) -> NDArray[np.int32]:
    """Return the architecture `int32[26]` that stands for all isomorphic ones.

    The first of `orders` in lexicographic order.

    Raises:
        ValueError: `arch` is not one architecture of the benchmark.
    """
    return np.array(_canonical(one(arch)), np.int32)


@functools.lru_cache(2**16)
def _canonical(decisions: tuple[int, ...]) -> tuple[int, ...]:
    return min(orders(decisions))


def orders(arch: Decisions) -> Iterator[tuple[int, ...]]:
    """Yield the decisions of all cells isomorphic to `arch`, without what has no effect.

    Vertices that are left over come last and have operation 0.
    """
    cell = graph(one(arch))
    edges = [(source, target) for target, of in enumerate(cell.sources) for source in of]
    for order in itertools.permutations(cell.inner):
        place = {0: 0, VERTICES - 1: VERTICES - 1} | {v: i for i, v in enumerate(order, start=1)}
        moved = {(place[source], place[target]) for source, target in edges}
        if all(source < target for source, target in moved):
            chosen = [OPERATIONS.index(cell.operations[vertex - 1]) for vertex in order]
            rest = [0] * (VERTICES - 2 - len(order))
            yield (*(int(edge in moved) for edge in EDGES), *chosen, *rest)


def to_string(arch: Decisions) -> str:
    """Return the string of one architecture `int32[26]`, with all seven vertices.

    Raises:
        ValueError: `arch` is not one architecture of the benchmark.
    """
    decisions = one(arch)
    present = {edge for edge, there in zip(EDGES, decisions, strict=False) if there}
    rows = [
        "".join(str(int((source, target) in present)) for target in range(VERTICES))
        for source in range(VERTICES)
    ]
    chosen = [OPERATIONS[decision] for decision in decisions[len(EDGES) :]]
    return "/".join(rows) + ":" + ",".join(["input", *chosen, "output"])


def from_string(string: str) -> NDArray[np.int32]:
    """Return the architecture `int32[26]` of a string of two to seven vertices.

    Of fewer than seven the inner ones come first and those that are left over have operation 0.

    Raises:
        ValueError: `string` is not the string of a cell.
    """
    match = _CELL.fullmatch(check.instance("string", string, str, "a string"))
    rows = match["rows"].split("/") if match else []
    chosen = match["operations"].split(",")[:-1] if match else []
    count = len(rows)
    if (
        not 2 <= count <= VERTICES
        or len(chosen) != count - 2
        or not set(chosen) <= set(OPERATIONS)
        or any(len(row) != count or "1" in row[: i + 1] for i, row in enumerate(rows))
    ):
        raise ValueError(
            "A cell is written as the rows of an upper triangular matrix of 2 to 7 vertices and "
            "their operations, such as 011/001/000:input,conv3x3-bn-relu,output, with "
            f"{', '.join(OPERATIONS)}: got {string!r}."
        )
    vertex = [*range(count - 1), VERTICES - 1]
    present = {
        (vertex[s], vertex[t])
        for s, row in enumerate(rows)
        for t, bit in enumerate(row)
        if bit == "1"
    }
    operations = [OPERATIONS.index(name) for name in chosen] + [0] * (VERTICES - count)
    return np.array(one([*(int(edge in present) for edge in EDGES), *operations]), np.int32)


def module_hash(arch: Decisions) -> str:
    """Return the benchmark's own key of a cell, the same for isomorphic ones, 32 hexadecimals.

    Vertices start from their degrees and operation, and take in their neighbors' MD5 sums as often
    as there are vertices (Ying et al., 2019, section S1).

    Raises:
        ValueError: `arch` is not one architecture of the benchmark, or has no path to the output.
    """
    decisions = one(arch)
    sources, operations = graph(decisions)
    if not sources[-1]:
        raise ValueError("A cell without a path from input to output has no hash: connect it.")
    kept = [0, *graph(decisions).inner, VERTICES - 1]
    near = {v: (sources[v], [t for t in kept if v in sources[t]]) for v in kept}
    label = {0: -1, VERTICES - 1: -2}
    label |= {v: OPERATIONS.index(operations[v - 1]) for v in kept[1:-1]}
    keys = {v: _md5(str((len(near[v][1]), len(near[v][0]), label[v]))) for v in kept}
    for _ in kept:
        sums = {v: ["".join(sorted(keys[n] for n in side)) for side in near[v]] for v in kept}
        keys = {v: _md5("|".join([*sums[v], keys[v]])) for v in kept}
    return _md5(str(sorted(keys.values())))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
