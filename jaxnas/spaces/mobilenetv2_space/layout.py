"""What a MobileNetV2 network looks like, as a table.

Stem (3x3) - an optional fixed block without expansion - stages of searched layers - head - linear
classifier. Sources of the two published tables: Guo et al., "Single Path One-Shot" (SPOS), ECCV
2020, arXiv 1904.00420, as Chen et al., "BN-NAS", ICCV 2021, arXiv 2108.07375, search it; Chu et
al., "FairNAS", ICCV 2021, arXiv 1907.01845.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxnas import check
from jaxnas.spaces.mobilenetv2_space.blocks import (
    ACTIVATIONS,
    Activation,
    Block,
    BlockPlace,
    Candidate,
)

CANDIDATES = tuple(Candidate(size, expansion) for size in (3, 5, 7) for expansion in (3, 6))
"""Kernel and expansion in the order of the published code: (3, 3), (3, 6), (5, 3), ..., (7, 6)."""


class Stage(NamedTuple):
    """So many searched layers of one width, the first of which has the stride."""

    outputs: int
    layers: int
    stride: int


class Layout(NamedTuple):
    """What a network looks like.

    Attributes:
        image_size: height and width of the images, pixels.
        stem: channels of the stem.
        stem_stride: its stride.
        first: channels of the fixed block after it, 0 for none.
        stages: of searched layers.
        head: channels of the 1x1 convolution before global average pooling; 0: normalize, activate
            and flatten instead, for images so small that averages say nothing.
        candidates: what can be chosen in every layer.
        optional: what else can be chosen in layers that keep the shape, such as the identity.
        activation: of stem, blocks and head.
        residual: whether something runs beside the blocks that keep the shape.
    """

    image_size: int
    stem: int
    stem_stride: int
    first: int
    stages: tuple[Stage, ...]
    head: int
    candidates: tuple[Block, ...] = CANDIDATES
    optional: tuple[Block, ...] = ()
    activation: Activation = "relu6"
    residual: bool = True


_SPOS_STAGES = (
    *(Stage(32, 4, 2), Stage(56, 4, 2), Stage(112, 4, 2)),
    *(Stage(128, 4, 1), Stage(256, 4, 2), Stage(432, 1, 1)),
)
_FAIRNAS_STAGES = (
    *(Stage(32, 2, 2), Stage(40, 4, 2), Stage(80, 4, 2)),
    *(Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1)),
)
_IMG32_STAGES = (
    *(Stage(16, 4, 1), Stage(24, 4, 2), Stage(32, 4, 2)),
    *(Stage(48, 4, 1), Stage(64, 4, 2)),
)

BY_LAYOUT: Mapping[str, Layout] = {
    "spos": Layout(224, 40, 2, 24, _SPOS_STAGES, 1728),
    "fairnas": Layout(224, 32, 2, 16, _FAIRNAS_STAGES, 1280),
    # The 20 layers of arXiv 2307.02263, which gives no table: SPOS without its last stage is the
    # only published one that has 20 and reaches its 468 M FLOPs with 4.9 M parameters.
    "isometric": Layout(224, 40, 2, 24, _SPOS_STAGES[:5], 1728),
    "img32": Layout(32, 16, 1, 0, _IMG32_STAGES, 256),
    "smoke32": Layout(32, 16, 1, 0, (Stage(16, 3, 1), Stage(24, 3, 2), Stage(32, 2, 2)), 128),
    "digits": Layout(8, 8, 1, 0, (Stage(8, 4, 1), Stage(16, 4, 2)), 0),
}
"""Layouts by name; `img32` for 32 pixels and `digits` for 8 are small."""


def resolve(layout: str | Layout) -> Layout:
    """Return the layout of that name, or the one that is given, checked.

    Raises:
        ValueError: an unknown name, or a table that makes no network.
    """
    if isinstance(layout, str):
        return BY_LAYOUT[check.choice("layout", layout, tuple(BY_LAYOUT))]
    check.instance("layout", layout, Layout, "a Layout, or the name of one")
    widths = [layout.image_size, layout.stem, *(stage.outputs for stage in layout.stages)]
    counts = [stage.layers for stage in layout.stages]
    if not layout.stages or min(*widths, *counts) < 1 or min(layout.first, layout.head) < 0:
        raise ValueError(f"A layout has stages, and sizes of at least 1: got {layout}.")
    if {layout.stem_stride, *(stage.stride for stage in layout.stages)} - {1, 2}:
        raise ValueError(f"Strides are 1 or 2: got {layout}; use more stages to halve more.")
    offered = (*layout.candidates, *layout.optional)
    for candidate in offered:
        candidate.check()
    if not layout.candidates or len(set(offered)) < len(offered):
        raise ValueError(
            f"Candidates are different, and one at least: got {layout.candidates} and "
            f"{layout.optional}; name each once."
        )
    if layout.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}: got {layout.activation!r}."
        )
    layers(layout)
    return layout


def layers(layout: Layout) -> tuple[BlockPlace, ...]:
    """Return the searched layers, in order.

    Raises:
        ValueError: a stride where the image has one pixel left.
    """
    size = -(-layout.image_size // layout.stem_stride)
    inputs = layout.first or layout.stem
    found = []
    for number, stage in enumerate(layout.stages, start=1):
        for stride in (stage.stride, *[1] * (stage.layers - 1)):
            if stride == 2 and size == 1:
                raise ValueError(
                    f"Stage {number} cannot halve an image of one pixel: got images of "
                    f"{layout.image_size} pixels; use larger ones, or a layout with fewer strides."
                )
            layer = BlockPlace(inputs, stage.outputs, stride, size, layout.candidates)
            extra = layout.optional if layer.is_plain else ()
            found.append(layer._replace(candidates=layout.candidates + extra))
            inputs, size = stage.outputs, -(-size // stride)
    return tuple(found)


def num_choices(layout: Layout) -> tuple[int, ...]:
    """Return how many candidates each searched layer has."""
    return tuple(len(layer.candidates) for layer in layers(layout))
