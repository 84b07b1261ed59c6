"""Fine-tuning runs of wirings of a text encoder, remembered in a file."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.datasets import tokens
from jaxnas.runs.files import write_whole
from jaxnas.spaces.encoder import EncoderNetwork, wiring
from jaxnas.training.adamw import FineTuneOptions
from jaxnas.training.fine_tune import evaluate, fine_tune

DEV, TEST = "dev %", "test %"


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
        path: of the file.
        context: JSON values: what the runs depend on.
    """

    network: EncoderNetwork
    weights: Mapping[str, np.ndarray]
    data: Data
    batch_size: int
    lengths: tuple[int, ...]
    options: FineTuneOptions
    path: Path
    context: dict[str, Any]


def run(tuner: Tuner, arch: np.ndarray, seed: int) -> dict[str, Any]:
    """Return one fine-tuning run, from the file if it is there: its wiring, seed and accuracies.

    Raises:
        ValueError: the file holds runs that depended on something else.
    """
    config = tuner.network.config
    name = wiring.to_string(arch, config.layers, tuner.network.options.activations)
    done: dict[str, Any] = {"context": tuner.context, "runs": {}}
    if tuner.path.is_file():
        done = json.loads(tuner.path.read_text(encoding="utf-8"))
    if done["context"] != tuner.context:
        raise ValueError(
            f"{tuner.path} holds runs of another setting; choose another --output_dir."
        )
    label = f"{name} @ {seed}"
    if label not in done["runs"]:
        done["runs"][label] = _tune(tuner, arch, seed)
        write_whole(tuner.path, json.dumps(done, indent=1).encode())
        print(label, done["runs"][label], flush=True)
    return {"wiring": name, "seed": seed} | done["runs"][label]


def _tune(tuner: Tuner, arch: np.ndarray, seed: int) -> dict[str, float]:
    params = tuner.network.init(jax.random.key(seed), tuner.weights)
    # The embeddings stay as they are: their optimiser alone would take as long as a layer.
    context = (arch, params.pop("embeddings"))
    network = tuner.network.above_embeddings
    cut = functools.partial(tokens.batches, lengths=tuner.lengths)
    train = functools.partial(cut, tuner.data.train, tuner.batch_size)
    dev, test = (list(cut(own, 4 * tuner.batch_size)) for own in (tuner.data.dev, tuner.data.test))
    options = tuner.options._replace(seed=seed)
    tuned = fine_tune(network, context, params, train, dev, options)
    test_accuracy = evaluate(network, context, tuned.params, test)[0]
    dev_accuracy = tuned.best.dev_accuracy if tuned.best else 0.0
    return {DEV: dev_accuracy, TEST: test_accuracy}
