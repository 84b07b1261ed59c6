"""A pre-trained text encoder whose wiring is searched: skip connections, depth, activation.

See `wiring` for the decisions and `layers` for the network. One compiled program runs all wirings,
be they concrete or traced. Scores read the gradients of the layers and of the head: those of the
embeddings, which no wiring changes, would take as much room an example as the vocabulary.
"""

import functools
import hashlib
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding, gradients, pretrained
from jaxnas.network.linen import LinenNetwork
from jaxnas.pretrained import EncoderConfig, Pretrained
from jaxnas.spaces.encoder import layers, wiring
from jaxnas.spaces.encoder.layers import Options
from jaxnas.spaces.encoder.network import BoundEncoder, EncoderNetwork
from jaxnas.spaces.image_space import always_connected
from jaxnas.spaces.transformer.space import validate_tokens
from jaxnas.types import Array, Params, SearchSpace, TrainableFn

__all__ = ["BoundEncoder", "EncoderNetwork", "Options", "encoder", "wiring"]


def encoder(
    source: Pretrained | EncoderConfig,
    options: Options | None = None,
    *,
    max_bytes: int = gradients.MAX_BYTES,
) -> SearchSpace:
    """Return the search space of the wirings of an encoder.

    Its parameters are `embeddings`, `layers` and `head`; those of a network that it binds are
    `layers` and `head`, with all layers in them, also those that the wiring drops: no gradient
    reaches them. `init` draws only what is not pre-trained, so seeds differ in the head.

    Args:
        source: from `pretrained.load`, or sizes alone for random weights.
        options: None for the default of each.
        max_bytes: of the per-example gradients that exist at the same time.

    Raises:
        ValueError: an option that is not there, or out of its range.
    """
    gradients.validate_max_bytes(max_bytes)
    check.instance("source", source, Pretrained | EncoderConfig, "a Pretrained or EncoderConfig")
    check.instance("options", options, Options | None, "Options, or None")
    config, weights = source if isinstance(source, Pretrained) else (source, {})
    options = _checked(options or Options(), config)
    network = EncoderNetwork(config, options)
    packed = LinenNetwork(layers.Packed(config, options), max_bytes=max_bytes)
    names = options.activations

    def init(key: Array, inputs: Array) -> Params:
        validate_tokens(inputs, config.positions)
        return network.init(key, weights)

    def bind(arch: ArrayLike, params: Params) -> tuple[TrainableFn, Params]:
        if not isinstance(arch, jax.core.Tracer):
            arch = np.array(encoding.one(arch, network.num_choices), np.int32)
        if arch.shape != (len(network.num_choices),):
            raise ValueError(
                f"An architecture of this space is int32[{len(network.num_choices)}]: got "
                f"{list(arch.shape)}; use jax.vmap or jax.lax.map for many."
            )
        rest = {name: params[name] for name in ("layers", "head")}
        return BoundEncoder(network, packed, jnp.asarray(arch), params["embeddings"]), rest

    return SearchSpace(
        name="encoder",
        num_choices=network.num_choices,
        init=init,
        bind=bind,
        to_string=lambda arch: wiring.to_string(arch, config.layers, names),
        from_string=lambda notation: wiring.from_string(notation, config.layers, names),
        is_connected=functools.partial(always_connected, network.num_choices),
        representative=lambda arch: np.array(encoding.one(arch, network.num_choices), np.int32),
        num_params=lambda arch: _num_params(network, encoding.one(arch, network.num_choices)),
        options={"weights": _digest(weights), **config._asdict(), **options._asdict()},
    )


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return 16 hexadecimal digits that tell pre-trained weights apart, or none for no weights."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].tobytes())
    return sha.hexdigest()[:16] if weights else "none"


def _num_params(network: EncoderNetwork, decisions: tuple[int, ...]) -> int:
    """Return the number of parameters of what is kept; gates count where they are chosen."""
    config = network.config
    sizes: dict[str, int] = {}
    for tensor in pretrained.tensors(config):
        block = "/".join(tensor.name.split("/")[:2])
        sizes[block] = sizes.get(block, 0) + math.prod(tensor.shape)
    pairs = len(wiring.pairs(config.layers))
    dropped = sum(
        sizes[f"layers/layer_{layer:02}"] * decisions[pairs + layer]
        for layer in range(config.layers)
    )
    gates = sum(decisions[:pairs]) if network.options.join == "gate" else 0
    classifier = (config.width + 1) * network.options.classes
    return sum(sizes.values()) - dropped + gates + classifier


def _checked(options: Options, config: EncoderConfig) -> Options:
    names = (config.activation, *options.activations)
    unknown = [name for name in names if name not in layers.ACTIVATIONS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(
            f"Activations are different ones of {', '.join(layers.ACTIVATIONS)}: got "
            f"{', '.join(names)}, the first of which is the encoder's."
        )
    for name, value, allowed in (
        ("join", options.join, layers.JOINS),
        ("pooling", options.pooling, layers.POOLINGS),
    ):
        check.choice(name, value, allowed)
    check.integer("classes", options.classes, 2)
    dropout = check.real("dropout", options.dropout, 0)
    gate = check.real("gate", options.gate)
    if dropout >= 1 or not math.isfinite(gate):
        raise ValueError(
            "An encoder has a dropout from 0 to below 1 and a finite gate: got "
            f"{options.dropout} and {options.gate}."
        )
    return options
