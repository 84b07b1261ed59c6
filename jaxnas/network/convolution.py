"""Convolutions and their gradients, in forms that are fast wherever they are compiled.

XLA's CPU backend has a fast kernel only for the canonical forward convolution. The transposed ones
that autodiff writes miss it inside `lax.scan` and `lax.switch` (20 to 45 times slower), so both
gradients are spelled out here as canonical convolutions or matrix products; an optimisation barrier
keeps XLA from folding them back. Images are `[B, H, W, C]`, kernels `[k, k, C, O]` with odd `k`,
padding `k // 2` on every side (as PyTorch has it, not XLA's "SAME").
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.network.layers import Keep, TensorGradient, Tensors, of_examples
from jaxnas.types import Array

# Examples whose patches fit the cache of a CPU core, in a sum over the examples.
_PIECE = 16
# Channels up to which XLA's convolution of size 1 takes 0.9 of the time of a matrix product; with
# 64 it takes 1.4 times as long.
_NARROW = 16
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(inputs: Array, kernel: Array, stride: int = 1) -> Array:
    """Return the convolution of `inputs` `[B, H, W, C]` with `kernel`, `[B, H', W', O]`."""
    if _is_product(kernel):
        return inputs[:, ::stride, ::stride] @ kernel[0, 0]
    padding = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        inputs,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=_LAYOUT,
    )


def _is_product(kernel: Array) -> bool:
    """Return whether a convolution is a matrix product, and one so wide that this is faster."""
    size, _, channels, outputs = kernel.shape
    return size == 1 and max(channels, outputs) > _NARROW


def input_gradient(inputs: Array, kernel: Array, cotangent: Array, stride: int = 1) -> Array:
    """Return the gradient with respect to `inputs`, `[B, H, W, C]`."""
    if _is_product(kernel):
        of_pixels = cotangent @ kernel[0, 0].T
        return of_pixels if stride == 1 else spread(of_pixels, inputs.shape, stride)
    if stride != 1:  # never inside a loop in our networks, so autodiff's form is fast enough
        return jax.vjp(lambda x: convolve(x, kernel, stride), inputs)[1](cotangent)[0]
    return convolve(cotangent, lax.optimization_barrier(kernel[::-1, ::-1].transpose(0, 1, 3, 2)))


def kernel_gradient(inputs: Array, kernel: Array, cotangent: Array, stride: int = 1) -> Array:
    """Return the gradient with respect to `kernel`, summed over the examples."""
    size = kernel.shape[0]
    if size == 1 and stride == 1:
        flat_inputs = inputs.reshape(-1, inputs.shape[-1])
        return (flat_inputs.T @ cotangent.reshape(-1, cotangent.shape[-1])).reshape(kernel.shape)

    def by_autodiff(inputs: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda w: convolve(inputs, w, stride), kernel)[1](cotangent)[0]

    def as_convolutions(inputs: Array, cotangent: Array) -> Array:
        pieces = [
            as_convolution(inputs[i : i + _PIECE], cotangent[i : i + _PIECE])
            for i in range(0, inputs.shape[0], _PIECE)
        ]
        return sum(pieces[1:], start=pieces[0])

    def as_convolution(inputs: Array, cotangent: Array) -> Array:
        images, filters = lax.optimization_barrier(
            (inputs.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3))
        )
        padding = [(size // 2, size // 2)] * 2
        gradient = lax.conv_general_dilated(
            images, filters, (1, 1), padding, dimension_numbers=_LAYOUT
        )
        return gradient.transpose(1, 2, 0, 3)

    if stride != 1:
        return by_autodiff(inputs, cotangent)
    return lax.platform_dependent(inputs, cotangent, cpu=as_convolutions, default=by_autodiff)


def per_example_kernel_gradients(
    inputs: Array,
    kernel: Array,
    cotangent: Array,
    stride: int | Sequence[int] = 1,
    padding: Sequence[tuple[int, int]] | None = None,
) -> Array:
    """Return the gradients with respect to `kernel` of each example, `[B, *kernel.shape]`.

    Args:
        inputs: `[B, H, W, C]`.
        kernel: `[h, w, C, O]`, of any size.
        cotangent: `[B, H', W', O]`.
        stride: of rows and columns.
        padding: before and after the rows, and the columns; half the kernel if None.
    """
    sizes = kernel.shape[:2]
    strides = (stride, stride) if isinstance(stride, int) else stride
    margins = [(size // 2, size // 2) for size in sizes] if padding is None else padding
    if sizes == (1, 1) and not any(map(any, margins)):  # 1.3 to 5 times faster than by image
        pixels = inputs[:, :: strides[0], :: strides[1]]
        return jnp.einsum("bhwc,bhwo->bco", pixels, cotangent)[:, None, None]

    def one(image: Array, image_cotangent: Array) -> Array:
        height, width, outputs = image_cotangent.shape
        padded = jnp.pad(image, (*margins, (0, 0)))
        columns = _patches(padded, sizes, strides, height, width)
        # This order of the factors is up to 1.6 times faster than its transpose.
        return (image_cotangent.reshape(height * width, outputs).T @ columns).T

    def one_by_one(inputs: Array, cotangent: Array) -> Array:
        # The patches of one image stay in the cache of a CPU core; those of a batch do not.
        return lax.map(lambda pair: one(*pair), (inputs, cotangent))

    gradients = lax.platform_dependent(inputs, cotangent, cpu=one_by_one, default=jax.vmap(one))
    return gradients.reshape(inputs.shape[0], *kernel.shape)


def keep_tap_by_tap(
    keep: Keep,
    inputs: Array,
    kernel: Array,
    cotangent: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Any:
    """Return what an additive `keep` keeps of the gradients of each example.

    For each position in the kernel they are a product of two matrices, and exist alone. For the
    other arguments see `per_example_kernel_gradients`.
    """
    batch, height, width, _ = cotangent.shape
    channels, taps = kernel.shape[2], kernel.reshape(-1, *kernel.shape[2:])
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    extent = (batch, strides[0] * (height - 1) + 1, strides[1] * (width - 1) + 1, channels)

    def of_tap(tap: Array, number: Array) -> Any:
        corner = (0, number // kernel.shape[1], number % kernel.shape[1], 0)
        seen = lax.dynamic_slice(padded, corner, extent)[:, :: strides[0], :: strides[1]]
        return keep(tap, jnp.einsum("bhwc,bhwo->bco", seen, cotangent))

    def add(kept: Any, tap: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, kept, of_tap(*tap)), None

    shapes = jax.eval_shape(of_tap, taps[0], jnp.array(0))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(add, nothing, (taps, jnp.arange(len(taps))))[0]


def _patches(
    padded: Array, sizes: Sequence[int], strides: Sequence[int], height: int, width: int
) -> Array:
    """Return the patches that a convolution sees, `[height * width, h * w * C]`."""
    shifted = [
        padded[
            row : row + strides[0] * (height - 1) + 1 : strides[0],
            column : column + strides[1] * (width - 1) + 1 : strides[1],
        ]
        for row in range(sizes[0])
        for column in range(sizes[1])
    ]
    return jnp.concatenate(shifted, axis=-1).reshape(height * width, -1)


def depthwise(inputs: Array, kernel: Array, stride: int = 1, dilation: int = 1) -> Array:
    """Return the convolution of each channel with its own filter, `[B, H', W', C]`.

    Args:
        inputs: `[B, H, W, C]`.
        kernel: `[k, k, 1, C]`; the padding is `dilation * (k // 2)` on every side.
        stride: of the outputs.
        dilation: distance between the pixels that a filter sees.
    """

    def as_shifts(inputs: Array, kernel: Array) -> Array:  # 3 to 5 times faster on a CPU
        filters = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
        windows = _windows(inputs, kernel.shape[0], stride, dilation)
        terms = [window * weight for window, weight in zip(windows, filters, strict=True)]
        return sum(terms[1:], start=terms[0])

    def as_groups(inputs: Array, kernel: Array) -> Array:
        padding = dilation * (kernel.shape[0] // 2)
        return lax.conv_general_dilated(
            inputs,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=_LAYOUT,
            feature_group_count=inputs.shape[-1],
        )

    return lax.platform_dependent(inputs, kernel, cpu=as_shifts, default=as_groups)


def depthwise_input_gradient(
    inputs: Array, kernel: Array, cotangent: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """Return the gradient of `depthwise` with respect to `inputs`, `[B, H, W, C]`."""
    between_zeros = spread(cotangent, inputs.shape, stride)
    return depthwise(between_zeros, kernel[::-1, ::-1], 1, dilation)


def depthwise_kernel_gradients(
    inputs: Array, kernel: Array, cotangent: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """Return the gradients of `depthwise` by `kernel` of each example, `[B, k, k, 1, C]`."""
    windows = _windows(inputs, kernel.shape[0], stride, dilation)
    gradients = jnp.stack([(window * cotangent).sum((1, 2)) for window in windows], axis=1)
    return gradients.reshape(inputs.shape[0], *kernel.shape)


def spread(outputs: Array, shape: Sequence[int], stride: int) -> Array:
    """Return what `x[:, ::stride, ::stride]` takes from images of `shape`, with zeros between."""
    margins = [
        (0, size - stride * (count - 1) - 1, stride - 1)
        for size, count in zip(shape[1:3], outputs.shape[1:3], strict=True)
    ]
    nothing = jnp.zeros((), outputs.dtype)
    return lax.pad(outputs, nothing, [(0, 0, 0), *margins, (0, 0, 0)])


def _windows(inputs: Array, size: int, stride: int, dilation: int) -> list[Array]:
    """Return for each weight of a filter the pixels that it sees, `[B, H', W', C]`."""
    padding = dilation * (size // 2)
    padded = jnp.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = (stride * ((side - 1) // stride) + 1 for side in inputs.shape[1:3])
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(0, dilation * size, dilation)
        for column in range(0, dilation * size, dilation)
    ]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """The rule of a convolution with the tensor `kernel`, `[k, k, C, O]`."""

    stride: int = 1

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Array]:
        """Return the outputs `[B, H', W', O]`."""
        return convolve(x, tensors["kernel"], self.stride), x

    def backward(
        self, tensors: Tensors, x: Array, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients."""
        factors = x, tensors["kernel"], cotangent, self.stride
        of_kernel = TensorGradient(
            lambda: kernel_gradient(*factors), lambda: per_example_kernel_gradients(*factors)
        )
        return input_gradient(*factors), {"kernel": of_kernel}


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """The rule of a depthwise convolution with the tensor `kernel`, `[k, k, 1, C]`."""

    stride: int = 1
    dilation: int = 1

    def forward(self, tensors: Tensors, x: Array) -> tuple[Array, Array]:
        """Return the outputs `[B, H', W', C]`."""
        return depthwise(x, tensors["kernel"], self.stride, self.dilation), x

    def backward(
        self, tensors: Tensors, x: Array, cotangent: Array
    ) -> tuple[Array, dict[str, TensorGradient]]:
        """Return the gradients."""
        factors = x, tensors["kernel"], cotangent, self.stride, self.dilation
        of_kernel = of_examples(depthwise_kernel_gradients(*factors))
        return depthwise_input_gradient(*factors), {"kernel": of_kernel}
