"""Texts as arrays of a handful of static lengths, so that few programs are compiled.

An example is `int32[2, T]`: the numbers of its tokens, and the segment of each, 0 or 1, or -1
for padding.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from jaxnas.datasets.sampling import rank_in_class
from jaxnas.datasets.text import Texts
from jaxnas.types import Batch

LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)
"""The lengths that examples are padded to."""

NO_LABEL = -1
"""Label of an example that fills up a batch."""

# Batches are cut from as many shuffled batches at a time, sorted by length.
_WINDOW = 8


class Tokenizer(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def encode_batch(self, input: Any) -> list[Any]:
        """Return encodings with `ids` and `type_ids` of texts, or of pairs of texts."""


class Encoding(NamedTuple):
    """The tokens of a text, as a `tokenizers.Encoding`: numbers and segments."""

    ids: list[int]
    type_ids: list[int]


class HashedWords(NamedTuple):
    """A tokenizer for encoders that are not pre-trained, to which any numbers of words will do.

    A word has the number of its CRC-32, from 2; a text begins with the number 1.

    Attributes:
        vocabulary: how many numbers there are.
    """

    vocabulary: int

    def encode_batch(self, input: Any) -> list[Encoding]:
        """Return the encodings of texts, one segment each."""
        words = [text.lower().split() for text in input]
        numbers = [
            [1, *(2 + zlib.crc32(word.encode()) % (self.vocabulary - 2) for word in item)]
            for item in words
        ]
        return [Encoding(number, [0] * len(number)) for number in numbers]


class Tokens(NamedTuple):
    """Labeled examples of one length, in host memory.

    Attributes:
        inputs: `int32[N, 2, T]`.
        labels: `int32[N]`.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __repr__(self) -> str:
        return f"Tokens({len(self.labels)} examples of {self.inputs.shape[-1]} tokens)"


def tokenize(tokenizer: Tokenizer, texts: Texts, *, lengths: Sequence[int] = LENGTHS) -> Tokens:
    """Return texts as tokens, padded to the least of `lengths` that all fit into.

    Args:
        tokenizer: of the encoder, which cuts what is too long; see `pretrained.load_tokenizer`.
        texts: sentences or pairs.
        lengths: to choose from.

    Raises:
        ValueError: there are no texts, one has no tokens at all, or more than `lengths` allow.
    """
    given = (
        list(texts.first)
        if texts.second is None
        else list(zip(texts.first, texts.second, strict=True))
    )
    encoded = tokenizer.encode_batch(given)
    counts = np.array([len(each.ids) for each in encoded], int)
    if not counts.size or counts.min() < 1 or counts.max() > max(lengths):
        raise ValueError(
            f"Texts must have 1 to {max(lengths)} tokens: got "
            f"{f'{counts.min()} to {counts.max()}' if counts.size else 'no text'}; let the "
            "tokenizer cut them, by pretrained.load_tokenizer(..., max_length=...)."
        )
    inputs = np.zeros((len(encoded), 2, _fitting(counts.max(), lengths)), np.int32)
    inputs[:, 1] = -1
    for row, encoding in zip(inputs, encoded, strict=True):
        row[:, : len(encoding.ids)] = encoding.ids, encoding.type_ids
    return Tokens(inputs, np.asarray(texts.labels, np.int32))


def draw(tokens: Tokens, size: int, *, seed: int, lengths: Sequence[int] = LENGTHS) -> Batch:
    """Return `size` examples for a score, drawn without replacement, classes in equal parts.

    They are padded to the least of `lengths` that all fit into.

    Raises:
        ValueError: `size` is below 1 or above the number of examples.
    """
    count = len(tokens.labels)
    if not 1 <= size <= count:
        raise ValueError(f"The batch size must be between 1 and {count} examples: got {size}.")
    order = np.random.default_rng(seed).permutation(count)
    labels = tokens.labels[order]
    # The classes take turns: by how many of the class came before, in the order of the draw.
    chosen = order[np.argsort(rank_in_class(labels), kind="stable")[:size]]
    return _trimmed(tokens.inputs[chosen], tokens.labels[chosen], lengths)


def batches(
    tokens: Tokens,
    size: int,
    rng: np.random.Generator | None = None,
    *,
    lengths: Sequence[int] = LENGTHS,
) -> Iterator[Batch]:
    """Yield all examples in batches of about one length, each padded to one of `lengths`.

    Args:
        tokens: the examples.
        size: examples a batch.
        rng: of the order, in training: what is left over from full batches is left out, and drawn
            anew each epoch. None for evaluation: all examples, the longest last, and the last batch
            filled up with examples of the label `NO_LABEL`.
        lengths: to choose from.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"The batch size must be at least 1: got {size}.")
    counts = (tokens.inputs[:, 1] >= 0).sum(1)
    if rng is None:
        order = np.argsort(counts, kind="stable")
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            labels = np.full(size, NO_LABEL, np.int32)
            labels[: len(chosen)] = tokens.labels[chosen]
            yield _trimmed(tokens.inputs[np.resize(chosen, size)], labels, lengths)
        return
    size = min(size, len(counts))
    shuffled = rng.permutation(len(counts))[: len(counts) // size * size]
    windows = [
        window[np.argsort(counts[window], kind="stable")]
        for window in np.split(shuffled, range(_WINDOW * size, len(shuffled), _WINDOW * size))
    ]
    rows = np.concatenate(windows).reshape(-1, size)
    for chosen in rows[rng.permutation(len(rows))]:
        yield _trimmed(tokens.inputs[chosen], tokens.labels[chosen], lengths)


def _trimmed(inputs: np.ndarray, labels: np.ndarray, lengths: Sequence[int]) -> Batch:
    longest = (inputs[:, 1] >= 0).sum(1).max()
    length = min(_fitting(longest, lengths), inputs.shape[2])
    return Batch(jnp.asarray(inputs[:, :, :length]), jnp.asarray(labels))


def _fitting(count: int, lengths: Sequence[int]) -> int:
    return min((length for length in lengths if length >= count), default=count)
