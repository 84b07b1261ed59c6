import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxnas import pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
safetensors = pytest.importorskip("safetensors", reason="the extra `text` is not installed")
numpy_files = pytest.importorskip("safetensors.numpy", reason="the extra `text` is not installed")


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny BERT, to be spoilt."""
    return Path(shutil.copytree(GOLDEN / "tiny_bert", tmp_path / "bert"))


def edit_config(folder, **changes):
    entries = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(entries))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    numpy_files.save_file(change(numpy_files.load_file(path)), path)


def test_bert():
    found = pretrained.load(GOLDEN / "tiny_bert")
    assert found.config == pretrained.EncoderConfig(
        "bert", 24, 8, 3, 2, 12, positions=12, segments=2, initializer_range=0.3
    )
    assert {name: array.shape for name, array in found.weights.items()} == {
        tensor.name: tensor.shape for tensor in pretrained.tensors(found.config)
    }
    assert {array.dtype for array in found.weights.values()} == {np.dtype("float32")}
    stored = numpy_files.load_file(GOLDEN / "tiny_bert" / "model.safetensors")
    # PyTorch keeps the kernel of a linear layer as [outputs, inputs].
    np.testing.assert_array_equal(
        found.weights["layers/layer_01/forward/widen/kernel"],
        stored["encoder.layer.1.intermediate.dense.weight"].T,
    )


def test_roberta_counts_positions_from_two_and_may_lack_a_pooler():
    found = pretrained.load(GOLDEN / "tiny_roberta")
    assert found.config.positions == 14 - 2
    assert found.config.first_position == 2
    assert found.config.activation == "relu"
    stored = numpy_files.load_file(GOLDEN / "tiny_roberta" / "model.safetensors")
    np.testing.assert_array_equal(
        found.weights["embeddings/places"],
        stored["embeddings.position_embeddings.weight"][2:],
    )
    assert "head/pooler/kernel" not in found.weights


def test_a_prefix_old_names_and_narrow_numbers_are_read(folder):
    plain = pretrained.load(folder).weights

    def old(tensors):
        renamed = {"cls.predictions.bias": np.zeros(24, np.float32)}
        for name, array in tensors.items():
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            name = "bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")
            narrow = np.float16 if "layer.0" in name else ml_dtypes.bfloat16
            renamed[name] = array.astype(narrow) if "weight" in name else array
        return renamed

    edit_weights(folder, old)
    read = pretrained.load(folder).weights
    assert read.keys() == plain.keys()
    for name, array in read.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, plain[name], rtol=2**-8)
    assert any((read[name] != plain[name]).any() for name in plain)  # they were narrow


def without(name):
    return lambda tensors: {tensor: array for tensor, array in tensors.items() if tensor != name}


def replaced(name, change):
    return lambda tensors: tensors | {name: change(tensors[name])}


QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without(QUERY), f"must hold every tensor .* got none for {QUERY} and 0 others"),
        (replaced(QUERY, lambda leaf: leaf[:4].copy()), r"\[8, 8\] .* got \[8, 4\]"),
        (replaced(QUERY, lambda leaf: leaf * np.nan), "must be finite"),
        (replaced(QUERY, lambda leaf: leaf.astype(np.int32)), "must be floating: got int32"),
        (
            replaced("embeddings.position_embeddings.weight", lambda leaf: np.array(leaf[0, 0])),
            r"position_embeddings.weight must have the shape .* got \[\]",
        ),
    ],
)
def test_refuses_unfit_weights(folder, change, sentence):
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=sentence):
        pretrained.load(folder)


@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
def test_refuses_numbers_of_eight_bits(folder, name):
    path = folder / "model.safetensors"
    tensors = numpy_files.load_file(path)
    tensors[QUERY] = tensors[QUERY].astype(np.int8)
    content = numpy_files.save(tensors)
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].replace(b'"I8"', f'"{name}"'.encode())
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    with pytest.raises(ValueError, match=f"model.safetensors: {QUERY} must be floating.* {name}"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-100],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"\x80\x04\x95" + content,  # a pickle
        lambda content: b"\xff" * 8 + content,  # a header larger than the file
        lambda content: content.replace(b'"dtype":"F32"', b'"dtype":"F99"', 1),
    ],
)
def test_refuses_a_damaged_file(folder, spoil):
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be read as safetensors: got .* copy it again"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("there", "remedy"),
    [
        ("pytorch_model.bin", "got pytorch_model.bin; a pickle can run any program"),
        ("model.safetensors.index.json", "save the network as one"),
        ("notes.txt", "got nothing; give a folder"),
    ],
)
def test_refuses_other_files(folder, there, remedy):
    (folder / "model.safetensors").rename(folder / there)
    with pytest.raises(FileNotFoundError, match=remedy):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gpt2"}, "bert or roberta: got 'gpt2'"),
        ({"hidden_size": 9}, "heads must divide the width"),
        ({"hidden_size": "8"}, "hidden_size must be an integer above 0: got '8'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer above 0: got 0"),
        ({"position_embedding_type": "relative_key"}, "must be absolute: got 'relative_key'"),
        ({"is_decoder": True}, "is_decoder must be False"),
        ({"layer_norm_eps": [1e-12]}, r"layer_norm_eps must be a number above 0: got \[1e-12\]"),
        ({"layer_norm_eps": None}, "layer_norm_eps must be a number above 0: got None"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be a number above 0: got -1.0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number above 0: got nan"),
        ({"initializer_range": -0.02}, "initializer_range must be a number above 0"),
        ({"hidden_act": None}, "hidden_act must be a name: got None"),
        ({"type_vocab_size": -2}, "type_vocab_size must be an integer above 0: got -2"),
        ({"num_hidden_layers": 10**12}, "every tensor of the 1000000000000 layers"),
        (
            {"model_type": "roberta", "pad_token_id": [1]},
            r"pad_token_id must be an integer above -1: got \[1\]",
        ),
        (
            {"model_type": "roberta", "pad_token_id": -5},
            "pad_token_id must be an integer above -1: got -5",
        ),
    ],
)
def test_refuses_other_networks(folder, changes, sentence):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=sentence):
        pretrained.load(folder)


def test_refuses_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is no JSON: got 'maximum recursion"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object: got list"):
        pretrained.load(tmp_path)
