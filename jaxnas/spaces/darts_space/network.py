"""The macro network of DARTS for images of 32x32 pixels, without its auxiliary head.

Stem (3C channels) - L cells, those at L/3 and 2L/3 reduction cells, which halve the image and
double the channels - mean over the pixels - classifier. A cell reads the outputs of the two cells
before it, and gives four times its width. Source: Liu, Simonyan and Yang, ICLR 2019, arXiv
1806.09055, sections 2.1 and 3.1.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.network import Net, Operation, Value, Weights, operation
from jaxnas.network import operations as ops
from jaxnas.spaces.darts_space.cell import (
    INPUTS,
    NODES,
    NUM_CHOICES,
    OPERATIONS,
    PER_CELL,
    PER_NODE,
)
from jaxnas.spaces.images import ImageNetwork
from jaxnas.types import Array

STEM_FACTOR = 3


class CellPlace(NamedTuple):
    """A cell's place in the network.

    Attributes:
        inputs: channels of the output before the last, and of the last.
        width: channels of each node, C.
        reduction: whether the cell halves the image.
        after_reduction: whether the cell before it does.
    """

    inputs: tuple[int, int]
    width: int
    reduction: bool
    after_reduction: bool


class Darts(ImageNetwork):
    """Any DARTS network.

    Attributes:
        norm, colors, classes: see `ImageNetwork`.
        channels: width of the first cells, C.
        layers: number of cells, L.
    """

    space, num_choices = "darts", NUM_CHOICES
    layers: int = 8

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        states = net.stage("stem", functools.partial(stem, STEM_FACTOR * self.channels), x)
        for layer, equal in itertools.groupby(self.places()):
            this_cell = functools.partial(cell, arch, layer)
            states = net.repeat("cell", len(list(equal)), this_cell, *states)
        x = net.stage("pool", ops.global_average_pool(), states[-1])
        return net.stage("classifier", ops.dense(features=self.classes), x)

    def places(self) -> Iterator[CellPlace]:
        """Yield the place of each cell, in order."""
        before = last = STEM_FACTOR * self.channels
        width, after_reduction = self.channels, False
        for position in range(self.layers):
            reduction = position in (self.layers // 3, 2 * self.layers // 3)
            width *= 1 + reduction
            yield CellPlace((before, last), width, reduction, after_reduction)
            before, last, after_reduction = last, NODES * width, reduction


def stem(width: int, net: Net, x: Value) -> tuple[Value, Value]:
    """Write down convolution - normalization, whose output is that before the last and the last."""
    x = net(ops.conv_norm(features=width), x)
    return x, net(ops.IDENTITY, x)


def cell(arch: Any, layer: CellPlace, net: Net, before: Value, last: Value) -> tuple[Value, Value]:
    """Write down a cell: each node is the sum of two operations, each on an earlier state."""
    project = ops.relu_conv_norm(features=layer.width, size=1)
    halve = ops.factorized_reduction(features=layer.width)
    states = [
        net(halve if layer.after_reduction else project, before, name="preprocess_0"),
        net(project, last, name="preprocess_1"),
    ]
    for node in range(NODES):
        start = layer.reduction * PER_CELL + node * PER_NODE
        state, position, *chosen = (arch[start + number] for number in range(PER_NODE))
        # The second operation reads one of the other states.
        other = jax.tree.map(lambda second, first: second + (second >= first), position, state)
        into = [
            edge(net, f"node_{node}_{which}", states, read, decision, layer)
            for which, read, decision in zip("ab", (state, other), chosen, strict=True)
        ]
        states.append(net.add(*into))
    return last, net(ops.concatenate(), *states[INPUTS:])


def edge(
    net: Net, name: str, states: list[Value], state: Any, chosen: Any, layer: CellPlace
) -> Value:
    """Write down the chosen operation on the chosen state.

    Reduction cells halve the two states that they are given. For a traced architecture there are
    thus the operations of stride 2 on one of these, and then those of stride 1 on one of the nodes.
    """
    offered = {stride: operations(layer.width, stride) for stride in (1, 2)}
    if not layer.reduction:
        return net.choose(name, offered[1], chosen, net.select(state, *states))
    if isinstance(state, int):
        return net.choose(name, offered[2 if state < INPUTS else 1], chosen, states[state])
    given, nodes = states[:INPUTS], states[INPUTS:]
    read = [net.select(jax.tree.map(lambda number: jnp.minimum(number, INPUTS - 1), state), *given)]
    if nodes:
        of_node = jax.tree.map(lambda number: jnp.maximum(number - INPUTS, 0), state)
        read.append(net.select(of_node, *nodes))
    pairs = [
        (part, ops.of_input(position=2 - stride, part=chosen_part))
        for stride in (2, 1)[: len(read)]
        for part, chosen_part in offered[stride].items()
    ]
    position = jax.tree.map(
        lambda number, state: number + len(OPERATIONS) * (state >= INPUTS), chosen, state
    )
    return net.choose(name, pairs, position, *read)


def operations(width: int, stride: int) -> dict[str, Operation]:
    """Return the operations by name."""
    halve = ops.factorized_reduction(features=width)
    every = {
        "max_pool_3x3": ops.max_pool(stride=stride),
        "avg_pool_3x3": ops.average_pool(stride=stride),
        "skip_connect": ops.IDENTITY if stride == 1 else halve,
        "sep_conv_3x3": sep_conv(size=3, stride=stride),
        "sep_conv_5x5": sep_conv(size=5, stride=stride),
        "dil_conv_3x3": dil_conv(size=3, stride=stride),
        "dil_conv_5x5": dil_conv(size=5, stride=stride),
    }
    return {name: every[name] for name in OPERATIONS}


@operation
def sep_conv(weights: Weights, x: Array, *, size: int, stride: int) -> Array:
    """Return ReLU - depthwise - 1x1 convolution - normalization, twice."""
    for step, step_stride in ((1, stride), (2, 1)):
        depthwise, pointwise = weights[f"depthwise_{step}"], weights[f"pointwise_{step}"]
        x = ops.depthwise(depthwise, ops.relu(depthwise, x), size, step_stride)
        x = ops.norm(pointwise, ops.conv(pointwise, x, x.shape[-1], 1))
    return x


@operation
def dil_conv(weights: Weights, x: Array, *, size: int, stride: int) -> Array:
    """Return ReLU - depthwise with dilation 2 - 1x1 convolution - normalization."""
    depthwise, pointwise = weights["depthwise"], weights["pointwise"]
    x = ops.depthwise(depthwise, ops.relu(depthwise, x), size, stride, dilation=2)
    return ops.norm(pointwise, ops.conv(pointwise, x, x.shape[-1], 1))
