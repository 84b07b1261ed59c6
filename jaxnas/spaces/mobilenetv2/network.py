"""A network of searched layers as a Flax module that takes the architecture as data."""

import dataclasses
import functools
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike

from jaxnas import activations, gradients
from jaxnas.layerwise import parts
from jaxnas.spaces import normalization, plans, steps, tensors
from jaxnas.spaces.mobilenetv2.blocks import Block, Layer
from jaxnas.spaces.mobilenetv2.layout import STEM_SIZE, Layout, costs, first_layer, layers
from jaxnas.types import Array, Outputs, Params, Pullback, Readings, Stage

Bypass = Literal["identity", "norm"]
"""What runs beside a block that keeps the shape; `norm`: a normalisation with scale and bias, the
same for all candidates, whose scale is the layer indicator of arXiv 2307.02263."""


class SearchedNetwork(nn.Module):
    """Any network of a layout.

    Parameters are named after the parts, in order: `00_stem`, maybe `01_first`, then one `_layer`
    for each decision with its candidates (`k3_e6`: `expand`, `depthwise`, `project`) and maybe its
    `bypass`, `_head`, `_classifier`.

    Attributes:
        layout: what it looks like.
        classes: number of logits, K.
        norm: mode of the normalisation layers.
        bypass: what runs beside the blocks.
    """

    layout: Layout
    classes: int = 10
    norm: normalization.Mode = "batch"
    bypass: Bypass = "identity"

    def __call__(self, arch: Any, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs of architecture `arch` for `inputs` `[B, H, W, colours]`.

        Args:
            arch: a `StaticArch`, which reads only the parameters of its own blocks, or a traced
                `int32[L]`, which switches between those of all.
            inputs: images.
            statistics: running statistics (as in `Outputs.statistics`) for the `eval` mode of a
                `StaticArch`; mean 0 and variance 1 if None.

        Raises:
            ValueError: `statistics` in another mode, or for a traced architecture.
        """
        if self.is_initializing():
            self.declare(inputs.shape[-1], inputs.dtype)
        plans.validate_statistics(statistics, self.norm, arch)
        return self._forward(arch, self.variables["params"], inputs, statistics or {})

    @nn.compact
    def declare(self, colours: int, dtype: jnp.dtype) -> None:
        """Declare the parameters of all candidates, for images of so many colours."""
        for name, own in self._tensors(colours).items():
            self.param(name, functools.partial(tensors.initialise, own, dtype))

    def layer_names(self) -> list[str]:
        """Return the names of the searched layers, one for each decision."""
        start = 2 if self.layout.first else 1
        return [f"{start + i:02d}_layer" for i in range(len(layers(self.layout)))]

    def _end_names(self) -> tuple[str, str]:
        following = int(self.layer_names()[-1][:2]) + 1
        return f"{following:02d}_head", f"{following + 1:02d}_classifier"

    def _tensors(self, colours: int) -> dict[str, tensors.Tensors]:
        layout, normalised = self.layout, self.norm != "none"
        by_name = {"00_stem": tensors.conv(STEM_SIZE, colours, layout.stem, normalised)}
        first = first_layer(layout)
        if first is not None:
            by_name["01_first"] = first.candidates[0].tensors(first, normalised)
        searched = layers(layout)
        for name, layer in zip(self.layer_names(), searched, strict=True):
            by_name[name] = {
                candidate.name: candidate.tensors(layer, normalised)
                for candidate in layer.candidates
            }
            if self.bypass == "norm" and self._has_bypass(layer):
                by_name[name]["bypass"] = tensors.norm(layer.outputs, normalised)
        width = searched[-1].outputs
        pixels = steps.halved(searched[-1].image_size, searched[-1].stride) ** 2
        head, classifier = self._end_names()
        if layout.head:
            by_name[head] = tensors.conv(1, width, layout.head, normalised)
        else:
            by_name[head] = tensors.norm(width, normalised)
        by_name[classifier] = tensors.linear(layout.head or width * pixels, self.classes)
        return by_name

    def part_names(self) -> list[str]:
        """Return the names of all parts, in order; the last is the classifier."""
        first = ["01_first"] if first_layer(self.layout) else []
        return ["00_stem", *first, *self.layer_names(), *self._end_names()]

    def part(
        self, name: str, decision: int | Array | None, weights: Params, x: Array, statistics: Any
    ) -> tuple[Array, Any]:
        """Return what a part gives for its inputs, and its batch statistics.

        Args:
            name: of the part.
            decision: which candidate of a searched layer; None for other parts.
            weights: of the part.
            x: its inputs.
            statistics: running ones, or None.
        """
        style, (head, classifier) = self._style(), self._end_names()
        if name in self.layer_names():
            layer = layers(self.layout)[self.layer_names().index(name)]
            return self._layer(layer, decision, weights, x, statistics or {})
        if name == "00_stem":
            return steps.conv_norm(weights, x, statistics, self.layout.stem_stride, style)
        if name == head and self.layout.head:
            x, found = steps.conv_norm(weights, x, statistics, 1, style)
            return x.mean((1, 2)), found
        if name == head:
            x, found = steps.norm_act(weights, x, statistics, style)
            return x.reshape(x.shape[0], -1), found
        if name == classifier:
            return x @ weights["kernel"] + weights["bias"][None], None
        first = first_layer(self.layout)
        assert first is not None
        return first.candidates[0].apply(first, weights, x, statistics, style)

    def decisions(self, arch: Any) -> dict[str, int | Array]:
        """Return the decision of each searched layer, by name."""
        return {name: arch[position] for position, name in enumerate(self.layer_names())}

    def _forward(self, arch: Any, params: Params, inputs: Array, statistics: Any) -> Outputs:
        found: dict[str, Any] = {}
        chosen = self.decisions(arch)
        x = features = inputs
        for name in self.part_names():
            features = x
            x, own = self.part(
                name, chosen.get(name), params.get(name, {}), x, statistics.get(name)
            )
            if name != self._end_names()[1]:
                found[name] = own
        return Outputs(x, features, found if isinstance(arch, plans.StaticArch) else ())

    def _layer(
        self,
        layer: Layer,
        decision: int | Array | None,
        weights: Params,
        inputs: Array,
        statistics: Any,
    ) -> tuple[Array, dict[str, Any]]:
        """Return the outputs of the chosen block and what runs beside it."""
        found: dict[str, Any] = {}
        assert decision is not None
        if isinstance(decision, int):
            candidate = layer.candidates[decision]
            outputs, found = self._candidate(
                layer, candidate, weights.get(candidate.name, {}), inputs, statistics
            )
        else:
            outputs = lax.switch(
                decision,
                [functools.partial(self._branch, layer, own) for own in layer.candidates],
                weights,
                inputs,
            )
        if not self._has_bypass(layer):
            return outputs, found
        if self.bypass == "identity":
            return inputs + outputs, found
        beside, found["bypass"] = steps.norm_act(
            weights.get("bypass", {}),
            inputs,
            statistics.get("bypass"),
            steps.Style("none", self.norm),
        )
        return beside + outputs, found

    def _candidate(
        self, layer: Layer, candidate: Block, weights: Params, inputs: Array, statistics: Any
    ) -> tuple[Array, dict[str, Any]]:
        """Return the outputs of a candidate and, under its name, its batch statistics."""
        if candidate.is_absent(layer):  # what runs beside it is all there is
            return jnp.zeros_like(inputs), {}
        own = statistics.get(candidate.name)
        outputs, found = candidate.apply(layer, weights, inputs, own, self._style())
        return outputs, {candidate.name: found}

    def _branch(self, layer: Layer, candidate: Block, weights: Params, inputs: Array) -> Array:
        return self._candidate(layer, candidate, weights.get(candidate.name, {}), inputs, {})[0]

    def _has_bypass(self, layer: Layer) -> bool:
        return self.layout.residual and layer.is_plain

    def _style(self) -> steps.Style:
        return steps.Style(self.layout.activation, self.norm)


@dataclasses.dataclass(frozen=True)
class BoundNetwork:
    """A `SearchedNetwork` with its architecture filled in."""

    module: SearchedNetwork
    arch: Any

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for `inputs` `[B, H, W, colours]`."""
        self.validate(params["00_stem"]["kernel"].shape[2], inputs)
        outputs = self.module.apply({"params": params}, self.arch, inputs, statistics)
        assert isinstance(outputs, Outputs)
        return outputs

    def stages(self, params: Params, *, normalized: bool = True) -> list[Stage]:
        """Return the parts as stages; without normalisation layers if not `normalized`."""
        return [activations.as_stage(*own) for own in self.parts(params, normalized=normalized)]

    def parts(self, params: Params, *, normalized: bool = True) -> list[parts.Part]:
        """Return the parts as functions, with their parameters."""
        module = self.module if normalized else self.module.clone(norm="none")
        chosen = module.decisions(self.arch)
        return [
            (_Part(module, name, chosen.get(name)), params.get(name, {}))
            for name in module.part_names()
        ]

    def num_macs(self, params: Params, inputs: Array) -> ArrayLike:
        """Return the multiply-adds for one image of this size; see `layout.Costs`."""
        layout = self.module.layout._replace(image_size=inputs.shape[1])
        table = costs(layout, classes=self.module.classes, colours=inputs.shape[-1])
        return table.num_macs(self.arch)

    def validate(self, colours: int, inputs: Array) -> None:
        """Check that the network can read these images.

        Raises:
            ValueError: it can't.
        """
        validate_images(self.module.layout, colours, inputs)


@dataclasses.dataclass(frozen=True)
class UncoupledNetwork(BoundNetwork):
    """A concrete network whose normalisation does not couple examples: it reads part by part."""

    def per_example_vjp(self, params: Params, inputs: Array) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients."""
        self.validate(params["00_stem"]["kernel"].shape[2], inputs)
        outputs, read = parts.per_example_vjp(self.parts(params), inputs)

        def pullback(cotangent: Array, readings: Readings) -> tuple[Params, ...]:
            return gradients.by_reading(read(cotangent, readings), readings, params)

        return outputs, pullback


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of a network as a function; equal parts compile once."""

    module: SearchedNetwork
    name: str
    decision: Any

    def __call__(self, weights: Params, inputs: Array) -> Array:
        return self.module.part(self.name, self.decision, weights, inputs, None)[0]


def validate_images(layout: Layout, colours: int, inputs: Array) -> None:
    """Check that networks of a layout can read these images.

    Raises:
        ValueError: they can't.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"This network reads normalised images: got dtype {inputs.dtype}; use "
            "datasets.normalize, or convert them to float32."
        )
    if inputs.ndim != 4 or not inputs.size or inputs.shape[1] != inputs.shape[2]:
        raise ValueError(
            "This network reads square images [B, H, W, colours]: got shape "
            f"{list(inputs.shape)}; resize or pad them."
        )
    if inputs.shape[-1] != colours:
        raise ValueError(
            f"This network reads images of {colours} colours: got {inputs.shape[-1]}; name the "
            "number when you make the space."
        )
    if not layout.head and inputs.shape[1] != layout.image_size:
        raise ValueError(
            f"A network that flattens its last image reads {layout.image_size} pixels: got "
            f"{inputs.shape[1]}; resize them, or use a layout with a head."
        )
    layers(layout._replace(image_size=inputs.shape[1]))
