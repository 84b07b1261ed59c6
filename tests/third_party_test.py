"""Models of other packages, as they are: every score is finite, and some equal a plain loop.

What needs a package that is not installed is skipped; `pip install -e .[third-party]` has all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.proxies import aggregate

# What other packages warn of when they are imported or called is for them to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

COUNT, CLASSES, WORDS, LENGTH = 3, 3, 11, 6
IMAGES = jax.random.normal(jax.random.key(0), (COUNT, 16, 16, 3))
TOKENS = jax.random.randint(jax.random.key(1), (COUNT, LENGTH), 0, WORDS)
LABELS = jnp.arange(COUNT) % CLASSES
PANEL = aggregate.RECIPES["panel"].parts
SCORES = [*PANEL, "mgm", "gradient_values", "ntk_trace", "naswot", "synflow"]


@pytest.fixture(autouse=True)
def their_ranks():
    """They add a bias to features as NumPy does, which our tests forbid to us."""
    with jax.numpy_rank_promotion("allow"):
        yield


def _resnet(size):
    """A ResNet in linen, of few channels; its BatchNorms are in training mode."""
    models = pytest.importorskip("jax_resnet")
    model = getattr(models, f"ResNet{size}")(n_classes=CLASSES, hidden_sizes=(4, 4, 8, 8))
    return (*jaxnas.as_network(model, model.init(jax.random.key(0), IMAGES)), IMAGES)


def _equimo_vit():
    models = pytest.importorskip("equimo.models")
    model = models.VisionTransformer(
        16, 3, 8, 4, 2, [2], num_classes=CLASSES, key=jax.random.key(0)
    )
    return (*jaxnas.as_network(model), IMAGES.transpose(0, 3, 1, 2))


def _haiku_mobilenet(use_bn=True):
    hk = pytest.importorskip("haiku")

    def network(images, is_training=False):
        return hk.nets.MobileNetV1((1, 2), (8, 16), CLASSES, use_bn)(images, is_training)

    pair = hk.transform_with_state(network)
    return (*jaxnas.as_network(pair, pair.init(jax.random.key(0), IMAGES, True)), IMAGES)


def _haiku_resnet():
    hk = pytest.importorskip("haiku")

    def network(images, is_training=False):
        sizes = {"channels_per_group": (4, 4, 8, 8), "logits_config": {"w_init": None}}
        model = hk.nets.ResNet((1, 1, 1, 1), CLASSES, bottleneck=False, **sizes)
        return model(images, is_training)

    pair = hk.transform_with_state(network)
    return (*jaxnas.as_network(pair, pair.init(jax.random.key(0), IMAGES, True)), IMAGES)


def _hugging_face(kind, config, **options):
    """A model of a configuration of this few layers; nothing is downloaded."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    if not hasattr(transformers, kind):
        pytest.skip("this release of transformers has no Flax")
    found = getattr(transformers, config)
    return jaxnas.as_network(getattr(transformers, kind)(found(**options)))


def _bert():
    sizes = {"vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 2, "num_labels": CLASSES}
    heads = {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": LENGTH}
    mask = jnp.ones_like(TOKENS).at[0, 4:].set(0)
    inputs = {"input_ids": TOKENS, "attention_mask": mask}
    model = _hugging_face("FlaxBertForSequenceClassification", "BertConfig", **sizes, **heads)
    return (*model, inputs)


def _gpt2():
    sizes = {"vocab_size": WORDS, "n_positions": LENGTH, "n_embd": 8, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return (*_hugging_face("FlaxGPT2LMHeadModel", "GPT2Config", **sizes, **ends), TOKENS)


def _vit():
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "intermediate_size": 16, "num_labels": CLASSES}
    model = _hugging_face("FlaxViTForImageClassification", "ViTConfig", **sizes, **heads)
    return (*model, IMAGES.transpose(0, 3, 1, 2))


def _hugging_face_resnet():
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    kind = "FlaxResNetForImageClassification"
    model = _hugging_face(kind, "ResNetConfig", **sizes, num_labels=CLASSES)
    return (*model, IMAGES.transpose(0, 3, 1, 2))


CASES = {
    "ResNet-18 of jax-resnet": lambda: _resnet(18),
    "ResNet-50 of jax-resnet": lambda: _resnet(50),
    "ViT of equimo": _equimo_vit,
    "MobileNetV1 of Haiku": _haiku_mobilenet,
    "ResNet of Haiku": _haiku_resnet,
    "BERT of Hugging Face": _bert,
    "GPT-2 of Hugging Face": _gpt2,
    "ViT of Hugging Face": _vit,
    "ResNet of Hugging Face": _hugging_face_resnet,
}


def _gradients(network, params, inputs, labels, of):
    """The gradient of the loss, or of the logit of the label: the mean over these examples."""

    def value(params):
        logits = network(params, inputs)
        values = {"loss": -jax.nn.log_softmax(logits), "logit": logits}[of]
        return jnp.take_along_axis(values, labels[..., None], -1).mean()

    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(value)(params))])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_score_of_a_model_of_another_package(case):
    network, params, inputs = CASES[case]()
    is_sequence = case.startswith("GPT-2")
    labels = TOKENS if is_sequence else LABELS
    task = {"loss": "cross_entropy"} if is_sequence else {}
    names = [name for name in SCORES if not is_sequence or name != "ntk_trace"]
    if is_sequence:
        with pytest.raises(ValueError, match="reads class numbers, one an example"):
            jaxnas.score(network, params, (inputs, labels), "ntk_trace", **task)
    scores = jaxnas.score(network, params, (inputs, labels), names, **task)
    assert np.isfinite(list(scores.values())).all(), scores

    # The gradient of the batch, whether or not its examples see each other.
    total = _gradients(network, params, inputs, labels, "loss").astype(np.float64)
    # In float32 the gradient of a ResNet is known to 4e-5: compiled or not, or summed in another
    # order, as convolutions are here.
    rtol = 1e-4 if "ResNet" in case else 1e-5
    np.testing.assert_allclose(scores["mgm"], total @ total, rtol=rtol)

    # The gradients of the examples, by a loop over them.
    if "coupled" in network.summary(params, inputs):
        return
    for of, name in (("loss", "gradient_values"), ("logit", "ntk_trace")):
        if name in names:
            squares = []
            for at in range(COUNT):
                one = jax.tree.map(lambda leaf, at=at: leaf[at : at + 1], (inputs, labels))
                squares.append(np.square(_gradients(network, params, *one, of), dtype=float).sum())
            found = scores[name] if of == "loss" else scores[name] ** 2
            np.testing.assert_allclose(found, np.mean(squares), rtol=rtol)


def test_activations_and_flow_are_those_of_a_plain_run(monkeypatch):
    network, params, images = _haiku_mobilenet(use_bn=False)
    names = ["naswot", "swap", "synflow"]
    scores = jaxnas.score(network, params, (images, LABELS), names)

    codes, relu = [], jax.nn.relu

    def watched(x):
        codes.append(np.asarray(x > 0).reshape(COUNT, -1))
        return relu(x)

    with monkeypatch.context() as patched:
        patched.setattr(jax.nn, "relu", watched)
        network(params, images)
    bits = np.concatenate(codes, 1)
    assert len(codes) == 5
    agreement = (bits[:, None] == bits[None]).sum(-1)
    np.testing.assert_allclose(scores["naswot"], np.linalg.slogdet(agreement)[1], rtol=1e-5)
    assert scores["swap"] == len(np.unique(bits, axis=1).T)

    magnitudes = jax.tree.map(jnp.abs, params)
    ones = jnp.ones_like(images[:1])
    flow = jax.grad(lambda params: network(params, ones).sum())(magnitudes)
    terms = [
        np.abs(leaf * change).sum()
        for leaf, change in zip(jax.tree.leaves(magnitudes), jax.tree.leaves(flow), strict=True)
        if leaf.ndim > 1
    ]
    np.testing.assert_allclose(scores["synflow"], np.log(sum(terms)), rtol=1e-5)
