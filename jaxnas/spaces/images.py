"""Networks that read images: what they have in common, and which images they can read."""

import math
from typing import ClassVar

import jax.numpy as jnp

from jaxnas.network import Network
from jaxnas.types import Array


class ImageNetwork(Network):
    """All networks of a space of images in one; a space's class derives from it.

    Attributes:
        norm: mode of the normalization layers.
        colors: channels of the images.
        channels: width of the stem, C.
        classes: number of logits, K.
        space: name of its factory.
        num_choices: see `SearchSpace`.
        halvings: how often a network halves the images.
    """

    channels: int = 16
    classes: int = 10
    space: ClassVar[str]
    num_choices: ClassVar[tuple[int, ...]]
    halvings: ClassVar[int] = 2

    def num_decisions(self) -> int:
        """Return how many decisions an architecture has."""
        return len(self.num_choices)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the network can read the images."""
        validate(
            inputs,
            space=self.space,
            colors=self.colors,
            norm=self.norm,
            halvings=self.halvings,
        )


def validate(inputs: Array, *, space: str, colors: int, norm: str, halvings: int = 2) -> None:
    """Raise `ValueError` unless the network of a space can read the images.

    Args:
        inputs: `[B, H, W, colors]`, floating, `H` and `W` divisible by `2**halvings`.
        space: name of its factory, for the sentence.
        colors: channels that the network was made for.
        norm: mode of its normalization layers.
        halvings: how often the network halves the images.
    """
    factor = 2**halvings
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{space} reads normalized images: got dtype {inputs.dtype}; "
            "use datasets.normalize, or convert them to float32."
        )
    shape = inputs.shape
    if len(shape) != 4 or shape[1] % factor or shape[2] % factor or not math.prod(shape):
        raise ValueError(
            f"{space} reads images [B, H, W, colors] with H and W divisible by {factor}: "
            f"got shape {shape}; resize or pad them."
        )
    if shape[-1] != colors:
        raise ValueError(
            f"This network reads images of {colors} colors: got {shape[-1]}; "
            f"name the number when you make the space: {space}(colors=...)."
        )
    if norm == "instance" and shape[1] * shape[2] <= factor**2:
        raise ValueError(
            "In instance mode the last layers normalize over the pixels of one image, and here it "
            f"has one: got images {shape[1]}x{shape[2]}; use {2 * factor}x{2 * factor} or larger."
        )
