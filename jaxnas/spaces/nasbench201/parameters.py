"""The parameter tensors of each block, and their initial values.

Weights are uniform in +- 1 / sqrt(fan_in), PyTorch's default, which the benchmark was trained from;
scales are 1, biases of a normalisation 0.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.spaces.nasbench201.cell import EDGES
from jaxnas.types import Array, Params

# A program that draws random numbers takes a second to compile, so one draws them all in pieces.
_PIECE = 2**13


class Tensor(NamedTuple):
    """A tensor to be: uniform in +- 1 / sqrt(fan_in), or constant where `fan_in` is 0."""

    shape: tuple[int, ...]
    fan_in: int = 0
    value: float = 0.0


Block = dict[str, Any]
"""Nested dictionaries of `Tensor`."""


def conv(size: int, inputs: int, outputs: int, normalised: bool) -> Block:
    """Return a convolution and its normalisation."""
    kernel = Tensor((size, size, inputs, outputs), fan_in=size**2 * inputs)
    return {"kernel": kernel} | norm(outputs, normalised)


def cell(width: int, normalised: bool) -> Block:
    """Return both convolutions on every edge."""
    edge = {
        "nor_conv_1x1": conv(1, width, width, normalised),
        "nor_conv_3x3": conv(3, width, width, normalised),
    }
    return {f"edge_{position}": edge for position in range(len(EDGES))}


def reduction(narrow: int, wide: int, normalised: bool) -> Block:
    """Return a residual reduction."""
    return {
        "conv_a": conv(3, narrow, wide, normalised),
        "conv_b": conv(3, wide, wide, normalised),
        "shortcut": conv(1, narrow, wide, False),
    }


def norm(width: int, normalised: bool) -> Block:
    """Return scale and bias, or nothing where nothing is normalised."""
    return {"scale": Tensor((width,), value=1), "bias": Tensor((width,))} if normalised else {}


def linear(features: int, classes: int) -> Block:
    """Return the classifier."""
    return {"kernel": Tensor((features, classes), features), "bias": Tensor((classes,), features)}


def initialise(block: Block, dtype: jnp.dtype, key: Array) -> Params:
    """Return the initial values of a block."""
    tensors, structure = jax.tree.flatten(block, is_leaf=lambda node: isinstance(node, Tensor))
    count = sum(math.prod(tensor.shape) for tensor in tensors if tensor.fan_in)
    pieces = [_uniform(key, piece) for piece in range(-(-count // _PIECE))]
    values = _arrange(tuple(tensors), dtype, pieces)
    return jax.tree.unflatten(structure, values)


@jax.jit
def _uniform(key: Array, piece: int) -> Array:
    """Return one piece of the numbers in [-1, 1)."""
    return jax.random.uniform(
        jax.random.fold_in(key, piece), (_PIECE,), jnp.float32, minval=-1, maxval=1
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _arrange(tensors: tuple[Tensor, ...], dtype: jnp.dtype, pieces: list[Array]) -> list[Array]:
    """Return the tensors, filled with the numbers one after the other."""
    numbers = jnp.concatenate(pieces) if pieces else jnp.zeros(0)
    values, start = [], 0
    for tensor in tensors:
        if tensor.fan_in:
            stop = start + math.prod(tensor.shape)
            filled = numbers[start:stop].reshape(tensor.shape) / tensor.fan_in**0.5
            start = stop
        else:
            filled = jnp.full(tensor.shape, tensor.value)
        values.append(filled.astype(dtype))
    return values
