"""What a pre-trained encoder is: `config.json`, checked."""

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

_SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
}


class EncoderConfig(NamedTuple):
    """The sizes of a BERT or RoBERTa encoder.

    Attributes:
        family: "bert" or "roberta"; of the weights' names, the network is the same.
        vocabulary: number of token numbers.
        width: of the hidden states, H.
        layers: number of layers.
        heads: attention heads of a layer; they divide the width.
        inner: width inside a layer's feed-forward part.
        positions: most tokens of an example.
        segments: number of segments that have an embedding of their own.
        activation: of the feed-forward part, by Hugging Face's name.
        epsilon: added to the variance in a layer normalization.
        initializer_range: standard deviation of weights that are drawn.
        first_position: row of the stored table that is the first position; in RoBERTa it comes
            after the number of the padding token.
    """

    family: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    segments: int
    activation: str = "gelu"
    epsilon: float = 1e-12
    initializer_range: float = 0.02
    first_position: int = 0


def read_config(folder: str | Path) -> EncoderConfig:
    """Return what `config.json` in a folder says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, of another family of networks, or a size is missing or
            impossible.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; give a folder with config.json, model.safetensors and "
            "tokenizer.json, as save_pretrained writes it."
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: got '{error}'; copy the file again.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must hold a JSON object: got {type(entries).__name__}.")
    return _checked(entries, path)


def _checked(entries: dict[str, Any], path: Path) -> EncoderConfig:
    family = entries.get("model_type")
    if family not in ("bert", "roberta"):
        raise ValueError(
            f"{path}: model_type must be bert or roberta: got {family!r}; choose an encoder of one "
            "of these families."
        )
    plain = {"position_embedding_type": "absolute", "is_decoder": False}
    for name, expected in plain.items():
        if entries.get(name, expected) != expected:
            raise ValueError(
                f"{path}: {name} must be {expected}: got {entries[name]!r}; choose a plain encoder."
            )
    sizes = {ours: _size(entries, theirs, path) for ours, theirs in _SIZES.items()}
    first = _size(entries, "pad_token_id", path, 0, default=1) + 1 if family == "roberta" else 0
    positions = _size(entries, "max_position_embeddings", path) - first
    if sizes["width"] % sizes["heads"] or positions < 1:
        raise ValueError(
            f"{path}: heads must divide the width, and positions be left: got width "
            f"{sizes['width']}, {sizes['heads']} heads and {positions} positions."
        )
    return EncoderConfig(
        family=family,
        **sizes,
        positions=positions,
        segments=_size(entries, "type_vocab_size", path),
        activation=_activation(entries, path),
        epsilon=_positive(entries, "layer_norm_eps", path, 1e-12),
        initializer_range=_positive(entries, "initializer_range", path, 0.02),
        first_position=first,
    )


def _size(
    entries: dict[str, Any], name: str, path: Path, least: int = 1, default: int | None = None
) -> int:
    value = entries.get(name, default)
    if type(value) is not int or value < least:
        raise ValueError(
            f"{path}: {name} must be an integer above {least - 1}: got {reprlib.repr(value)}; copy "
            "the file again."
        )
    return value


def _positive(entries: dict[str, Any], name: str, path: Path, default: float) -> float:
    value = entries.get(name, default)
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise ValueError(
            f"{path}: {name} must be a number above 0: got {reprlib.repr(value)}; copy the file "
            "again."
        )
    return float(value)


def _activation(entries: dict[str, Any], path: Path) -> str:
    value = entries.get("hidden_act", "gelu")
    if not isinstance(value, str):
        raise ValueError(
            f"{path}: hidden_act must be a name: got {reprlib.repr(value)}; copy the file again."
        )
    return value
