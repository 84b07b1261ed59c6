"""Infinite-width kernels, by neural-tangents: exact NNGP and NTK without any weights.

Sources: Lee et al., 2018, arXiv 1711.00165 (NNGP); Jacot et al., 2018, arXiv 1806.07572 (NTK);
Novak et al., 2020, arXiv 1912.02803 (neural-tangents).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnas.kernels._neural_tangents import stax
from jaxnas.types import Array

__all__ = ["Kernels", "fully_connected", "kernels", "stax"]

KernelFn = Callable[..., Any]


class Kernels(NamedTuple):
    """Both kernels of the same network, `[B, B]` (or `[B, B']` against other inputs)."""

    nngp: Array
    ntk: Array


def kernels(kernel_fn: KernelFn, inputs: Array, others: Array | None = None) -> Kernels:
    """Return NNGP and NTK between `inputs` and `others` (or itself).

    Args:
        kernel_fn: the third part of a `stax` layer or network.
        inputs: `[B, ...]`.
        others: `[B', ...]` or None.
    """
    both = kernel_fn(inputs, others, ("nngp", "ntk"))
    return Kernels(both.nngp, both.ntk)


def fully_connected(depth: int, *, weight_std: float = 2**0.5, bias_std: float = 0.0) -> KernelFn:
    """Return the kernel function of `depth` hidden ReLU layers and a linear read-out.

    Args:
        depth: number of hidden layers, 0 for a linear model.
        weight_std: standard deviation of weights times sqrt(fan_in); sqrt(2) keeps the variance.
        bias_std: standard deviation of biases.

    Raises:
        ValueError: a negative depth.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative: got {depth}; 0 is a linear model.")
    hidden = [stax.Dense(1, weight_std, bias_std), stax.Relu()] * depth
    return stax.serial(*hidden, stax.Dense(1, weight_std, bias_std))[2]
