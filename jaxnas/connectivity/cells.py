"""Cells of the usual search spaces as wirings: convolutions are linear edges, poolings skip edges.

Source of the conventions: Chen et al., NeurIPS 2022, arXiv 2205.05662, definition 4.1, and their
released code (VITA-Group/architecture_convergence, `search.py`), where they are marked published.
"""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.benchmarks import notation
from jaxnas.wiring import LINEAR, MAX_NODES, SKIP, ZERO, from_edges

NASBENCH201_KINDS = (ZERO, SKIP, LINEAR, LINEAR, SKIP)
"""Kind of each operation of NAS-Bench-201, in the order of `benchmarks.notation.OPERATIONS`."""

_NASBENCH101_KINDS = {"conv3x3-bn-relu": LINEAR, "conv1x1-bn-relu": LINEAR, "maxpool3x3": SKIP}
_NASBENCH101_ENDS = ("input", "output")
_DARTS_NODES = 4


def from_nasbench201(archs: ArrayLike) -> np.ndarray:
    """Return the wirings `int32[..., 6]` of NAS-Bench-201 cells `int32[..., 6]`.

    Raises:
        ValueError: no architectures of the benchmark.
    """
    return np.array(NASBENCH201_KINDS, np.int32)[
        encoding.validate_archs(archs, notation.NUM_CHOICES)
    ]


def from_nasbench101(
    matrix: ArrayLike, operations: Sequence[str], *, vertices: int = 7
) -> np.ndarray:
    """Return the wiring of a NAS-Bench-101 cell, whose operations sit on the vertices.

    Each vertex with an operation becomes two nodes with the operation between them; the cell's own
    edges are skips. The projections at the input and the concatenation at the output count as
    skips too.

    Args:
        matrix: `int[V, V]`, 1 at `[source, target]`.
        operations: names of the vertices, the first `input`, the last `output`.
        vertices: cells of fewer vertices are filled up with dead ones, so that all have the same
            `E`; the benchmark's largest cells have 7.

    Raises:
        ValueError: not a cell, a cycle, or more than `vertices` vertices.
    """
    adjacency = np.asarray(check.array("matrix", matrix))
    operations = [
        check.instance("An operation", item, str, "a string")
        for item in check.items("operations", operations)
    ]
    check.integer("vertices", vertices, 2, MAX_NODES // 2)
    size = len(operations)
    if adjacency.shape != (size, size) or not np.isin(adjacency, (0, 1)).all():
        raise ValueError(
            "A NAS-Bench-101 cell is a matrix of 0 and 1 with a row for each operation: got shape "
            f"{list(adjacency.shape)} for {size} operations."
        )
    if not 2 <= size <= vertices or (operations[0], operations[-1]) != _NASBENCH101_ENDS:
        raise ValueError(
            f"A cell has 2 to {vertices} vertices, from 'input' to 'output': got "
            f"{list(operations)}; raise vertices for larger ones."
        )
    unknown = set(operations[1:-1]) - _NASBENCH101_KINDS.keys()
    if unknown:
        raise ValueError(
            f"An operation is one of {', '.join(_NASBENCH101_KINDS)}: got {unknown.pop()!r}."
        )
    last = 2 * (vertices - 2) + 1
    into = [0, *(2 * vertex - 1 for vertex in range(1, size - 1)), last]
    out_of = [0, *(2 * vertex for vertex in range(1, size - 1)), last]
    present = [
        (into[vertex], out_of[vertex], _NASBENCH101_KINDS[operations[vertex]])
        for vertex in range(1, size - 1)
    ]
    present += [
        (out_of[source], into[target], SKIP)
        for source, target in zip(*map(np.ndarray.tolist, np.nonzero(adjacency)), strict=True)
    ]
    return from_edges(last + 1, present)


def from_darts(
    cell: Sequence[tuple[str, int]],
    concatenated: Sequence[int] = (2, 3, 4, 5),
    *,
    published: bool = False,
) -> np.ndarray:
    """Return the wiring `int32[66]` of a DARTS cell.

    Node 0 stands before both inputs, joined to them by skips, so that the paths of both are pooled;
    then come the inputs 0 and 1, two nodes for each of the four sums, and the output. A sum that
    takes two edges from the same predecessor takes the second by way of the extra node.

    Args:
        cell: eight `(operation, predecessor)`, two for each sum in order; predecessors 0 and 1 are
            the inputs, 2 to 5 the sums.
        concatenated: the sums that the output reads.
        published: as the released code counts: of two edges from the same predecessor only the last
            is there, and the output reads every sum.

    Raises:
        ValueError: not a cell.
    """
    cell = [tuple(check.items("An edge of cell", edge)) for edge in check.items("cell", cell)]
    concatenated = check.items("concatenated", concatenated)
    if len(cell) != 2 * _DARTS_NODES:
        raise ValueError(
            f"A DARTS cell has {2 * _DARTS_NODES} edges, two for each sum: got {len(cell)}; pass "
            "one cell, normal or reduction, as (operation, predecessor) pairs."
        )
    sums = range(2, 2 + _DARTS_NODES)
    node = {0: 1, 1: 2} | {item: 2 * item for item in sums}
    output = 2 * sums.stop - 1
    present = [(0, node[0], SKIP), (0, node[1], SKIP)]
    for operation, source in cell:
        check.instance("An operation", operation, str, "a string")
        check.integer("A predecessor", source)
    for place, first, second in zip(sums, cell[::2], cell[1::2], strict=True):
        for operation, source in (first, second):
            if source not in range(place):
                raise ValueError(
                    f"Sum {place} takes its edges from 0 to {place - 1}: got {source} for "
                    f"{operation}; a cell has no cycles."
                )
        if first[1] != second[1]:
            present.append((node[first[1]], node[place], _darts_kind(first[0])))
        elif not published:
            present.append((node[first[1]], node[place] - 1, SKIP))
            present.append((node[place] - 1, node[place], _darts_kind(first[0])))
        present.append((node[second[1]], node[place], _darts_kind(second[0])))
    read = sums if published else concatenated
    if not all(item in sums for item in read):
        raise ValueError(f"The output reads sums 2 to 5: got {list(read)}.")
    return from_edges(output + 1, present + [(node[item], output, SKIP) for item in read])


def _darts_kind(operation: str) -> int:
    if operation == "none":
        return ZERO
    if operation == "skip_connect" or "pool" in operation:
        return SKIP
    if "conv" in operation:
        return LINEAR
    raise ValueError(
        f"A DARTS operation is none, skip_connect, or a pooling or convolution by name: "
        f"got {operation!r}."
    )
