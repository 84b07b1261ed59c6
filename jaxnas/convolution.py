"""Convolutions and their gradients, in forms that are fast wherever they are compiled.

XLA's CPU backend has a fast kernel only for the canonical forward convolution. The transposed ones
that autodiff writes miss it inside `lax.scan` and `lax.switch` (20 to 45 times slower), so both
gradients are spelled out here as canonical convolutions or matrix products; an optimization barrier
keeps XLA from folding them back. Nor has it one for a kernel that is larger than the image (15 to
45 times slower), unless the image is padded before. Images are `[B, H, W, C]`, kernels
`[h, w, C, O]`; where no padding is given it is half the kernel on every side, as PyTorch has it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.types import Array

# Examples whose patches fit the cache of a CPU core, in a sum over the examples.
_PIECE = 16
# Channels up to which XLA's convolution of size 1 takes 0.9 of the time of a matrix product; with
# 64 it takes 1.4 times as long.
_NARROW = 16
_LAYOUT = ("NHWC", "HWIO", "NHWC")


Stride = int | Sequence[int]
"""Of rows and columns."""

Padding = Sequence[tuple[int, int]] | None
"""Before and after the rows, and the columns; half the kernel if None."""


def convolve(inputs: Array, kernel: Array, stride: Stride = 1, padding: Padding = None) -> Array:
    """Return the convolution of `inputs` `[B, H, W, C]` with `kernel`, `[B, H', W', O]`."""
    strides, margins = _pair(stride), _margins(kernel, padding)
    if _is_product(kernel, margins):
        return inputs[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
    if any(size > side for size, side in zip(kernel.shape, inputs.shape[1:3], strict=False)):
        inputs = lax.optimization_barrier(jnp.pad(inputs, ((0, 0), *margins, (0, 0))))
        margins = [(0, 0)] * 2
    return lax.conv_general_dilated(inputs, kernel, strides, margins, dimension_numbers=_LAYOUT)


def _pair(stride: Stride) -> tuple[int, int]:
    rows, columns = (stride, stride) if isinstance(stride, int) else stride
    return rows, columns


def _margins(kernel: Array, padding: Padding) -> list[tuple[int, int]]:
    return [(size // 2, size // 2) for size in kernel.shape[:2]] if padding is None else [*padding]


def _is_product(kernel: Array, margins: Sequence[tuple[int, int]]) -> bool:
    """Return whether a convolution is a matrix product, and one so wide that this is faster."""
    return kernel.shape[:2] == (1, 1) and max(kernel.shape) > _NARROW and not any(map(any, margins))


def input_gradient(
    inputs: Array, kernel: Array, cotangent: Array, stride: Stride = 1, padding: Padding = None
) -> Array:
    """Return the gradient with respect to `inputs`, `[B, H, W, C]`."""
    strides, margins = _pair(stride), _margins(kernel, padding)
    if _is_product(kernel, margins) and strides[0] == strides[1]:
        of_pixels = cotangent @ kernel[0, 0].T
        return of_pixels if strides == (1, 1) else spread(of_pixels, inputs.shape, strides[0])
    # What remains of a kernel beyond the padding is the padding of the way back.
    beyond = [
        (size - 1 - before, size - 1 - after)
        for size, (before, after) in zip(kernel.shape, margins, strict=False)
    ]
    if strides != (1, 1) or min(map(min, beyond)) < 0:
        # Never inside a loop in our networks, so autodiff's form is fast enough.
        return jax.vjp(lambda x: convolve(x, kernel, stride, padding), inputs)[1](cotangent)[0]
    turned = lax.optimization_barrier(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    return convolve(cotangent, turned, 1, beyond)


def kernel_gradient(
    inputs: Array, kernel: Array, cotangent: Array, stride: Stride = 1, padding: Padding = None
) -> Array:
    """Return the gradient with respect to `kernel`, summed over the examples."""
    strides, margins = _pair(stride), _margins(kernel, padding)
    if kernel.shape[:2] == strides == (1, 1) and not any(map(any, margins)):
        flat_inputs = inputs.reshape(-1, inputs.shape[-1])
        return (flat_inputs.T @ cotangent.reshape(-1, cotangent.shape[-1])).reshape(kernel.shape)

    def by_autodiff(inputs: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda w: convolve(inputs, w, stride, padding), kernel)[1](cotangent)[0]

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
        return convolve(images, filters, 1, margins).transpose(1, 2, 0, 3)

    if strides != (1, 1):
        return by_autodiff(inputs, cotangent)
    return lax.platform_dependent(inputs, cotangent, cpu=as_convolutions, default=by_autodiff)


def per_example_kernel_gradients(
    inputs: Array,
    kernel: Array,
    cotangent: Array,
    stride: Stride = 1,
    padding: Padding = None,
) -> Array:
    """Return the gradients with respect to `kernel` of each example, `[B, *kernel.shape]`.

    Args:
        inputs: `[B, H, W, C]`.
        kernel: `[h, w, C, O]`, of any size.
        cotangent: `[B, H', W', O]`.
        stride: see `Stride`.
        padding: see `Padding`.
    """
    sizes, strides, margins = kernel.shape[:2], _pair(stride), _margins(kernel, padding)
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
    keep: Callable[[Array, Array], Any],
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_gradients(inputs: Array, kernel: Array, stride: Stride, padding: Padding) -> Array:
    """Return `convolve`, whose gradients are those of this module also where JAX takes them."""
    return convolve(inputs, kernel, stride, padding)


# Programs, so that a network that is run operation by operation compiles them once.


@functools.partial(jax.jit, static_argnums=(2, 3))
def _forward(inputs: Array, kernel: Array, *options: Any) -> tuple[Array, tuple[Array, Array]]:
    return convolve(inputs, kernel, *options), (inputs, kernel)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(
    stride: Stride, padding: Padding, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    factors = *saved, cotangent, stride, padding
    # One example is perhaps one of many, in a map over them: then these are products of matrices.
    is_alone = len(cotangent) == 1
    of_kernel = per_example_kernel_gradients(*factors)[0] if is_alone else kernel_gradient(*factors)
    return input_gradient(*factors), of_kernel


_with_gradients.defvjp(_forward, _backward)


def of_equation(params: Mapping[str, Any], inputs: Any, kernel: Any) -> Any:
    """Return a function of images and kernel for a convolution of a traced program, or None.

    It gives the same, faster. None is for what is no plain convolution of images: with groups,
    dilated, of another rank, or in mixed precision.

    Args:
        params: of the equation `conv_general_dilated`.
        inputs: its first operand, or the like.
        kernel: its second operand, or the like.
    """
    ones, numbers = (1, 1), params["dimension_numbers"]
    if (
        len(inputs.shape) != 4
        or params["feature_group_count"] * params["batch_group_count"] != 1
        or not ones == tuple(params["lhs_dilation"]) == tuple(params["rhs_dilation"])
        or params["preferred_element_type"] not in (None, inputs.dtype)
        or inputs.dtype != kernel.dtype
        or min(map(min, params["padding"])) < 0
    ):
        return None
    batch, channels, *sides = numbers.lhs_spec
    outputs, within, *sizes = numbers.rhs_spec
    first, last, *others = numbers.out_spec
    back = [int(place) for place in np.argsort((first, *others, last))]
    strides, padding = tuple(params["window_strides"]), tuple(map(tuple, params["padding"]))

    def run(inputs: Array, kernel: Array) -> Array:
        images = inputs.transpose(batch, *sides, channels)
        filters = kernel.transpose(*sizes, within, outputs)
        return _with_gradients(images, filters, strides, padding).transpose(back)

    return run


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
