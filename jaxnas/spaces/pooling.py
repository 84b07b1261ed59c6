"""Pooling of `[B, H, W, C]` activations, its backward pass spelled out.

Windows are shifted images: elementwise operations, which XLA fuses. Its own backward pass of a
maximum over windows is a scatter, slow on a CPU.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.spaces import convolution, operations
from jaxnas.spaces.operations import Backward, Forward, Operation, Residuals, Weights
from jaxnas.types import Array, Readings


@functools.cache
def max_pool(size: int = 3, stride: int = 1) -> Operation:
    """Return max pooling, padded by `size // 2` on all sides if `size` is odd.

    Of equal maxima the first in reading order gets the gradient, as in other frameworks.
    """

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return _largest(_largest(inputs, 2, size, stride), 1, size, stride), None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        of_rows = _largest(residuals.inputs, 2, size, stride)
        cotangent = _to_first(of_rows, cotangent, 1, size, stride)
        return _to_first(residuals.inputs, cotangent, 2, size, stride), {}

    return operations.jitted(forward, backward)


@functools.cache
def average_pool_halving() -> Operation:
    """Return 3x3 average pooling with stride 2; the padding is not counted."""
    plain = operations.average_pool()

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return plain.forward({}, inputs, None)[0][:, ::2, ::2], None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        return plain.backward(
            residuals, convolution.spread(cotangent, residuals.inputs.shape, 2), ()
        )

    return operations.jitted(forward, backward)


@functools.cache
def global_average_pool() -> Operation:
    """Return the mean over the pixels: `[B, C]`."""

    def forward(weights: Weights, inputs: Array, statistics: Any) -> Forward:
        return inputs.mean((1, 2)), None

    def backward(residuals: Residuals, cotangent: Array, readings: Readings) -> Backward:
        shape = residuals.inputs.shape
        share = cotangent[:, None, None, :] / (shape[1] * shape[2])
        return jnp.broadcast_to(share, shape), {}

    return operations.jitted(forward, backward)


def _largest(x: Array, axis: int, size: int, stride: int) -> Array:
    """Return the maximum over windows along one axis."""
    windows = _windows(x, axis, size, stride)
    return functools.reduce(jnp.maximum, windows)


def _to_first(x: Array, cotangent: Array, axis: int, size: int, stride: int) -> Array:
    """Return the gradient of `_largest` with respect to `x`."""
    windows = _windows(x, axis, size, stride)
    largest = functools.reduce(jnp.maximum, windows)
    free = jnp.ones(largest.shape, bool)
    padding = _padding(size)
    padded = x.shape[axis] + 2 * padding
    nothing = jnp.zeros((), x.dtype)
    total = jnp.zeros_like(x)
    for offset, window in enumerate(windows):
        chosen = free & (window == largest)
        free &= ~chosen
        margins = [(0, 0, 0)] * x.ndim
        after = padded - padding - offset - stride * (largest.shape[axis] - 1) - 1
        margins[axis] = (offset - padding, after, stride - 1)
        total += lax.pad(jnp.where(chosen, cotangent, nothing), nothing, margins)
    return total


def _windows(x: Array, axis: int, size: int, stride: int) -> list[Array]:
    """Return what each position of a window sees, of all windows along one axis."""
    margins = [(0, 0)] * x.ndim
    margins[axis] = (_padding(size), _padding(size))
    padded = jnp.pad(x, margins, constant_values=-np.inf)
    count = (padded.shape[axis] - size) // stride
    return [
        lax.slice_in_dim(padded, offset, offset + stride * count + 1, stride, axis)
        for offset in range(size)
    ]


def _padding(size: int) -> int:
    return size // 2 if size % 2 else 0
