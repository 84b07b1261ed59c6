"""Which images a network that halves them twice can read."""

import math

import jax.numpy as jnp

from jaxnas.types import Array


def validate(inputs: Array, *, space: str, colours: int, norm: str) -> None:
    """Raise `ValueError` unless the network of a space can read the images.

    Args:
        inputs: `[B, H, W, colours]`, floating, `H` and `W` divisible by 4.
        space: name of its factory, for the sentence.
        colours: channels that the network was made for.
        norm: mode of its normalisation layers.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{space} reads normalised images: got dtype {inputs.dtype}; "
            "use datasets.normalize, or convert them to float32."
        )
    shape = inputs.shape
    if len(shape) != 4 or shape[1] % 4 or shape[2] % 4 or not math.prod(shape):
        raise ValueError(
            f"{space} reads images [B, H, W, colours] with H and W divisible by 4: "
            f"got shape {shape}; resize or pad them."
        )
    if shape[-1] != colours:
        raise ValueError(
            f"This network reads images of {colours} colours: got {shape[-1]}; "
            f"name the number when you make the space: {space}(colours=...)."
        )
    if norm == "instance" and shape[1] * shape[2] <= 16:
        raise ValueError(
            "In instance mode the last layers normalise over the pixels of one image, and here it "
            f"has one: got images {shape[1]}x{shape[2]}; use 8x8 or larger."
        )
