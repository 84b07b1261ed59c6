"""A network of searched layers, and what each choice costs."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas.network import Net, Network, Value, graph, module, tensors
from jaxnas.network import operations as ops
from jaxnas.spaces.mobilenetv2_space import blocks
from jaxnas.spaces.mobilenetv2_space.blocks import BlockPlace
from jaxnas.spaces.mobilenetv2_space.layout import BY_LAYOUT, Layout, layers
from jaxnas.types import Array

Bypass = Literal["identity", "norm"]
"""What runs beside a block that keeps the shape; `norm`: a normalization with scale and bias, the
same for all candidates, whose scale is the layer indicator of arXiv 2307.02263."""


class SearchedNetwork(Network):
    """Any network of a layout.

    Attributes:
        norm: mode of the normalization layers.
        colors: channels of the images.
        layout: what it looks like.
        classes: number of logits, K.
        bypass: what runs beside the blocks.
    """

    layout: Layout = BY_LAYOUT["img32"]
    classes: int = 10
    bypass: Bypass = "identity"

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        layout, activate = self.layout, self._activate
        stem = blocks.stem(features=layout.stem, stride=layout.stem_stride, activate=activate)
        x = net.stage("stem", stem, x)
        if layout.first:
            first = blocks.inverted_residual(
                size=3, expansion=1, features=layout.first, stride=1, activate=activate
            )
            x = net.stage("first", first, x)
        for position, layer in enumerate(layers(layout)):
            x = net.stage("layer", functools.partial(self._layer, layer, arch[position]), x)
        x = net.stage("head", blocks.head(features=layout.head, activate=activate), x)
        classifier = ops.dense(features=self.classes, count_bias=False)
        return net.stage("classifier", classifier, x)

    def num_decisions(self) -> int:
        """Return the number of searched layers."""
        return len(layers(self.layout))

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless networks of the layout can read the images."""
        validate_images(self.layout, self.colors, inputs)

    def _layer(self, layer: BlockPlace, decision: Any, net: Net, x: Value) -> Value:
        """Write down the chosen block and what runs beside it."""
        offered = {
            candidate.name: candidate.operation(layer, self._activate)
            for candidate in layer.candidates
        }
        outputs = net.choose("", offered, decision, x)
        if not (self.layout.residual and layer.is_plain):
            return outputs
        beside = net(blocks.normalization(), x, name="bypass") if self.bypass == "norm" else x
        return net.add(beside, outputs)

    @property
    def _activate(self) -> blocks.Activate:
        return blocks.ACTIVATIONS[self.layout.activation]


def validate_images(layout: Layout, colors: int, inputs: Array) -> None:
    """Raise `ValueError` unless networks of a layout can read these images."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"This network reads normalized images: got dtype {inputs.dtype}; use "
            "datasets.normalize, or convert them to float32."
        )
    if inputs.ndim != 4 or not inputs.size or inputs.shape[1] != inputs.shape[2]:
        raise ValueError(
            "This network reads square images [B, H, W, colors]: got shape "
            f"{list(inputs.shape)}; resize or pad them."
        )
    if inputs.shape[-1] != colors:
        raise ValueError(
            f"This network reads images of {colors} colors: got {inputs.shape[-1]}; name the "
            "number when you make the space."
        )
    if not layout.head and inputs.shape[1] != layout.image_size:
        raise ValueError(
            f"A network that flattens its last image reads {layout.image_size} pixels: got "
            f"{inputs.shape[1]}; resize them, or use a layout with a head."
        )
    layers(layout._replace(image_size=inputs.shape[1]))


class Cost(NamedTuple):
    """What a part of a network costs.

    Attributes:
        params: trainable numbers, scales and biases of normalization included.
        macs: multiply-accumulates for one image; normalization and biases do not count.
    """

    params: int
    macs: int


class Costs(NamedTuple):
    """What a network costs, choice by choice.

    Attributes:
        fixed: of all that is not searched.
        params: `int64[L, K]`, of each candidate of each layer; 0 where there is none.
        macs: `int64[L, K]`, of its convolutions.
    """

    fixed: Cost
    params: np.ndarray
    macs: np.ndarray

    def num_params(self, archs: ArrayLike | Sequence[int]) -> Any:
        """Return the trainable parameters `[...]` of architectures `int32[..., L]`."""
        return self.fixed.params + _chosen(self.params, archs)

    def num_macs(self, archs: ArrayLike | Sequence[int]) -> Any:
        """Return the multiply-accumulates `[...]` for one image; the field calls them FLOPs."""
        return self.fixed.macs + _chosen(self.macs, archs)


def costs(network: SearchedNetwork) -> Costs:
    """Return what the networks of a layout cost, at its size of images."""
    size = network.layout.image_size
    images = jax.ShapeDtypeStruct((1, size, size, network.colors), np.float32)
    shape = (
        network.num_decisions(),
        max(len(layer.candidates) for layer in layers(network.layout)),
    )
    fixed, table, position = np.zeros(2, int), np.zeros((2, *shape), np.int64), 0
    for step in module.whole(network, images).steps:
        described = [description for _, description in graph.described(step, network.norm)]
        each = np.array(
            [[tensors.count(description.tensors), description.macs] for description in described],
            int,
        )
        if isinstance(step.part, graph.Switch):
            table[:, position, : len(each)] = each.T
            position += 1
        else:
            fixed += each.reshape(-1, 2).sum(0)
    return Costs(Cost(*fixed.tolist()), *table)


def _chosen(table: np.ndarray, archs: ArrayLike | Sequence[int]) -> Any:
    rows = np.arange(len(table))
    if isinstance(archs, jax.core.Tracer):
        return jnp.asarray(table)[rows, archs].sum(axis=-1)
    return table[rows, np.asarray(archs)].sum(axis=-1)
