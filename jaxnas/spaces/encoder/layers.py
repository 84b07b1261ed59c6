"""A BERT or RoBERTa encoder with a head, whose wiring comes with the examples.

Sources: Devlin et al., "BERT", NAACL 2019, arXiv 1810.04805; Liu et al., "RoBERTa", 2019, arXiv
1907.11692: the same network with other weights. Layer normalisation comes after each sum.

Tokens travel as `int32[B, 2, T]`: their numbers, and the segment of each (0 or 1), -1 for padding.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas.pretrained import EncoderConfig
from jaxnas.spaces.encoder import wiring
from jaxnas.spaces.transformer import layers as transformer
from jaxnas.types import Array, Outputs

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
JOINS = ("sum", "mean", "norm", "gate")
POOLINGS = ("cls", "mean")


class Options(NamedTuple):
    """What is not in the pre-trained network.

    Attributes:
        classes: number of labels K.
        pooling: what the head reads, the first token (`cls`) or the mean of all.
        join: how the outputs of earlier layers enter a later one, beside its usual input: their
            plain `sum`; the `mean` of all; the sum with mean and deviation of the usual input,
            token by token (`norm`); or the sum weighted by a trained `gate` a connection.
        gate: initial value of the gates; 0 leaves the pre-trained function as it is.
        activations: the others to choose from, names in `ACTIVATIONS`; of `tanh` in the place of
            `gelu` nothing that was learned survives.
        dropout: share of hidden values that are dropped in training, after the embeddings, after
            both parts of a layer, and before the classifier.
    """

    classes: int = 2
    pooling: str = "cls"
    join: str = "sum"
    gate: float = 0.0
    activations: tuple[str, ...] = ("relu", "silu")
    dropout: float = 0.1


def _norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    # The fast variance is a difference, and loses the digits that a comparison needs.
    return nn.LayerNorm(config.epsilon, use_fast_variance=False, name=name)


def _dense(name: str, x: Array, features: int) -> Array:
    return nn.Dense(features, name=name)(x)


class Embeddings(nn.Module):
    """Tokens to hidden states `[B, T, H]`."""

    config: EncoderConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False) -> Array:
        """Return the hidden states of `tokens` `int32[B, 2, T]`."""
        config = self.config
        segments = jnp.clip(tokens[:, 1], 0, config.segments - 1)
        positions = jnp.arange(tokens.shape[-1])[None]
        hidden = nn.Embed(config.vocabulary, config.width, name="words")(tokens[:, 0])
        hidden += nn.Embed(config.segments, config.width, name="segments")(segments)
        hidden += nn.Embed(config.positions, config.width, name="positions")(positions)
        hidden = _norm(config, "norm")(hidden)
        return nn.Dropout(self.dropout, deterministic=not train)(hidden)


class Join(nn.Module):
    """What enters a layer: the output of the one before, and of earlier ones that are chosen."""

    how: str

    @nn.compact
    def __call__(self, usual: Array, earlier: Array, chosen: Array) -> Array:
        """Return `[B, T, H]`, `usual` where nothing is chosen.

        Args:
            usual: `[B, T, H]`.
            earlier: `[B, S, T, H]`, the outputs of S earlier layers.
            chosen: `[B, S]`, 1 or 0.
        """
        if self.how == "gate":
            # Drawn with the other weights, by the space; see `EncoderNetwork.init`.
            chosen *= self.param("gate", nn.initializers.zeros, chosen.shape[1:])[None]
        total = usual + jnp.einsum("bs,bsth->bth", chosen, earlier)
        count = chosen.sum(1)[:, None, None]
        if self.how == "mean":
            return total / (1 + count)
        if self.how == "norm":
            return jnp.where(count > 0, _with_moments_of(usual, total), usual)
        return total


def _with_moments_of(usual: Array, total: Array) -> Array:
    mean, deviation = usual.mean(-1, keepdims=True), usual.std(-1, keepdims=True)
    centred = total - total.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return mean + deviation * centred * jax.lax.rsqrt(variance + 1e-12)


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each with its sum and normalisation."""

    config: EncoderConfig
    options: Options

    @nn.compact
    def __call__(self, hidden: Array, present: Array, activation: Array, *, train: bool) -> Array:
        """Return the hidden states `[B, T, H]` after the layer.

        Args:
            hidden: `[B, T, H]`.
            present: `bool[B, T]`, False for padding.
            activation: `int32[B]`, 0 for that of the configuration.
            train: whether values are dropped.
        """
        config = self.config
        drop = nn.Dropout(self.options.dropout, deterministic=not train)
        mask = present[:, None, None]
        mixed = transformer.attention(_dense, hidden, config.heads, mask)
        hidden = _norm(config, "mix_norm")(hidden + drop(mixed))
        activate = functools.partial(self._activate, activation=activation)
        narrow = transformer.feed_forward(_dense, hidden, (config.inner,), activate)
        return _norm(config, "narrow_norm")(hidden + drop(narrow))

    def _activate(self, wide: Array, activation: Array) -> Array:
        names = (self.config.activation, *self.options.activations)
        choice = activation[:, None, None]
        result = ACTIVATIONS[names[0]](wide)
        for number, name in enumerate(names[1:], start=1):
            result = jnp.where(choice == number, ACTIVATIONS[name](wide), result)
        return result


class Layers(nn.Module):
    """All layers, wired by the architecture."""

    config: EncoderConfig
    options: Options

    @nn.compact
    def __call__(
        self, hidden: Array, present: Array, arch: Array, *, train: bool = False
    ) -> list[Array]:
        """Return the hidden states before the first layer and after each, `[B, T, H]`.

        Args:
            hidden: `[B, T, H]`.
            present: `bool[B, T]`, False for padding.
            arch: `int32[B, D]`, of each example.
            train: whether values are dropped.
        """
        pairs = wiring.pairs(self.config.layers)
        states = [hidden]
        for layer in range(1, self.config.layers + 1):
            usual = states[-1]
            places = [at for at, (_, target) in enumerate(pairs) if target == layer]
            if places:
                earlier = jnp.stack([states[pairs[at][0]] for at in places], 1)
                chosen = arch[:, places[0] : places[-1] + 1].astype(usual.dtype)
                usual = Join(self.options.join, name=f"join_{layer - 1:02}")(usual, earlier, chosen)
            after = Layer(self.config, self.options, name=f"layer_{layer - 1:02}")(
                usual, present, arch[:, -1], train=train
            )
            dropped = arch[:, len(pairs) + layer - 1, None, None] == 1
            states.append(jnp.where(dropped, usual, after))
        return states


class Head(nn.Module):
    """Hidden states to logits."""

    config: EncoderConfig
    options: Options

    @nn.compact
    def __call__(self, hidden: Array, present: Array, *, train: bool = False) -> Outputs:
        """Return logits and features of `hidden` `[B, T, H]`; `present` is `bool[B, T]`."""
        if self.options.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = present.astype(hidden.dtype)[..., None]
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        features = jnp.tanh(nn.Dense(self.config.width, name="pooler")(pooled))
        kept = nn.Dropout(self.options.dropout, deterministic=not train)(features)
        return Outputs(nn.Dense(self.options.classes, name="classifier")(kept), features)


class Packed(nn.Module):
    """All after the embeddings, of examples that are one array: see `pack`."""

    config: EncoderConfig
    options: Options

    @nn.compact
    def __call__(self, examples: Array) -> Outputs:
        """Return logits and features of packed examples `[B, D + T + T H]`."""
        config, options = self.config, self.options
        decisions = len(wiring.num_choices(config.layers, len(options.activations)))
        length = (examples.shape[1] - decisions) // (1 + config.width)
        arch = examples[:, :decisions].astype(jnp.int32)
        present = examples[:, decisions : decisions + length] == 1
        hidden = examples[:, decisions + length :].reshape(-1, length, config.width)
        states = Layers(config, options, name="layers")(hidden, present, arch)
        return Head(config, options, name="head")(states[-1], present)


def pack(arch: Array, present: Array, hidden: Array) -> Array:
    """Return examples `[B, D + T + T H]`: the wiring, which tokens are present, their states.

    A network that reads its per-example gradients takes an array of examples. With the wiring in
    it, all wirings are one program.
    """
    count = len(hidden)
    wired = jnp.broadcast_to(arch[None], (count, *arch.shape))
    parts = [wired.astype(hidden.dtype), present.astype(hidden.dtype), hidden.reshape(count, -1)]
    return jnp.concatenate(parts, 1)
