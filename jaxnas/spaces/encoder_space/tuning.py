"""Fine-tuning of a wiring of a pre-trained encoder, from its tokens to its test accuracy."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas.datasets import tokens
from jaxnas.datasets.tokens import LENGTHS, Tokens
from jaxnas.spaces.encoder_space import low_rank
from jaxnas.spaces.encoder_space.network import EncoderNetwork
from jaxnas.training.adamw import FineTuneOptions
from jaxnas.training.fine_tune import TunedFn, evaluate, fine_tune
from jaxnas.types import Params


class Splits(NamedTuple):
    """A task as tokens: to learn from, to choose the best epoch by, and to report on."""

    train: Tokens
    dev: Tokens
    test: Tokens


class Tuned(NamedTuple):
    """Accuracies after the best epoch, in percent."""

    dev: float
    test: float


def tune(
    network: EncoderNetwork,
    weights: Mapping[str, np.ndarray],
    arch: ArrayLike,
    splits: Splits,
    options: FineTuneOptions,
    *,
    rank: int | None = None,
    batch_size: int = 16,
    lengths: Sequence[int] = LENGTHS,
) -> Tuned:
    """Return how accurate a wiring is after fine-tuning.

    The embeddings stay as they are: their optimizer alone would take as long as a layer.

    Args:
        network: all wirings of the encoder.
        weights: what is pre-trained, from `pretrained.load`.
        arch: the wiring, `int32[D]`.
        splits: the task.
        options: of the fine-tuning; its seed draws the head, too.
        rank: of the factors that are trained of the kernels (LoRA); None trains all of the layers.
        batch_size: examples of a training step.
        lengths: that examples are padded to, in tokens; each costs a compilation.

    Raises:
        ValueError: as `fine_tune` and `low_rank.init`.
    """
    function, frozen, params = _parts(network, weights, rank, options.seed)
    context = (arch, frozen)
    cut = functools.partial(tokens.batches, lengths=lengths)
    dev, test = (list(cut(part, 4 * batch_size)) for part in (splits.dev, splits.test))
    train = functools.partial(cut, splits.train, batch_size)
    found = fine_tune(function, context, params, train, dev, options)
    test_accuracy = evaluate(function, context, found.params, test)[0]
    return Tuned(found.best.dev_accuracy if found.best else 0.0, test_accuracy)


def _parts(
    network: EncoderNetwork, weights: Mapping[str, np.ndarray], rank: int | None, seed: int
) -> tuple[TunedFn, Params, Params]:
    """Return the function to fine-tune, the parameters that stay and those that are trained."""
    draws, factors = jax.random.split(jax.random.key(seed))
    params = network.draw(draws, weights)
    if rank is None:
        embeddings = params.pop("embeddings")
        return network.above_embeddings, embeddings, params
    joins = {name: part for name, part in params["layers"].items() if name.startswith("join")}
    trained = {
        "factors": low_rank.init(factors, params["layers"], rank),
        "joins": joins,
        "head": params["head"],
    }
    return network.with_factors, params, trained
