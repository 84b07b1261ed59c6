"""The macro network of NAS-Bench-101.

Stem - stack - halving - stack - halving - stack - mean over the pixels - classifier, with C, 2C and
4C channels; a stack is N cells, and its first one doubles the channels. Source: Ying et al., ICML
2019, arXiv 1902.09635, figure 1.

The channels of a vertex depend on the whole cell. Weights are drawn for all operations at all
channels. A concrete cell takes the first ones, rescaled to its fan-in. A traced cell computes all
channels, and those that it does not have are zeros.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxnas.network import Bucket, Net, Operation, Value, Weights, operation
from jaxnas.network import operations as ops
from jaxnas.network.layers import Convolution
from jaxnas.spaces.images import ImageNetwork
from jaxnas.spaces.nasbench101_space.cell import (
    EDGES,
    NUM_CHOICES,
    OPERATIONS,
    STACKS,
    VERTICES,
    layout,
    name,
)
from jaxnas.types import Array

_SIZES = dict(zip(OPERATIONS, (3, 1, 0), strict=True))
"""Of the convolutions; max pooling has none."""


class NASBench101(ImageNetwork):
    """Any NAS-Bench-101 network.

    Attributes:
        norm, colors, classes: see `ImageNetwork`.
        channels: width of the stem and the first stack, C.
        cells: number of cells in each of the three stacks, N.
    """

    space, num_choices = "nasbench101", NUM_CHOICES
    channels: int = 128
    cells: int = 3

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        x = net.stage("stem", ops.conv_norm_relu(features=self.channels), x)
        for stack in range(STACKS):
            if stack:
                x = net.stage("halving", ops.max_pool(size=2, stride=2), x)
            this_cell = functools.partial(cell, arch, self.channels * 2**stack)
            x = net.stage("cell", this_cell, x)
            x = net.repeat("cell", self.cells - 1, this_cell, x)
        x = net.stage("pool", ops.global_average_pool(), x)
        return net.stage("classifier", ops.dense(features=self.classes), x)


def cell(arch: Any, features: int, net: Net, x: Value) -> Value:
    """Write down a cell: a vertex applies its operation to the sum of what leads to it.

    An inner vertex that has more channels than its target is cut to the first ones; the input is
    projected. The output is the concatenation of what leads to it, plus the projected input.
    """
    decisions = arch.decisions if isinstance(arch, Bucket) else arch
    live, widths, starts = layout(decisions, features)
    output = VERTICES - 1

    def project(target: int) -> Value:
        at = f"{name(target)}/projection"
        return projection(net, at, live[0, target] * widths[target], features, x)

    vertices: dict[int, Value] = {}
    for vertex in range(1, output):
        into = [
            first(net, vertices[source], live[source, vertex] * widths[vertex])
            for source in range(1, vertex)
        ]
        total = net.add(*into, project(vertex))
        chosen = decisions[len(EDGES) + vertex - 1]
        vertices[vertex] = operate(net, name(vertex), chosen, widths[vertex], total)
    to_output = [
        first(net, x, live[vertex, output] * widths[vertex]) for vertex, x in vertices.items()
    ]
    return net.add(project(output), join(net, to_output, starts[1:output]))


# A number of channels is Python's for a concrete cell, else traced.


def first(net: Net, x: Value, width: Any) -> Value:
    """Write down the first channels of `x`."""
    if not isinstance(width, int):
        return net(masked(), x, net.given(width))
    if x.is_zero or not width:
        return net.zeros(x)
    return x if width == x.shape[-1] else net(ops.first(features=width), x)


def projection(net: Net, at: str, width: Any, features: int, x: Value) -> Value:
    """Write down the projection of a cell's input to so many of `features` channels."""
    if not isinstance(width, int):
        channels = x.shape[-1]
        net.cost(_macs(x, 1, channels, width))
        numbers = net.given(channels), net.given(width)
        return net(masked_conv_norm_relu(features=features, size=1), x, *numbers, name=at)
    if not width:
        return net.zeros(x, features)
    return net(ops.conv_norm_relu(features=width, size=1), x, name=at)


def operate(net: Net, at: str, chosen: Any, width: Any, x: Value) -> Value:
    """Write down the chosen operation of a vertex of so many channels."""
    if not isinstance(width, int):
        net.cost(_macs(x, jnp.array(list(_SIZES.values()))[chosen], width, width))
        conv = functools.partial(masked_conv_norm_relu, features=x.shape[-1])
        offered = _operations(conv, ops.of_input(position=0, part=ops.max_pool()))
        return net.choose(at, offered, chosen, x, net.given(width), net.given(width))
    if not width:
        return net.zeros(x)
    conv = functools.partial(ops.conv_norm_relu, features=width)
    return net.choose(at, _operations(conv, ops.max_pool()), chosen, x)


def join(net: Net, xs: list[Value], starts: list[Any]) -> Value:
    """Write down the concatenation of the vertices that lead to the output."""
    if not isinstance(starts[-1], int):
        return net.add(
            *(net(rolled(), x, net.given(start)) for x, start in zip(xs, starts, strict=True))
        )
    present = [x for x in xs if not x.is_zero]
    if len(present) < 2:
        return present[0] if present else xs[0]
    return net(ops.concatenate(), *present)


def _operations(conv: Callable[..., Operation], pool: Operation) -> dict[str, Operation]:
    return {operation: conv(size=size) if size else pool for operation, size in _SIZES.items()}


def _macs(x: Value, size: Any, inputs: Any, outputs: Any) -> Any:
    """Return the multiply-accumulates of a convolution, in floats, which do not overflow."""
    return 1.0 * math.prod(x.shape[1:3]) * size**2 * inputs * outputs


@operation
def masked(weights: Weights, x: Array, width: Array) -> Array:
    """Return `x` with zeros in all but the first channels."""
    return x * (jnp.arange(x.shape[-1]) < width)[None, None, None]


@operation
def rolled(weights: Weights, x: Array, start: Array) -> Array:
    """Return `x` with its first channel at `start`."""
    return jnp.roll(x, start, axis=-1)


@operation
def masked_conv_norm_relu(
    weights: Weights, x: Array, inputs: Array, outputs: Array, *, features: int, size: int
) -> Array:
    """Return convolution - normalization - ReLU of the first channels, zeros in the others."""
    weights.present = jnp.arange(features) < outputs
    channels = x.shape[-1]
    kernel = weights.tensor("kernel", (size, size, channels, features), size**2 * channels)
    rescaled = kernel * jnp.sqrt(channels / jnp.maximum(inputs, 1).astype(x.dtype))
    convolved = weights.layer(Convolution(), {"kernel": rescaled}, x)
    normalized = ops.norm(weights, convolved)
    return ops.relu(weights, normalized * weights.present[None, None, None])
