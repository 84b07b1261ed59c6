"""Fine-tuning of a wiring: what learns and what stays, by layers and by low-rank factors."""

import jax
import numpy as np
import pytest

from jaxnas import pretrained
from jaxnas.datasets.tokens import Tokens
from jaxnas.spaces.encoder_space import EncoderNetwork, Options, tuning
from jaxnas.training.adamw import FineTuneOptions

CONFIG = pretrained.EncoderConfig(
    *("bert", 24, 8, 3, 2, 12), positions=12, segments=2, initializer_range=0.3
)
NETWORK = EncoderNetwork(config=CONFIG, options=Options(join="gate", pooling="mean", dropout=0.0))
OPTIONS = FineTuneOptions(epochs=8, learning_rate=0.03)
ARCH = np.array([1, 0, 0, 1, 0], np.int32)  # 1>3, by a gate, and without layer 3


def _tokens(seed, count):
    """Examples that differ by a single word, which is their class."""
    rng = np.random.default_rng(seed)
    inputs = np.zeros((count, 2, 6), np.int32)
    inputs[:, 0] = rng.integers(4, 24, (count, 6))
    labels = rng.integers(2, size=count)
    inputs[:, 0, 1] = 2 + labels
    return Tokens(inputs, labels.astype(np.int32))


SPLITS = tuning.Splits(_tokens(0, 64), _tokens(1, 32), _tokens(2, 32))


@pytest.mark.parametrize("rank", [None, 2])
def test_a_wiring_learns_what_is_to_be_learned(rank):
    found = tuning.tune(NETWORK, {}, ARCH, SPLITS, OPTIONS, rank=rank, lengths=(6,))
    assert found.dev > 75  # chance is 50
    assert found.test > 75
    again = tuning.tune(NETWORK, {}, ARCH, SPLITS, OPTIONS, rank=rank, lengths=(6,))
    assert again == found


@pytest.mark.parametrize("rank", [None, 2])
def test_the_embeddings_stay(rank):
    _, frozen, trained = tuning._parts(NETWORK, {}, rank, 0)
    leaves = jax.tree.leaves(frozen if rank is None else frozen["embeddings"])
    assert leaves
    assert "embeddings" not in trained
    assert set(trained) == ({"layers", "head"} if rank is None else {"factors", "joins", "head"})
    assert rank is None or list(trained["joins"]) == ["join_02"]
