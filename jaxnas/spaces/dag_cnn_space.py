"""Small convolutional networks whose wiring is data, and can be trained.

A convolution as the stem, a cell of nodes that add what comes in, see `wired`, and a linear
read-out of all pixels or of their mean. Every convolution has zeros around the image and keeps its
size. In `pre` order the defaults are those of `kernels.analytic.convolutional_cell` at finite
width, if its stem has the same size of kernel.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from jaxnas import check
from jaxnas import wiring as wirings
from jaxnas.network import Net, Value
from jaxnas.network import operations as ops
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
        shape: of an image, `(H, W, C)`.
    """

    width: int = 16
    kernel_size: int = 3
    readout: Readout = "flatten"
    shape: tuple[int, ...] = (32, 32, 3)

    def leave(self, net: Net, x: Value) -> Value:
        """Write down the last node's pixels `[B, H W C]`, or their mean `[B, C]`."""
        return net(ops.global_average_pool() if self.readout == "pool" else ops.flatten(), x)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the network can read the images."""
        if inputs.shape[1:] != self.shape or not jnp.issubdtype(inputs.dtype, jnp.floating):
            raise ValueError(
                f"This network reads floats [B, {', '.join(map(str, self.shape))}]: got "
                f"{inputs.dtype}{list(inputs.shape)}; name the shape when you make the space: "
                "dag_cnn(shape=...)."
            )


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
    if len(sizes := check.items("shape", shape)) != 3:
        raise check.refuse("shape", "(height, width, colors)", shape)
    shape = tuple(check.integer("A size of shape", each, 1) for each in sizes)
    check.integer("nodes", nodes, 2, wirings.MAX_NODES)
    module = check.instance("module", DagCNN() if module is None else module, DagCNN, "a DagCNN")
    networks = module.clone(nodes=nodes, shape=shape)
    check_module(networks, {"kernel_size": networks.kernel_size}, _CHOICES)
    if networks.kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size must be odd, to keep the size: got {networks.kernel_size}; try 3."
        )
    space = wired_space("dag_cnn", networks, shape)
    return space._replace(options={**space.options, "shape": list(shape)})
