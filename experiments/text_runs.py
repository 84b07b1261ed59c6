"""Fine-tuning runs of wirings of a text encoder, remembered in a file."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from jaxnas.datasets import tokens
from jaxnas.launch import say
from jaxnas.runs.files import write_whole
from jaxnas.spaces.encoder import EncoderNetwork, low_rank, wiring
from jaxnas.training.adamw import FineTuneOptions
from jaxnas.training.fine_tune import TunedFn, evaluate, fine_tune
from jaxnas.types import Params

DEV, TEST = "dev %", "test %"

FineTuning = dict[str, Any]
"""One fine-tuning run: its `wiring`, `seed`, and accuracies `DEV` and `TEST`."""


class Data(NamedTuple):
    """A task as tokens."""

    train: tokens.Tokens
    dev: tokens.Tokens
    test: tokens.Tokens


class Tuner(NamedTuple):
    """What the runs share.

    Attributes:
        network: the encoder.
        weights: what is pre-trained.
        data: the task.
        batch_size: examples a step.
        lengths: that examples are padded to.
        options: but for the seed.
        rank: of the factors that are trained of the kernels, or None to train all of the layers.
        path: of the file.
        context: JSON values: what the runs depend on.
    """

    network: EncoderNetwork
    weights: Mapping[str, np.ndarray]
    data: Data
    batch_size: int
    lengths: tuple[int, ...]
    options: FineTuneOptions
    rank: int | None
    path: Path
    context: dict[str, Any]


def run(tuner: Tuner, arch: np.ndarray, seed: int) -> FineTuning:
    """Return one fine-tuning run, from the file if it is there: its wiring, seed and accuracies.

    Raises:
        ValueError: the file holds runs that depended on something else.
    """
    config = tuner.network.config
    name = wiring.to_string(arch, config.layers, tuner.network.options.activations)
    done = common.remembered(tuner.path, "runs", tuner.context)
    label = f"{name} @ {seed}"
    if label not in done["runs"]:
        done["runs"][label] = _tune(tuner, arch, seed)
        write_whole(tuner.path, json.dumps(done, indent=1).encode())
        say(f"{label} {done['runs'][label]}")
    return {"wiring": name, "seed": seed} | done["runs"][label]


def _tune(tuner: Tuner, arch: np.ndarray, seed: int) -> dict[str, float]:
    network, kept, params = _trained(tuner, seed)
    context = (arch, kept)
    cut = functools.partial(tokens.batches, lengths=tuner.lengths)
    train = functools.partial(cut, tuner.data.train, tuner.batch_size)
    dev, test = (
        list(cut(part, 4 * tuner.batch_size)) for part in (tuner.data.dev, tuner.data.test)
    )
    options = tuner.options._replace(seed=seed)
    tuned = fine_tune(network, context, params, train, dev, options)
    test_accuracy = evaluate(network, context, tuned.params, test)[0]
    dev_accuracy = tuned.best.dev_accuracy if tuned.best else 0.0
    return {DEV: dev_accuracy, TEST: test_accuracy}


def _trained(tuner: Tuner, seed: int) -> tuple[TunedFn, Params, Params]:
    """Return the network to fine-tune, the parameters that stay and those that are trained.

    The embeddings stay as they are: their optimiser alone would take as long as a layer.
    """
    draws, factors = jax.random.split(jax.random.key(seed))
    params = tuner.network.draw(draws, tuner.weights)
    if tuner.rank is None:
        embeddings = params.pop("embeddings")
        return tuner.network.above_embeddings, embeddings, params
    joins = {name: weights for name, weights in params["layers"].items() if name.startswith("join")}
    trained = {
        "factors": low_rank.init(factors, params["layers"], tuner.rank),
        "joins": joins,
        "head": params["head"],
    }
    return tuner.network.with_factors, params, trained
