import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import Batch, gradients
from jaxnas.network.operations import describe
from jaxnas.spaces.mobilenetv2_space import (
    BY_LAYOUT,
    IDENTITY,
    BlockPlace,
    Candidate,
    Layout,
    SearchedNetwork,
    Stage,
    costs,
    layers,
    mobilenetv2,
)
from jaxnas.spaces.mobilenetv2_space.layout import CANDIDATES, resolve
from jaxnas.types import PerExampleDifferentiable, Statistic

TINY = Layout(
    image_size=8,
    stem=2,
    stem_stride=1,
    first=3,
    stages=(Stage(3, 2, 1), Stage(4, 2, 2)),
    head=6,
    candidates=(Candidate(3, 2), Candidate(3, 1)),
    optional=(IDENTITY,),
)
FLAT = TINY._replace(first=0, head=0, optional=(), candidates=(IDENTITY, Candidate(3, 2)))
KEY = jax.random.key(0)
# Both candidates, both kinds of layers, and the identity.
ARCHS = [(0, 1, 1, 2), (1, 2, 0, 0)]


def _images(pixels=8, colors=3):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(3, pixels, pixels, colors)), jnp.float32)


@functools.cache
def _setting(layout=TINY, norm="batch", bypass="identity"):
    """A space, and weights whose scales and biases are no ones and zeros, drawn by NumPy."""
    space = mobilenetv2(layout, norm=norm, bypass=bypass)
    shapes = jax.eval_shape(space.init, KEY, _images())
    rng = np.random.default_rng(0)

    def draw(shape):
        if len(shape.shape) == 1:
            return jnp.asarray(rng.normal(1, 0.3, shape.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, 0.6, shape.shape), jnp.float32)

    return space, jax.tree.map(draw, shapes)


# Costs.


def _costs(layout, **options):
    return costs(SearchedNetwork(layout=layout, **options))


def _macs(candidate, layer):
    size = layer.image_size
    images = jax.ShapeDtypeStruct((1, size, size, layer.inputs), jnp.float32)
    return describe(candidate.operation(layer), (images,), "batch").macs


def test_published_flops_of_a_layer():
    # 3 * 24² * 112² + (72 * 9 + 72 * 32) * 56² = 21,676,032 + 9,257,472
    layer = BlockPlace(24, 32, 2, 112, CANDIDATES)
    assert _macs(Candidate(3, 3), layer) == 30_933_504
    assert layers(BY_LAYOUT["spos"])[0] == layer


def test_published_flops_of_what_is_fixed():
    layout = BY_LAYOUT["spos"]
    stem = 9 * 3 * 40 * 112**2
    assert stem + _macs(Candidate(3, 1), BlockPlace(40, 24, 1, 112, ())) == 30_105_600
    # The published table counts the products and the sums of the classifier, 1728 + 1727 a class.
    head = 40_033_304 - 1727 * 1000
    assert _costs(layout, classes=1000).fixed.macs == 30_105_600 + head


@pytest.mark.parametrize(
    ("name", "depth", "macs", "params"),
    [
        ("spos", 21, (461, 1037), (5.15, 8.38)),
        ("fairnas", 19, (247, 557), (3.19, 5.09)),
    ],
)
def test_published_ranges(name, depth, macs, params):
    table = _costs(BY_LAYOUT[name], classes=1000)
    ends = np.array([[0] * depth, [5] * depth])
    np.testing.assert_array_equal(np.round(table.num_macs(ends) / 1e6), macs)
    np.testing.assert_array_equal(np.round(table.num_params(ends) / 1e6, 2), params)


def test_published_network():
    layout = resolve(BY_LAYOUT["spos"]._replace(optional=(IDENTITY,)))
    space = mobilenetv2(layout, classes=1000)
    arch = space.from_string("3,-1,0,4,0,-1,-1,0,4,-1,4,4,1,4,2,0,0,4,0,2,2")
    macs = _costs(layout, classes=1000).num_macs(arch)
    assert round(macs / 1e6, 1) == 471.8
    assert math.floor((macs + 1727 * 1000) / 1e5) == 4735  # with the sums of the classifier
    assert round(space.num_params(arch) / 1e6, 2) == 5.23
    assert space.num_choices == tuple(6 if i in (0, 4, 8, 12, 16, 20) else 7 for i in range(21))


@pytest.mark.parametrize("name", list(BY_LAYOUT))
def test_layouts_by_name(name):
    layout = resolve(name)
    depths = {"spos": 21, "fairnas": 19, "isometric": 20, "img32": 20, "smoke32": 8, "digits": 8}
    searched = layers(layout)
    assert len(searched) == depths[name]
    last = {"spos": 7, "fairnas": 7, "isometric": 7, "img32": 4, "smoke32": 8, "digits": 4}
    assert searched[-1].image_size // searched[-1].stride == last[name]
    assert [i for i, layer in enumerate(searched) if layer.stride == 2] == {
        "spos": [0, 4, 8, 16],
        "fairnas": [0, 2, 6, 14],
        "isometric": [0, 4, 8, 16],
        "img32": [4, 8, 16],
        "smoke32": [3, 6],
        "digits": [4],
    }[name]
    changing = [i for i, each in enumerate(searched) if each.stride == 1 and not each.is_plain]
    assert changing == {"spos": [12, 20], "fairnas": [10, 18], "isometric": [12]}.get(
        name, [12] if name == "img32" else []
    )


@pytest.mark.parametrize("layout", [TINY, FLAT])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("bypass", ["identity", "norm"])
def test_parameters_are_those_that_are_bound(layout, norm, bypass):
    space, params = _setting(layout, norm, bypass)
    for arch in ([0] * 4, [1, 1, 1, 1], [len(layer.candidates) - 1 for layer in layers(layout)]):
        read = space.bind(arch, params)[1]
        count = sum(math.prod(tensor.shape) for tensor in jax.tree.leaves(read))
        assert space.num_params(arch) == count


def test_costs_of_a_traced_architecture():
    table = _costs(TINY)
    archs = np.array(ARCHS)
    traced = jax.jit(jax.vmap(table.num_macs))(archs)
    np.testing.assert_array_equal(traced, table.num_macs(archs))


# The network.


class _Oracle(nn.Module):
    """The same network, in Flax's own layers, from the same numbers."""

    layout: Layout
    bypass: str

    @nn.compact
    def __call__(self, arch, params, x):
        def norm(found, x):
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            scaled = found["scale"] / jnp.sqrt(var + 1e-5)
            return (x - mean[None, None, None]) * scaled[None, None, None] + found["bias"][
                None, None, None
            ]

        def conv(found, x, stride=1, groups=1):
            size = found["kernel"].shape[0]
            layer = nn.Conv(
                found["kernel"].shape[3],
                (size, size),
                (stride, stride),
                padding=size // 2,
                feature_group_count=groups,
                use_bias=False,
            )
            kernel = {"params": {"kernel": found["kernel"]}}
            return norm(found, layer.clone(parent=None).apply(kernel, x))

        def act(x):
            return jnp.clip(x, 0, 6)

        def block(found, x, stride):
            if "expand" in found:
                x = act(conv(found["expand"], x))
            if "depthwise" in found:
                x = act(conv(found["depthwise"], x, stride, x.shape[-1]))
                stride = 1
            return conv(found["project"], x, stride)

        found = [params[name] for name in sorted(params)]
        x = act(conv(found[0], x, self.layout.stem_stride))
        if self.layout.first:
            x = block(found[1], x, 1)
        for decision, weights, layer in zip(
            arch, found[-2 - len(arch) :], self.place(), strict=False
        ):
            candidate = layer.candidates[decision]
            if candidate == IDENTITY and layer.is_plain:
                outputs = 0
            else:
                outputs = block(weights[candidate.name], x, layer.stride)
            if layer.is_plain:
                outputs += norm(weights["bypass"], x) if self.bypass == "norm" else x
            x = outputs
        if self.layout.head:
            features = act(conv(found[-2], x)).mean((1, 2))
        else:
            features = act(norm(found[-2], x)).reshape(len(x), -1)
        return features @ found[-1]["kernel"] + found[-1]["bias"][None]

    def place(self):
        return layers(self.layout)


@pytest.mark.parametrize(
    ("layout", "bypass", "arch"),
    [(TINY, "identity", ARCHS[0]), (TINY, "norm", ARCHS[1]), (FLAT, "identity", (1, 0, 0, 1))],
)
def test_network_agrees_with_flax(layout, bypass, arch):
    space, params = _setting(layout, bypass=bypass)
    network, read = space.bind(arch, params)
    oracle = _Oracle(layout, bypass).apply({}, arch, params, _images())
    outputs = network(read, _images())
    np.testing.assert_allclose(outputs.logits, oracle, rtol=1e-3, atol=1e-4)
    weights = [read[name] for name in sorted(read)][-1]
    np.testing.assert_allclose(
        outputs.features @ weights["kernel"] + weights["bias"][None], outputs.logits, atol=1e-5
    )


def test_its_stages_are_the_network():
    space, params = _setting()
    network, read = space.bind(np.array(ARCHS[0]), params)
    x, outputs = (_images(),), []
    for stage in network.stages(read, _images(), ()):
        x = stage(x).outputs
        outputs.append(x)
    np.testing.assert_allclose(x[0], network(read, _images()).logits, rtol=1e-5, atol=1e-5)
    assert len(outputs) == len(ARCHS[0]) + 4  # stem, first block, head and classifier
    x = (_images(),)
    for stage in network.stages(read, _images(), (), normalized=False):
        x = stage(x).outputs
    assert not np.allclose(x[0], outputs[-1][0])


def test_its_stages_show_what_the_activations_read():
    space, params = _setting()
    network, read = space.bind(np.array(ARCHS[0]), params)
    x, shown = (_images(),), []
    for stage in network.stages(read, _images(), ()):
        passed = stage(x)
        x = passed.outputs
        shown.append([each.value.shape for each in passed.shown if each.kind == "preactivation"])
    # The stem; the filters of two blocks without expansion, both of two with one; the head.
    expected = [[2], [2], [6, 6], [3], [3], [], [6], []]
    assert [[shape[-1] for shape in each] for each in shown] == expected


def _square(tensor, gradient):
    return jnp.square(gradient).sum()


def _same(tensor, gradient):
    return gradient


SQUARE, EACH, TOTAL = Statistic(_square), Statistic(_same), Statistic(_same, per_example=False)


@pytest.mark.parametrize("norm", ["instance", "eval", "none"])
def test_gradients_of_examples_one_by_one(norm):
    space, params = _setting(norm=norm)
    network, read = space.bind(np.array(ARCHS[1]), params)
    assert isinstance(network, PerExampleDifferentiable)
    batch = Batch(_images(), jnp.array([0, 2, 1]))
    out, pullback = network.per_example_vjp(read, batch.inputs, (SQUARE, TOTAL))
    cotangent = gradients.loss_cotangent(out.logits, batch.labels)
    squares, sums = pullback(cotangent, (SQUARE, TOTAL))
    # A function brings no pullback of its own.
    alone = gradients.per_example_gradients(lambda p, x: network(p, x), read, batch)
    for one, summed, expected in zip(*map(jax.tree.leaves, (squares, sums, alone)), strict=True):
        np.testing.assert_allclose(one, jnp.square(expected).sum(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(summed, expected.sum(0), rtol=1e-3, atol=1e-4)


def test_gradients_of_examples_that_a_batch_couples():
    """Each example's part of the gradient of the batch: its input times the error, by layer."""
    space, params = _setting(bypass="norm")
    network, read = space.bind(np.array(ARCHS[1]), params)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 10)), jnp.float32)
    _, pullback = network.per_example_vjp(read, _images(), (EACH,))
    (each,) = pullback(weights, (EACH,))
    total = jax.grad(lambda p: (network(p, _images()).logits * weights).sum())(read)
    for found, expected in zip(jax.tree.leaves(each), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(found.sum(0), expected, rtol=1e-3, atol=1e-3)
    # With weights for each example in its place, a kernel's gradient is its contribution.
    (stem,) = (read["00_stem"],)
    stages = network.stages(read, _images(), ())

    def from_stem(kernels):
        x = jnp.concatenate(
            [
                jax.lax.conv_general_dilated(
                    image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                for image, kernel in zip(_images(), kernels, strict=True)
            ]
        )
        mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        x = (x - mean) / jnp.sqrt(var + 1e-5) * stem["scale"][None, None, None]
        x = (jnp.clip(x + stem["bias"][None, None, None], 0, 6),)
        for stage in stages[1:]:
            x = stage(x).outputs
        return (x[0] * weights).sum()

    kernels = jnp.stack([stem["kernel"]] * 3)
    np.testing.assert_allclose(
        each["00_stem"]["kernel"], jax.grad(from_stem)(kernels), rtol=1e-3, atol=1e-3
    )


def test_modes_differ_by_example():
    found = {}
    for norm in ("batch", "instance", "eval", "none"):
        space, params = _setting(norm=norm)
        network, read = space.bind(np.array(ARCHS[0]), params)
        _, pullback = network.per_example_vjp(read, _images(), (SQUARE,))
        (kept,) = pullback(jnp.ones((3, 10)), (SQUARE,))
        found[norm] = float(kept["02_layer"]["k3_e2"]["project"]["kernel"])
    for first, second in itertools.combinations(found.values(), 2):
        assert abs(first - second) > 0.01 * second


def test_traced_and_concrete_architectures_are_one_network():
    stages = (Stage(3, 1, 1), Stage(4, 1, 2))
    layout = FLAT._replace(stages=stages, stem=3, head=6)
    space, params = _setting(layout, bypass="norm")

    @jax.jit
    def traced(arch, params):
        def loss(params):
            network, read = space.bind(arch, params)
            return jnp.sum(jnp.sin(network(read, _images()).logits))

        return jax.value_and_grad(loss)(params)

    for arch in [(0, 1), (1, 0)]:
        network, read = space.bind(arch, params)
        value, gradient = traced(jnp.array(arch), params)
        concrete = jnp.sum(jnp.sin(network(read, _images()).logits))
        np.testing.assert_allclose(value, concrete, rtol=1e-3, atol=1e-4)
        # No gradient reaches a block that is not chosen; all are reached that are.
        for name, block in gradient.items():
            for part, inner in block.items():
                reached = any(jnp.any(tensor) for tensor in jax.tree.leaves(inner))
                has_tensors = bool(jax.tree.leaves(block[part]))
                assert reached == (part in read[name] and has_tensors)


def test_running_statistics_stand_for_the_batch():
    space, params = _setting(bypass="norm")
    network, read = space.bind(ARCHS[0], params)
    trained = network(read, _images())
    judge = _setting(norm="eval", bypass="norm")[0].bind(ARCHS[0], params)[0]
    judged = judge(read, _images(), trained.statistics)
    np.testing.assert_allclose(judged.logits, trained.logits, rtol=1e-3, atol=1e-4)
    untrained = judge(read, _images())
    assert jnp.abs(untrained.logits - trained.logits).max() > 0.1
    bypass = trained.statistics["03_layer"]["bypass"]
    assert {name: each.shape for name, each in bypass.items()} == {"mean": (3,), "var": (3,)}
    with pytest.raises(ValueError, match="got them in mode 'batch' for a StaticArch"):
        network(read, _images(), trained.statistics)


def test_a_bound_network_knows_its_cost_at_any_size():
    space, params = _setting()
    network, read = space.bind(ARCHS[0], params)
    table = _costs(TINY._replace(image_size=16))
    assert network.num_macs(read, _images(16)) == table.num_macs(ARCHS[0])


def test_init_is_that_of_the_tensors():
    space = mobilenetv2(TINY)
    params = space.init(KEY, _images())
    filters = params["02_layer"]["k3_e1"]["depthwise"]["kernel"]
    assert filters.shape == (3, 3, 1, 3)
    assert 0.2 < jnp.abs(filters).max() <= 1 / 3
    np.testing.assert_array_equal(params["02_layer"]["k3_e1"]["project"]["scale"], 1)
    assert list(params["02_layer"]["k3_e1"]) == ["depthwise", "project"]
    assert sorted(params) == [
        *("00_stem", "01_first", "02_layer", "03_layer", "04_layer", "05_layer"),
        *("06_head", "07_classifier"),
    ]


def test_notation_is_its_own_inverse():
    space = mobilenetv2(TINY)
    for arch in ARCHS:
        np.testing.assert_array_equal(space.from_string(space.to_string(arch)), arch)
    assert space.to_string([0, 2, 1, 2]) == "0,-1,1,-1"
    np.testing.assert_array_equal(space.representative(ARCHS[0]), ARCHS[0])
    assert space.is_connected([2, 2, 0, 2])


@pytest.mark.parametrize("string", ["0,1,1", "0,1,-1,0", "0,2,1,0", "0,x,1,0", "", "0,1,1,0,0"])
def test_notation_refuses(string):
    with pytest.raises(ValueError, match="4 choices with commas, -1 for the identity"):
        mobilenetv2(TINY).from_string(string)


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("mobile", "layout must be one of spos, fairnas, .*: got 'mobile'"),
        (TINY._replace(image_size=1), "Stage 2 cannot halve an image of one pixel"),
        (TINY._replace(stages=()), "has stages"),
        (TINY._replace(head=-1), "sizes of at least 1"),
        (TINY._replace(stem_stride=3), "Strides are 1 or 2"),
        (TINY._replace(candidates=(Candidate(4, 2),)), r"odd kernel size .*got \(4, 2\)"),
        (TINY._replace(candidates=(Candidate(1, 2),)), r"at least 3 .*got \(1, 2\)"),
        (TINY._replace(candidates=(IDENTITY,)), "Candidates are different.*name each once"),
        (TINY._replace(activation="gelu"), "activation must be one of .*got 'gelu'"),
    ],
)
def test_layouts_that_make_no_network_are_refused(layout, sentence):
    with pytest.raises(ValueError, match=sentence):
        mobilenetv2(layout)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: mobilenetv2(TINY, classes=1), "classes must be an integer from 2 .*: got 1"),
        (lambda: mobilenetv2(TINY, colors=0), "colors must be .* got 0"),
        (lambda: mobilenetv2(TINY, norm="layer"), "norm must be one of batch, .*: got 'layer'"),
        (
            lambda: mobilenetv2(TINY, bypass="skip"),
            "bypass must be one of identity, norm: got 'skip'",
        ),
        (lambda: mobilenetv2(TINY).init(KEY, _images(colors=1)), "3 colors: got 1"),
        (lambda: mobilenetv2(TINY).init(KEY, _images()[:, :4]), r"square images .*\[3, 4, 8, 3\]"),
        (lambda: mobilenetv2(TINY).init(KEY, jnp.ones((1, 8, 8, 3), int)), "dtype int32"),
        (lambda: mobilenetv2(FLAT).init(KEY, _images(16)), "reads 8 pixels: got 16"),
        (lambda: mobilenetv2(TINY).init(KEY, _images(1)), "cannot halve an image of one pixel"),
        (lambda: mobilenetv2(TINY).bind([[0] * 4] * 2, {}), "One architecture at a time"),
        (lambda: mobilenetv2(TINY).num_params([0, 0, 0]), "has 4 decisions"),
        (
            lambda: jax.jit(lambda arch: mobilenetv2(TINY).bind(arch, {}))(jnp.zeros((2, 4), int)),
            r"int32\[4\]: got int32\[2, 4\]",
        ),
    ],
)
def test_bad_requests_are_refused(act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act()


@pytest.mark.slow
def test_the_imagenet_network_runs():
    space = mobilenetv2("spos", classes=1000, bypass="norm")
    images = jax.random.normal(KEY, (2, 224, 224, 3))
    params = space.init(KEY, images)
    network, read = space.bind([3] * 21, params)
    outputs = network(read, images)
    assert outputs.logits.shape == (2, 1000)
    assert jnp.isfinite(outputs.logits).all()
