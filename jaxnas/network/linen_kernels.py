"""Kernels of Flax linen layers whose per-example gradients are products of matrices."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxnas import convolution
from jaxnas.types import Array

_KERNELS = [jax.tree.structure(params) for params in ({"kernel": 0}, {"bias": 0, "kernel": 0})]


def of_kernel(layer: Any, x: Array, kernel: Array, cotangent: Array) -> dict[str, Any]:
    """Return fields of the `TensorGradient` of a kernel where it is a product of matrices.

    Args:
        layer: any call of a module; nothing is returned for one that is not known.
        x: its only array, `[B, ...]`.
        kernel: its last tensor.
        cotangent: of its first result, `[B, ...]`.
    """
    module = layer.module
    if (
        type(module) not in (nn.Dense, nn.Conv)
        or layer.method != "__call__"
        or layer.params not in _KERNELS
        or module.precision is not None
        or not x.dtype == kernel.dtype == cotangent.dtype
    ):
        return {}
    if type(module) is nn.Dense and module.dot_general is module.dot_general_cls is None:
        return {"each": lambda: jnp.einsum("b...f,b...k->bfk", x, cotangent)}
    if type(module) is nn.Conv and x.ndim == 5 and x.shape[1] == 1 and _is_plain(module):
        strides = _pair(module.strides)
        padding = nn.linear.canonicalize_padding(module.padding, 2)
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(x.shape[2:4], kernel.shape[:2], strides, padding)
        factors = x[:, 0], kernel, cotangent[:, 0], strides, padding
        return {
            "each": lambda: convolution.per_example_kernel_gradients(*factors),
            "in_parts": lambda keep: convolution.keep_tap_by_tap(keep, *factors),
        }
    return {}


def _is_plain(conv: nn.Conv) -> bool:
    """Return whether a convolution mixes all channels of pixels that lie together."""
    return (
        conv.feature_group_count == 1
        and _pair(conv.input_dilation) == _pair(conv.kernel_dilation) == (1, 1)
        and conv.mask is None
        and conv.conv_general_dilated is None
        and conv.conv_general_dilated_cls is None
        and (not isinstance(conv.padding, str) or conv.padding in ("SAME", "VALID"))
    )


def _pair(value: Any) -> tuple[int, ...]:
    """Return what Flax takes for rows and columns as a pair."""
    return (1, 1) if value is None else (value,) * 2 if isinstance(value, int) else tuple(value)
