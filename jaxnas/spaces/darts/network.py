"""The macro network of DARTS for images of 32x32 pixels, without its auxiliary head.

Stem (3C channels) - L cells, those at L/3 and 2L/3 reduction cells, which halve the image and
double the channels - mean over the pixels - classifier. A cell gives four times its width. Source:
Liu, Simonyan and Yang, ICLR 2019, arXiv 1806.09055, section 3.1.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jaxnas.spaces import normalization, operations, plans, tensors
from jaxnas.spaces.chain import Chain, Link
from jaxnas.spaces.darts import blocks
from jaxnas.spaces.darts.cell import NODES, genotype
from jaxnas.spaces.tensors import Tensors

STEM_FACTOR = 3
NOT_TRACED = (
    "A DARTS network is built for its cells, so it takes a concrete architecture: got a {}; use "
    "plan='walk', or keep it out of jit."
)


class Layer(NamedTuple):
    """The place of a cell in the network.

    Attributes:
        inputs: channels of the output before the last, and of the last.
        width: channels of each node, C.
        reduction: whether it halves the image.
        after_reduction: whether the cell before it does.
    """

    inputs: tuple[int, int]
    width: int
    reduction: bool
    after_reduction: bool


class Darts(Chain):
    """Any DARTS network; of a concrete architecture.

    Attributes:
        channels: width of the first cells, C.
        layers: number of cells, L.
        classes: number of logits, K.
        norm: mode of the normalisation layers.
    """

    channels: int = 16
    layers: int = 8
    classes: int = 10
    norm: normalization.Mode = "batch"

    def links(self, arch: plans.Arch) -> list[Link]:
        """Return the blocks of architecture `arch`, in order."""
        if not isinstance(arch, plans.StaticArch):
            raise ValueError(NOT_TRACED.format(type(arch).__name__))
        normal, reduce = genotype(arch)
        links = [Link(("00_stem",), blocks.stem(self.norm))]
        for name, layer in self.cells().items():
            cell = reduce if layer.reduction else normal
            block = blocks.cell_block(cell, layer.reduction, layer.after_reduction, self.norm)
            links.append(Link((name,), block))
        pool, classifier = self._ends()
        linear = plans.block(operations.linear())
        return [*links, Link((pool,), blocks.pool()), Link((classifier,), linear)]

    def tensors(self, colours: int) -> dict[str, Tensors]:
        """Return the parameter tensors of each block, by name, of all operations."""
        normalised = self.norm != "none"
        stem = tensors.conv(3, colours, STEM_FACTOR * self.channels, normalised)
        cells = {
            name: blocks.cell_tensors(*layer, normalised) for name, layer in self.cells().items()
        }
        width = NODES * list(self.cells().values())[-1].width
        return {"00_stem": stem} | cells | {self._ends()[1]: tensors.linear(width, self.classes)}

    def own(self, arch: plans.StaticArch, tree: dict[str, Tensors]) -> dict[str, Tensors]:
        """Return of a tree like `tensors` what belongs to architecture `arch`."""
        normal, reduce = genotype(arch)
        cells = {
            name: blocks.own_tensors(
                tree[name], reduce if layer.reduction else normal, layer.reduction
            )
            for name, layer in self.cells().items()
        }
        return tree | cells

    def cells(self) -> dict[str, Layer]:
        """Return the layers by name; sorted, they are in the order of the network."""
        return {f"{position:02d}_cell": own for position, own in enumerate(self._layers(), 1)}

    def _layers(self) -> Iterator[Layer]:
        before = last = STEM_FACTOR * self.channels
        width, after_reduction = self.channels, False
        for position in range(self.layers):
            reduction = position in (self.layers // 3, 2 * self.layers // 3)
            width *= 1 + reduction
            yield Layer((before, last), width, reduction, after_reduction)
            before, last, after_reduction = last, NODES * width, reduction

    def _ends(self) -> tuple[str, str]:
        return f"{self.layers + 1:02d}_pool", f"{self.layers + 2:02d}_classifier"
