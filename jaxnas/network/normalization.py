"""Normalization of `[B, H, W, C]` activations, its backward pass spelled out, in four modes.

The mode is the most decisive switch of a training-free score, so it is always named:

- `batch`: statistics of the batch (BatchNorm in training mode); couples the examples.
- `instance`: statistics of each image; exactly what BatchNorm does in training mode with batch
  size 1, so that per-example gradients of a whole batch equal a loop over its examples.
- `eval`: running statistics, which are mean 0 and variance 1 before training.
- `none`: no normalization, no scale, no bias.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas import check
from jaxnas.network.layers import TensorGradient, Tensors, of_examples
from jaxnas.types import Array

Mode = Literal["batch", "instance", "eval", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
EPSILON = 1e-5

_AXES = {"batch": (0, 1, 2), "instance": (1, 2)}


class Normalized(NamedTuple):
    """What the backward pass and the running statistics need.

    Attributes:
        values: normalized activations `[B, H, W, C]`, before scale and bias.
        inverse_std: `[1, 1, 1, C]`, or `[B, 1, 1, C]` in `instance` mode.
        statistics: `mean` and (biased) `var` `[C]`; in `instance` mode averaged over the images.
    """

    values: Array
    inverse_std: Array
    statistics: dict[str, Array]


def checked_mode(name: str) -> Mode:
    """Return the normalization mode of that name.

    Raises:
        ValueError: there is none.
    """
    return check.choice("norm", name, MODES)


def normalize(x: Array, mode: Mode, statistics: dict[str, Array] | None = None) -> Normalized:
    """Return `x` `[B, H, W, C]` normalized, with what the backward pass needs.

    Args:
        x: activations.
        mode: see the module; not `none`.
        statistics: running `mean` and `var` `[C]` for the `eval` mode.
    """
    if mode == "eval":
        channels = jnp.zeros(x.shape[-1], x.dtype)
        statistics = statistics or {"mean": channels, "var": channels + 1}
        inverse_std = lax.rsqrt(statistics["var"] + EPSILON)[None, None, None]
        return Normalized(
            (x - statistics["mean"][None, None, None]) * inverse_std, inverse_std, statistics
        )
    mean = x.mean(_AXES[mode], keepdims=True)
    centered = x - mean
    var = jnp.square(centered).mean(_AXES[mode], keepdims=True)
    inverse_std = lax.rsqrt(var + EPSILON)
    return Normalized(
        centered * inverse_std,
        inverse_std,
        {"mean": mean.mean((0, 1, 2)), "var": var.mean((0, 1, 2))},
    )


def affine(normalized: Normalized, scale: Array, bias: Array) -> Array:
    """Return the normalized activations times `scale` plus `bias`, `[C]` both."""
    return normalized.values * scale[None, None, None] + bias[None, None, None]


class AffineGradients(NamedTuple):
    """Gradients of a normalization with scale and bias.

    Attributes:
        inputs: `[B, H, W, C]`, with respect to the activations before the normalization.
        scale: of each example, `[B, C]`.
        bias: of each example, `[B, C]`.
    """

    inputs: Array
    scale: Array
    bias: Array


def affine_backward(
    normalized: Normalized, scale: Array, cotangent: Array, mode: Mode
) -> AffineGradients:
    """Return the gradients, given that of the output, `[B, H, W, C]`."""
    of_scale = (cotangent * normalized.values).sum((1, 2))
    of_bias = cotangent.sum((1, 2))
    factor = normalized.inverse_std * scale[None, None, None]
    if mode == "eval":
        return AffineGradients(cotangent * factor, of_scale, of_bias)
    # What centring and rescaling take back are the means of these very sums.
    _, height, width, _ = cotangent.shape
    projection, mean = (
        (sums.mean(0, keepdims=True) if mode == "batch" else sums)[:, None, None] / (height * width)
        for sums in (of_scale, of_bias)
    )
    # The barrier keeps XLA from computing the channel's numbers anew for every pixel.
    factor, projection, mean = lax.optimization_barrier(
        (factor, factor * projection, factor * mean)
    )
    inputs = cotangent * factor - mean - normalized.values * projection
    return AffineGradients(inputs, of_scale, of_bias)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The rule of a normalization with the tensors `scale` and `bias`, `[C]` both.

    One rule for all three: the sums over the pixels that are the gradients of scale and bias are
    also what centering and rescaling take back.
    """

    mode: Mode

    def forward(self, tensors: Tensors, x: Any) -> tuple[Array, Any]:
        """Return the outputs for `x`, `(activations, running statistics or None)`."""
        normalized = normalize(x[0], self.mode, x[1])
        outputs = affine(normalized, tensors["scale"], tensors["bias"])
        return outputs, (normalized._replace(statistics={}), x[1])

    def backward(
        self, tensors: Tensors, residuals: Any, cotangent: Array
    ) -> tuple[Any, dict[str, TensorGradient]]:
        """Return the gradients; none passes to running statistics."""
        normalized, running = residuals
        found = affine_backward(normalized, tensors["scale"], cotangent, self.mode)
        of_inputs = found.inputs, jax.tree.map(jnp.zeros_like, running)
        return of_inputs, {"scale": of_examples(found.scale), "bias": of_examples(found.bias)}
