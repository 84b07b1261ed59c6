"""TransNAS-Bench-101 micro: 4,096 cells of four nodes, one network that is any of them.

An architecture is `int32[6]`: 0 none, 1 skip, 2 convolution 1x1 or 3 3x3 on each edge, in the order
of NAS-Bench-201. Its string, `64-41414-1_02_333`, is the benchmark's at any width. Source: Duan et
al., CVPR 2021, arXiv 2105.11871. Where the paper is silent, this follows the released code: ReLU
comes before all convolutions but the first, also in skips that halve, and none after the last cell.
So in `instance` mode the features of all images are the same: sums of biases. Differs from the
released code: images are divisible by 32, not padded, and weights are drawn as in all spaces.
"""

import functools

from jaxnas.network import Arch, Net, Value
from jaxnas.network import operations as ops
from jaxnas.spaces.image_space import factory
from jaxnas.spaces.images import ImageNetwork
from jaxnas.spaces.nasbench201_space.cell import EDGES, drawn, is_connected, pruned


class TransNAS(ImageNetwork):
    """Any TransNAS-Bench-101 micro network.

    Attributes:
        norm, colors, classes: see `ImageNetwork`; the benchmark's object classification has 75.
        channels: width after the stem, C; the benchmark trained 64.
    """

    space, num_choices, halvings = "transnas", (4,) * 6, 5
    channels: int = 64

    def forward(self, net: Net, x: Value, arch: Arch) -> Value:
        """Write down what architecture `arch` computes."""
        halve, keep = (functools.partial(cell, arch, stride) for stride in (2, 1))
        x = net.stage("stem", ops.conv_norm(features=-(-self.channels // 2), stride=2), x)
        x = net.stage("stem", ops.relu_conv_norm(features=self.channels, stride=2), x)
        for count in (3, 3, 1):
            x = net.stage("halving", halve, x)
            x = net.repeat("cell", count, keep, x)
        x = net.stage("pool", ops.global_average_pool(), x)
        return net.stage("classifier", ops.dense(features=self.classes), x)


def cell(arch: Arch, stride: int, net: Net, x: Value) -> Value:
    """Write down a cell; the edges that leave its input have the stride, and widen by it."""
    width = stride * x.shape[-1]
    into: list[list[Value]] = [[x], [], [], []]
    for edge, (source, target) in enumerate(EDGES):
        step = 1 if source else stride
        conv = functools.partial(ops.relu_conv_norm, features=width, stride=step)
        none = ops.none(features=width, stride=step)
        skip = ops.IDENTITY if step == 1 else ops.factorized_reduction(features=width)
        offered = {"none": none, "skip": skip, "conv_1x1": conv(size=1), "conv_3x3": conv()}
        read = net.add(*into[source])
        into[target].append(net.choose(f"edge_{edge}", offered, arch[edge], read))
    return net.add(*into[-1])


transnas = factory(
    TransNAS,
    notation="64-41414-{}_{}{}_{}{}{}",
    is_connected=is_connected,
    representative=pruned,
    cells=functools.partial(drawn, operations=("none", "skip", "conv_1x1", "conv_3x3")),
)
