"""Small convolutional networks whose wiring is data, and can be trained.

A convolution as the stem, a cell of nodes that add what comes in, see `wired`, and a linear
read-out of all pixels or of their mean. Every convolution has zeros around the image and keeps its
size. In `pre` order the defaults are those of `kernels.analytic.convolutional_cell` at finite
width, if its stem has the same size of kernel.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from jaxnas.spaces.wired import Wired, check_module, wired_space
from jaxnas.types import Array, SearchSpace

Readout = Literal["flatten", "pool"]

_CHOICES = {"readout": ("flatten", "pool")}


class DagCNN(Wired):
    """Any wiring of convolutions; see `Wired` for its other options.

    Attributes:
        width: number of channels.
        kernel_size: side of every convolution, odd.
        readout: `flatten`, from all pixels, or `pool`, from their mean.
    """

    width: int = 16
    kernel_size: int = 3
    readout: Readout = "flatten"

    def enter(self, inputs: Array) -> Array:
        """Return images `[B, H, W, C]` as they are."""
        return inputs

    def kernel_shape(self, fan_in: int) -> tuple[int, ...]:
        """Return `(k, k, fan_in, width)`."""
        return self.kernel_size, self.kernel_size, fan_in, self.width

    def leave(self, signal: Array) -> Array:
        """Return the last node's pixels `[B, H W C]`, or their mean `[B, C]`."""
        if self.readout == "pool":
            return signal.mean((1, 2))
        return signal.reshape(len(signal), -1)


def dag_cnn(
    module: DagCNN | None = None, *, nodes: int = 4, shape: Sequence[int] = (32, 32, 3)
) -> SearchSpace:
    """Return the space of all wirings of `nodes` nodes of convolutions.

    Args:
        module: the networks; `DagCNN()` if None.
        nodes: of the cell, input and output included.
        shape: of an image, `[H, W, C]`.

    Raises:
        ValueError: a size below 1 (2 nodes), an even kernel, or an unknown option of the module.
    """
    module = DagCNN() if module is None else module
    height, width, colours = shape
    sizes = {"height": height, "width of an image": width, "colours": colours}
    check_module(module, sizes | {"kernel_size": module.kernel_size}, _CHOICES)
    if module.kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, to keep the size: got {module.kernel_size}; try 3."
        )
    check = functools.partial(_check_images, tuple(shape))
    space = wired_space("dag_cnn", module, nodes, shape, check)
    return space._replace(options={"shape": list(shape), **space.options})


def _check_images(shape: tuple[int, ...], images: Array) -> None:
    if images.shape[1:] != shape or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"This network reads floats [B, {', '.join(map(str, shape))}]: got {images.dtype}"
            f"{list(images.shape)}; name the shape when you make the space: dag_cnn(shape=...)."
        )
