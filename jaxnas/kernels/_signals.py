"""Sums of independent signals: how kernels of neural-tangents pass through a wiring.

A node is a sum of signals, each the output of a layer with weights of its own, counted as often as
it comes in. Signals of different weights are independent, so their kernels add; a signal that comes
in twice is twice as large, and its kernel four times. A pooling has no weights, so it depends on
what it pools: neural-tangents has no kernel between the two.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnas.kernels._neural_tangents import stax
from jaxnas.wiring import edges, num_nodes

Operation = Literal["zero", "skip", "linear", "convolution 1x1", "convolution 3x3", "pool 3x3"]


class _Signal(NamedTuple):
    """The kernel of a signal, and the layers (their edges, -1 the stem) whose outputs it is of."""

    kernel: Any
    origins: frozenset[int]


def propagate(arch: np.ndarray, operations: Sequence[Operation], first: Any) -> Any:
    """Return the kernel object of the output node of a connected cell.

    Args:
        arch: concrete, `int32[E]`: positions in `operations`.
        operations: on edges; those with weights are a ReLU and then the weights.
        first: the kernel object of node 0, Gaussian.

    Raises:
        ValueError: a pooling meets its own input in a sum.
    """
    signals = [_Signal(first, frozenset({-1}))]
    poolings: dict[frozenset[tuple[int, int]], int] = {}
    nodes: list[Counter[int]] = [Counter() for _ in range(num_nodes(arch))]
    nodes[0][0] = 1
    for edge, (source, target) in enumerate(edges(len(nodes))):
        operation, terms = operations[arch[edge]], nodes[source]
        if operation == "zero" or not terms:
            continue
        if operation == "skip":
            nodes[target].update(terms)
            continue
        if operation == "pool 3x3":
            same = frozenset(terms.items())
            position = poolings.setdefault(same, len(signals))
        else:
            position = len(signals)
        if position == len(signals):
            before = _sum(signals, terms, source)
            origins = before.origins if operation == "pool 3x3" else frozenset({edge})
            signals.append(_Signal(_layer(operation)(before.kernel), origins))
        nodes[target][position] += 1
    return _sum(signals, nodes[-1], len(nodes) - 1).kernel


def _sum(signals: Sequence[_Signal], counts: Mapping[int, int], node: int) -> _Signal:
    summed = [signals[position] for position in counts]
    origins = frozenset[int]().union(*(signal.origins for signal in summed))
    if len(origins) < sum(len(signal.origins) for signal in summed):
        raise ValueError(
            f"Node {node} adds a pooling to a signal that it depends on, and neural-tangents has "
            "no kernel for that: use other cells, or skips for poolings."
        )
    # A kernel object times a number is that of the signal times the number: the square of it.
    scaled = [
        (signal.kernel.reverse() if signal.kernel.is_reversed else signal.kernel) * count
        for signal, count in zip(summed, counts.values(), strict=True)
    ]
    together = scaled[0].replace(
        **{
            name: sum(getattr(kernel, name) for kernel in scaled)
            for name in ("nngp", "ntk", "cov1")
        }
    )
    return _Signal(together, origins)


def _layer(operation: Operation) -> Callable[[Any], Any]:
    if operation == "linear":
        return stax.serial(stax.Relu(), stax.Dense(1, 2**0.5))[2]
    if operation == "pool 3x3":
        return stax.AvgPool((3, 3), padding="SAME", normalize_edges=True)[2]
    size = (3, 3) if operation == "convolution 3x3" else (1, 1)
    return stax.serial(stax.Relu(), stax.Conv(1, size, padding="SAME", W_std=2**0.5))[2]
