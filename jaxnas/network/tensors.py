"""The parameter tensors of a network, and their initial values.

Weights are uniform in +- 1 / sqrt(fan_in), PyTorch's default, which the benchmarks were trained
from, or normal; scales are 1, biases of a normalization 0.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.types import Array, Params

# A program that draws random numbers takes a second to compile, so one draws them all in pieces.
_PIECE = 2**13


class Tensor(NamedTuple):
    """A tensor to be.

    It is uniform in +- 1 / sqrt(fan_in); normal with a standard deviation where it has one; or
    constant where it has neither.
    """

    shape: tuple[int, ...]
    fan_in: int = 0
    value: float = 0.0
    deviation: float = 0.0


Tensors = dict[str, Any]
"""Nested dictionaries of `Tensor`."""


def count(tensors: Tensors) -> int:
    """Return how many numbers the tensors have together."""
    each = jax.tree.leaves(tensors, is_leaf=lambda node: isinstance(node, Tensor))
    return sum(math.prod(tensor.shape) for tensor in each)


def initialize(tensors: Tensors, dtype: jnp.dtype, key: Array) -> Params:
    """Return the initial values of the tensors."""
    each, structure = jax.tree.flatten(tensors, is_leaf=lambda node: isinstance(node, Tensor))
    count = sum(math.prod(tensor.shape) for tensor in each if tensor.fan_in)
    pieces = [_uniform(key, piece) for piece in range(-(-count // _PIECE))]
    values = _arrange(tuple(each), dtype, pieces)
    normal = [place for place, tensor in enumerate(each) if tensor.deviation]
    for number, place in enumerate(normal):
        # The first has the key itself; no other number of a piece or a tensor is as large.
        of_tensor = jax.random.fold_in(key, 2**31 + number) if number else key
        drawn = jax.random.normal(of_tensor, each[place].shape, dtype)
        values[place] = each[place].deviation * drawn
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
