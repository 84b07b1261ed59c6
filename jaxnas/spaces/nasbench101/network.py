"""The macro network of NAS-Bench-101.

Stem - stack - halving - stack - halving - stack - mean over the pixels - classifier, with C, 2C and
4C channels; a stack is N cells, and its first one doubles the channels. Source: Ying et al., ICML
2019, arXiv 1902.09635, figure 1.
"""

from jaxnas.benchmarks.nasbench101_channels import STACKS, stages
from jaxnas.spaces import normalization, operations, plans, pooling, tensors
from jaxnas.spaces.chain import Chain, Link
from jaxnas.spaces.nasbench101 import blocks, cell
from jaxnas.spaces.tensors import Tensors

NOT_TRACED = (
    "The shapes of a NAS-Bench-101 network depend on its cell, so it takes a concrete one: got a "
    "{}; use plan='walk', or keep it out of jit."
)


class NASBench101(Chain):
    """Any NAS-Bench-101 network; of a concrete architecture, as its shapes depend on it.

    Attributes:
        channels: width of the stem and the first stack, C.
        cells: number of cells in each of the three stacks, N.
        classes: number of logits, K.
        norm: mode of the normalisation layers.
    """

    channels: int = 128
    cells: int = 3
    classes: int = 10
    norm: normalization.Mode = "batch"

    def links(self, arch: plans.Arch) -> list[Link]:
        """Return the blocks of architecture `arch`, in order."""
        if not isinstance(arch, plans.StaticArch):
            raise ValueError(NOT_TRACED.format(type(arch).__name__))
        graph = cell.graph(arch)
        by_kind = {
            "stem": plans.block(operations.convolution_norm_relu(self.norm)),
            "halving": plans.block(pooling.max_pool(2, stride=2)),
            "pool": plans.block(pooling.global_average_pool()),
            "classifier": plans.block(operations.linear()),
        }
        width, links = self.channels, []
        for name, kind in self.names().items():
            if kind == "halving":
                width *= 2
            block = blocks.cell(graph, width, self.norm) if kind == "cell" else by_kind[kind]
            links.append(Link((name,), block))
        return links

    def tensors(self, colours: int) -> dict[str, Tensors]:
        """Return the parameter tensors of each block, by name, at all channels."""
        normalised = self.norm != "none"
        of_cells = iter(stages(self.channels, self.cells))
        by_name = {}
        for name, kind in self.names().items():
            if kind == "stem":
                by_name[name] = tensors.conv(3, colours, self.channels, normalised)
            elif kind == "cell":
                by_name[name] = blocks.cell_tensors(*next(of_cells), normalised)
            elif kind == "classifier":
                width = self.channels * 2 ** (STACKS - 1)
                by_name[name] = tensors.linear(width, self.classes)
        return by_name

    def names(self) -> dict[str, str]:
        """Return the kind of each block by its name; sorted, in the order of the network."""
        stack = ["cell"] * self.cells
        inner = [*stack, "halving"] * (STACKS - 1) + stack
        kinds = ["stem", *inner, "pool", "classifier"]
        return {f"{position:02d}_{kind}": kind for position, kind in enumerate(kinds)}
