"""The operations of DARTS.

A convolution is ReLU - depthwise kxk - 1x1 - normalise, once with dilation 2 (`dil_conv`) or twice
(`sep_conv`); an identity that halves the image is a factorized reduction. Source: Liu, Simonyan and
Yang, ICLR 2019, arXiv 1806.09055, section 3.1.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.gradients import read_examples, read_tensor
from jaxnas.spaces import convolution, normalization, operations, plans, pooling, tensors
from jaxnas.spaces.operations import Backward, Forward, Operation, Residuals, Weights
from jaxnas.spaces.tensors import Tensors
from jaxnas.types import Array, Params, Readings, Site


@functools.cache
def relu_depthwise(stride: int = 1, dilation: int = 1) -> Operation:
    """Return ReLU - depthwise convolution."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        kernel = weights["kernel"]
        return convolution.depthwise(jax.nn.relu(inputs), kernel, stride, dilation), None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        kernel, inputs = residuals.weights["kernel"], residuals.inputs
        factors = jax.nn.relu(inputs), kernel, cotangent, stride, dilation
        kept = read_tensor(
            readings,
            kernel,
            lambda: convolution.depthwise_kernel_gradients(*factors).sum(0),
            lambda: convolution.depthwise_kernel_gradients(*factors),
        )
        gradient = convolution.depthwise_input_gradient(*factors)
        return gradient * (inputs > 0), {"kernel": kept}

    return operations.jitted(forward, backward)._replace(see=lambda own: Site(own.inputs, None))


@functools.cache
def factorized_reduction(mode: normalization.Mode) -> Operation:
    """Return ReLU - two 1x1 convolutions, of the even and of the odd pixels - normalisation."""
    names = ("kernel_a", "kernel_b")

    def pixels(inputs: Array) -> list[Array]:
        return [jax.nn.relu(inputs)[:, start::2, start::2] for start in (0, 1)]

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        halves = [
            own @ weights[name][0, 0] for name, own in zip(names, pixels(inputs), strict=True)
        ]
        outputs = jnp.concatenate(halves, axis=-1)
        if mode == "none":
            return outputs, None
        normalized = normalization.normalize(outputs, mode, statistics)
        return operations.affine(normalized, weights), normalized

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        weights, inputs, normalized = residuals
        kept: dict[str, Any] = {}
        if normalized is not None:
            kept, cotangent = operations.affine_backward(residuals, cotangent, readings, mode)
        total = jnp.zeros_like(inputs)
        halves = jnp.split(cotangent, 2, axis=-1)
        for start, (name, own, half) in enumerate(zip(names, pixels(inputs), halves, strict=True)):
            per_example = jnp.einsum("bhwc,bhwo->bco", own, half)[:, None, None]
            kept[name] = read_examples(readings, weights[name], per_example)
            shape = (0, inputs.shape[1] - start, inputs.shape[2] - start, 0)
            spread = convolution.spread(half @ weights[name][0, 0].T, shape, 2)
            total += jnp.pad(spread, ((0, 0), (start, 0), (start, 0), (0, 0)))
        return total * (inputs > 0), kept

    def see(residuals: Residuals) -> Site:
        return Site(residuals.inputs, operations.variance(residuals))

    return operations.jitted(forward, backward)._replace(see=see)


def operation(name: str, stride: int, mode: normalization.Mode) -> plans.Block:
    """Return the operation of that name."""
    if name == "max_pool_3x3":
        return plans.block(pooling.max_pool(3, stride))
    if name == "avg_pool_3x3":
        halving = pooling.average_pool_halving()
        return plans.block(operations.average_pool() if stride == 1 else halving)
    if name == "skip_connect":
        reduction = factorized_reduction(mode)
        return plans.block(operations.skip_connect() if stride == 1 else reduction)
    pointwise = plans.block(operations.convolution_norm(mode, relu=False))
    if name.startswith("dil_conv"):
        dilated = plans.block(relu_depthwise(stride, dilation=2))
        return _sequence({"depthwise": dilated, "pointwise": pointwise})
    return _sequence(
        {
            "depthwise_1": plans.block(relu_depthwise(stride)),
            "pointwise_1": pointwise,
            "depthwise_2": plans.block(relu_depthwise()),
            "pointwise_2": pointwise,
        }
    )


def operation_tensors(name: str, stride: int, width: int, normalised: bool) -> Tensors:
    """Return the tensors of an operation; none of a pooling or an identity."""
    if name.endswith(("_conv_3x3", "_conv_5x5")):
        size = int(name[-1])
        part = {
            "depthwise": {"kernel": tensors.Tensor((size, size, 1, width), size**2)},
            "pointwise": tensors.conv(1, width, width, normalised),
        }
        if name.startswith("dil_conv"):
            return part
        return {f"{step}_{i}": own for i in (1, 2) for step, own in part.items()}
    if name == "skip_connect" and stride == 2:
        return reduction_tensors(width, width, normalised)
    return {}


def reduction_tensors(inputs: int, outputs: int, normalised: bool) -> Tensors:
    """Return the tensors of a factorized reduction."""
    half = tensors.Tensor((1, 1, inputs, outputs // 2), inputs)
    return {"kernel_a": half, "kernel_b": half} | tensors.norm(outputs, normalised)


def _sequence(parts: Mapping[str, plans.Block]) -> plans.Block:
    """Return blocks one after the other, the weights of each under its name."""

    def forward(weights: Params, inputs: Array, statistics: Any) -> tuple[Array, Any]:
        saved = {}
        for name, block in parts.items():
            running = (statistics or {}).get(name)
            inputs, saved[name] = block.forward(weights[name], inputs, running)
        return inputs, saved

    def backward(saved: Any, cotangent: Array, readings: Readings) -> tuple[Array, dict[str, Any]]:
        kept = {}
        for name, block in reversed(list(parts.items())):
            cotangent, kept[name] = block.backward(saved[name], cotangent, readings)
        return cotangent, kept

    def see(saved: Any) -> tuple[Site, ...]:
        return tuple(site for name, block in parts.items() for site in block.see(saved[name]))

    return plans.Block(forward, backward, see)
