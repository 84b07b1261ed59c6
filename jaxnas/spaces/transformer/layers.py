"""The transformer layer, as operations.

Sources: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv 1706.03762; before each
part normalized, as in Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv
2010.11929.

Weights are normal with a standard deviation of .02, biases 0. Differs from the released code of
vision transformers: they cut the normal distribution at +-2, a hundred deviations, which cuts
nothing; and query, key and value are one matrix of three times the width there.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.network import Net, Value, Weights, layers, operation
from jaxnas.network.layers import Depthwise
from jaxnas.types import Array

DEVIATION = 0.02

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def dense(weights: Weights, x: Array, features: int) -> Array:
    """Return the linear layer with a bias, drawn as transformers are."""
    kernel = weights.tensor("kernel", (x.shape[-1], features), deviation=DEVIATION)
    bias = weights.tensor("bias", (features,))
    weights.cost(math.prod(x.shape[1:-1]) * kernel.size)
    return weights.layer(layers.Dense(), {"kernel": kernel, "bias": bias}, x)


def layer_norm(weights: Weights, x: Array, epsilon: float) -> Array:
    """Return tokens normalized each by itself, with scale and bias."""
    if weights.context.norm == "none":
        return x
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    weights.show("variance", lambda: jax.lax.stop_gradient(variance))
    affine = {
        "scale": weights.tensor("scale", x.shape[-1:], value=1),
        "bias": weights.tensor("bias", x.shape[-1:]),
    }
    return weights.layer(
        layers.Readable(_affine), affine, centered * jax.lax.rsqrt(variance + epsilon)
    )


def activate(weights: Weights, x: Array, names: Sequence[str], *number: Array) -> Array:
    """Return the activation of `x`, of several the one that a traced number `int32[]` names."""
    weights.show("preactivation", lambda: x)
    first, *others = (ACTIVATIONS[name] for name in names)
    # Of a switch all branches would save what they need for the backward pass.
    any_of_them = jax.checkpoint(lambda x: jax.lax.switch(number[0], [first, *others], x))
    outputs = any_of_them(x) if others else first(x)
    weights.show("map", lambda: outputs)
    return outputs


def shift(
    weights: Weights, x: Array, shape: tuple[int, ...], name: str, deviation: float = DEVIATION
) -> Array:
    """Return `x` plus a tensor that has the shape of its last axes."""
    tensor = weights.tensor(name, shape, deviation=deviation)
    return weights.layer(layers.Readable(_shift), {"bias": tensor}, x, bias=name)


def _affine(tensors: layers.Tensors, x: Array) -> Array:
    alone = (None,) * (x.ndim - 1)
    return x * tensors["scale"][alone] + tensors["bias"][alone]


def _shift(tensors: layers.Tensors, x: Array) -> Array:
    return x + tensors["bias"][(None,) * (x.ndim - tensors["bias"].ndim)]


class Residual(NamedTuple):
    """How both parts of a layer are added to what they read, and normalized.

    Attributes:
        pre_norm: whether the part reads normalized tokens; else the sum is normalized.
        epsilon: of the normalization.
        dropout: share of the part's outputs that are dropped in training.
    """

    pre_norm: bool
    epsilon: float
    dropout: float = 0.0

    def __call__(self, weights: Weights, x: Array, part: Callable[[Array], Array]) -> Array:
        """Return `x` and what the part makes of it."""
        norm = functools.partial(layer_norm, weights["norm"], epsilon=self.epsilon)
        added = weights.dropout(part(norm(x) if self.pre_norm else x), self.dropout)
        return x + added if self.pre_norm else norm(x + added)


PRE_NORM = Residual(pre_norm=True, epsilon=1e-6)


@operation
def attend(
    weights: Weights, x: Array, *present: Array, heads: int, residual: Residual = PRE_NORM
) -> Array:
    """Return `x` and its multi-head self-attention; `present` `[B, T]` is 0 for padding."""
    width = x.shape[-1]
    split = (*x.shape[:2], heads, width // heads)
    mask = present[0][:, None, None] > 0 if present else None
    weights.cost(2 * x.shape[1] ** 2 * width)

    def part(x: Array) -> Array:
        query, key, value = (
            dense(weights[name], x, width).reshape(split) for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return dense(weights["mix"], mixed.reshape(x.shape), width)

    return residual(weights, x, part)


@operation
def transform(
    weights: Weights,
    x: Array,
    *number: Array,
    hidden: tuple[int, ...],
    activations: tuple[str, ...] = ("gelu",),
    residual: Residual = PRE_NORM,
) -> Array:
    """Return `x` and what the feed-forward part makes of it, whose hidden layers are so wide.

    Of several activations a traced `number` `int32[]` names one.
    """

    def part(x: Array) -> Array:
        wide = x
        for place, width in enumerate(hidden):
            widen = weights[f"widen_{place}" if place else "widen"]
            wide = activate(weights, dense(widen, wide, width), activations, *number)
        return dense(weights["narrow"], wide, x.shape[-1])

    return residual(weights, x, part)


def layer(
    heads: int,
    hidden: tuple[int, ...],
    net: Net,
    x: Value,
    *present: Value,
    residual: Residual = PRE_NORM,
) -> Value:
    """Write down a layer: attention and a feed-forward part.

    They are two operations, so that layers share what they have in common.
    """
    x = net(attend(heads=heads, residual=residual), x, *present, name="attention")
    return net(transform(hidden=hidden, residual=residual), x, name="forward")


@operation
def embed_patches(
    weights: Weights, images: Array, *, features: int, size: int, stride: int, token_has_place: bool
) -> Array:
    """Return a class token and patches of images, with their places: `[B, 1 + N, C]`.

    Args:
        weights: of the operation.
        images: `[B, H, W, colors]`.
        features: width C.
        size: of a patch in pixels.
        stride: from a patch to the next.
        token_has_place: whether the token has a place, as the patches.
    """
    for axis in (1, 3):
        starts = np.arange(0, images.shape[axis] - size + 1, stride)
        images = jnp.take(images, starts[:, None] + np.arange(size)[None], axis=axis)
    count, rows, _, columns, _, colors = images.shape
    pixels = images.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * columns, size**2 * colors)
    patches = dense(weights["patches"], pixels, features)
    token = shift(weights, jnp.zeros_like(patches[:, :1]), (features,), "token")
    places = rows * columns + token_has_place, features
    if token_has_place:
        return shift(weights, jnp.concatenate([token, patches], 1), places, "places")
    return jnp.concatenate([token, shift(weights, patches, places, "places")], 1)


@operation
def normed_token(weights: Weights, x: Array) -> Array:
    """Return the first token `[B, C]`, normalized."""
    return layer_norm(weights, x[:, 0], 1e-6)


@operation
def normed_mean(weights: Weights, x: Array) -> Array:
    """Return the mean `[B, C]` over all but the first of the normalized tokens."""
    return layer_norm(weights, x, 1e-6)[:, 1:].mean(1)


@operation
def classify(weights: Weights, x: Array, *, features: int) -> Array:
    """Return the logits."""
    return dense(weights, x, features)


@operation
def pool(weights: Weights, x: Array, *, features: int) -> Array:
    """Return a token and patches `[B, 1 + N, C]` at half the resolution, C wider.

    The patches by a depthwise convolution with several outputs for an input, the token by a linear
    layer.
    """
    batch, length, width = x.shape
    side = math.isqrt(length - 1)
    patches = jnp.repeat(x[:, 1:].reshape(batch, side, side, width), features // width, axis=-1)
    of_patches = weights["patches"]
    kernel = of_patches.tensor("kernel", (3, 3, 1, features), deviation=DEVIATION)
    halved = of_patches.layer(Depthwise(stride=2), {"kernel": kernel}, patches)
    of_patches.cost(math.prod(halved.shape[1:3]) * kernel.size)
    halved = shift(of_patches, halved, (features,), "bias", deviation=0).reshape(
        batch, -1, features
    )
    return jnp.concatenate([dense(weights["token"], x[:, :1], features), halved], 1)


# Of texts.


@operation
def present(weights: Weights, tokens: Array) -> Array:
    """Return `[B, T]`, 1 for a token and 0 for padding, of `tokens` `int32[B, 2, T]`."""
    return (tokens[:, 1] >= 0).astype(float)


@operation
def embed_tokens(
    weights: Weights,
    tokens: Array,
    *,
    features: int,
    size: int,
    vocabulary: int,
    positions: int,
    segments: int,
    epsilon: float,
    dropout: float = 0.0,
) -> Array:
    """Return the embeddings `[B, T, C]` of `tokens` `int32[B, 2, T]`, widened where they are not C.

    No score reads the gradients of the three tables: those of an example are as large as they are.
    """
    places = jnp.broadcast_to(jnp.arange(tokens.shape[-1])[None], tokens[:, 0].shape)
    kinds = jnp.clip(tokens[:, 1], 0, segments - 1)
    rows = {"words": vocabulary, "places": positions, "segments": segments}
    tables = {
        name: weights.tensor(name, (count, size), deviation=DEVIATION)
        for name, count in rows.items()
    }
    x = tables["words"][tokens[:, 0]] + tables["places"][places] + tables["segments"][kinds]
    x = weights.dropout(layer_norm(weights["norm"], x, epsilon), dropout)
    return x if size == features else dense(weights["widen"], x, features)


@operation
def first_token(weights: Weights, x: Array) -> Array:
    """Return a hidden layer of the first token, `[B, C]`."""
    return activate(weights, dense(weights, x[:, 0], x.shape[-1]), ["gelu"])
