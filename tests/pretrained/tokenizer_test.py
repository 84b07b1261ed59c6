import json
import shutil
from pathlib import Path

import pytest

from jaxnas import pretrained

BERT = Path(__file__).parents[1] / "golden" / "tiny_bert"
pytest.importorskip("tokenizers", reason="the extra `text` is not installed")


def test_tokens_are_neither_padded_nor_cut_short():
    # The file asks for padding to 12 and for 5 tokens at most.
    tokenizer = pretrained.load_tokenizer(BERT)
    first, second, empty = tokenizer.encode_batch([("The CAT sat", "it is good"), "é 😀 zzz", ""])
    assert first.ids == [2, 9, 10, 11, 3, 14, 15, 16, 3]  # [CLS] the cat sat [SEP] it is good [SEP]
    assert first.type_ids == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert second.ids == [2, 23, 22, 1, 3]
    assert empty.ids == [2, 3]


def test_the_longer_text_of_a_pair_is_cut():
    tokenizer = pretrained.load_tokenizer(BERT, max_length=7)
    (pair,) = tokenizer.encode_batch([("a b c d e a b c d e", "the cat")])
    assert pair.ids == [2, 4, 5, 3, 9, 10, 3]


@pytest.mark.parametrize("max_length", [3, 13])
def test_refuses_lengths_that_the_encoder_has_not(max_length):
    with pytest.raises(ValueError, match=f"from 4 to the 12 positions .* got {max_length}"):
        pretrained.load_tokenizer(BERT, max_length=max_length)


def test_refuses_what_is_no_tokenizer_of_the_encoder(tmp_path):
    folder = Path(shutil.copytree(BERT, tmp_path / "bert"))
    path, config = folder / "tokenizer.json", folder / "config.json"
    plain = config.read_text()
    config.write_text(plain.replace('"vocab_size": 24', '"vocab_size": 23'))
    with pytest.raises(ValueError, match="below vocab_size=23: got 23"):
        pretrained.load_tokenizer(folder)
    config.write_text(plain)
    for damaged in (path.read_text()[:-20], "{}", "[1]"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is no tokenizer: got"):
            pretrained.load_tokenizer(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        pretrained.load_tokenizer(folder)


def test_refuses_a_tokenizer_that_knows_nothing_for_unknown_words(tmp_path):
    folder = Path(shutil.copytree(BERT, tmp_path / "bert"))
    path = folder / "tokenizer.json"
    entries = json.loads(path.read_text())
    entries["model"]["unk_token"] = "[NONE]"
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"tokenizer\.json must say what stands for an unknown"):
        pretrained.load_tokenizer(folder)
    for damaged in (b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer: got"):
            pretrained.load_tokenizer(folder)
