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
from jax import lax

from jaxnas.gradients import read_examples, read_tensor
from jaxnas.spaces import convolution, normalization
from jaxnas.types import Array, Readings, Site

Weights = Mapping[str, Any]
"""Nested dictionaries of arrays; an operation without weights has `{}`."""


class Residuals(NamedTuple):
    """What the backward pass of an operation needs; the same for all of them."""

    weights: Weights
    inputs: Array
    normalized: normalization.Normalized | None


def see_nothing(residuals: Residuals) -> Site:
    """Return what there is to see of an operation without ReLU and normalisation."""
    return Site(None, None, False)


class Operation(NamedTuple):
    """A differentiable map of activations.

    Attributes:
        forward: `forward(weights, inputs, statistics) -> (outputs, normalized)`; `statistics` are
            running statistics or None, and so is `normalized` where nothing is normalised.
        backward: `backward(residuals, cotangent, readings) -> (input_gradient, kept)`; `kept` has
            the keys of `weights`, and for each a tuple of what the readings keep. Readings are
            static.
        see: `see(residuals)`: the operation as a `Site`.
        heavy: whether many architectures had better agree on it than compute it for nothing.
    """

    forward: Callable[[Weights, Array, Any], tuple[Array, normalization.Normalized | None]]
    backward: Callable[[Residuals, Array, Readings], tuple[Array, dict[str, Any]]]
    see: Callable[[Residuals], Site] = see_nothing
    heavy: bool = False


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
        return affine(normalized, weights), normalized

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        weights, inputs, normalized = residuals
        kept: dict[str, Any] = {}
        if normalized is not None:
            kept, cotangent = affine_backward(residuals, cotangent, readings, mode)
        activated = jax.nn.relu(inputs) if relu else inputs
        kernel = weights["kernel"]
        gradient = convolution.input_gradient(activated, kernel, cotangent, stride)
        factors = activated, kernel, cotangent, stride
        kept["kernel"] = read_tensor(
            readings,
            kernel,
            lambda: convolution.kernel_gradient(*factors),
            lambda: convolution.per_example_kernel_gradients(*factors),
        )
        return gradient * (inputs > 0) if relu else gradient, kept

    def see(residuals: Residuals) -> Site:
        return Site(residuals.inputs if relu else None, variance(residuals))

    return jitted(forward, backward)._replace(see=see, heavy=True)


@functools.cache
def convolution_norm_relu(mode: normalization.Mode) -> Operation:
    """Return convolution - normalisation (with scale and bias) - ReLU."""
    linear_part = convolution_norm(mode, relu=False)

    def shown(residuals: Residuals) -> Array:
        weights, inputs, normalized = residuals
        if normalized is None:  # computed again: only the modes that normalise save it
            return convolution.convolve(inputs, weights["kernel"])
        return affine(normalized, weights)

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        outputs, normalized = linear_part.forward(weights, inputs, statistics)
        return jax.nn.relu(outputs), normalized

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        return linear_part.backward(residuals, cotangent * (shown(residuals) > 0), readings)

    preactivation = jax.jit(shown)

    def see(residuals: Residuals) -> Site:
        return Site(preactivation(residuals), variance(residuals))

    return jitted(forward, backward)._replace(see=see, heavy=True)


@functools.cache
def norm_relu_pool(mode: normalization.Mode) -> Operation:
    """Return normalisation (with scale and bias) - ReLU - global average pooling: `[B, C]`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        if mode == "none":
            return jax.nn.relu(inputs).mean((1, 2)), None
        normalized = normalization.normalize(inputs, mode, statistics)
        return jax.nn.relu(affine(normalized, weights)).mean((1, 2)), normalized

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        weights, inputs, normalized = residuals
        spread = cotangent[:, None, None, :] / (inputs.shape[1] * inputs.shape[2])
        if normalized is None:
            return spread * (inputs > 0), {}
        kept, gradient = affine_backward(
            residuals, spread * (affine(normalized, weights) > 0), readings, mode
        )
        return gradient, kept

    def see(residuals: Residuals) -> Site:
        normalized = residuals.normalized
        shown = residuals.inputs if normalized is None else affine(normalized, residuals.weights)
        return Site(shown, variance(residuals))

    return jitted(forward, backward)._replace(see=see)


@functools.cache
def average_pool() -> Operation:
    """Return 3x3 average pooling with stride 1; the padding is not counted."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return _window_sum(inputs) * _inverse_counts(inputs), None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        # The barrier keeps XLA from multiplying anew for each of the nine neighbours.
        spread = lax.optimization_barrier(cotangent * _inverse_counts(cotangent))
        return _window_sum(spread), {}

    return jitted(forward, backward)


@functools.cache
def average_pool_convolution() -> Operation:
    """Return 2x2 average pooling with stride 2 - 1x1 convolution: the shortcut of a reduction."""
    convolve = convolution_norm("none", relu=False)

    def pool(inputs: Array) -> Array:
        batch, height, width, channels = inputs.shape
        return inputs.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return convolve.forward(weights, pool(inputs), statistics)

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        pooled = residuals._replace(inputs=pool(residuals.inputs))
        gradient, kept = convolve.backward(pooled, cotangent, readings)
        return gradient.repeat(2, axis=1).repeat(2, axis=2) / 4, kept

    return jitted(forward, backward)


@functools.cache
def linear() -> Operation:
    """Return the linear layer with a bias: features `[B, F]` to logits `[B, K]`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return inputs @ weights["kernel"] + weights["bias"][None], None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        weights, features, _ = residuals
        kept = {
            "kernel": read_tensor(
                readings,
                weights["kernel"],
                lambda: features.T @ cotangent,
                lambda: features[:, :, None] * cotangent[:, None, :],
            ),
            "bias": read_examples(readings, weights["bias"], cotangent),
        }
        return cotangent @ weights["kernel"].T, kept

    return jitted(forward, backward)


def skip_connect() -> Operation:
    """Return the identity."""
    return Operation(
        lambda weights, inputs, statistics: (inputs, None),
        lambda residuals, cotangent, readings: (cotangent, {}),
    )


def zero() -> Operation:
    """Return the operation that cuts its edge."""
    return Operation(
        lambda weights, inputs, statistics: (jnp.zeros_like(inputs), None),
        lambda residuals, cotangent, readings: (jnp.zeros_like(cotangent), {}),
    )


def jitted(
    forward: Callable[[Weights, Array, Any], Forward],
    backward: Callable[[Residuals, Array, Readings], Backward],
) -> Operation:
    """Return the kernels that a walk shares between all architectures."""
    return Operation(jax.jit(forward), jax.jit(backward, static_argnames="readings"))


def affine(normalized: normalization.Normalized, weights: Weights) -> Array:
    """Return the normalised activations, scaled and shifted by the weights."""
    return normalization.affine(normalized, weights["scale"], weights["bias"])


def affine_backward(
    residuals: Residuals, cotangent: Array, readings: Readings, mode: normalization.Mode
) -> tuple[dict[str, Any], Array]:
    """Return what is kept of scale and bias, and the gradient before the normalisation."""
    weights, _, normalized = residuals
    assert normalized is not None
    gradients = normalization.affine_backward(normalized, weights["scale"], cotangent, mode)
    kept = {
        "scale": read_examples(readings, weights["scale"], gradients.scale),
        "bias": read_examples(readings, weights["bias"], gradients.bias),
    }
    return kept, gradients.inputs


def variance(residuals: Residuals) -> Array | None:
    """Return the variance `[C]` that was normalised, if any was."""
    return None if residuals.normalized is None else residuals.normalized.statistics["var"]


def _inverse_counts(x: Array) -> Array:
    """Return one over the number of pixels in each 3x3 neighbourhood, `[1, H, W, 1]`."""
    return 1 / _window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _window_sum(x: Array) -> Array:
    """Return the sum over the 3x3 neighbourhood of each pixel; its own adjoint."""
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    columns = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
