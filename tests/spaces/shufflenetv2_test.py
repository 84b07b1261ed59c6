import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.network import Weights, tensors
from jaxnas.network.operations import Context, describe
from jaxnas.spaces.mobilenetv2_space import BlockPlace, SearchedNetwork, Stage, costs
from jaxnas.spaces.shufflenetv2_space import BY_LAYOUT, UNITS, Unit, checked, shufflenetv2

KEY = jax.random.key(0)
TINY = BY_LAYOUT["img32"]._replace(
    image_size=8,
    stem=2,
    stages=(Stage(4, 2, 2),),
    head=3,
    candidates=(Unit(3), Unit(3, deep=True)),
)
ARCHS = [(0, 1), (1, 0)]


@functools.cache
def _setting():
    space = shufflenetv2(TINY)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(space.init, KEY, images)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.3, 0.5, leaf.shape), jnp.float32), shapes
    )
    return space, params, images


def test_published_network():
    # SPOS reports 323 M FLOPs and 3.5 M parameters for this architecture, which has 3.53 M without
    # scales and biases and 3.56 M with them.
    arch = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)
    network = SearchedNetwork(layout=BY_LAYOUT["spos"], classes=1000)
    table = costs(network)
    assert round(table.num_macs(arch) / 1e6) == 323
    assert math.floor(table.num_params(arch) / 1e4) == 355
    bare = costs(network.clone(norm="none"))
    assert round(bare.num_params(arch) / 1e6, 1) == 3.5
    assert shufflenetv2("spos", classes=1000).num_choices == (4,) * 20


def test_notation():
    space = shufflenetv2(TINY)
    for arch in ARCHS:
        np.testing.assert_array_equal(space.from_string(space.to_string(arch)), arch)
    for string in ("1", "1,2", "1,0,0", "1,x", ""):
        with pytest.raises(ValueError, match="got"):
            space.from_string(string)


def _cost(unit, layer):
    images = jax.ShapeDtypeStruct(
        (1, layer.image_size, layer.image_size, layer.inputs), jnp.float32
    )
    found = describe(unit.operation(layer), (images,), "batch")
    return tensors.count(found.tensors), found.macs


def test_cost_by_hand():
    # 8 channels at 4 x 4, stride 1: 4 -> 4, depthwise 5 x 5 of 4, 4 -> 4.
    unit = Unit(5)
    params, macs = _cost(unit, BlockPlace(8, 8, 1, 4, ()))
    assert macs == (16 + 100 + 16) * 16
    assert params == 16 + 100 + 16 + 3 * 8
    # Stride 2, 4 -> 10: main 4 -> 5 at 4 x 4, then 25 x 5 and 5 -> 6 at 2 x 2; beside 25 x 4 and
    # 4 -> 4 at 2 x 2.
    params, macs = _cost(unit, BlockPlace(4, 10, 2, 4, ()))
    assert macs == 20 * 16 + (125 + 30) * 4 + (100 + 16) * 4
    assert params == 20 + 125 + 30 + 116 + 2 * (5 + 5 + 6 + 4 + 4)


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_those_that_are_bound(arch):
    space, params, images = _setting()
    network, read = space.bind(arch, params)
    count = sum(math.prod(tensor.shape) for tensor in jax.tree.leaves(read))
    assert space.num_params(arch) == count
    assert network.num_macs(read, images) == costs(SearchedNetwork(layout=TINY)).num_macs(arch)


def test_half_of_the_channels_pass():
    unit = Unit(3)
    layer = BlockPlace(4, 4, 1, 4, ())
    x = jax.random.normal(KEY, (2, 4, 4, 4))
    weights = {
        "expand": {"kernel": jnp.array([[[[1.0, 2], [3, 4]]]])},
        "depthwise": {"kernel": jnp.ones((3, 3, 1, 2))},
        "project": {"kernel": jnp.array([[[[1.0, 0], [0, -1]]]])},
    }
    outputs = unit.operation(layer)(Weights(Context("none"), weights), x)
    np.testing.assert_array_equal(outputs[..., :2], x[..., [0, 2]])
    odd = x[..., [1, 3]]
    hidden = jax.nn.relu(odd @ jnp.array([[1.0, 2], [3, 4]]))
    window, step = (1, 3, 3, 1), (1, 1, 1, 1)
    pooled = jax.lax.reduce_window(hidden, 0.0, jax.lax.add, window, step, "SAME")
    np.testing.assert_allclose(outputs[..., 2], jax.nn.relu(pooled[..., 0]), rtol=1e-5)
    np.testing.assert_array_equal(outputs[..., 3], 0)


def test_traced_and_concrete_architectures_are_one_network():
    space, params, images = _setting()

    @jax.jit
    def traced(arch, params):
        network, read = space.bind(arch, params)
        return network(read, images).logits

    found = [traced(jnp.array(arch), params) for arch in ARCHS]
    for arch, logits in zip(ARCHS, found, strict=True):
        network, read = space.bind(arch, params)
        np.testing.assert_allclose(network(read, images).logits, logits, rtol=1e-3, atol=1e-4)
    assert jnp.abs(found[0] - found[1]).max() > 1e-2


def test_layouts():
    for name, layout in BY_LAYOUT.items():
        assert checked(layout) is layout, name
    names = [unit.name for unit in UNITS]
    assert names == ["k3", "k5", "k7", "xception"]


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("mobile", "layout must be one of spos, img32: got 'mobile'"),
        (TINY._replace(stages=(Stage(5, 1, 2),)), "even number of channels"),
        (TINY._replace(stages=(Stage(4, 1, 1),)), "starts with stride 2"),
        (TINY._replace(stages=(Stage(2, 1, 2),)), "as number 1 after 2"),
        (TINY._replace(residual=True), "residual=False"),
        (TINY._replace(candidates=(Unit(4),)), "odd kernel size of at least 3: got 4"),
    ],
)
def test_layouts_that_make_no_network_are_refused(layout, sentence):
    with pytest.raises(ValueError, match=sentence):
        shufflenetv2(layout)
