"""The macro network of NAS-Bench-201.

Stem - N cells - residual reduction - N cells - residual reduction - N cells - classifier, at C, 2C
and 4C channels. Source: Dong and Yang, ICLR 2020, arXiv 2001.00326, figure 1.
"""

import functools
from typing import Any

from jaxnas.network import Net, Value
from jaxnas.network import operations as ops
from jaxnas.spaces.images import ImageNetwork
from jaxnas.spaces.nasbench201_space.cell import EDGES, NUM_CHOICES, NUM_NODES


class NASBench201(ImageNetwork):
    """Any NAS-Bench-201 network.

    Attributes:
        norm, colors, channels, classes: see `ImageNetwork`.
        cells: number of cells in each of the three stages, N.
    """

    space, num_choices = "nasbench201", NUM_CHOICES
    cells: int = 5

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        this_cell = functools.partial(cell, arch)
        x = net.stage("stem", ops.conv_norm(features=self.channels), x)
        x = net.repeat("cell", self.cells, this_cell, x)
        for width in (2 * self.channels, 4 * self.channels):
            x = net.stage("reduction", functools.partial(reduction, width), x)
            x = net.repeat("cell", self.cells, this_cell, x)
        x = net.stage("norm", ops.norm_relu_pool(), x)
        return net.stage("classifier", ops.dense(features=self.classes), x)


def cell(arch: Any, net: Net, x: Value) -> Value:
    """Write down a cell: each node is the sum of the operations on the edges that lead to it."""
    width = x.shape[-1]
    offered = {
        "none": ops.NONE,
        "skip_connect": ops.IDENTITY,
        "nor_conv_1x1": ops.relu_conv_norm(features=width, size=1),
        "nor_conv_3x3": ops.relu_conv_norm(features=width),
        "avg_pool_3x3": ops.average_pool(),
    }
    nodes = [x]
    for target in range(1, NUM_NODES):
        into = [
            net.choose(f"edge_{edge}", offered, arch[edge], nodes[source])
            for edge, (source, node) in enumerate(EDGES)
            if node == target
        ]
        nodes.append(net.add(*into))
    return nodes[-1]


def reduction(width: int, net: Net, x: Value) -> Value:
    """Write down the residual block that halves the image and doubles the channels."""
    halved = net(ops.relu_conv_norm(features=width, stride=2), x, name="conv_a")
    deep = net(ops.relu_conv_norm(features=width), halved, name="conv_b")
    return net.add(deep, net(ops.average_pool_conv(features=width), x, name="shortcut"))
