"""The facts of a NAS-Bench-201 cell: order, isomorphism class, connectedness.

An architecture is `int32[6]`: one of five operations on each edge of a complete directed graph of
four nodes, edges in the order of the official string. Source: Dong and Yang, "NAS-Bench-201:
Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, arXiv 2001.00326.
"""

import functools
import operator
import random
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.benchmarks.notation import NUM_CHOICES, OPERATIONS, from_string, one, to_string
from jaxnas.types import Cell

__all__ = [
    "EDGES",
    "NUM_CHOICES",
    "OPERATIONS",
    "alive_operations",
    "drawn",
    "from_index",
    "from_string",
    "index",
    "is_connected",
    "is_live",
    "isomorphism_class",
    "live_edges",
    "one",
    "pattern",
    "pruned",
    "to_string",
]

NONE, SKIP_CONNECT, NOR_CONV_1X1, NOR_CONV_3X3, AVG_POOL_3X3 = range(5)
NUM_NODES = 4
EDGES = tuple((source, target) for target in range(1, NUM_NODES) for source in range(target))
"""`(source, target)` of each decision: (0,1), (0,2), (1,2), (0,3), (1,3), (2,3)."""


def index(arch: ArrayLike) -> int:
    """Return the official index in `[0, 15625)`; see `from_index`."""
    return int(_index_of_code()[encoding.encode(one(arch), NUM_CHOICES)])


def from_index(position: int) -> np.ndarray:
    """Return the architecture `int32[6]` at an official index.

    The benchmark's authors shuffled the lexicographic order with Python's `random.seed(88)`.

    Raises:
        ValueError: no such index.
    """
    order = _official_order()
    if not isinstance(position, int | np.integer) or not 0 <= position < len(order):
        raise ValueError(
            f"A NAS-Bench-201 index is in [0, {len(order)}): got {position}; "
            "there are 15,625 cells."
        )
    return encoding.decode(order[position], NUM_CHOICES)


def isomorphism_class(arch: ArrayLike) -> str:
    """Return the benchmark's unique string; 6,466 classes in all.

    The published notion: skip connections vanish, cut edges stay as `#`, terms of a sum are sorted.
    It separates some cells that are the same function (`#` terms, nested sums).
    """
    decisions = one(arch)
    nodes = ["0"]
    for target in range(1, NUM_NODES):
        terms = []
        for decision, (source, into) in zip(decisions, EDGES, strict=True):
            if into != target:
                continue
            if decision == NONE or nodes[source] == "#":
                terms.append("#")
            elif decision == SKIP_CONNECT:
                terms.append(nodes[source])
            else:
                terms.append(f"({nodes[source]})@{OPERATIONS[decision]}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def alive_operations(alive: ArrayLike) -> tuple[tuple[int, ...], ...]:
    """Return the operations that are alive on each edge of a supernet `bool[6, 5]`, in order.

    Raises:
        ValueError: another shape, or an edge without any operation.
    """
    mask = np.asarray(alive)
    if mask.shape != (len(EDGES), len(OPERATIONS)) or mask.dtype != bool or not mask.any(1).all():
        raise ValueError(
            f"A supernet is bool[{len(EDGES)}, {len(OPERATIONS)}] with an operation on each "
            f"edge: got {mask.dtype}{list(mask.shape)}; `none` is an operation too."
        )
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in mask)


def drawn(arch: ArrayLike, operations: Sequence[str] = OPERATIONS) -> dict[str, Cell]:
    """Return what to draw of a cell of four nodes: the edges that are there.

    Args:
        arch: `int32[6]`.
        operations: on the edges; the first one is that of an edge that is not there.
    """
    present = zip(EDGES, encoding.one(arch, (len(operations),) * len(EDGES)), strict=True)
    edges = [(*ends, operations[each]) for ends, each in present if each != NONE]
    return {"cell": Cell(edges, ("in", "1", "2", "out"), operations[1:])}


def is_connected(arch: ArrayLike) -> ArrayLike:
    """Return whether the output depends on the input; not so for 341 of the 15,625 cells.

    Works on a traced architecture too, and gives a traced `bool[]` then.
    """
    present = (arch if isinstance(arch, jax.core.Tracer) else np.asarray(one(arch))) != NONE
    fed = [present[0] | True]
    for target in range(1, NUM_NODES):
        edges = [(edge, source) for edge, (source, into) in enumerate(EDGES) if into == target]
        fed.append(functools.reduce(operator.or_, (present[e] & fed[s] for e, s in edges)))
    return fed[-1]


def pattern(archs: ArrayLike) -> np.ndarray:
    """Return the architectures `int32[..., 6]` with nothing but their convolutions."""
    given = encoding.validate_archs(archs, NUM_CHOICES)
    return np.where(np.isin(given, (NOR_CONV_1X1, NOR_CONV_3X3)), given, NONE).astype(np.int32)


def pruned(arch: ArrayLike) -> np.ndarray:
    """Return the architecture `int32[6]` with nothing but the edges that have a say in the output.

    It is the same function, of cells too in which an identity on an edge from the input is not one.
    """
    decisions = np.array(one(arch), np.int32)
    return np.where(is_live(decisions), decisions, NONE).astype(np.int32)


@functools.cache
def live_edges(decisions: tuple[int, ...]) -> tuple[int, ...]:
    """Return the edges that have a say in the output, in order; see `is_live`."""
    return tuple(edge for edge, live in enumerate(is_live(np.array(decisions))) if live)


def is_live(arch: ArrayLike) -> list[Any]:
    """Return for each edge whether it has a say in the output; `bool[]`, traced of a traced `arch`.

    A convolution on an edge that carries nothing has one too: the bias of its normalization.
    """
    decisions = arch if isinstance(arch, jax.core.Tracer) else np.asarray(arch)
    convolves = (decisions == NOR_CONV_1X1) | (decisions == NOR_CONV_3X3)
    present = decisions != NONE
    fed = [present[0] | True, *[present[0] & False] * (NUM_NODES - 1)]
    useful = fed[::-1]
    live = []
    for edge, (source, target) in enumerate(EDGES):  # ordered by target
        live.append(present[edge] & (fed[source] | convolves[edge]))
        fed[target] = fed[target] | live[edge]
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        live[edge] = live[edge] & useful[target]
        useful[source] = useful[source] | live[edge]
    return live


@functools.cache
def _official_order() -> np.ndarray:
    order = list(range(5**6))
    random.Random(88).shuffle(order)
    return np.array(order)


@functools.cache
def _index_of_code() -> np.ndarray:
    return np.argsort(_official_order())
