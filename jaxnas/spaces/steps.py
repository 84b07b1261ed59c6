"""Steps of a block on `[B, H, W, C]`: convolution - normalisation - activation.

What a step holds, costs and computes; the blocks of mobile networks are sequences of them.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax import lax

from jaxnas.spaces import convolution, normalization, tensors
from jaxnas.types import Array, Params

Activation = Literal["relu", "relu6", "none"]
ACTIVATIONS = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "none": lambda x: x}


class Style(NamedTuple):
    """What is the same in all of a network: the activation, and the mode of normalisation."""

    activation: Activation
    mode: normalization.Mode


class Step(NamedTuple):
    """A convolution with its normalisation and maybe an activation.

    Attributes:
        name: of its parameters.
        size: of the kernel, odd.
        inputs: channels.
        outputs: channels; a step whose kernel is larger than 1 is depthwise and keeps the inputs'.
        stride: 1 or 2.
        activated: whether an activation follows.
    """

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    activated: bool = True


class Cost(NamedTuple):
    """What a part of a network costs.

    Attributes:
        params: trainable numbers, scales and biases of normalisation included.
        macs: multiply-adds of the convolutions for one image.
    """

    params: int
    macs: int


def depthwise_step(
    name: str, size: int, channels: int, stride: int = 1, activated: bool = True
) -> Step:
    """Return a depthwise step."""
    return Step(name, size, channels, channels, stride, activated)


def cost(steps: Sequence[Step], image_size: int, normalised: bool = True) -> Cost:
    """Return what a sequence of steps costs on images of that height and width."""
    params = macs = 0
    for step in steps:
        image_size = halved(image_size, step.stride)
        weights = step.size**2 * step.outputs * (step.inputs if step.size == 1 else 1)
        params += weights + (2 * step.outputs if normalised else 0)
        macs += weights * image_size**2
    return Cost(params, macs)


def step_tensors(steps: Sequence[Step], normalised: bool = True) -> tensors.Tensors:
    """Return the parameter tensors of a sequence of steps, by name."""
    return {
        step.name: tensors.conv(
            step.size, step.inputs if step.size == 1 else 1, step.outputs, normalised
        )
        for step in steps
    }


def run(
    steps: Sequence[Step], weights: Params, inputs: Array, statistics: Any, style: Style
) -> tuple[Array, dict[str, Any]]:
    """Return the outputs of a sequence of steps, and their batch statistics by name.

    Args:
        steps: in order.
        weights: as `step_tensors` names them.
        inputs: `[B, H, W, C]`.
        statistics: running ones by name, for the `eval` mode.
        style: of the network.
    """
    x, found = inputs, {}
    for step in steps:
        own = style if step.activated else style._replace(activation="none")
        x, found[step.name] = conv_norm(
            weights[step.name], x, (statistics or {}).get(step.name), step.stride, own
        )
    return x, found


@functools.partial(jax.jit, static_argnames=("stride", "style"))
def conv_norm(
    weights: Mapping[str, Array], inputs: Array, statistics: Any, stride: int, style: Style
) -> tuple[Array, Any]:
    """Return convolution - normalisation - activation, and the batch statistics or None.

    Kernels `[k, k, 1, C]` of `k` above 1 are depthwise if the inputs have `C` channels.
    """
    return norm_act(weights, convolve(inputs, weights["kernel"], stride), statistics, style)


def norm_act(
    weights: Mapping[str, Array], inputs: Array, statistics: Any, style: Style
) -> tuple[Array, Any]:
    """Return normalisation (with scale and bias) - activation, and the batch statistics or None."""
    activate = ACTIVATIONS[style.activation]
    if style.mode == "none":
        return activate(inputs), None
    normalized = normalization.normalize(inputs, style.mode, statistics)
    outputs = normalization.affine(normalized, weights["scale"], weights["bias"])
    return activate(outputs), lax.stop_gradient(normalized.statistics)


def convolve(inputs: Array, kernel: Array, stride: int = 1) -> Array:
    """Return the convolution with a 1x1, a depthwise or a dense kernel."""
    size, _, per_group, outputs = kernel.shape
    if size == 1:  # a matrix product, whose gradients are fast everywhere
        return inputs[:, ::stride, ::stride] @ kernel[0, 0]
    if per_group == 1 and inputs.shape[-1] == outputs:
        return convolution.depthwise(inputs, kernel, stride)
    return convolution.convolve(inputs, kernel, stride)


def halved(image_size: int, stride: int) -> int:
    """Return the height or width after a convolution with padding `k // 2`."""
    return (image_size - 1) // stride + 1
