"""An inverted residual block as a plain function, its normalization as one batch has left it.

1x1 - depthwise - 1x1, each followed by a normalization, the first two then by ReLU6. With circular
padding and stride 1, so that closed forms of `phi` and `cv²` hold at every pixel; the blocks that
are trained, with zeros around the image, are in `spaces.mobilenetv2`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.isometry.initializers import BlockKernels
from jaxnas.types import Array


class FixedBlock(NamedTuple):
    """A block to differentiate: no statistic of it depends on its input. A pytree.

    Attributes:
        kernels: see `BlockKernels`.
        statistics: mean and standard deviation, `[C]` each, that each normalization subtracts and
            divides by; None for a block without normalization.
        skip: what the input is multiplied by that is added to the output; 0 for no connection.
    """

    kernels: BlockKernels
    statistics: tuple[tuple[Array, Array], ...] | None = None
    skip: float | Array = 0.0

    def __call__(self, inputs: Array) -> Array:
        """Return the outputs `[B, H, W, C']` of `inputs` `[B, H, W, C]`."""
        steps = [kernel for kernel in self.kernels if kernel is not None]
        x = inputs
        for position, kernel in enumerate(steps):
            x = convolve(x, kernel)
            if self.statistics is not None:
                mean, std = self.statistics[position]
                x = (x - mean[None, None, None]) / std[None, None, None]
            x = jax.nn.relu6(x) if position < len(steps) - 1 else x
        return self.skip * inputs + x


def calibrate(kernels: BlockKernels, batch: Array, skip: float = 0.0) -> FixedBlock:
    """Return the block whose normalizations have the statistics of a batch `[B, H, W, C]`."""
    steps = [kernel for kernel in kernels if kernel is not None]
    x, statistics = batch, []
    for kernel in steps:
        x = convolve(x, kernel)
        mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
        statistics.append((mean, std))
        x = jax.nn.relu6((x - mean[None, None, None]) / std[None, None, None])
    return FixedBlock(kernels, tuple(statistics), skip)


def convolve(inputs: Array, kernel: Array) -> Array:
    """Return the circular convolution `[B, H, W, O]`, depthwise for kernels `[k > 1, k, 1, O]`.

    Raises:
        ValueError: a kernel that is neither dense nor depthwise for these inputs.
    """
    size, _, channels, outputs = kernel.shape
    groups = outputs if size > 1 and channels == 1 else 1
    if channels * groups != inputs.shape[-1]:
        raise ValueError(
            f"A kernel of shape {list(kernel.shape)} reads {channels * groups} channels: got "
            f"inputs of shape {list(inputs.shape)}."
        )
    around = (size // 2, (size - 1) // 2)
    return lax.conv_general_dilated(
        jnp.pad(inputs, [(0, 0), around, around, (0, 0)], mode="wrap"),
        kernel,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
