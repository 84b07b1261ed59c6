"""What KNAS' released code computes: kept beside the paper's score to show the difference.

Source: `procedure()` of the authors' release of Xu et al., ICML 2021, arXiv 2111.13293.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import gradients
from jaxnas.kernels import empirical
from jaxnas.proxies import measures
from jaxnas.proxies.measures import GradientMeasure, or_nothing
from jaxnas.types import Array, Batch, Params, Proxy, Statistic


def knas_published(*, aliased: bool = False) -> Proxy:
    """Return what the released code computes, not what the paper says.

    `procedure()` keeps the first 50 coordinates of the first 11 tensors with at least 50, and sums
    `(1/n^2) <a - mean(a), b - mean(b)>` over coordinates, where `a` and `b` `[n/2]` are a
    coordinate's gradients in the two halves of the batch: a covariance of unrelated examples after
    the mean, which MGM measures, is taken out. Its expectation is about zero.

    Differs from the released code: a tensor that no gradient reaches is not one of the 11.

    Args:
        aliased: on PyTorch before 2.0 all kept slices share the memory of the last example, so that
            `a` and `b` are constants and the score is what rounding leaves of `a - mean(a)` in
            float32. Its value depends on the order of summation; here one by one.
    """
    name = "knas_published_aliased" if aliased else "knas_published"
    return Proxy(name, _MEASURE, _residue if aliased else _centered_split_half)


def _leading_coordinates(kept: Params, params: Params, batch: Batch) -> Array:
    """Collect the first 50 coordinates of each tensor that has them, `[L, B, 50]`, in order."""
    measures.compared(batch.size, "knas_published")
    by_path = jax.tree_util.tree_leaves_with_path(kept)
    long = [leaf for path, leaf in sorted(by_path, key=_registration) if leaf.shape[1] == 50]
    if not long:
        raise ValueError("knas_published reads tensors of 50 coordinates or more: got none.")
    return empirical.stack(long)


def _registration(path_and_leaf: tuple[Any, Any]) -> tuple[Any, ...]:
    """Order tensors as PyTorch registers them: by layer, and in it weight, scale, bias.

    Layers are taken in the order of their names and numbers, which is that of Flax's linen.
    """
    *layer, name = [str(getattr(part, "key", part)) for part in path_and_leaf[0]] or [""]
    layers = [
        [
            int(each) if position % 2 else each
            for position, each in enumerate(re.split(r"(\d+)", part))
        ]
        for part in layer
    ]
    return layers, {"kernel": 0, "scale": 1, "bias": 2}.get(name, 3), name


def _first_50(tensor: Array, per_example: Array) -> Array:
    """Return the first 50 flat coordinates in PyTorch's layout (outputs first), `[B, 50]`."""
    axes = tuple(range(1, per_example.ndim))
    if len(axes) == 4:  # rows, columns, inputs, outputs
        axes = (4, 3, 1, 2)
    elif len(axes) == 2:
        axes = (2, 1)
    return per_example.transpose(0, *axes).reshape(per_example.shape[0], -1)[:, :50]


_MEASURE = GradientMeasure(gradients.loss_cotangent, Statistic(_first_50), _leading_coordinates)


def _first_11(coordinates: Array) -> Array:
    """Return `[L, B, 50]` with zeros but for the first 11 tensors that a gradient reaches."""
    alive = (coordinates != 0).any((1, 2))
    return jnp.where((alive & (jnp.cumsum(alive) <= 11))[:, None, None], coordinates, 0)


def _centered_split_half(coordinates: Array) -> Array:
    coordinates = _first_11(coordinates)
    half = coordinates.shape[1] // 2
    first, second = coordinates[:, :half], coordinates[:, half : 2 * half]
    first = first - first.mean(1, keepdims=True)
    second = second - second.mean(1, keepdims=True)
    return or_nothing((first * second).sum() / coordinates.shape[1] ** 2, coordinates != 0)


def _residue(coordinates: Array) -> Array:
    coordinates = _first_11(coordinates)
    half = coordinates.shape[1] // 2
    last = coordinates[:, -1].astype(jnp.float32)
    total = jax.lax.fori_loop(0, half, lambda _, total: total + last, jnp.zeros_like(last))
    # XLA would turn a constant divisor into a factor, which rounds differently: so not a constant.
    residue = last - total / (0 * last + half)
    square = half * jnp.square(residue.astype(coordinates.dtype)).sum() / coordinates.shape[1] ** 2
    return or_nothing(square, coordinates != 0)
