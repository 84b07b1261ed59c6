import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas import Batch, as_network, gradients
from jaxnas.proxies import aggregate

COUNT, CLASSES = 4, 3
IMAGES = jax.random.normal(jax.random.key(0), (COUNT, 8, 8, 2))
TOKENS = jax.random.randint(jax.random.key(1), (COUNT, 5), 0, 7)
KERNEL = jax.random.normal(jax.random.key(2), (6, CLASSES))
LABELS = jnp.arange(COUNT) % CLASSES
OTHERS = ["mgm", "gradient_values", "ntk_trace", "naswot", "synflow"]
SCORES = list(
    dict.fromkeys([*aggregate.RECIPES["panel"].parts, *aggregate.RECIPES["az_nas"].parts, *OTHERS])
)


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        images = nn.Conv(3, (3, 3), name="first")(images)
        images = nn.relu(nn.BatchNorm(not train, momentum=0.99, name="norm")(images))
        images = nn.silu(nn.Conv(4, (3, 3), strides=2, name="second")(images))
        features = nn.Dropout(0.5, deterministic=not train)(images.mean((1, 2)))
        return nn.Dense(CLASSES, name="last")(features)


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.second = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, images):
        images = nnx.relu(self.norm(self.first(images)))
        images = nnx.silu(self.second(images))
        return self.last(self.dropout(images.mean((1, 2))))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        images = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(images)))
        for _ in range(2):
            inner = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(images)))
            images = nn.relu(images + nn.GroupNorm(2)(nn.Conv(4, (3, 3))(inner)))
        return nn.Dense(CLASSES)(images.mean((1, 2)))


class Encoder(nn.Module):
    """A text encoder on pairs of tokens and their mask, its layers in a scan with boxed kernels."""

    @nn.compact
    def __call__(self, inputs, train=True):
        tokens, mask = inputs["tokens"], inputs["mask"][:, None, None, :] > 0
        words = nn.LayerNorm()(nn.Embed(7, 4)(tokens))
        layer = nn.scan(
            nn.remat(_Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=2,
            metadata_params={nn.PARTITION_NAME: None},
        )
        words, _ = layer(train)(words, mask, None)
        return nn.Dense(CLASSES)(words[:, 0])


class _Layer(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, words, mask, _):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
        normal = nn.LayerNorm()(words)
        words = words + nn.MultiHeadDotProductAttention(2)(normal, mask=mask)
        hidden = nn.gelu(nn.Dense(8, kernel_init=boxed)(nn.LayerNorm()(words)))
        words = words + nn.Dropout(0.5, deterministic=not self.train)(nn.Dense(4)(hidden))
        return words, None


def _linen_cnn(train):
    variables = LinenCNN().init({"params": jax.random.key(0)}, IMAGES, False)
    return (*as_network(LinenCNN(), variables, train=train), IMAGES)


def _nnx_cnn(train):
    """The same network as linen's."""
    model = NnxCNN(nnx.Rngs(0))
    params = LinenCNN().init({"params": jax.random.key(0)}, IMAGES, False)["params"]
    for name, tensors in params.items():
        for tensor, value in tensors.items():
            getattr(getattr(model, name), tensor)[...] = value
    if not train:
        model.eval()
    return (*as_network(model), IMAGES)


def _resnet():
    return (*as_network(ResNet(), ResNet().init(jax.random.key(0), IMAGES)), IMAGES)


def _encoder():
    inputs = {"tokens": TOKENS, "mask": jnp.ones_like(TOKENS).at[:2, 4].set(0)}
    return (*as_network(Encoder(), Encoder().init(jax.random.key(0), inputs, False)), inputs)


def _equinox_vit():
    eqx = pytest.importorskip("equinox")

    class ViT(eqx.Module):
        patches: Any
        norms: list
        attention: Any
        layers: list
        dropout: Any
        last: Any

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.patches = eqx.nn.Conv2d(2, 4, 4, 4, key=keys[0])
            self.norms = [eqx.nn.LayerNorm(4), eqx.nn.LayerNorm(4)]
            self.attention = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.5, key=keys[1])
            self.layers = [
                eqx.nn.Linear(4, 8, key=keys[2]),
                eqx.nn.Linear(8, 4, key=keys[3]),
            ]
            self.dropout = eqx.nn.Dropout(0.5)
            self.last = eqx.nn.Linear(4, CLASSES, key=keys[4])

        def __call__(self, image, key):
            words = self.patches(image).reshape(4, -1).T
            normal = jax.vmap(self.norms[0])(words)
            words = words + self.attention(normal, normal, normal, key=key)
            hidden = jax.nn.gelu(jax.vmap(self.layers[0])(jax.vmap(self.norms[1])(words)))
            words = words + self.dropout(jax.vmap(self.layers[1])(hidden), key=key)
            return self.last(words.mean(0))

    return (*as_network(ViT(jax.random.key(0))), IMAGES.transpose(0, 3, 1, 2))


def _equinox_cnn():
    """With a BatchNorm in training mode, and its state."""
    eqx = pytest.importorskip("equinox")

    class CNN(eqx.Module):
        first: Any
        norm: Any
        second: Any
        last: Any

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.Conv2d(2, 3, 3, padding=1, key=keys[0])
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
            self.second = eqx.nn.Conv2d(3, 4, 3, 2, padding=1, key=keys[1])
            self.last = eqx.nn.Linear(4, CLASSES, key=keys[2])

        def __call__(self, image, state):
            image, state = self.norm(self.first(image), state)
            image = jax.nn.relu(self.second(jax.nn.relu(image)))
            return self.last(image.mean((1, 2))), state

    model, state = eqx.nn.make_with_state(CNN)(jax.random.key(0))
    return (*as_network(model, state), IMAGES.transpose(0, 3, 1, 2))


def _equinox_mlp():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(6, CLASSES, 16, 3, key=jax.random.key(0))
    return (*as_network(model), IMAGES[:, 0, :3].reshape(COUNT, 6))


def _haiku_cnn(train=False):
    hk = pytest.importorskip("haiku")

    def network(images, train):
        images = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(3, 3)(images), train)
        images = jax.nn.relu(hk.Conv2D(4, 3, stride=2)(jax.nn.relu(images)))
        return hk.Linear(CLASSES)(images.mean((1, 2)))

    pair = hk.transform_with_state(network)
    variables = pair.init(jax.random.key(0), IMAGES, True)
    return (*as_network(pair, variables, train=train), IMAGES)


ALONE = {
    "linen CNN": lambda: _linen_cnn(train=False),
    "ResNet": _resnet,
    "encoder": _encoder,
    "Equinox ViT": _equinox_vit,
    "Equinox MLP": _equinox_mlp,
    "Haiku CNN": _haiku_cnn,
}


def _assert_finite(scores):
    assert np.isfinite(list(scores.values())).all(), scores


@pytest.mark.parametrize("case", ALONE)
def test_every_score_of_every_model(case):
    network, params, inputs = ALONE[case]()
    scores = jaxnas.score(network, params, (inputs, LABELS), SCORES)
    _assert_finite(scores)

    # The gradients of examples, by a loop over them.
    def gradient(example, label, of):
        def value(params):
            logits = gradients.outputs(network, params, example).logits
            loss = gradients.cross_entropy(logits, label)
            return {"loss": loss, "logit": logits[:, label[0]]}[of].sum()

        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(value)(params))])

    examples = [
        (jax.tree.map(lambda leaf, at=at: leaf[at : at + 1], inputs), LABELS[at : at + 1])
        for at in range(COUNT)
    ]
    for of, name in (("loss", "mgm"), ("logit", "ntk_trace")):
        rows = np.stack([gradient(*example, of) for example in examples]).astype(np.float64)
        kernel = rows @ rows.T
        expected = kernel.mean() if of == "loss" else np.sqrt(np.diag(kernel).mean())
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_one_network_of_two_libraries_has_one_score(train):
    found, other = (
        jaxnas.score(network, params, (inputs, LABELS), SCORES)
        for network, params, inputs in (_linen_cnn(train), _nnx_cnn(train))
    )
    _assert_finite(found)
    assert other == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("make", [lambda: _nnx_cnn(train=True), _equinox_cnn])
def test_contributions_of_examples_sum_to_the_gradient_of_the_batch(make):
    network, params, inputs = make()
    batch, of = Batch(inputs, LABELS), gradients.loss_cotangent
    each = gradients.Statistic(lambda tensor, leaf: leaf)
    kept, summed = gradients.read(network, params, batch, {of: (each, gradients.GRADIENT)})[of]
    for leaf, total in zip(jax.tree.leaves(kept), jax.tree.leaves(summed), strict=True):
        assert np.abs(leaf).sum() > 0
        np.testing.assert_allclose(leaf.sum(0), total, rtol=1e-3, atol=1e-5)
    assert "coupled by batch statistics" in network.summary(params, inputs)


def test_coupled_examples_are_refused():
    network, params, inputs = _haiku_cnn(train=True)
    batch = (inputs, LABELS)
    _assert_finite(jaxnas.score(network, params, batch, ["snip", "naswot"]))
    for _ in range(2):
        with pytest.raises(ValueError, match="examples that do not see each other"):
            jaxnas.score(network, params, batch, "gradient_values")
    assert "no scores of single examples" in network.summary(params, inputs)

    # Mixed by hand, in a function.
    def mixed(params, x):
        return (x + x[::-1]) @ params

    with pytest.raises(ValueError, match="examples that do not see each other"):
        jaxnas.score(mixed, KERNEL, (jnp.eye(4, 6), LABELS), "gradient_values")


class Centered(nn.Module):
    """Couples the examples in a layer that nobody knows."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x))
        return nn.Dense(CLASSES)(x - x.mean(0, keepdims=True))


def test_a_linen_module_that_centers_by_hand_is_refused():
    x = jax.random.normal(jax.random.key(3), (COUNT, 6))
    network, params = as_network(Centered(), Centered().init(jax.random.key(0), x))
    with pytest.raises(ValueError, match="examples that do not see each other"):
        jaxnas.score(network, params, (x, LABELS), "gradient_values")
    assert np.isfinite(jaxnas.score(network, params, (x, LABELS), "snip")["snip"])


@pytest.mark.parametrize("name", ["jacob_cov", "epe_nas", "zen"])
def test_scores_that_move_the_inputs_refuse_tokens(name):
    network, params, inputs = _encoder()
    with pytest.raises(ValueError, match="got tokens; score"):
        jaxnas.score(network, params, (inputs, LABELS), name)


def test_random_numbers_couple_no_examples():
    def noisy(params, x):
        return x @ params + jax.random.normal(jax.random.key(0), (len(x), 1))

    scores = jaxnas.score(
        noisy, jnp.ones((6, CLASSES)), (jnp.eye(4, 6), LABELS), ["gradient_values"]
    )
    _assert_finite(scores)


def test_the_summary():
    network, params, inputs = _resnet()
    assert network.summary(params, inputs).splitlines() == [
        "6 layers in 4 blocks, 22 tensors of 723 parameters",
        "normalizations: 5 by statistics of activations",
        "activations: 5 relu",
        "classes: 3",
        "examples: each alone",
    ]
    assert "summary(params, inputs)" in repr(network)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, lambda: nn.GroupNorm(1)])
def test_a_normalization_that_nobody_reads_changes_no_code(norm):
    class Normalized(nn.Module):
        way: str

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(16, name="first")(x))
            if self.way == "unused":
                norm()(x)
            if self.way == "used":
                x = x + 0 * norm()(x)
            return nn.Dense(CLASSES, name="last")(nn.relu(nn.Dense(16, name="second")(x)))

    x = jax.random.normal(jax.random.key(2), (COUNT, 6))
    scores = []
    for way in ("none", "unused", "used"):
        network, params = as_network(Normalized(way), Normalized(way).init(jax.random.key(0), x))
        scores.append(jaxnas.score(network, params, (x, LABELS), ["naswot", "swap"]))
    assert scores[0] == scores[1] == scores[2]
    _assert_finite(scores[0])


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, lambda: nn.GroupNorm(1)])
def test_a_network_of_nothing_but_layers_and_normalizations_has_no_activation(norm):
    model = nn.Sequential([nn.Dense(8), norm(), nn.Dense(CLASSES)])
    x = jax.random.normal(jax.random.key(2), (COUNT, 6))
    network, params = as_network(model, model.init(jax.random.key(0), x))
    for name in ("naswot", "swap", "channel_independence"):
        with pytest.raises(ValueError, match=r"activations.*: got a network without"):
            jaxnas.score(network, params, (x, LABELS), name)


def test_what_is_not_trained_stays_in_the_network():
    params = {"table": jnp.arange(12).reshape(4, 3), "kernel": jnp.ones((3, CLASSES))}
    network, trained = as_network(
        lambda params, x: params["table"][x].sum(1) @ params["kernel"], params
    )
    assert jax.tree.map(jnp.shape, trained) == {"table": None, "kernel": (3, CLASSES)}
    np.testing.assert_array_equal(network(trained, jnp.array([[1, 2]])), [[33] * CLASSES])


def test_a_bound_linen_module_and_a_key_for_dropout():
    variables = LinenCNN().init({"params": jax.random.key(0)}, IMAGES, False)
    bound, params = as_network(LinenCNN().bind(variables), train=False)
    network, _ = as_network(LinenCNN(), variables, train=False)
    np.testing.assert_array_equal(bound(params, IMAGES), network(params, IMAGES))
    quiet, noisy = (
        as_network(LinenCNN(), variables, train=True, rngs=rngs)[0](params, IMAGES)
        for rngs in ({}, {"dropout": jax.random.key(1)})
    )
    assert not np.allclose(quiet, noisy)


class _Ported:
    """What a Flax model of Hugging Face looks like."""

    def __init__(self, module, params):
        self.module, self.params = module, params

    def __call__(self, tokens, mask, params, train):
        class Result:
            logits = self.module.apply({"params": params}, {"tokens": tokens, "mask": mask}, train)

        return Result


def test_a_hugging_face_model():
    found, params, inputs = _encoder()
    network, given = as_network(_Ported(found.module, params))
    np.testing.assert_allclose(network(given, inputs), found(params, inputs), rtol=1e-6)


class _PortedCNN(_Ported):
    """One with a BatchNorm, whose `params` are all of its variables."""

    def __call__(self, images, params, train):
        class Result:
            logits = self.module.apply(params, images, train)

        return Result


def test_statistics_of_a_hugging_face_model_are_not_trained():
    variables = LinenCNN().init({"params": jax.random.key(0)}, IMAGES, False)
    network, params = as_network(_PortedCNN(LinenCNN(), variables))
    assert params.keys() == {"first", "norm", "second", "last"}
    np.testing.assert_array_equal(
        network(params, IMAGES), LinenCNN().apply(variables, IMAGES, False)
    )


def test_a_network_ends_with_its_programs():
    alive = []
    for make in (_resnet, lambda: _nnx_cnn(train=True)):
        network, params, inputs = make()
        jaxnas.score(network, params, (inputs, LABELS), ["mgm", "naswot", "snip"])
        alive.append(weakref.ref(network))
        del network
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.parametrize(
    ("args", "options", "sentence"),
    [
        ((nn.Dense,), {}, "got the class Dense; pass an instance"),
        ((3,), {}, "got int; pass an instance"),
        ((nn.Dense(2),), {}, "needs all of its variables: got NoneType"),
        ((nn.Dense(2), {"kernel": 0}), {}, r"got \['kernel'\]; pass what"),
        ((nn.Dense(2), {"params": {}}), {"mutable": True}, "got mutable; leave it out"),
        ((nn.Dense(2), {"params": {}}), {"max_bytes": 0}, "max_bytes must be an integer from 1"),
        ((nnx.Linear(2, 2, rngs=nnx.Rngs(0)), {}), {}, "an nnx module are in the model: got dict"),
        ((lambda params, x: x,), {}, "A function needs its parameters"),
    ],
)
def test_what_is_no_model_is_refused(args, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_network(*args, **options)
