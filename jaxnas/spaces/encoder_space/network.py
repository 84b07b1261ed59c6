"""A BERT or RoBERTa encoder with a head, whose wiring is its architecture.

Sources: Devlin et al., "BERT", NAACL 2019, arXiv 1810.04805; Liu et al., "RoBERTa", 2019, arXiv
1907.11692: the same network with other weights. Layer normalization comes after each sum.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import ArrayLike

from jaxnas import encoding
from jaxnas.network import (
    Net,
    Network,
    Operation,
    StaticArch,
    Value,
    architectures,
    eager,
    graph,
    module,
    tensors,
)
from jaxnas.network import operations as ops
from jaxnas.network.normalization import Mode
from jaxnas.pretrained import EncoderConfig
from jaxnas.spaces.encoder_space import layers, low_rank, wiring
from jaxnas.spaces.transformer import layers as transformer
from jaxnas.spaces.transformer.space import validate_tokens
from jaxnas.types import Array, Outputs, Params

TEXT = jax.ShapeDtypeStruct((1, 2, 1), np.int32)
"""The shape of a batch of one text: which tensors there are does not depend on it."""


class Options(NamedTuple):
    """What is not in the pre-trained network.

    Attributes:
        classes: number of labels K.
        pooling: what the head reads, the first token (`cls`) or the mean of all.
        join: how the outputs of earlier layers enter a later one, beside its usual input: their
            plain `sum`; the `mean` of all; the sum with mean and deviation of the usual input,
            token by token (`norm`); or the sum weighted by a trained `gate` a connection.
        gate: initial value of the gates; 0 leaves the pre-trained function as it is.
        activations: the others to choose from, names in `transformer.layers.ACTIVATIONS`; of `tanh`
            in the place of `gelu` nothing that was learned survives.
        dropout: share of hidden values that are dropped in training, after the embeddings, after
            both parts of a layer, and before the classifier.
    """

    classes: int = 2
    pooling: str = "cls"
    join: str = "sum"
    gate: float = 0.0
    activations: tuple[str, ...] = ("relu", "silu")
    dropout: float = 0.1


class EncoderNetwork(Network, kw_only=True):
    """All wirings of an encoder in one; its inputs are tokens `int32[B, 2, T]`.

    Tokens are their numbers, and the segment of each (0 or 1), -1 for padding. Parameters are
    `embeddings`, `layers` and `head`.

    Attributes:
        norm: always `instance`: tokens are normalized each by itself.
        config: its sizes.
        options: what else there is to choose.
    """

    norm: Mode = "instance"
    config: EncoderConfig
    options: Options = Options()

    @property
    def num_choices(self) -> tuple[int, ...]:
        """Number of choices of each decision."""
        return wiring.num_choices(self.config.layers, len(self.options.activations))

    def num_decisions(self) -> int:
        """Return how many decisions a wiring has."""
        return len(self.num_choices)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the network can read the tokens `int32[B, 2, T]`."""
        validate_tokens(inputs, self.config.positions)

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what the encoder of a wiring computes."""
        present, *states = self._states(net, x, arch)
        return net.stage("head", self._head, states[-1], present, scoped=False)

    def _states(self, net: Net, tokens: Value, arch: Any) -> tuple[Value, ...]:
        """Write down which tokens are there, and the L + 1 hidden states."""
        present, *states = net.stage("embeddings", self._embeddings, tokens, scoped=False)
        for layer in range(self.config.layers):
            part = functools.partial(self._layer, arch, layer)
            states.append(net.stage("layer", part, present, *states, scoped=False))
        return present, *states

    def _embeddings(self, net: Net, tokens: Value) -> tuple[Value, Value]:
        config = self.config
        embed = transformer.embed_tokens(
            features=config.width,
            size=config.width,
            vocabulary=config.vocabulary,
            positions=config.positions,
            segments=config.segments,
            epsilon=config.epsilon,
            dropout=self.options.dropout,
        )
        return net(transformer.present(), tokens), net(embed, tokens, name="embeddings")

    def _layer(self, arch: Any, layer: int, net: Net, present: Value, *states: Value) -> Value:
        """Write down a layer, which may be dropped; they count from 0."""
        config, options = self.config, self.options
        x = self._join(arch, layer, net, states[-1], *states[1:layer])
        dropped = arch[len(wiring.pairs(config.layers)) + layer]
        names, number = (config.activation, *options.activations), []
        if architectures.is_traced(arch):
            number = [net.given(arch[-1])]
        else:
            names = (names[arch[-1]],)
        residual = transformer.Residual(False, config.epsilon, options.dropout)
        attend = transformer.attend(heads=config.heads, residual=residual)
        transform = transformer.transform(
            hidden=(config.inner,), activations=names, residual=residual
        )
        with net.scope(f"layers/layer_{layer:02}"):
            x = net.choose("attention", _or_nothing(attend), dropped, x, present)
            return net.choose("forward", _or_nothing(transform), dropped, x, *number)

    def _join(self, arch: Any, layer: int, net: Net, usual: Value, *earlier: Value) -> Value:
        """Write down what enters a layer; of a concrete wiring only what is chosen is read."""
        pairs = wiring.pairs(self.config.layers)
        places = [at for at, (_, target) in enumerate(pairs) if target == layer + 1]
        is_traced = architectures.is_traced(arch)
        read = [position for position, at in enumerate(places) if is_traced or arch[at]]
        if not read:
            return usual
        chosen: Any = np.eye(len(places), dtype=np.int32)[read]
        if is_traced:
            chosen = chosen * arch[np.array(places)][:, None]
        join = layers.join(how=self.options.join, gate=self.options.gate)
        outputs = [earlier[position] for position in read]
        return net(join, usual, net.given(chosen), *outputs, name=f"layers/join_{layer:02}")

    def _head(self, net: Net, x: Value, present: Value) -> Value:
        pooler = layers.pooler(how=self.options.pooling, dropout=self.options.dropout)
        with net.scope("head"):
            features = net(pooler, x, present, name="pooler")
            classify = transformer.classify(features=self.options.classes)
            return net(classify, features, name="classifier")

    def hidden_states(self, arch: ArrayLike, params: Params, inputs: Array) -> list[Array]:
        """Return what enters the first layer and what each layer gives, L + 1 of `[B, T, C]`."""
        decisions = StaticArch(encoding.one(arch, self.num_choices))
        shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
        steps = graph.record(self._states, decisions, shape, self.norm)
        (_, *states), _ = eager.run(steps, ops.Context(self.norm), params, (inputs,))
        return states

    def above_embeddings(
        self, context: tuple[ArrayLike, Params], params: Params, inputs: Array, key: Array | None
    ) -> Outputs:
        """Return logits and features, given a wiring and embeddings: what stays as it is.

        To fine-tune layers and head alone; see `training.fine_tune.TunedFn`.
        """
        arch, embeddings = context
        return self.bound(arch)({"embeddings": embeddings, **params}, inputs, key=key)

    def with_factors(
        self, context: tuple[ArrayLike, Params], params: Params, inputs: Array, key: Array | None
    ) -> Outputs:
        """Return logits and features, given a wiring and all parameters: `low_rank` fine-tuning.

        `params` are `factors` (of `low_rank.init`), `joins` (the gates, if any) and `head`.
        """
        arch, kept = context
        changed = low_rank.add(kept["layers"] | params["joins"], params["factors"])
        everything = {**kept, "layers": changed, "head": params["head"]}
        return self.bound(arch)(everything, inputs, key=key)

    def draw(self, key: Array, weights: Mapping[str, np.ndarray]) -> Params:
        """Return parameters: the pre-trained `weights`, and the rest drawn as BERT does.

        Kernels and embeddings are normal with the configuration's deviation, scales 1, biases 0.

        Raises:
            ValueError: a weight has another name or shape than the network's.
        """
        declared = traverse_util.flatten_dict(module.whole(self, TEXT).tensors, sep="/")
        for name, weight in weights.items():
            if name not in declared or weight.shape != declared[name].shape:
                raise ValueError(
                    f"Weights must fit the network: got {name} {list(weight.shape)}; load weights "
                    "and configuration together, by pretrained.load."
                )
        drawn = {
            name: tensor._replace(deviation=self.config.initializer_range * (tensor.deviation > 0))
            for name, tensor in declared.items()
            if name not in weights
        }
        params = tensors.initialize(drawn, jnp.float32, key) if drawn else {}
        given = {name: jnp.asarray(weight) for name, weight in weights.items()}
        return traverse_util.unflatten_dict(params | given, sep="/")


def _or_nothing(part: Operation) -> list[tuple[str, Operation]]:
    """Return the choice of a part that may be dropped."""
    return [("", part), ("", ops.IDENTITY)]
