"""PiT, AutoFormer and BERT against a plain function of their weights."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import Batch, Scorer, benchmarks, gradients, spaces
from jaxnas.benchmarks import transformers
from jaxnas.spaces.bert_space import Bert
from jaxnas.spaces.transformer.space import space_of
from jaxnas.types import Statistic

EACH = Statistic(lambda tensor, gradient: gradient)
CLASSES = 3


def _dense(found, x):
    return x @ found["kernel"] + found["bias"]


def _norm(found, x, epsilon):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)
    return scaled * found["scale"] + found["bias"]


def _attention(found, x, heads, present):
    batch, length, width = x.shape
    query, key, value = (
        _dense(found[name], x).reshape(batch, length, heads, -1)
        for name in ("query", "key", "value")
    )
    logits = jnp.einsum("bthc,bshc->bhts", query, key) / (width / heads) ** 0.5
    logits = jnp.where(present[:, None, None], logits, -jnp.inf)
    mixed = jnp.einsum("bhts,bshc->bthc", jax.nn.softmax(logits), value)
    return _dense(found["mix"], mixed.reshape(x.shape))


def _feed_forward(found, x):
    for name in ("widen", "widen_1", "widen_2"):
        x = jax.nn.gelu(_dense(found[name], x), approximate=False) if name in found else x
    return _dense(found["narrow"], x)


def _layers(params, x, heads, present, epsilon, pre_norm=True):
    for tensor, count in zip(params, heads, strict=True):
        for part, norm in (
            (
                functools.partial(_attention, tensor["attention"], heads=count, present=present),
                "attention",
            ),
            (functools.partial(_feed_forward, tensor["forward"]), "forward"),
        ):
            norm = functools.partial(_norm, tensor[norm]["norm"], epsilon=epsilon)
            x = x + part(x=norm(x)) if pre_norm else norm(x + part(x=x))
    return x


def _patches(found, images, stride):
    kernel = found["patches"]["kernel"].reshape(16, 16, 3, -1)
    numbers = ("NHWC", "HWIO", "NHWC")
    patches = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=numbers
    )
    patches = patches.reshape(len(images), -1, kernel.shape[-1]) + found["patches"]["bias"]
    return jnp.broadcast_to(found["token"], (len(images), 1, kernel.shape[-1])), patches


def _pool(found, x):
    side = round((x.shape[1] - 1) ** 0.5)
    patches = x[:, 1:].reshape(len(x), side, side, -1)
    halved = jax.lax.conv_general_dilated(
        patches,
        found["patches"]["kernel"],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=patches.shape[-1],
    )
    halved = (halved + found["patches"]["bias"]).reshape(len(x), -1, halved.shape[-1])
    return jnp.concatenate([_dense(found["token"], x[:, :1]), halved], 1)


def _pit(heads, params, images):
    stages = [params[name] for name in sorted(params)]
    token, patches = _patches(stages[0], images, 8)
    x = jnp.concatenate([token, patches + stages[0]["places"]], 1)
    count = iter(heads)
    present = jnp.ones((len(x), 1), bool)
    for stage in stages[1:-2]:
        if "attention" in stage:
            x = _layers([stage], x, [next(count)], present, 1e-6)
        else:
            x = _pool(stage, x)
    return _dense(stages[-1], _norm(stages[-2], x[:, 0], 1e-6))


def _autoformer(heads, params, images):
    first, *stages = (params[name] for name in sorted(params))
    x = jnp.concatenate(_patches(first, images, 16), 1) + first["places"]
    x = _layers(stages[:-2], x, heads, jnp.ones((len(x), 1), bool), 1e-6)
    return _dense(stages[-1], _norm(stages[-2], x, 1e-6)[:, 1:].mean(1))


def _bert(heads, params, tokens):
    first, *stages = (params[name] for name in sorted(params))
    words, segments = tokens[:, 0], jnp.maximum(tokens[:, 1], 0)
    x = first["words"][words] + first["segments"][segments] + first["places"][: words.shape[1]]
    x = _norm(first["norm"], x, 1e-12)
    x = _dense(first["widen"], x) if "widen" in first else x
    x = _layers(stages[:-2], x, heads, tokens[:, 1] >= 0, 1e-12, pre_norm=False)
    hidden = jax.nn.gelu(_dense(stages[-2], x[:, 0]), approximate=False)
    return _dense(stages[-1], hidden)


def _images(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    return Batch(jnp.asarray(images), jnp.array([0, 2]))


def _texts():
    tokens = np.random.default_rng(0).integers(0, 40, (2, 2, 7))
    tokens[:, 1] = [[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, -1, -1]]
    return Batch(jnp.asarray(tokens, jnp.int32), jnp.array([1, 0]))


def _small_bert():
    return space_of(Bert(classes=CLASSES, vocabulary=40, positions=9))


# Space, architecture, heads of its layers, static network, batch.
CASES = {
    "pit": (
        functools.partial(spaces.pit, image_size=32, classes=CLASSES),
        "base_dim=16,mlp_ratio=2,depth_1=1,depth_2=4,depth_3=2,heads=2/4/4",
        (2, *(4,) * 6),
        _pit,
        _images,
    ),
    "autoformer": (
        functools.partial(spaces.autoformer, image_size=32, classes=CLASSES),
        f"hidden_dim=192,depth=12,mlp_ratio={'-'.join(['3.5', '4.0'] * 7)},"
        f"num_heads={'-'.join(['3', '3', '4'] * 4 + ['3', '3'])}",
        (3, 3, 4) * 4,
        _autoformer,
        _images,
    ),
    "bert": (
        _small_bert,
        "hidden_size=256,layers=2,heads=2-4-2-2,num_feed_forward=3-1-1-1,"
        "feed_forward_dimension=512-512-512-512",
        (2, 4),
        _bert,
        _texts,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A network in this package, the static one, weights and a batch."""
    make, string, heads, static, batch = CASES[request.param]
    space, batch = make(), batch()
    params = space.init(jax.random.key(0), batch.inputs)
    network, params = space.bind(space.from_string(string), params)
    # Larger weights, and none that is zero: else the layers hardly matter.
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda tensor: tensor + jnp.asarray(0.1 * rng.normal(size=tensor.shape), tensor.dtype),
        params,
    )

    def forward(params, inputs):
        with jax.numpy_rank_promotion("allow"):
            return static(heads, params, inputs)

    return network, jax.jit(forward), params, batch


def test_logits_are_those_of_a_static_network(case):
    network, static, params, batch = case
    expected = static(params, batch.inputs)
    assert expected.std() > 0.1
    np.testing.assert_allclose(network(params, batch.inputs).logits, expected, rtol=1e-5, atol=1e-5)


# A whole network of twelve layers compiles for long.
@pytest.mark.parametrize(
    "case", ["pit", pytest.param("autoformer", marks=pytest.mark.slow), "bert"], indirect=True
)
def test_gradients_of_examples_are_those_of_a_loop(case):
    network, static, params, batch = case

    def loss(params, example, label):
        return -jax.nn.log_softmax(static(params, example[None])[0])[label]

    with jax.default_matmul_precision("highest"):
        wanted = {gradients.loss_cotangent: (EACH,)}
        (found,) = gradients.read(network, params, batch, wanted)[gradients.loss_cotangent]
        one = jax.jit(jax.grad(loss))
        expected = [one(params, *example) for example in zip(*batch, strict=True)]
    expected = jax.tree.map(lambda *each: jnp.stack(each), *expected)
    if "00_embeddings" in found:
        for name in ("words", "places", "segments"):  # of which nobody reads the gradient
            assert not found["00_embeddings"].pop(name).any()
            expected["00_embeddings"].pop(name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for each, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-3, atol=4e-6 * largest)


def _of_layer(width, hidden):
    forward = sum((i + 1) * o for i, o in zip((width, *hidden), (*hidden, width), strict=True))
    return 4 * width + 4 * (width + 1) * width + forward


def _pit_params(found, classes, side):
    heads = list(map(int, found["heads"][0].split("/")))
    widths = [found["base_dim"][0] * count for count in heads]
    total = (3 * 16**2 + 1) * widths[0] + widths[0] + side**2 * widths[0]
    for stage, width in enumerate(widths, start=1):
        total += found[f"depth_{stage}"][0] * _of_layer(width, (width * found["mlp_ratio"][0],))
    for before, after in itertools.pairwise(widths):
        total += 9 * after + after + (before + 1) * after
    return total + 2 * widths[2] + (widths[2] + 1) * classes


def _autoformer_params(found, classes, side):
    width, depth = found["hidden_dim"][0], found["depth"][0]
    total = (3 * 16**2 + 1) * width + width + (side**2 + 1) * width
    total += sum(_of_layer(width, (int(width * each),)) for each in found["mlp_ratio"][:depth])
    return total + 2 * width + (width + 1) * classes


def _bert_params(found, classes, side):
    width, depth = found["hidden_size"][0], found["layers"][0]
    total = 128 * (30522 + 512 + 2) + 2 * 128 + (129 * 256 if width == 256 else 0)
    each = zip(found["num_feed_forward"], found["feed_forward_dimension"], strict=True)
    for count, dimension in list(each)[:depth]:
        total += _of_layer(width, (1024, *(dimension,) * (count - 1)))
    return total + (width + 1) * width + (width + 1) * classes


@pytest.mark.parametrize(
    ("name", "formula", "side", "options"),
    [
        ("pit", _pit_params, 27, {"classes": 100}),
        ("pit", _pit_params, 7, {"classes": 10, "image_size": 64}),
        ("autoformer", _autoformer_params, 14, {"classes": 100}),
        ("bert", _bert_params, None, {"classes": 2}),
    ],
)
def test_parameters_are_those_of_the_formula(name, formula, side, options):
    space = getattr(spaces, name)(**options)
    choices = transformers.BY_NAME["nasbench_bert" if name == "bert" else name]
    table = {"pit": benchmarks.pit, "autoformer": benchmarks.autoformer}
    archs = table.get(name, benchmarks.nasbench_bert)().archs[:12]
    expected = [
        formula(transformers.chosen(choices, arch), options["classes"], side) for arch in archs
    ]
    assert [space.num_params(arch) for arch in archs] == expected
    assert [space.from_string(space.to_string(arch)).tolist() for arch in archs] == archs.tolist()


def test_what_nobody_reads_is_no_other_network():
    space = spaces.bert()
    (first,) = (space.from_string(CASES["bert"][1]),)
    other = first.copy()
    other[[3 + 1, 9, 12]] = 1
    np.testing.assert_array_equal(space.representative(first), space.representative(other))
    other[2] = 1
    assert (space.representative(first) != space.representative(other)).any()


def test_what_is_refused():
    space = spaces.pit(image_size=32)
    with pytest.raises(
        ValueError, match=r"This pit reads .*\['B', 32, 32, 3\].*got float32\[2, 16"
    ):
        space.init(jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"^image_size must be an integer from 16"):
        spaces.autoformer(image_size=8)
    with pytest.raises(ValueError, match=r"^classes must be an integer from 2"):
        spaces.bert(classes=1)
    with pytest.raises(ValueError, match="have different shapes and are no one program"):
        Scorer(space, _images(), "mgm", plan="compiled")
    with pytest.raises(ValueError, match="have different shapes: got a traced architecture"):
        jax.vmap(lambda arch: space.bind(arch, None))(jnp.zeros((2, 6), int))
    with pytest.raises(ValueError, match="tokens int32"):
        spaces.bert().init(jax.random.key(0), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"^An architecture is written base_dim=16\|24"):
        space.from_string("base_dim=17")
