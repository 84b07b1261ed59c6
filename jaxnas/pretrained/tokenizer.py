"""The words of a pre-trained encoder: `tokenizer.json`."""

import json
from pathlib import Path
from typing import Any

from jaxnas.pretrained.config import EncoderConfig, read_config

# Letters of scripts that no vocabulary is likely to know.
_RARE = "\ua66e \U00010348 \u2d63"


def load_tokenizer(folder: str | Path, *, max_length: int | None = None) -> Any:
    """Return the `tokenizers.Tokenizer` of an encoder; it cuts what is too long and pads nothing.

    Of a pair that is too long, the longer text loses its last tokens first.

    Args:
        folder: with `tokenizer.json` and `config.json`.
        max_length: most tokens of an example; None for as many as the encoder has positions.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, the two are of different encoders, or `max_length` is below 4
            or above the number of positions.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(
            'A tokenizer needs tokenizers; run: pip install "jaxnas[text]".'
        ) from error
    config = read_config(folder)
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; save the fast tokenizer into the folder with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    length = config.positions if max_length is None else max_length
    if not 4 <= length <= config.positions:
        raise ValueError(
            f"max_length must be from 4 to the {config.positions} positions of the encoder: "
            f"got {length}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no tokenizer: got '{error}'; copy the file again.") from error
    try:
        json.loads(text)
        tokenizer = Tokenizer.from_str(text)
    # The library knows no narrower type for what it cannot make a tokenizer of.
    except Exception as error:
        raise ValueError(
            f"{path} is no tokenizer: got {str(error)[:200]!r}; copy the file again."
        ) from error
    _check_vocabulary(path, tokenizer, config)
    _check_unknown(path, tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(length, strategy="longest_first")
    return tokenizer


def _check_vocabulary(path: Path, tokenizer: Any, config: EncoderConfig) -> None:
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < config.vocabulary:
        raise ValueError(
            f"{path} must number its tokens below vocab_size={config.vocabulary}: got {highest}; "
            "take tokenizer.json and config.json from one checkpoint."
        )


def _check_unknown(path: Path, tokenizer: Any) -> None:
    try:
        tokenizer.encode(_RARE)
    except Exception as error:
        raise ValueError(
            f"{path} must say what stands for an unknown word: got '{str(error)[:200]}'; add its "
            "token to the vocabulary, or copy the file again."
        ) from error
