"""A pre-trained encoder: what it is, and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnas.pretrained.config import EncoderConfig, read_config
from jaxnas.pretrained.weights import read_weights


class Pretrained(NamedTuple):
    """A pre-trained encoder.

    Attributes:
        config: its sizes.
        weights: float32 arrays by the names of `pretrained.tensors`; what is left out is drawn.
    """

    config: EncoderConfig
    weights: Mapping[str, np.ndarray]


def load(folder: str | Path) -> Pretrained:
    """Return the encoder in a folder of Hugging Face's format; `load_tokenizer` reads its words.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: `config.json` or `model.safetensors` is missing.
        ValueError: they are damaged, of another kind, or do not fit together.
    """
    config = read_config(folder)
    return Pretrained(config, read_weights(folder, config))
