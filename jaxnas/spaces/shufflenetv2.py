"""The ShuffleNetV2 space: 20 layers, in each of which one of four units is chosen, 4²⁰ networks.

A unit with stride 1 passes every other channel by and convolves the rest; with stride 2 it
convolves all channels twice, in two branches. Units have a kernel of 3, 5 or 7, or are three
separable convolutions (`xception`). Sources: Ma et al., "ShuffleNet V2", ECCV 2018, arXiv
1807.11164; Guo et al., "Single Path One-Shot" (SPOS), ECCV 2020, arXiv 1904.00420, whose code
normalises without scale and bias in the supernet. Here they are there: indicators read them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnas.spaces import steps, tensors
from jaxnas.spaces.mobilenetv2 import space_of
from jaxnas.spaces.mobilenetv2.blocks import Layer
from jaxnas.spaces.mobilenetv2.layout import Layout, Stage, resolve
from jaxnas.spaces.steps import Cost, Step, Style
from jaxnas.types import Array, Params, SearchSpace


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

    def is_absent(self, layer: Layer) -> bool:
        """Return False: every unit convolves."""
        return False

    def cost(self, layer: Layer, normalised: bool = True) -> Cost:
        """Return what it costs in a layer."""
        main, beside = (
            steps.cost(branch, layer.image_size, normalised)
            for branch in (self._main(layer), self._beside(layer))
        )
        return Cost(main.params + beside.params, main.macs + beside.macs)

    def tensors(self, layer: Layer, normalised: bool = True) -> tensors.Tensors:
        """Return its parameter tensors; `project` has the last normalisation of the main branch."""
        return steps.step_tensors([*self._main(layer), *self._beside(layer)], normalised)

    def apply(
        self, layer: Layer, weights: Params, inputs: Array, statistics: Any, style: Style
    ) -> tuple[Array, dict[str, Any]]:
        """Return its outputs, the channels of the main branch last, and its batch statistics."""
        found: dict[str, Any] = {}
        if layer.stride == 1:
            passed, rest = inputs[..., ::2], inputs[..., 1::2]
        else:
            passed, found = steps.run(self._beside(layer), weights, inputs, statistics, style)
            rest = inputs
        outputs, own = steps.run(self._main(layer), weights, rest, statistics, style)
        return jnp.concatenate([passed, outputs], axis=-1), found | own

    def _main(self, layer: Layer) -> tuple[Step, ...]:
        inputs = layer.inputs // 2 if layer.stride == 1 else layer.inputs
        hidden, outputs = layer.outputs // 2, layer.outputs - inputs
        if not self.deep:
            return (
                Step("expand", 1, inputs, hidden),
                steps.depthwise_step("depthwise", self.size, hidden, layer.stride, False),
                Step("project", 1, hidden, outputs),
            )
        return (
            steps.depthwise_step("depthwise_0", self.size, inputs, layer.stride, False),
            Step("expand", 1, inputs, hidden),
            steps.depthwise_step("depthwise_1", self.size, hidden, 1, False),
            Step("middle", 1, hidden, hidden),
            steps.depthwise_step("depthwise_2", self.size, hidden, 1, False),
            Step("project", 1, hidden, outputs),
        )

    def _beside(self, layer: Layer) -> tuple[Step, ...]:
        if layer.stride == 1:
            return ()
        return (
            steps.depthwise_step("beside_depthwise", self.size, layer.inputs, 2, False),
            Step("beside_project", 1, layer.inputs, layer.inputs),
        )


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
    colours: int = 3,
    norm: str = "batch",
) -> SearchSpace:
    """Return the ShuffleNetV2 search space; an architecture is `int32[L]`.

    Args:
        layout: what the networks look like, or a name in `BY_LAYOUT`.
        classes: number of classes, K.
        colours: channels of the images.
        norm: what the normalisation layers do, `batch`, `instance`, `eval` or `none`.

    Raises:
        ValueError: an unknown name or mode, a size too small, or a table that makes no network.
    """
    if isinstance(layout, str) and layout not in BY_LAYOUT:
        raise ValueError(f"layout must be one of {', '.join(BY_LAYOUT)}: got {layout!r}.")
    return space_of(
        checked(BY_LAYOUT[layout] if isinstance(layout, str) else layout),
        name="shufflenetv2",
        classes=classes,
        colours=colours,
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
