"""The notation of a DARTS architecture: a normal and a reduction cell, each of four nodes.

An architecture is `int32[32]`: four decisions a node, nodes 0 to 3 of the normal cell, then those
of the reduction cell. A node adds two operations, each on a state: state 0 is the output of the
cell before the last, 1 that of the last cell, `2 + n` node `n`. Its decisions are

- the state that the first operation reads, one of `2 + n`;
- the state that the second reads, a position among the *other* `1 + n`, in order, so that the two
  differ as they do in all DARTS cells;
- the first and the second operation, positions in `OPERATIONS`. All seven are there, also
  `dil_conv_5x5`, which published code that skips the first of the names never samples.

As a string, an architecture is the field's Python literal, `Genotype(normal=[('sep_conv_3x3', 0),
...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))`. Source: Liu, Simonyan
and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055.
"""

import ast
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import check, encoding, types

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
_POOLINGS, _SKIP = (0, 1), 2
NODES = 4
INPUTS = 2
PER_NODE = 4
PER_CELL = NODES * PER_NODE
NUM_CHOICES = 2 * tuple(
    choices
    for node in range(NODES)
    for choices in (INPUTS + node, INPUTS + node - 1, len(OPERATIONS), len(OPERATIONS))
)
_CONCAT = list(range(INPUTS, INPUTS + NODES))
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


class Edge(NamedTuple):
    """An operation on a state."""

    operation: str
    state: int


Cell = tuple[tuple[Edge, Edge], ...]
"""The two operations of each node."""


class Genotype(NamedTuple):
    """An architecture, as it is written."""

    normal: Cell
    reduce: Cell


def one(arch: ArrayLike) -> tuple[int, ...]:
    """Return the decisions of one architecture.

    Raises:
        ValueError: not one architecture of the space.
    """
    return encoding.one(arch, NUM_CHOICES)


@functools.lru_cache(2**16)
def genotype(decisions: tuple[int, ...]) -> Genotype:
    """Return the two cells of checked decisions."""
    return Genotype(_cell(decisions[:PER_CELL]), _cell(decisions[PER_CELL:]))


def _cell(decisions: tuple[int, ...]) -> Cell:
    found = []
    for start in range(0, PER_CELL, PER_NODE):
        first, position, *chosen = decisions[start : start + PER_NODE]
        second = position + (position >= first)
        one_operation, other = (OPERATIONS[decision] for decision in chosen)
        found.append((Edge(one_operation, first), Edge(other, second)))
    return tuple(found)


def _decisions(cells: Genotype) -> NDArray[np.int32]:
    found: list[int] = []
    for first, second in itertools.chain(*cells):
        found += [first.state, second.state - (second.state > first.state)]
        found += [OPERATIONS.index(edge.operation) for edge in (first, second)]
    return np.array(found, np.int32)


def to_string(arch: ArrayLike) -> str:
    """Return the genotype of one architecture `int32[32]`.

    Raises:
        ValueError: `arch` is not one architecture of the space.
    """
    lists = [
        [(edge.operation, edge.state) for edge in itertools.chain(*each)]
        for each in genotype(one(arch))
    ]
    concat = f"range({INPUTS}, {INPUTS + NODES})"
    return (
        f"Genotype(normal={lists[0]}, normal_concat={concat}, "
        f"reduce={lists[1]}, reduce_concat={concat})"
    )


def from_string(string: str) -> NDArray[np.int32]:
    """Return the architecture `int32[32]` of a genotype; nothing in it is executed.

    Raises:
        ValueError: `string` is not a genotype of four nodes a cell, all of them in the output.
    """
    check.instance("string", string, str, "a string")
    try:
        call = ast.parse(string.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func).split(".")[-1] != "Genotype":
            raise ValueError("no call of Genotype")
        fields = dict(zip(_FIELDS, call.args, strict=False))
        fields |= {str(keyword.arg): keyword.value for keyword in call.keywords}
        if set(fields) != set(_FIELDS) or len(call.args) + len(call.keywords) != len(_FIELDS):
            raise ValueError(f"fields {', '.join(fields)}")
        for name in ("normal_concat", "reduce_concat"):
            if _numbers(fields[name]) != _CONCAT:
                raise ValueError(f"{name}={ast.unparse(fields[name])}")
        cells = [_parsed(name, fields[name]) for name in ("normal", "reduce")]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            "An architecture is written Genotype(normal=[(operation, state), ...], "
            "normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6)) with two "
            f"different earlier states for each of {NODES} nodes and operations in "
            f"{', '.join(OPERATIONS)}: got {error} in {string[:200]!r}."
        ) from error
    return _decisions(Genotype(*cells))


def _numbers(node: ast.expr) -> list[Any]:
    """Return the numbers of a range or a list."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
        bounds = [ast.literal_eval(arg) for arg in node.args]
        if all(isinstance(bound, int) and abs(bound) < 100 for bound in bounds):
            return list(range(*bounds))
    return list(ast.literal_eval(node))


def _parsed(name: str, node: ast.expr) -> Cell:
    edges = [Edge(*each) for each in ast.literal_eval(node)]
    if len(edges) != 2 * NODES:
        raise ValueError(f"{len(edges)} operations in {name}")
    for position, (operation, state) in enumerate(edges):
        if operation not in OPERATIONS:
            raise ValueError(f"operation {operation!r}")
        if type(state) is not int or not 0 <= state < INPUTS + position // 2:
            raise ValueError(f"state {state!r} for node {position // 2} of {name}")
    pairs = tuple(zip(edges[::2], edges[1::2], strict=True))
    if any(first.state == second.state for first, second in pairs):
        raise ValueError(f"a node of {name} that reads a state twice")
    return pairs


def drawn(arch: ArrayLike) -> dict[str, types.Cell]:
    """Return what to draw of an architecture: both cells, whose nodes all lead to the output."""
    nodes = ("in, last but one", "in, last", *map(str, range(NODES)), "out")
    found = {}
    for title, pairs in genotype(one(arch))._asdict().items():
        edges = [
            (edge.state, INPUTS + node, edge.operation)
            for node, pair in enumerate(pairs)
            for edge in pair
        ]
        edges += [(INPUTS + node, INPUTS + NODES, "") for node in range(NODES)]
        found[f"{title} cell"] = types.Cell(edges, nodes, OPERATIONS, inputs=INPUTS)
    return found


def pattern(archs: ArrayLike) -> NDArray[np.int32]:
    """Return the architectures `int32[..., 32]` without what is light; see `SearchSpace.pattern`.

    Poolings and the identity of a normal cell are light, and so is which state of one size is read.
    In a reduction cell an operation on one of the first two states has stride 2.
    """
    found = np.array(encoding.validate_archs(archs, NUM_CHOICES), np.int32)
    for start in range(0, len(NUM_CHOICES), PER_NODE):
        first, position, *_ = np.moveaxis(found[..., start : start + PER_NODE], -1, 0)
        reduction = start >= PER_CELL
        states = first, position + (position >= first)
        small = [reduction & (state >= INPUTS) for state in states]
        for number, is_small in zip((2, 3), small, strict=True):
            chosen = found[..., start + number]
            light = np.isin(chosen, _POOLINGS) | ((chosen == _SKIP) & (is_small | (not reduction)))
            found[..., start + number] = np.where(light, 0, chosen)
        # The first states of their size; two of one size are different ones.
        one = np.where(small[0], INPUTS, 0)
        other = np.where(small[1], INPUTS + small[0], 1 - small[0])
        found[..., start], found[..., start + 1] = one, other - (other > one)
    return found


def representative(arch: ArrayLike) -> NDArray[np.int32]:
    """Return the architecture `int32[32]` that stands for all that are the same function.

    Of the orders of a cell's nodes, and of the operations in a node, that describe the same sums
    the first in lexicographic order; weights, and channels of the concatenation, change their
    names.

    Raises:
        ValueError: `arch` is not one architecture of the space.
    """
    return _decisions(Genotype(*(_first_order(each) for each in genotype(one(arch)))))


@functools.lru_cache(2**16)
def _first_order(cell: Cell) -> Cell:
    candidates = []
    for order in itertools.permutations(range(NODES)):
        place = [0, 1, *(INPUTS + order.index(node) for node in range(NODES))]
        moved: Cell = tuple(_sorted(*cell[node], place) for node in order)
        if all(edge.state < INPUTS + node for node, pair in enumerate(moved) for edge in pair):
            candidates.append(moved)
    return min(candidates)


def _sorted(first: Edge, second: Edge, place: list[int]) -> tuple[Edge, Edge]:
    a, b = (Edge(edge.operation, place[edge.state]) for edge in (first, second))
    return (a, b) if a < b else (b, a)
