"""An encoder as functions of its wiring, parameters and tokens, and as one network a wiring."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import ArrayLike

from jaxnas.network.linen import LinenNetwork
from jaxnas.pretrained import EncoderConfig
from jaxnas.spaces.encoder import layers, low_rank, wiring
from jaxnas.spaces.encoder.layers import Options
from jaxnas.spaces.transformer.space import validate_tokens
from jaxnas.types import Array, Outputs, Params, Pullback, Statistics


@dataclasses.dataclass(frozen=True)
class EncoderNetwork:
    """An encoder as functions of wiring, parameters and tokens; equal ones compile once."""

    config: EncoderConfig
    options: Options

    @property
    def num_choices(self) -> tuple[int, ...]:
        """Number of choices of each decision."""
        return wiring.num_choices(self.config.layers, len(self.options.activations))

    def __call__(
        self, arch: ArrayLike, params: Params, inputs: Array, key: Array | None = None
    ) -> Outputs:
        """Return logits and features.

        Args:
            arch: one wiring `int32[D]`, concrete or traced.
            params: as from `init`.
            inputs: tokens `int32[B, 2, T]`.
            key: of the dropout, in training; None drops nothing.
        """
        return _apply(self, jnp.asarray(arch), params, inputs, key)

    def above_embeddings(
        self, context: tuple[ArrayLike, Params], params: Params, inputs: Array, key: Array | None
    ) -> Outputs:
        """Return logits and features, given a wiring and embeddings: what stays as it is.

        To fine-tune layers and head alone; see `training.fine_tune.TunedFn`.
        """
        arch, embeddings = context
        return self(arch, {"embeddings": embeddings, **params}, inputs, key)

    def with_factors(
        self, context: tuple[ArrayLike, Params], params: Params, inputs: Array, key: Array | None
    ) -> Outputs:
        """Return logits and features, given a wiring and all parameters: `low_rank` fine-tuning.

        `params` are `factors` (of `low_rank.init`), `joins` (the gates, if any) and `head`.
        """
        arch, kept = context
        own_layers = low_rank.add(kept["layers"] | params["joins"], params["factors"])
        return self(arch, {**kept, "layers": own_layers, "head": params["head"]}, inputs, key)

    def hidden_states(self, arch: ArrayLike, params: Params, inputs: Array) -> list[Array]:
        """Return what enters the first layer and what each layer gives, L + 1 of `[B, T, H]`."""
        return _states(self, jnp.asarray(arch), params, inputs)

    def init(self, key: Array, weights: Mapping[str, np.ndarray]) -> Params:
        """Return parameters: the pre-trained `weights`, and the rest drawn as BERT does.

        Kernels and embeddings are normal with the configuration's deviation, scales 1, biases 0.

        Raises:
            ValueError: a weight has another name or shape than the network's.
        """
        shapes = traverse_util.flatten_dict(jax.eval_shape(self._declare, key), sep="/")
        given = dict(weights)
        wrong = [
            name
            for name, each in given.items()
            if name not in shapes or each.shape != shapes[name].shape
        ]
        if wrong:
            raise ValueError(
                f"Weights must fit the network: got {wrong[0]} {list(given[wrong[0]].shape)}; load "
                "weights and configuration together, by pretrained.load."
            )
        keys = jax.random.split(key, len(shapes))
        params = {
            name: jnp.asarray(given[name]) if name in given else self._draw(own_key, name, shape)
            for own_key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return traverse_util.unflatten_dict(params, sep="/")

    def _draw(self, key: Array, name: str, shape: jax.ShapeDtypeStruct) -> Array:
        constants = {"scale": 1.0, "bias": 0.0, "gate": self.options.gate}
        kind = name.rsplit("/", 1)[-1]
        if kind in constants:
            return jnp.full(shape.shape, constants[kind], shape.dtype)
        return self.config.initializer_range * jax.random.normal(key, shape.shape, shape.dtype)

    def _declare(self, key: Array) -> Params:
        tokens = jnp.zeros((1, 2, 2), jnp.int32)
        embeddings = layers.Embeddings(self.config)
        hidden, variables = embeddings.init_with_output(key, tokens)
        packed = layers.pack(jnp.zeros(len(self.num_choices)), tokens[:, 1] == 0, hidden)
        others = layers.Packed(self.config, self.options).init(key, packed)
        return {"embeddings": variables["params"], **others["params"]}


@functools.partial(jax.jit, static_argnames="network")
def _apply(
    network: EncoderNetwork, arch: Array, params: Params, inputs: Array, key: Array | None
) -> Outputs:
    train = key is not None
    first, second, third = (None,) * 3 if key is None else jax.random.split(key, 3)
    present, hidden = _embed(network, params["embeddings"], inputs, first)
    wired = jnp.broadcast_to(arch[None], (len(inputs), *arch.shape))
    states = layers.Layers(network.config, network.options).apply(
        {"params": params["layers"]}, hidden, present, wired, train=train, rngs=_rngs(second)
    )
    head = layers.Head(network.config, network.options)
    outputs = head.apply(
        {"params": params["head"]}, states[-1], present, train=train, rngs=_rngs(third)
    )
    assert isinstance(outputs, Outputs)
    return outputs


@functools.partial(jax.jit, static_argnames="network")
def _states(network: EncoderNetwork, arch: Array, params: Params, inputs: Array) -> list[Array]:
    present, hidden = _embed(network, params["embeddings"], inputs, None)
    wired = jnp.broadcast_to(arch[None], (len(inputs), *arch.shape))
    states = layers.Layers(network.config, network.options).apply(
        {"params": params["layers"]}, hidden, present, wired
    )
    assert isinstance(states, list)
    return states


@functools.partial(jax.jit, static_argnames="network")
def _pack(network: EncoderNetwork, arch: Array, embeddings: Params, inputs: Array) -> Array:
    return layers.pack(arch, *_embed(network, embeddings, inputs, None))


def _embed(
    network: EncoderNetwork, embeddings: Params, inputs: Array, key: Array | None
) -> tuple[Array, Array]:
    """Return which tokens are present, `bool[B, T]`, and their embeddings `[B, T, H]`."""
    module = layers.Embeddings(network.config, network.options.dropout)
    hidden = module.apply({"params": embeddings}, inputs, train=key is not None, rngs=_rngs(key))
    assert isinstance(hidden, jax.Array)
    return inputs[:, 1] >= 0, hidden


def _rngs(key: Array | None) -> dict[str, Array]:
    return {} if key is None else {"dropout": key}


@dataclasses.dataclass(frozen=True, eq=False)
class BoundEncoder:
    """An encoder with its wiring and embeddings filled in: a `PerExampleDifferentiable`.

    Attributes:
        network: the encoder.
        packed: all after its embeddings, whose layers take statistics of their gradients.
        arch: `int32[D]`.
        embeddings: their parameters.
    """

    network: EncoderNetwork
    packed: LinenNetwork
    arch: Array
    embeddings: Params

    def __call__(self, params: Params, inputs: Array, statistics: Any = None) -> Outputs:
        """Return the outputs for tokens `int32[B, 2, T]`; `statistics` are not used."""
        validate_tokens(inputs, self.network.config.positions)
        return self.network(self.arch, {"embeddings": self.embeddings, **params}, inputs)

    def per_example_vjp(
        self, params: Params, inputs: Array, statistics: Statistics
    ) -> tuple[Outputs, Pullback]:
        """Return the outputs and the pullback to per-example gradients."""
        validate_tokens(inputs, self.network.config.positions)
        examples = _pack(self.network, self.arch, self.embeddings, inputs)
        return self.packed.per_example_vjp(params, examples, statistics)
