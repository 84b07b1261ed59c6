"""Operations on activations `[B, H, W, C]`, each with its backward pass spelled out.

Explicit, because a `Reading` can then look at the per-example gradients of a tensor while they
exist, and keep only a Gram matrix of them or whatever it is asked for; and because all operations
then save the same residuals, which is what lets a compiled program switch between them cheaply.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.spaces import convolution, normalization
from jaxnas.types import Array, Reading

Weights = Mapping[str, Any]
"""Nested dictionaries of arrays; an operation without weights has `{}`."""


class Residuals(NamedTuple):
    """What the backward pass of an operation needs; the same for all of them."""

    weights: Weights
    inputs: Array
    normalized: normalization.Normalized | None


class Operation(NamedTuple):
    """A differentiable map of activations.

    Attributes:
        forward: `forward(weights, inputs, statistics) -> (outputs, normalized)`; `statistics` are
            running statistics or None, and so is `normalized` where nothing is normalised.
        backward: `backward(residuals, cotangent, reading) -> (input_gradient, readings)`;
            `readings` has the keys of `weights`. `reading=None` gives the plain gradients, summed
            over the examples. A reading is a static argument: use module-level functions.
    """

    forward: Callable[[Weights, Array, Any], tuple[Array, normalization.Normalized | None]]
    backward: Callable[[Residuals, Array, Reading | None], tuple[Array, dict[str, Any]]]


Forward = tuple[Array, normalization.Normalized | None]
Backward = tuple[Array, dict[str, Any]]


@functools.cache
def convolution_norm(mode: normalization.Mode, stride: int = 1, relu: bool = True) -> Operation:
    """Return ReLU (optional) - convolution - normalisation (with scale and bias)."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        activated = jax.nn.relu(inputs) if relu else inputs
        outputs = convolution.convolve(activated, weights["kernel"], stride)
        if mode == "none":
            return outputs, None
        normalized = normalization.normalize(outputs, mode, statistics)
        return _affine(normalized, weights), normalized

    def backward(residuals: Residuals, cotangent: Array, reading: Reading | None) -> Backward:
        weights, inputs, normalized = residuals
        readings: dict[str, Any] = {}
        if normalized is not None:
            readings, cotangent = _affine_backward(residuals, cotangent, reading, mode)
        activated = jax.nn.relu(inputs) if relu else inputs
        kernel = weights["kernel"]
        gradient = convolution.input_gradient(activated, kernel, cotangent, stride)
        readings["kernel"] = (
            convolution.kernel_gradient(activated, kernel, cotangent, stride)
            if reading is None
            else reading(
                convolution.per_example_kernel_gradients(activated, kernel, cotangent, stride)
            )
        )
        return gradient * (inputs > 0) if relu else gradient, readings

    return _jitted(forward, backward)


@functools.cache
def norm_relu_pool(mode: normalization.Mode) -> Operation:
    """Return normalisation (with scale and bias) - ReLU - global average pooling: `[B, C]`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        if mode == "none":
            return jax.nn.relu(inputs).mean((1, 2)), None
        normalized = normalization.normalize(inputs, mode, statistics)
        return jax.nn.relu(_affine(normalized, weights)).mean((1, 2)), normalized

    def backward(residuals: Residuals, cotangent: Array, reading: Reading | None) -> Backward:
        weights, inputs, normalized = residuals
        spread = cotangent[:, None, None, :] / (inputs.shape[1] * inputs.shape[2])
        if normalized is None:
            return spread * (inputs > 0), {}
        readings, gradient = _affine_backward(
            residuals, spread * (_affine(normalized, weights) > 0), reading, mode
        )
        return gradient, readings

    return _jitted(forward, backward)


@functools.cache
def average_pool() -> Operation:
    """Return 3x3 average pooling with stride 1; the padding is not counted."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return _window_sum(inputs) / _window_sum(jnp.ones_like(inputs)), None

    def backward(residuals: Residuals, cotangent: Array, reading: Reading | None) -> Backward:
        return _window_sum(cotangent / _window_sum(jnp.ones_like(cotangent))), {}

    return _jitted(forward, backward)


@functools.cache
def average_pool_convolution() -> Operation:
    """Return 2x2 average pooling with stride 2 - 1x1 convolution: the shortcut of a reduction."""
    convolve = convolution_norm("none", relu=False)

    def pool(inputs: Array) -> Array:
        batch, height, width, channels = inputs.shape
        return inputs.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return convolve.forward(weights, pool(inputs), statistics)

    def backward(residuals: Residuals, cotangent: Array, reading: Reading | None) -> Backward:
        pooled = residuals._replace(inputs=pool(residuals.inputs))
        gradient, readings = convolve.backward(pooled, cotangent, reading)
        return gradient.repeat(2, axis=1).repeat(2, axis=2) / 4, readings

    return _jitted(forward, backward)


@functools.cache
def linear() -> Operation:
    """Return the linear layer with a bias: features `[B, F]` to logits `[B, K]`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return inputs @ weights["kernel"] + weights["bias"][None], None

    def backward(residuals: Residuals, cotangent: Array, reading: Reading | None) -> Backward:
        weights, features, _ = residuals
        readings = {
            "kernel": read(features[:, :, None] * cotangent[:, None, :], reading),
            "bias": read(cotangent, reading),
        }
        return cotangent @ weights["kernel"].T, readings

    return _jitted(forward, backward)


def skip_connect() -> Operation:
    """Return the identity."""
    return Operation(
        lambda weights, inputs, statistics: (inputs, None),
        lambda residuals, cotangent, reading: (cotangent, {}),
    )


def zero() -> Operation:
    """Return the operation that cuts its edge."""
    return Operation(
        lambda weights, inputs, statistics: (jnp.zeros_like(inputs), None),
        lambda residuals, cotangent, reading: (jnp.zeros_like(cotangent), {}),
    )


def _jitted(
    forward: Callable[[Weights, Array, Any], Forward],
    backward: Callable[[Residuals, Array, Reading | None], Backward],
) -> Operation:
    """Return the kernels that a walk shares between all architectures."""
    return Operation(jax.jit(forward), jax.jit(backward, static_argnames="reading"))


def _affine(normalized: normalization.Normalized, weights: Weights) -> Array:
    return (
        normalized.values * weights["scale"][None, None, None] + weights["bias"][None, None, None]
    )


def _affine_backward(
    residuals: Residuals, cotangent: Array, reading: Reading | None, mode: normalization.Mode
) -> tuple[dict[str, Any], Array]:
    """Return the readings of scale and bias, and the gradient before the normalisation."""
    weights, _, normalized = residuals
    assert normalized is not None
    readings = {
        "scale": read((cotangent * normalized.values).sum((1, 2)), reading),
        "bias": read(cotangent.sum((1, 2)), reading),
    }
    scaled = cotangent * weights["scale"][None, None, None]
    return readings, normalization.normalize_backward(normalized, scaled, mode)


def read(gradients: Array, reading: Reading | None) -> Any:
    """Return the reading of per-example gradients `[B, *shape]`; None sums them."""
    return gradients.sum(0) if reading is None else reading(gradients)


def _window_sum(x: Array) -> Array:
    """Return the sum over the 3x3 neighbourhood of each pixel; its own adjoint."""
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    columns = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
