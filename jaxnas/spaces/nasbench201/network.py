"""The macro network of NAS-Bench-201.

Stem - N cells - residual reduction - N cells - residual reduction - N cells - classifier, at C, 2C
and 4C channels. Source: Dong and Yang, ICLR 2020, arXiv 2001.00326, figure 1.
"""

import itertools

from jaxnas.spaces import normalization, operations, plans, tensors
from jaxnas.spaces.chain import Chain, Link
from jaxnas.spaces.nasbench201 import blocks
from jaxnas.spaces.tensors import Tensors


class NASBench201(Chain):
    """Any NAS-Bench-201 network.

    Attributes:
        channels: width of the stem, C.
        cells: number of cells in each of the three stages, N.
        classes: number of logits, K.
        norm: mode of the normalisation layers.
    """

    channels: int = 16
    cells: int = 5
    classes: int = 10
    norm: normalization.Mode = "batch"

    def links(self, arch: plans.Arch) -> list[Link]:
        """Return the blocks of architecture `arch`, in order."""
        by_kind = {
            "stem": plans.block(operations.convolution_norm(self.norm, relu=False)),
            "cell": blocks.cell(arch, self.norm),
            "reduction": blocks.reduction(self.norm),
            "norm": plans.block(operations.norm_relu_pool(self.norm)),
            "classifier": plans.block(operations.linear()),
        }
        runs = itertools.groupby(self._names(), key=lambda name: name[3:])
        return [Link(tuple(names), by_kind[kind]) for kind, names in runs]

    def tensors(self, colours: int) -> dict[str, Tensors]:
        """Return the parameter tensors of each block, by name."""
        width, normalised = self.channels, self.norm != "none"
        by_name = {}
        for name in self._names():
            kind = name[3:]
            if kind == "stem":
                own = tensors.conv(3, colours, width, normalised)
            elif kind == "cell":
                own = blocks.cell_tensors(width, normalised)
            elif kind == "reduction":
                own = blocks.reduction_tensors(width, 2 * width, normalised)
                width *= 2
            elif kind == "norm":
                own = tensors.norm(width, normalised)
            else:
                own = tensors.linear(width, self.classes)
            by_name[name] = own
        return by_name

    def _names(self) -> list[str]:
        """Return the names of all blocks; sorted, they are in the order of the network."""
        stage = ["cell"] * self.cells
        kinds = ["stem", *stage, "reduction", *stage, "reduction", *stage, "norm", "classifier"]
        return [f"{position:02d}_{kind}" for position, kind in enumerate(kinds)]
