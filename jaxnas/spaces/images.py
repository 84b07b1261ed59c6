"""Which images a network that halves them twice can read."""

import math

import jax.numpy as jnp

from jaxnas.types import Array


def validate(inputs: Array, *, space: str, colors: int, norm: str) -> None:
    """Raise `ValueError` unless the network of a space can read the images.

    Args:
        inputs: `[B, H, W, colors]`, floating, `H` and `W` divisible by 4.
        space: name of its factory, for the sentence.
        colors: channels that the network was made for.
        norm: mode of its normalization layers.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{space} reads normalized images: got dtype {inputs.dtype}; "
            "use datasets.normalize, or convert them to float32."
        )
    shape = inputs.shape
    if len(shape) != 4 or shape[1] % 4 or shape[2] % 4 or not math.prod(shape):
        raise ValueError(
            f"{space} reads images [B, H, W, colors] with H and W divisible by 4: "
            f"got shape {shape}; resize or pad them."
        )
    if shape[-1] != colors:
        raise ValueError(
            f"This network reads images of {colors} colors: got {shape[-1]}; "
            f"name the number when you make the space: {space}(colors=...)."
        )
    if norm == "instance" and shape[1] * shape[2] <= 16:
        raise ValueError(
            "In instance mode the last layers normalize over the pixels of one image, and here it "
            f"has one: got images {shape[1]}x{shape[2]}; use 8x8 or larger."
        )
