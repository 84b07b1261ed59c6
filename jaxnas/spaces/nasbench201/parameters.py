"""Initial parameters of each block: PyTorch's defaults, which the benchmark was trained from.

Convolutions, the classifier and its bias are uniform in +- 1 / sqrt(fan_in); He et al.'s uniform
rule with PyTorch's gain for a = sqrt(5).
"""

import functools

import jax
import jax.numpy as jnp

from jaxnas.spaces.nasbench201.cell import EDGES
from jaxnas.types import Array, Params


@functools.partial(jax.jit, static_argnums=(0, 1))
def conv(shape: tuple[int, int, int], normalised: bool, key: Array) -> Params:
    """Return the weights of a convolution of `shape` (size, inputs, outputs) and its norm."""
    size, inputs, outputs = shape
    kernel = _uniform(key, (size, size, inputs, outputs), size**2 * inputs)
    return {"kernel": kernel} | norm(outputs, normalised, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def cell(width: int, normalised: bool, key: Array) -> Params:
    """Return the weights of both convolutions on every edge of a cell."""
    sizes = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
    keys = jax.random.split(key, (len(EDGES), len(sizes)))
    return {
        f"edge_{edge}": {
            name: conv((size, width, width), normalised, keys[edge, position])
            for position, (name, size) in enumerate(sizes.items())
        }
        for edge in range(len(EDGES))
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def reduction(narrow: int, wide: int, normalised: bool, key: Array) -> Params:
    """Return the weights of a residual reduction block."""
    first, second, third = jax.random.split(key, 3)
    return {
        "conv_a": conv((3, narrow, wide), normalised, first),
        "conv_b": conv((3, wide, wide), normalised, second),
        "shortcut": conv((1, narrow, wide), False, third),
    }


def norm(width: int, normalised: bool, key: Array) -> Params:
    """Return scale 1 and bias 0, or nothing where nothing is normalised."""
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)} if normalised else {}


def linear(features: int, classes: int, key: Array) -> Params:
    """Return the weights of the classifier."""
    kernel_key, bias_key = jax.random.split(key)
    return {
        "kernel": _uniform(kernel_key, (features, classes), features),
        "bias": _uniform(bias_key, (classes,), features),
    }


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
