"""Inverted residual blocks: what can be chosen in a layer of a MobileNetV2 network.

Expand (1x1 convolution, normalize, activate) - filter (depthwise kxk, normalize, activate) -
project (1x1, normalize); what runs beside it is the network's affair. Source: Sandler et al.,
"MobileNetV2", CVPR 2018, arXiv 1801.04381.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from jaxnas.network import Operation, Weights, operation
from jaxnas.network import operations as ops
from jaxnas.types import Array

Activate = Callable[[Weights, Array], Array]
Activation = Literal["relu", "relu6", "none"]
ACTIVATIONS: dict[str, Activate] = {
    "relu": ops.relu,
    "relu6": ops.relu6,
    "none": lambda weights, x: x,
}


class Block(Protocol):
    """Something that can be chosen in a layer."""

    @property
    def name(self) -> str:
        """The name of its parameters, such as `k3_e6`."""

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: there is no such block.
        """

    def operation(self, layer: "BlockPlace", activate: Activate = ops.relu6) -> Operation:
        """Return what it computes in a layer, without what runs beside it."""


class BlockPlace(NamedTuple):
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

    def operation(self, layer: BlockPlace, activate: Activate = ops.relu6) -> Operation:
        """Return what it computes in a layer, without what runs beside it."""
        outputs, stride = layer.outputs, layer.stride
        if self == IDENTITY:
            return ops.NONE if layer.is_plain else projection(features=outputs, stride=stride)
        return inverted_residual(
            **self._asdict(), features=outputs, stride=stride, activate=activate
        )


IDENTITY = Candidate(0, 0)
"""Nothing at all; where the layer changes the shape, a 1x1 convolution and its normalization."""


@operation
def inverted_residual(
    weights: Weights,
    x: Array,
    *,
    size: int,
    expansion: int,
    features: int,
    stride: int,
    activate: Activate,
) -> Array:
    """Return expand (if it does) - filter - project, the last without an activation."""
    if expansion != 1:
        x = activate(weights, pointwise(weights["expand"], x, expansion * x.shape[-1]))
    x = activate(weights, depthwise(weights["depthwise"], x, size, stride))
    return pointwise(weights["project"], x, features)


@operation
def projection(weights: Weights, x: Array, *, features: int, stride: int) -> Array:
    """Return 1x1 convolution - normalization."""
    return pointwise(weights["project"], x, features, stride)


def pointwise(weights: Weights, x: Array, features: int, stride: int = 1) -> Array:
    """Return 1x1 convolution - normalization."""
    return ops.norm(weights, ops.conv(weights, x, features, 1, stride))


def depthwise(weights: Weights, x: Array, size: int, stride: int = 1) -> Array:
    """Return depthwise convolution - normalization."""
    return ops.norm(weights, ops.depthwise(weights, x, size, stride))


# What is the same in all networks.


@operation
def stem(weights: Weights, x: Array, *, features: int, stride: int, activate: Activate) -> Array:
    """Return 3x3 convolution - normalization - activation."""
    return activate(weights, ops.norm(weights, ops.conv(weights, x, features, 3, stride)))


@operation
def head(weights: Weights, x: Array, *, features: int, activate: Activate) -> Array:
    """Return 1x1 convolution - normalization - activation - mean over the pixels, `[B, F]`.

    Without features: normalization - activation, all pixels in one row.
    """
    if features:
        return activate(weights, pointwise(weights, x, features)).mean((1, 2))
    return activate(weights, ops.norm(weights, x)).reshape(x.shape[0], -1)


@operation
def normalization(weights: Weights, x: Array) -> Array:
    """Return the normalization that may run beside a block."""
    return ops.norm(weights, x)
