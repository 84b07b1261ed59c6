"""The ShuffleNetV2 space: 20 layers, in each of which one of four units is chosen, 4²⁰ networks.

A unit with stride 1 passes every other channel by and convolves the rest; with stride 2 it
convolves all channels twice, in two branches. Units have a kernel of 3, 5 or 7, or are three
separable convolutions (`xception`). Sources: Ma et al., "ShuffleNet V2", ECCV 2018, arXiv
1807.11164; Guo et al., "Single Path One-Shot" (SPOS), ECCV 2020, arXiv 1904.00420, whose code
normalizes without scale and bias in the supernet. Here they are there: indicators read them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxnas import check
from jaxnas.network import Operation, Weights, operation
from jaxnas.network import operations as ops
from jaxnas.spaces.mobilenetv2_space import blocks, space_of
from jaxnas.spaces.mobilenetv2_space.blocks import Activate, BlockPlace
from jaxnas.spaces.mobilenetv2_space.layout import Layout, Stage, resolve
from jaxnas.types import Array, SearchSpace


class Unit(NamedTuple):
    """A unit: size of its kernels, and whether it is three separable convolutions."""

    size: int
    deep: bool = False

    @property
    def name(self) -> str:
        """The name of its parameters, such as `k3`."""
        return "xception" if self.deep else f"k{self.size}"

    def check(self) -> None:
        """Check the size.

        Raises:
            ValueError: there is no such unit.
        """
        if self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"A unit has an odd kernel size of at least 3: got {self.size}.")

    def operation(self, layer: BlockPlace, activate: Activate = ops.relu) -> Operation:
        """Return what it computes in a layer."""
        return unit(
            **self._asdict(), features=layer.outputs, stride=layer.stride, activate=activate
        )


@operation
def unit(
    weights: Weights,
    x: Array,
    *,
    size: int,
    deep: bool,
    features: int,
    stride: int,
    activate: Activate,
) -> Array:
    """Return what passes and what is convolved, side by side."""

    def dense(name: str, x: Array, features: int) -> Array:
        return activate(weights, blocks.pointwise(weights[name], x, features))

    def depthwise(name: str, x: Array, stride: int = 1) -> Array:
        return blocks.depthwise(weights[name], x, size, stride)

    if stride == 1:
        passed, x = x[..., ::2], x[..., 1::2]
    else:
        passed = dense("beside_project", depthwise("beside_depthwise", x, stride), x.shape[-1])
    hidden, remaining = features // 2, features - passed.shape[-1]
    if deep:
        x = dense("expand", depthwise("depthwise_0", x, stride), hidden)
        x = dense("middle", depthwise("depthwise_1", x), hidden)
        x = depthwise("depthwise_2", x)
    else:
        x = depthwise("depthwise", dense("expand", x, hidden), stride)
    return jnp.concatenate([passed, dense("project", x, remaining)], axis=-1)


UNITS = (Unit(3), Unit(5), Unit(7), Unit(3, deep=True))
"""In the order of the published code."""


def _layout(
    image_size: int, stem: int, stem_stride: int, stages: tuple[Stage, ...], head: int
) -> Layout:
    return Layout(
        image_size, stem, stem_stride, 0, stages, head, UNITS, activation="relu", residual=False
    )


_SPOS_STAGES = (Stage(64, 4, 2), Stage(160, 4, 2), Stage(320, 8, 2), Stage(640, 4, 2))

BY_LAYOUT: Mapping[str, Layout] = {
    "spos": _layout(224, 16, 2, _SPOS_STAGES, 1024),
    "img32": _layout(32, 16, 1, (Stage(32, 4, 2), Stage(64, 4, 2), Stage(128, 4, 2)), 256),
}
"""Layouts by name: the published one for ImageNet, and a small one for 32 pixels."""


def shufflenetv2(
    layout: str | Layout = "img32",
    *,
    classes: int = 10,
    colors: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the ShuffleNetV2 search space; an architecture is `int32[L]`.

    Args:
        layout: what the networks look like, or a name in `BY_LAYOUT`.
        classes: number of classes, K.
        colors: channels of the images.
        norm: what the normalization layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: an unknown name or mode, a size too small, or a table that makes no network.
    """
    if isinstance(layout, str):
        layout = BY_LAYOUT[check.choice("layout", layout, tuple(BY_LAYOUT))]
    return space_of(
        checked(layout),
        name="shufflenetv2",
        classes=classes,
        colors=colors,
        norm=norm,
    )


def checked(layout: Layout) -> Layout:
    """Return the layout of a ShuffleNetV2.

    Raises:
        ValueError: it makes none.
    """
    resolve(layout)
    inputs = layout.stem
    for number, stage in enumerate(layout.stages, start=1):
        if stage.outputs % 2 or stage.stride != 2 or stage.outputs <= inputs:
            raise ValueError(
                f"A stage starts with stride 2 and has an even number of channels, more than what "
                f"it reads: got {stage} as number {number} after {inputs}."
            )
        inputs = stage.outputs
    if layout.residual or layout.first:
        raise ValueError("A ShuffleNetV2 has residual=False and first=0: got others.")
    return layout
