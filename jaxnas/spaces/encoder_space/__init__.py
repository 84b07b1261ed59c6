"""A pre-trained text encoder whose wiring is searched: skip connections, depth, activation.

See `wiring` for the decisions and `network` for what they choose. Scores read the gradients of the
layers and of the head: those of the embeddings, which no wiring changes, would take as much room an
example as the vocabulary.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.network import StaticArch, architectures, tensors
from jaxnas.pretrained import EncoderConfig, Pretrained
from jaxnas.spaces.encoder_space import layers, wiring
from jaxnas.spaces.encoder_space.network import TEXT, EncoderNetwork, Options
from jaxnas.spaces.image_space import always_connected
from jaxnas.spaces.transformer.layers import ACTIVATIONS
from jaxnas.types import Array, Params, SearchSpace, TrainableFn

__all__ = ["EncoderNetwork", "Options", "encoder", "wiring"]


def encoder(source: Pretrained | EncoderConfig, options: Options | None = None) -> SearchSpace:
    """Return the search space of the wirings of an encoder.

    Its parameters are `embeddings`, `layers` and `head`. Those of a network that it binds are
    `layers` and `head`, with all layers in them, also those that the wiring drops: no gradient
    reaches them. The embeddings are `frozen`, so no score reads them. `init` draws only what is not
    pre-trained, so seeds differ in the head.

    Args:
        source: from `pretrained.load`, or sizes alone for random weights.
        options: None for the default of each.

    Raises:
        ValueError: an option that is not there, or out of its range.
    """
    check.instance("source", source, Pretrained | EncoderConfig, "a Pretrained or EncoderConfig")
    check.instance("options", options, Options | None, "Options, or None")
    config, weights = source if isinstance(source, Pretrained) else (source, {})
    options = _checked(options or Options(), config)
    network = EncoderNetwork(config=config, options=options)
    choices = network.num_choices

    def init(key: Array, inputs: Array) -> Params:
        network.validate(inputs)
        return network.draw(key, weights)

    def bind(arch: ArrayLike, params: Params) -> tuple[TrainableFn, Params]:
        is_traced = architectures.is_traced(arch)
        bound = network.bound(arch if is_traced else StaticArch(encoding.one(arch, choices)))
        frozen = {"embeddings": params["embeddings"]}
        rest = {name: params[name] for name in ("layers", "head")}
        return dataclasses.replace(bound, frozen=frozen), rest

    return SearchSpace(
        name="encoder",
        num_choices=choices,
        init=init,
        bind=bind,
        to_string=lambda arch: wiring.to_string(arch, config.layers, options.activations),
        from_string=lambda text: wiring.from_string(text, config.layers, options.activations),
        is_connected=functools.partial(always_connected, choices),
        representative=lambda arch: np.array(encoding.one(arch, choices), np.int32),
        num_params=lambda arch: _num_params(network, encoding.one(arch, choices)),
        options={"weights": _digest(weights), **config._asdict(), **options._asdict()},
    )


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return 16 hexadecimal digits that tell pre-trained weights apart, or none for no weights."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].tobytes())
    return sha.hexdigest()[:16] if weights else "none"


def _num_params(network: EncoderNetwork, arch: tuple[int, ...]) -> int:
    """Return the number of parameters of what is kept; of gates, those that are chosen count."""
    spec = network.bound(StaticArch(arch)).graph(TEXT).tensors
    joins = {name: of for name, of in spec.get("layers", {}).items() if name.startswith("join")}
    chosen = sum(arch[: len(wiring.pairs(network.config.layers))]) if joins else 0
    return tensors.count(spec) - tensors.count(joins) + chosen


def _checked(options: Options, config: EncoderConfig) -> Options:
    names = (config.activation, *options.activations)
    unknown = [name for name in names if name not in ACTIVATIONS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(
            f"Activations are different ones of {', '.join(ACTIVATIONS)}: got "
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
