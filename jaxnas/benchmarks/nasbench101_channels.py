"""How many channels the vertices of a NAS-Bench-101 cell have, and what its network costs.

Vertices that lead to the output share its channels, the first ones one more where that does not
come out even; any other has as many as the largest it leads to, which reads the first of them. A
1x1 projection (with normalization and ReLU) leads from the input to each vertex. Source: Ying et
al., ICML 2019, arXiv 1902.09635, section S1.

The order of the vertices thus has a say in who gets a channel more: isomorphic cells, which are one
to the benchmark, may differ by some tenths of a percent in parameters.
"""

import itertools
from typing import NamedTuple

from jaxnas.benchmarks.nasbench101_notation import OPERATIONS, VERTICES, Graph

STACKS = 3
PROJECTION = "projection"
_SIZES = dict(zip(OPERATIONS, (3, 1, None), strict=True))


class ConvolutionShape(NamedTuple):
    """A convolution of a cell: size and channels."""

    size: int
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.size**2 * self.inputs * self.outputs


def widths(graph: Graph, channels: int) -> tuple[int, ...]:
    """Return the channels of each vertex of a cell of so many; 0 without effect (and the input).

    Raises:
        ValueError: there are more vertices than channels to share.
    """
    to_output = graph.to_output
    if len(to_output) > channels:
        raise ValueError(
            f"{len(to_output)} vertices share the channels of this cell: got {channels}; "
            "make the space with more channels."
        )
    found = [0] * VERTICES
    found[-1] = channels
    for position, vertex in enumerate(to_output):
        share, rest = divmod(channels, len(to_output))
        found[vertex] = share + (position < rest)
    for vertex in reversed(graph.inner):
        if vertex not in to_output:
            found[vertex] = max(found[t] for t in graph.inner if vertex in graph.sources[t])
    return tuple(found)


def kernels(graph: Graph, inputs: int, channels: int) -> dict[str, dict[str, ConvolutionShape]]:
    """Return the convolutions of a cell, by vertex (`vertex_1`, ..., `output`) and name."""
    of_vertex = widths(graph, channels)
    found: dict[str, dict[str, ConvolutionShape]] = {}
    for vertex in (*graph.inner, VERTICES - 1):
        shapes, width = {}, of_vertex[vertex]
        if 0 in graph.sources[vertex]:
            shapes[PROJECTION] = ConvolutionShape(1, inputs, width)
        if vertex < VERTICES - 1:
            operation = graph.operations[vertex - 1]
            size = _SIZES[operation]
            if size is not None:
                shapes[operation] = ConvolutionShape(size, width, width)
        if shapes:
            found[name(vertex)] = shapes
    return found


def name(vertex: int) -> str:
    """Return the name of a vertex's parameters."""
    return f"vertex_{vertex}" if vertex < VERTICES - 1 else "output"


def num_params(
    graph: Graph,
    *,
    channels: int = 128,
    cells: int = 3,
    classes: int = 10,
    colors: int = 3,
    normalized: bool = True,
) -> int:
    """Return the exact number of trainable parameters of a network."""
    stem = ConvolutionShape(3, colors, channels)
    convolutions = [stem]
    for inputs, outputs in stages(channels, cells):
        for kernel in kernels(graph, inputs, outputs).values():
            convolutions += kernel.values()
    last = channels * 2 ** (STACKS - 1)
    affine = 2 * normalized
    return (last + 1) * classes + sum(
        convolution.weights + affine * convolution.outputs for convolution in convolutions
    )


def stages(channels: int, cells: int) -> list[tuple[int, int]]:
    """Return the channels that go in and out of each cell, first to last."""
    outputs = [channels * 2**stack for stack in range(STACKS) for _ in range(cells)]
    return list(itertools.pairwise([channels, *outputs]))
