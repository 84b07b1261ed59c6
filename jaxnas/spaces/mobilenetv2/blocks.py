"""Inverted residual blocks: what can be chosen in a layer of a MobileNetV2 network.

Expand (1x1 convolution, normalise, activate) - filter (depthwise kxk, normalise, activate) -
project (1x1, normalise); what runs beside it is the network's affair. Source: Sandler et al.,
"MobileNetV2", CVPR 2018, arXiv 1801.04381.
"""

from typing import Any, NamedTuple, Protocol

from jaxnas.spaces import steps, tensors
from jaxnas.spaces.steps import Cost, Step, Style
from jaxnas.types import Array, Params


class Block(Protocol):
    """Something that can be chosen in a layer."""

    @property
    def name(self) -> str:
        """The name of its parameters, such as `k3_e6`."""

    def check(self) -> None:
        """Raise a `ValueError` if there is no such block."""

    def is_absent(self, layer: "Layer") -> bool:
        """Return whether it is nothing, so that only what runs beside it remains."""

    def cost(self, layer: "Layer", normalised: bool = True) -> Cost:
        """Return what it costs in a layer."""

    def tensors(self, layer: "Layer", normalised: bool = True) -> tensors.Tensors:
        """Return its parameter tensors; `project` has the last normalisation."""

    def apply(
        self, layer: "Layer", weights: Params, inputs: Array, statistics: Any, style: Style
    ) -> tuple[Array, dict[str, Any]]:
        """Return its outputs and its batch statistics."""


class Layer(NamedTuple):
    """The place of a block in a network.

    Attributes:
        inputs: channels.
        outputs: channels.
        stride: 1 or 2.
        image_size: height and width of its inputs, pixels.
        candidates: what can be chosen.
    """

    inputs: int
    outputs: int
    stride: int
    image_size: int
    candidates: tuple[Block, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it keeps the shape."""
        return self.stride == 1 and self.inputs == self.outputs


class Candidate(NamedTuple):
    """An inverted residual block: size of the kernel and expansion; see `IDENTITY`."""

    size: int
    expansion: int

    @property
    def name(self) -> str:
        """The name of its parameters, such as `k3_e6`."""
        return f"k{self.size}_e{self.expansion}" if self.size else "identity"

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: there is no such block.
        """
        if self != IDENTITY and (self.size < 3 or self.size % 2 == 0 or self.expansion < 1):
            raise ValueError(
                "A candidate has an odd kernel size of at least 3 and an expansion of at least 1, "
                f"or is (0, 0), the identity: got {tuple(self)}."
            )

    def is_absent(self, layer: Layer) -> bool:
        """Return whether it is the identity where that needs no convolution."""
        return self == IDENTITY and layer.is_plain

    def cost(self, layer: Layer, normalised: bool = True) -> Cost:
        """Return what it costs in a layer."""
        return steps.cost(self._steps(layer), layer.image_size, normalised)

    def tensors(self, layer: Layer, normalised: bool = True) -> tensors.Tensors:
        """Return its parameter tensors: `expand` (if it does), `depthwise` and `project`."""
        return steps.step_tensors(self._steps(layer), normalised)

    def apply(
        self, layer: Layer, weights: Params, inputs: Array, statistics: Any, style: Style
    ) -> tuple[Array, dict[str, Any]]:
        """Return its outputs, without what runs beside it, and its batch statistics."""
        return steps.run(self._steps(layer), weights, inputs, statistics, style)

    def _steps(self, layer: Layer) -> tuple[Step, ...]:
        if self.is_absent(layer):
            return ()
        if self == IDENTITY:
            return (Step("project", 1, layer.inputs, layer.outputs, layer.stride, False),)
        hidden = layer.inputs * self.expansion
        expand = (Step("expand", 1, layer.inputs, hidden),) if self.expansion != 1 else ()
        return (
            *expand,
            steps.depthwise_step("depthwise", self.size, hidden, layer.stride),
            Step("project", 1, hidden, layer.outputs, activated=False),
        )


IDENTITY = Candidate(0, 0)
"""Nothing at all; where the layer changes the shape, a 1x1 convolution and its normalisation."""
