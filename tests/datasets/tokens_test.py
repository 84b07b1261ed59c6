from typing import NamedTuple

import numpy as np
import pytest

from jaxnas.datasets import text, tokens


class Encoding(NamedTuple):
    ids: list
    type_ids: list


class Words:
    """A tokenizer of words: a word of n letters is token n, 1 begins and 2 ends a text."""

    def encode_batch(self, given):
        encoded = []
        for found in given:
            parts = found if isinstance(found, tuple) else (found,)
            ids, segments = [1], [0]
            for segment, part in enumerate(parts):
                ids += [*map(len, part.split()), 2]
                segments += [segment] * (len(part.split()) + 1)
            encoded.append(Encoding(ids, segments))
        return encoded


def texts(first, second=None):
    return text.Texts(tuple(first), second, np.arange(len(first)) % 2)


def test_tokens_by_hand():
    pairs = texts(["to be", ""], ("or not", "é"))
    found = tokens.tokenize(Words(), pairs, lengths=(4, 8, 16))
    np.testing.assert_array_equal(
        found.inputs,
        [
            [[1, 2, 2, 2, 2, 3, 2, 0], [0, 0, 0, 0, 1, 1, 1, -1]],
            [[1, 2, 1, 2, 0, 0, 0, 0], [0, 0, 1, 1, -1, -1, -1, -1]],
        ],
    )
    assert found.inputs.dtype == found.labels.dtype == np.int32
    single = tokens.tokenize(Words(), texts(["", "a"]), lengths=(4, 8))
    np.testing.assert_array_equal(single.inputs[0], [[1, 2, 0, 0], [0, 0, -1, -1]])


@pytest.mark.parametrize(
    ("first", "sentence"), [(["a b c"], "1 to 4 tokens: got 5 to 5"), ([], "got no text")]
)
def test_refuses_texts_that_do_not_fit(first, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokens.tokenize(Words(), texts(first), lengths=(2, 4))


@pytest.fixture
def many():
    """25 texts; text `i` begins with a word of `i + 3` letters and has `i % 7 + 3` tokens."""
    first = ["x" * (at + 3) + " a" * (at % 7) for at in range(25)]
    return tokens.tokenize(Words(), texts(first), lengths=(4, 6, 9))


def test_evaluation_sees_each_example_once(many):
    found = list(tokens.batches(many, 4, lengths=(4, 6, 9)))
    assert {batch.inputs.shape for batch in found} <= {(4, 2, 4), (4, 2, 6), (4, 2, 9)}
    assert len({batch.inputs.shape for batch in found}) == 3
    counted = [batch.labels != tokens.NO_LABEL for batch in found]
    words = np.concatenate(
        [np.asarray(batch.inputs)[each, 0, 1] for batch, each in zip(found, counted, strict=True)]
    )
    assert sorted(words) == list(range(3, 28))
    for batch, result in zip(found, counted, strict=True):
        word = np.asarray(batch.inputs)[result, 0, 1]
        np.testing.assert_array_equal(batch.labels[result], (word - 3) % 2)
    assert sum(each.sum() for each in counted) == 25
    assert [batch.inputs.shape[2] for batch in found] == sorted(b.inputs.shape[2] for b in found)


def test_training_sees_full_batches_in_another_order_each_epoch(many):
    epochs = [
        [np.asarray(batch.inputs) for batch in tokens.batches(many, 4, rng, lengths=(4, 6, 9))]
        for rng in map(np.random.default_rng, (0, 1, 0))
    ]
    for epoch in epochs:
        assert len(epoch) == 6
        words = np.concatenate([batch[:, 0, 1] for batch in epoch])
        assert len(set(words)) == 24
        assert {batch.shape[2] for batch in epoch} <= {4, 6, 9}
        # Nothing but padding is cut off.
        assert sum((batch[:, 1] >= 0).sum() for batch in epoch) == sum(
            (word - 3) % 7 + 3 for word in words
        )
    assert any((a.shape != b.shape) or (a != b).any() for a, b in zip(*epochs[:2], strict=True))
    assert all((a == b).all() for a, b in zip(epochs[0], epochs[2], strict=True))
    assert len(list(tokens.batches(many, 99, np.random.default_rng(0)))) == 1


def test_a_draw_has_its_classes_in_equal_parts(many):
    batch = tokens.draw(many, 10, seed=0, lengths=(4, 6, 9))
    np.testing.assert_array_equal(np.bincount(batch.labels), [5, 5])
    words = np.asarray(batch.inputs[:, 0, 1])
    assert len(set(words.tolist())) == 10
    np.testing.assert_array_equal(batch.labels, (words - 3) % 2)
    smaller = tokens.draw(many, 4, seed=0, lengths=(9,))
    np.testing.assert_array_equal(smaller.inputs[:, 0, 1], words[:4])
    other = tokens.draw(many, 10, seed=1, lengths=(4, 6, 9))
    assert (np.asarray(other.inputs[:, 0, 1]) != words).any()


@pytest.mark.parametrize("size", [0, 26])
def test_refuses_sizes(many, size):
    with pytest.raises(ValueError, match=f"got {size}"):
        tokens.draw(many, size, seed=0)
    with pytest.raises(ValueError, match="at least 1: got 0"):
        list(tokens.batches(many, 0))
